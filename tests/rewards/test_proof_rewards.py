"""The proof rewards on episodes: values by hand, raw details, and judges that answer nonsense or not at all."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof_doubles import ScriptedJudge

from envs.proof.prompts import FullPrompts, ShortPrompts
from envs.proof.texts import SCORES, evaluation_text, generation_text, meta_text
from envs.types import Episode, Message, StopReason, Task
from rewards.compose import RewardComposer
from rewards.part import RewardError, RewardPart, Scored
from rewards.proof import GeneratorReward, MetaReward, VerifierReward
from rl.rollout.judge_actor import WorkerJudge

SHORT = ShortPrompts()
PHRASES = ["## Solution\n", "\n## Self Evaluation\n", evaluation_text("x", 1), meta_text("x", 0), "\\boxed{1}", "y"]
anything = st.one_of(st.text(), st.lists(st.sampled_from(PHRASES), max_size=6).map("".join))


def episode(said: str | None, family: str = "prove", answer: Any = None, **metadata: Any) -> Episode:
    task = Task("t0", family, (Message("user", "q"),), answer, {"problem": "P", "solution": "S"} | metadata)
    messages = () if said is None else (Message("assistant", said),)
    return Episode(task, messages, StopReason.ANSWERED, turns=1)


def scored(part: RewardPart, played: Episode) -> Scored:
    given = part(played, {})

    async def awaited() -> Any:
        return await given if inspect.isawaitable(given) else given

    result = asyncio.run(awaited())
    assert isinstance(result, Scored)
    return result


def verdicts(*scores: float) -> list[str]:
    return [evaluation_text("because", score) for score in scores]


def ratings(*scores: float) -> list[str]:
    return [meta_text("because", score) for score in scores]


def proof(self_score: float) -> str:
    return generation_text("Y", evaluation_text("Z", self_score))


@pytest.mark.parametrize(
    ("s", "self_score", "expected"),
    [(1, 1, 1.0), (1, 0.5, 0.88), (0.5, 0.5, 0.62), (0.5, 1, 0.5), (0, 0, 0.24), (0, 0.5, 0.12), (0, 1, 0)],
)
def test_the_generators_table(s: float, self_score: float, expected: float) -> None:
    part = GeneratorReward(judge=ScriptedJudge(verdicts(s), ratings(1)), prompts=SHORT)
    result = scored(part, episode(proof(self_score)))
    assert result.value == pytest.approx(expected, abs=1e-12)
    assert result.mask is None


def test_the_generator_by_hand_with_raw_details() -> None:
    judge = ScriptedJudge(verdicts(1, 0.5, 0.5, 0), ratings(1, 0.5))
    part = GeneratorReward(judge=judge, prompts=SHORT, analyses=4, assessments=2)
    result = scored(part, episode(proof(1)))
    # s = 0.5; R_score = 0.5; R_meta = 0.75; R_Z = 0.375; R = 0.76·0.5 + 0.24·0.375 = 0.47
    assert result.value == pytest.approx(0.47)
    assert result.details == pytest.approx(
        {"format": 1, "self_score": 1, "verifier_score": 0.5, "r_y": 0.5, "meta": 0.75, "r_z": 0.375}
        | {"analyses": 4, "assessments": 2}
    )
    # the judge sees the solution without the self-evaluation, and both questions were under way at once
    assert judge.asked == [("Verify.", "P\nY", 4), ("Assess.", "P\nY\nZ\n\\boxed{1}", 2)]
    assert judge.most[1] == 2


def test_the_well_formed_analyses_count() -> None:
    judge = ScriptedJudge(["nonsense", *verdicts(1), "", *verdicts(0)], ["\\boxed{0}", *ratings(1)])
    part = GeneratorReward(judge=judge, prompts=SHORT, analyses=4, min_analyses=2, assessments=2)
    result = scored(part, episode(proof(0.5)))
    assert result.details["verifier_score"] == 0.5
    assert (result.details["analyses"], result.details["assessments"], result.details["meta"]) == (2, 1, 1.0)
    assert result.value == pytest.approx(0.62)


BAD_JUDGES = {
    "nonsense": ScriptedJudge(["I like it", "1"], ["fine"]),
    "empty": ScriptedJudge([""], [""]),
    "huge": ScriptedJudge(["\\boxed{1}" * 100_000], ["\\boxed{1}" * 100_000]),
    "another score": ScriptedJudge([verdicts(1)[0].replace("{1}", "{0.75}")], ratings(1)),
    "out of range": ScriptedJudge([verdicts(1)[0].replace("{1}", "{100}")], ratings(1)),
    "phrases in the wrong order": ScriptedJudge(["\n".join(reversed(verdicts(1)[0].split("\n")))], ratings(1)),
    "the other form": ScriptedJudge(ratings(1), verdicts(1)),
    "one well-formed only": ScriptedJudge(["?", *verdicts(1), "?", "?"], ratings(1)),
    "no rating": ScriptedJudge(verdicts(1), ["?"]),
    "cut off": ScriptedJudge(verdicts(1), ratings(1), cut_off=True),
    "no verifier": ScriptedJudge(verdicts(1), ratings(1), fails=("Verify.",)),
    "no meta-verifier": ScriptedJudge(verdicts(1), ratings(1), fails=("Assess.",)),
}


NOTES = {
    "one well-formed only": "1 of 4 analyses are well-formed",
    "no rating": "0 of 2 assessments are well-formed",
    "cut off": "the last: cut off before it ended",
    "no verifier": "generator: no judge here",
    "no meta-verifier": "generator: no judge here",
}


@pytest.mark.parametrize("name", BAD_JUDGES)
def test_a_bad_judge_masks_and_never_scores(name: str) -> None:
    part = GeneratorReward(judge=BAD_JUDGES[name], prompts=SHORT, analyses=4, min_analyses=2)
    result = scored(part, episode(proof(1)))
    assert (result.mask, result.value) == ("reward_judge", 0.0)
    assert NOTES.get(name, "generator: 0 of 4 analyses are well-formed, reward.generator.min_analyses=2") in result.note
    assert not {"verifier_score", "r_y", "r_z", "meta"} & set(result.details)


MALFORMED = {
    "nothing": None,
    "empty": "",
    "no form": "Y",
    "an evaluation alone": verdicts(1)[0],
    "the evaluation in the solution": f"## Solution\nY\n{verdicts(1)[0]}",
    "a bare score": generation_text("Y", "\\boxed{1}"),
    "a verdict in the solution too": generation_text(f"Y {verdicts(1)[0]}", verdicts(1)[0]),
}


@pytest.mark.parametrize("said", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_proof_scores_0_without_asking(said: str | None) -> None:
    judge = ScriptedJudge(verdicts(1), ratings(1))
    result = scored(GeneratorReward(judge=judge, prompts=SHORT), episode(said))
    assert (result.value, result.details, result.mask) == (0.0, {"format": 0.0}, None)
    assert judge.asked == []


def test_without_assessments_meta_is_1_and_a_second_judge_may_rate() -> None:
    verifier, rater = ScriptedJudge(verdicts(1)), ScriptedJudge((), ratings(0))
    alone = GeneratorReward(judge=verifier, prompts=SHORT, assessments=0)
    assert scored(alone, episode(proof(1))).value == 1.0
    both = GeneratorReward(judge=verifier, meta_judge=rater, prompts=SHORT, alpha=0.5, beta=0.5)
    assert scored(both, episode(proof(1))).value == 0.5
    assert {role for role, _, _ in rater.asked} == {"Assess."}


def test_the_verifier_by_hand() -> None:
    part = VerifierReward()
    right = scored(part, episode(verdicts(0.5)[0], "verify", 0.5))
    assert (right.value, right.details) == (1.0, {"format": 1.0, "label": 0.5, "predicted": 0.5})
    assert scored(part, episode(verdicts(1)[0], "verify", 0.5)).value == 0.5
    assert scored(part, episode(verdicts(1)[0], "verify", 0)).value == 0.0
    malformed = scored(part, episode("It is right: \\boxed{1}", "verify", 1))
    assert (malformed.value, malformed.details, malformed.mask) == (0.0, {"format": 0.0, "label": 1.0}, None)


def test_the_verifier_with_a_meta_verifier() -> None:
    judge = ScriptedJudge((), ratings(1, 0.5))
    part = VerifierReward(judge=judge, prompts=SHORT, assessments=2)
    result = scored(part, episode(f"Well.\n{verdicts(0.5)[0]}", "verify", 1))
    assert result.value == pytest.approx(0.5 * 0.75)
    assert result.details == {"format": 1, "label": 1, "predicted": 0.5, "assessments": 2, "meta": 0.75}
    assert judge.asked == [("Assess.", "P\nS\nbecause\n\\boxed{0.5}", 2)]
    # a product that is 0 anyway costs no call
    assert scored(part, episode(verdicts(0)[0], "verify", 1)).value == 0.0
    assert scored(part, episode("?", "verify", 1)).value == 0.0
    assert len(judge.asked) == 1


@pytest.mark.parametrize("judge", [ScriptedJudge((), ["?"]), ScriptedJudge((), ratings(1), fails=("Assess.",))])
def test_the_verifiers_bad_judge_masks(judge: ScriptedJudge) -> None:
    part = VerifierReward(judge=judge, prompts=SHORT)
    assert scored(part, episode(verdicts(1)[0], "verify", 1)).mask == "reward_judge"


def test_the_meta_verifier_by_hand() -> None:
    part = MetaReward()
    result = scored(part, episode(ratings(0.5)[0], "assess", 1.0))
    assert (result.value, result.details) == (0.5, {"format": 1.0, "label": 1.0, "predicted": 0.5})
    assert scored(part, episode(ratings(0)[0], "assess", 0)).value == 1.0
    assert scored(part, episode(verdicts(0)[0], "assess", 0)).value == 0.0  # the other role's form


def test_each_part_has_its_family() -> None:
    generator = GeneratorReward(judge=ScriptedJudge(), prompts=SHORT)
    assert [part.families for part in (VerifierReward(), MetaReward(), generator)] == [
        ("verify",),
        ("assess",),
        ("prove",),
    ]


@pytest.mark.parametrize("answer", [None, "good", 0.7, float("nan"), []])
def test_a_label_that_is_none_is_an_error(answer: Any) -> None:
    for part in (VerifierReward(), MetaReward()):
        with pytest.raises(RewardError, match=r"label must be 0, 0\.5 or 1"):
            scored(part, episode("x", "verify", answer))


def test_missing_material_is_named() -> None:
    part = GeneratorReward(judge=ScriptedJudge(verdicts(1), ratings(1)), prompts=SHORT)
    with pytest.raises(RewardError, match=r"task 't0' \(family 'prove'\) has no text 'problem'"):
        scored(part, episode(proof(1), problem=""))
    verifier = VerifierReward(judge=ScriptedJudge((), ratings(1)), prompts=SHORT)
    with pytest.raises(RewardError, match="has no text 'solution'"):
        scored(verifier, episode(verdicts(1)[0], "verify", 1, solution=None))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"analyses": 0}, r"generator\.analyses=0"),
        ({"analyses": 2, "min_analyses": 3}, r"generator\.min_analyses=3: must be from 1 to analyses=2"),
        ({"min_analyses": 0}, r"generator\.min_analyses=0"),
        ({"assessments": -1}, r"generator\.assessments=-1"),
        ({"alpha": 0.9}, r"alpha \+ beta"),
    ],
)
def test_config_errors_name_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratorReward(judge=ScriptedJudge(), prompts=SHORT, **fields)
    with pytest.raises(ValueError, match=r"reward\.verifier\.prompts is null"):
        VerifierReward(judge=ScriptedJudge())


def composed(*overrides: str) -> Any:
    from hydra import compose, initialize_config_module

    from configs.schema import register

    register()
    with initialize_config_module("configs", version_base=None):
        return compose("train", ["reward=self_verification", *overrides])


def test_the_shipped_configuration_builds() -> None:
    from rl.run.assemble import open_composer

    worker = open_composer(composed("judge=worker", "reward.verifier.judge=${judge.client}").reward)
    parts: dict[str, Any] = {part.name: part for part in worker.parts}
    assert parts["generator"].judge == parts["verifier"].judge == WorkerJudge("judge")
    assert isinstance(parts["generator"].prompts, FullPrompts)
    pickle.dumps(worker)
    endpoint = composed("judge=endpoint", "judge.client.base_url=http://x/v1", "judge.client.model=m")
    assert isinstance(open_composer(endpoint.reward).parts[2], GeneratorReward)
    with pytest.raises(Exception, match=r"reward\.generator\.judge is null.*judge=worker"):
        open_composer(composed().reward)


def test_one_composer_scores_all_three_roles() -> None:
    judge = ScriptedJudge(verdicts(1), ratings(1))
    composer = RewardComposer([VerifierReward(), MetaReward(), GeneratorReward(judge=judge, prompts=SHORT)])
    try:
        played = [
            episode(verdicts(0.5)[0], "verify", 1),
            episode(ratings(1)[0], "assess", 1),
            episode(proof(0.5), "prove"),
        ]
        rewards = [composer(one, {}) for one in played]
        assert [reward.total for reward in rewards] == pytest.approx([0.5, 1.0, 0.88])
        assert rewards[0].parts == {
            "verifier": 0.5,
            "verifier/format": 1,
            "verifier/label": 1,
            "verifier/predicted": 0.5,
        }
        assert rewards[2].parts["generator/verifier_score"] == 1.0
        broken = RewardComposer([GeneratorReward(judge=ScriptedJudge(["?"], ["?"]), prompts=SHORT)])
        masked = broken(played[2], {})
        assert masked.masked == "reward_judge"
        assert "0 of 4 analyses are well-formed" in masked.detail
    finally:
        composer.close()


def test_equal_answers_to_equal_tasks_may_share_a_value() -> None:
    part = GeneratorReward(judge=ScriptedJudge(), prompts=SHORT)
    key = part.cache_key(episode("a"), {})
    assert key == part.cache_key(episode("a"), {"outcome": 1.0})
    assert key != part.cache_key(episode("b"), {})
    assert key != part.cache_key(episode("a", problem="Q"), {})


@given(anything, anything, anything, st.sampled_from(SCORES))
def test_whatever_is_said_a_reward_is_in_bounds_or_masked(said: str, verdict: str, rating: str, label: float) -> None:
    judge = ScriptedJudge([verdict], [rating])
    for part in (
        VerifierReward(judge=judge, prompts=SHORT),
        MetaReward(),
        GeneratorReward(judge=judge, prompts=SHORT),
    ):
        result = scored(part, episode(said, answer=label))
        assert 0.0 <= result.value <= 1.0
        assert result.mask in (None, "reward_judge")

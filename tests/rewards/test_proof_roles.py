"""One model in all roles: what it is asked, how its answers are read, and that labels and search take it as it is."""

from __future__ import annotations

import asyncio

import pytest
from proof_doubles import ScriptedJudge

from envs.proof.prompts import ShortPrompts
from envs.proof.texts import evaluation_text, generation_text, meta_text
from rewards.judge import JudgeError
from rewards.proof_roles import ProofRoles
from rl.proof.config import LabelConfig
from rl.proof.labels import label_proofs
from rl.proof.refine import RefineConfig, refine_threads
from rl.proof.search import SearchConfig, search

GOOD, BAD = evaluation_text("fine", 1), evaluation_text("step 2", 0)


def proof(name: str, score: float) -> str:
    return generation_text(name, evaluation_text("mine", score))


def roles(**scripts: object) -> ProofRoles:
    return ProofRoles(ScriptedJudge(**scripts), ShortPrompts())  # type: ignore[arg-type]


def test_each_role_reads_its_own_form() -> None:
    model = roles(verdicts=[GOOD, "?"], ratings=[meta_text("so", 0.5)], proofs=[proof("Y", 1)], refined=["?"])

    async def go() -> None:
        assert [answer.score for answer in await model.verify("P", "S", 3)] == [1.0, None, 1.0]
        assert [answer.score for answer in await model.assess("P", "S", BAD, 2)] == [0.5, 0.5]
        (attempt,) = await model.prove("P", 1)
        assert (attempt.solution, attempt.self_score) == ("Y", 1.0)
        (attempt,) = await model.refine("P", "S", [BAD], 1)
        assert not attempt.ok

    asyncio.run(go())
    assert model.judge.asked == [  # type: ignore[attr-defined]
        ("Verify.", "P\nS", 3),
        ("Assess.", "P\nS\nstep 2\n\\boxed{0}", 2),
        ("Prove.", "P", 1),
        ("Refine.", "P\nS\nstep 2\n\\boxed{0}", 1),
    ]


def test_what_was_cut_off_is_not_read() -> None:
    model = roles(verdicts=[GOOD], proofs=[proof("Y", 1)], cut_off=True)

    async def go() -> None:
        (verdict,), (attempt,) = await model.verify("P", "S", 1), await model.prove("P", 1)
        assert (verdict.ok, attempt.ok) == (False, False)
        assert "max_tokens" in verdict.problem

    asyncio.run(go())


def test_labels_refinement_and_search_take_a_model() -> None:
    model = roles(verdicts=[BAD], ratings=[meta_text("so", 1)], proofs=[proof("a", 0)], refined=[proof("b", 1)])

    async def go() -> None:
        labels = await label_proofs([("P", "S")] * 2, model.verify, model.assess, LabelConfig())
        assert [label.score for label in labels] == [0.0, 0.0]
        threads = await refine_threads("P", model.prove, model.refine, RefineConfig(threads=2))
        assert [thread.final.solution for thread in threads if thread.final] == ["b", "b"]
        found = await search("P", model.prove, model.verify, model.refine, SearchConfig(verifications=4, rounds=3))
        assert [(one.added, one.duplicates) for one in found.rounds] == [(1, 63), (1, 3), (0, 8)]
        assert (found.stopped, len(found.pool)) == ("rounds", 2)

    asyncio.run(go())


def test_a_model_that_cannot_be_asked_is_an_error() -> None:
    with pytest.raises(JudgeError, match="no judge here"):
        asyncio.run(roles(verdicts=[GOOD], fails=("Verify.",)).verify("P", "S", 1))

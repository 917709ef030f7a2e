"""The auto-labelling rule on cases worked by hand, and the assessing in stages that must not change it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.proof.texts import SCORES, Evaluation, evaluation_text, meta_text, parse_evaluation, parse_meta
from rewards.judge import JudgeError
from rl.proof.config import LabelConfig
from rl.proof.labels import Finding, Judged, Label, auto_label, finding, label_proof, label_proofs

C, R, O = Finding.CONFIRMED, Finding.REFUTED, Finding.OPEN  # noqa: E741
RULE = LabelConfig(analyses=4, min_analyses=2, assessments=3, confirmed=2)


def rated(*ratings: float | None) -> list[Evaluation]:
    return [Evaluation(False) if rating is None else parse_meta(meta_text("a", rating)) for rating in ratings]


def judged(score: float, what: Finding = O, name: str = "a") -> Judged:
    return Judged(parse_evaluation(evaluation_text(name, score)), what)


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ((1, 1, 0), C),
        ((1, 1, 1), C),
        ((0, 0, 1), R),
        ((0, 0, 0.5), R),
        ((1, 0, 0.5), O),
        ((0.5, 0.5, 1), O),  # half right confirms nothing
        ((0.5, 0.5, 0), O),  # and refutes nothing
        ((1, 1, None), C),
        ((1, 0, None), O),  # a tie
        ((1, None, None), O),  # one of three is no majority of those asked
        ((None, None, None), O),
    ],
)
def test_what_the_majority_finds(ratings: tuple[float | None, ...], expected: Finding) -> None:
    assert finding(rated(*ratings), 3) is expected


def test_half_of_an_even_number_is_no_majority() -> None:
    assert finding(rated(1, 1, 0, 0), 4) is O
    assert finding(rated(1, 1, 1, 0), 4) is C
    assert finding(rated(1, 1), 4) is O


@pytest.mark.parametrize(
    ("cases", "score", "reason"),
    [
        # k = 2 evaluations with the lowest score are confirmed: it is the label
        ([(0, C), (0, C), (1, O), (1, O)], 0.0, "confirmed"),
        ([(0.5, C), (0.5, C), (0.5, R), (1, O)], 0.5, "confirmed"),
        # the lowest score decides, whatever the higher ones say
        ([(0, C), (0, C), (0.5, C), (0.5, C)], 0.0, "confirmed"),
        # one of the lowest is too few, and there is an issue: no label
        ([(0, C), (1, O), (1, O), (1, O)], None, "unsettled"),
        ([(0, C), (0.5, C), (0.5, C), (1, O)], None, "unsettled"),
        # the lowest refuted, a higher issue confirmed: neither its label nor 1
        ([(0, R), (0.5, C), (0.5, C), (1, O)], None, "unsettled"),
        # nobody found anything, or all of it was refuted
        ([(1, O), (1, O), (1, O), (1, O)], 1.0, "no_issue"),
        ([(0, R), (0.5, R), (1, O), (1, O)], 1.0, "no_issue"),
        ([(0, R), (0, R), (0, R), (0, R)], 1.0, "no_issue"),
        # an issue that nobody settled stands in the way of a 1
        ([(0.5, O), (1, O), (1, O), (1, O)], None, "unsettled"),
        ([(0, R), (0.5, O), (1, O), (1, O)], None, "unsettled"),
        # too few well-formed evaluations
        ([(1, O)], None, "too_few"),
        ([], None, "too_few"),
    ],
)
def test_the_rule(cases: list[tuple[float, Finding]], score: float | None, reason: str) -> None:
    label = auto_label([judged(s, what) for s, what in cases], RULE)
    assert (label.score, label.reason) == (score, reason)


class Judges:
    """Verifiers that give ``evaluations`` by name, and assessors whose ratings depend on the name."""

    def __init__(self, evaluations: list[tuple[str, float | None]], ratings: dict[str, list[float | None]]) -> None:
        self.evaluations, self.ratings = evaluations, ratings
        self.assessed: list[str] = []

    async def verify(self, problem: str, solution: str, n: int) -> Sequence[Evaluation]:
        assert (problem, solution, n) == ("P", "S", len(self.evaluations))
        return [
            Evaluation(False) if score is None else parse_evaluation(evaluation_text(name, score))
            for name, score in self.evaluations
        ]

    async def assess(self, problem: str, solution: str, analysis: str, n: int) -> Sequence[Evaluation]:
        name = parse_evaluation(analysis).analysis
        assert n == 3
        self.assessed.append(name)
        await asyncio.sleep(0)
        return rated(*self.ratings[name])

    def label(self) -> Label:
        return asyncio.run(label_proof("P", "S", self.verify, self.assess, RULE))


def test_two_confirmed_zeros_need_no_further_question() -> None:
    judges = Judges([("a", 0), ("b", 0), ("c", 0.5), ("d", 1)], {"a": [1, 1, 0], "b": [1, 1, 1], "c": [0, 0, 0]})
    label = judges.label()
    assert (label.score, label.reason) == (0.0, "confirmed")
    assert sorted(judges.assessed) == ["a", "b"]
    assert [one.finding for one in label.judged if one.score == 0] == [C, C]


def test_refuted_zeros_lead_to_the_halves() -> None:
    judges = Judges([("a", 0), ("c", 0.5), ("d", 1), ("e", None)], {"a": [0, 0, 1], "c": [0, 0, None]})
    assert judges.label().score == 1.0
    assert sorted(judges.assessed) == ["a", "c"]
    judges = Judges([("a", 0), ("c", 0.5), ("d", 1), ("e", None)], {"a": [0, 0, 1], "c": [1, 1, 1]})
    assert (judges.label().score, judges.label().reason) == (None, "unsettled")


def test_evaluations_that_find_nothing_are_not_assessed() -> None:
    judges = Judges([("a", 1), ("b", 1), ("c", 1), ("d", None)], {})
    assert judges.label().score == 1.0
    assert judges.assessed == []
    assert Judges([("a", 1), ("b", None), ("c", None), ("d", None)], {}).label().reason == "too_few"


opinions = st.lists(
    st.tuples(st.sampled_from([*SCORES, None]), st.lists(st.sampled_from([*SCORES, None]), min_size=3, max_size=3)),
    min_size=4,
    max_size=4,
)


@given(opinions)
def test_assessing_in_stages_gives_the_label_of_assessing_all(
    drawn: list[tuple[float | None, list[float | None]]],
) -> None:
    names = [f"n{i}" for i in range(4)]
    judges = Judges(
        [(name, score) for name, (score, _) in zip(names, drawn, strict=True)],
        {name: ratings for name, (_, ratings) in zip(names, drawn, strict=True)},
    )
    everything = [
        judged(score, finding(rated(*ratings), 3), name)
        for name, (score, ratings) in zip(names, drawn, strict=True)
        if score is not None
    ]
    expected, label = auto_label(everything, RULE), judges.label()
    assert (label.score, label.reason) == (expected.score, expected.reason)
    assert label.score in (*SCORES, None)


def test_many_proofs_at_once_and_a_judge_that_fails_sometimes() -> None:
    most = now = 0

    async def verify(problem: str, solution: str, n: int) -> Sequence[Evaluation]:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        if solution == "unlucky":
            raise JudgeError("busy")
        return [parse_evaluation(evaluation_text("a", 0 if solution == "wrong" else 1))] * n

    async def assess(problem: str, solution: str, analysis: str, n: int) -> Sequence[Evaluation]:
        return rated(*[1.0] * n)

    proofs = [("P", "wrong"), ("P", "right"), ("P", "unlucky"), ("P", "right")]
    labels = asyncio.run(label_proofs(proofs, verify, assess, RULE))
    assert [label.score for label in labels] == [0.0, 1.0, None, 1.0]
    assert labels[2].reason == "too_few"
    assert most == 4
    with pytest.raises(JudgeError, match="all 1 calls failed"):
        asyncio.run(label_proofs([("P", "unlucky")], verify, assess, RULE))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"analyses": 0}, r"labels\.analyses=0"),
        ({"assessments": 0}, r"labels\.assessments=0"),
        ({"confirmed": 9}, r"labels\.confirmed=9: must be from 1 to analyses=8"),
        ({"min_analyses": 0}, r"labels\.min_analyses=0"),
    ],
)
def test_config_errors_name_the_field(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelConfig(**fields)
    with pytest.raises(ValueError, match="cannot be judged"):
        _ = Judged(Evaluation(False, problem="x")).score

"""Derivations: worked by hand, and as properties over random problems."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.check import check_taskset
from envs.reasoning.chain import STEPS, ChainTaskset
from envs.reasoning.derivation import (
    BAD,
    ERRORS,
    OK,
    SKIP,
    Problem,
    derive,
    inject,
    parse_line,
    parse_problem,
    random_problem,
    random_strides,
    score,
    spoil,
    text_of,
    verdicts,
)
from envs.reasoning.seek import SeekTaskset
from envs.taskset import split_of

PROBLEM = Problem(2, (("+", 3), ("*", 2), ("-", 4)))  # 2 → 5 = 0 → 0 → −4 = 1


def test_values_and_text_by_hand() -> None:
    assert PROBLEM.values == (2, 0, 0, 1)
    assert PROBLEM.text == "2 +3a *2b -4c"
    assert text_of(derive(PROBLEM, [1])) == "a2+3=0\nb0*2=0\nc0-4=1"
    assert text_of(derive(PROBLEM, [1, 2])) == "a2+3=0\nc0*2-4=1"


@pytest.mark.parametrize(
    ("solution", "marks", "truth"),
    [
        ("a2+3=0\nb0*2=0\nc0-4=1", [OK, OK, OK], 1.0),
        ("b2+3*2=0\nc0-4=1", [SKIP, OK], 0.5),
        ("a2+3=1\nb1*2=2\nc2-4=3", [BAD, OK, OK], 0.0),  # one mistake; what follows from it is right
        ("a2+3=0\nb0*3=0\nc0-4=1", [OK, BAD, OK], 0.0),  # another operand than the problem's
        ("a2+3=0\nb3*2=1\nc1-4=2", [OK, BAD, OK], 0.0),  # another value before than the line above gave
        ("a2+3=0\nb0*2=0", [OK, OK], 0.0),  # does not reach the end
        ("a2+3=0\na0+3=3\nb3*2=1\nc1-4=2", [OK, BAD, OK, OK], 0.0),  # a step done twice
        ("b0*2=0\na2+3=0\nc0-4=1", [BAD, BAD, OK], 0.0),
        ("a2+3=0\nso it goes\nb0*2=0\nc0-4=1", [OK, BAD, OK, OK], 0.0),
        ("", [], 0.0),
        ("d2+3*2-4=1", [BAD], 0.0),  # a label that the problem does not have
    ],
)
def test_verdicts_and_scores_by_hand(solution: str, marks: list[str], truth: float) -> None:
    assert [verdict for _, verdict in verdicts(PROBLEM, solution)] == marks
    assert score(PROBLEM, solution) == truth


@given(st.integers(0, 10**6), st.sampled_from(ERRORS))
def test_every_injected_error_is_fatal(seed: int, kind: str) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng, 1, 12)
    lines = derive(problem, random_strides(rng, 4))
    assert score(problem, text_of(lines)) in (0.5, 1.0)
    assert score(problem, text_of(inject(problem, lines, kind, rng))) == 0.0
    assert score(problem, text_of(spoil(problem, lines, 0.5, rng))) == 0.0


@given(st.integers(0, 10**6))
def test_texts_read_back(seed: int) -> None:
    problem = random_problem(random.Random(seed), 1, 12)
    assert parse_problem(problem.text) == problem
    for line in derive(problem, [1, 3, 2]):
        assert parse_line(line.text) == line


@given(st.text(alphabet="abcl0123+-*= \nx", max_size=60))
def test_no_text_breaks_the_program(text: str) -> None:
    assert score(PROBLEM, text) in (0.0, 0.5, 1.0)
    parse_problem(text + "1")


def test_chain_levels_are_families_of_their_own() -> None:
    taskset = ChainTaskset("heldout", size=40)
    assert sorted(taskset.members) == ["chain1", "chain2", "chain3", "chain4"]
    for index in range(40):
        task = taskset.task(index)
        level = int(task.family.removeprefix("chain"))
        shortest, longest = STEPS[level]
        assert shortest <= len(task.metadata["steps"]) <= longest
        assert split_of(task.metadata["key"]) == "heldout"
    with pytest.raises(ValueError, match="levels is"):
        ChainTaskset(levels=[5])


def test_seek_by_hand() -> None:
    taskset = SeekTaskset(levels=[1])
    task = replace(taskset.task(0), answer="4", metadata={"steps": (("*", 3), ("+", 2)), "end": 4})
    # 0 → 2, 1 → 0, 2 → 3, 3 → 1, 4 → 4: all but one are tried, and the last needs no trial
    trials = [
        "a0*3=0\nb0+2=2\n2=4 bad0",
        "a1*3=3\nb3+2=0\n0=4 bad1",
        "a2*3=1\nb1+2=3\n3=4 bad2",
        "a3*3=4\nb4+2=1\n1=4 bad3",
    ]
    said = taskset.environment(task).oracle([])
    assert said.reasoning == "\n".join(trials)
    assert said.content == "4"
    assert taskset.verify(task) is None


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_seek_has_one_answer_and_patience_decides(level: int) -> None:
    taskset = SeekTaskset(levels=[level])
    right = 0
    for index in range(200):
        task = taskset.task(index)
        assert taskset.verify(task) is None
        said = taskset.environment(task).novice([], random.Random(index))
        right += said.content == task.answer
    assert 0.5 < right / 200 < 0.7  # the mean over 0 to 4 trials is (0.2 + 0.4 + 0.6 + 0.8 + 1) / 5


def test_seek_keeps_the_promises_of_every_family() -> None:
    assert [f for f in check_taskset(SeekTaskset) if f.status == "FAILED"] == []

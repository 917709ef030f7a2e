"""The four proof families: ground truth by hand, oracles right, novices wrong now and then."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from envs.check import check_taskset
from envs.episode import play_episode
from envs.families import taskset_class
from envs.proof.derivations import (
    Analysis,
    assessment_text,
    checks,
    evaluation_of,
    noisy_evaluation,
    rating,
    read_claims,
)
from envs.proof.taskset import VerifyTaskset
from envs.proof.texts import parse_evaluation, parse_meta
from envs.reasoning.derivation import Problem

PROBLEM = Problem(2, (("+", 3), ("*", 2), ("-", 4)))
RIGHT = "a2+3=0\nb0*2=0\nc0-4=1"
WRONG = "a2+3=1\nb1*2=2\nc2-4=3"  # line a is wrong
SKIPS = "b2+3*2=0\nc0-4=1"
ROLES = ("prove", "refine", "verify", "assess")


def _analysis(*claims: tuple[str, str], score: float) -> str:
    return Analysis(claims, score, tuple(line for line, _ in claims)).text


def test_the_right_evaluation_by_hand() -> None:
    right = evaluation_of(PROBLEM, WRONG)
    assert right.claims == (("a2+3=1", "bad"), ("b1*2=2", "ok"), ("c2-4=3", "ok"), ("end", "ok"))
    assert right.score == 0.0
    # before, step and result, each beside what it should be
    assert right.checks == ("a22=+3+3=01!", "b11=*2*2=22=", "c22=-4-4=33=", "end/c/c=")
    assert right.text.splitlines()[1] == "a22=+3+3=01! bad"
    assert evaluation_of(PROBLEM, SKIPS).score == 0.5
    assert evaluation_of(PROBLEM, SKIPS).checks == ("b22=+3+3=0*2*2=00=", "c00=-4-4=11=", "end/c/c=")
    assert evaluation_of(PROBLEM, "a2+3=0").claims[-1] == ("end", "bad")


@pytest.mark.parametrize(
    ("solution", "taken_apart"),
    [
        ("a2+4=0", "a22=+3+4!10!"),  # not the problem's step, and 2 + 4 is 1
        ("a3+3=1", "a23!+3+3=11="),  # begins elsewhere
        ("b2+3=0", "b22=+3+3=00=*2?!"),  # step b is missing
        ("a2+3*2=0", "a22=+3+3=0?*2!00="),  # one step too many for its label
        ("d2+3=0", "d22=+3+3=00=*2?!-4?!"),  # no such label
        ("so it is", "so it is"),
    ],
)
def test_lines_taken_apart_and_put_together(solution: str, taken_apart: str) -> None:
    found = checks(PROBLEM, solution)
    assert found[0] == taken_apart
    assert len(found) == 2
    assert read_claims(f"{taken_apart} bad") == ((solution, "bad"),)


@pytest.mark.parametrize(
    ("solution", "end"),
    [
        (RIGHT, "end/c/c="),
        ("a2+3=0", "end/c/a!"),
        ("so it is", "end/c/?!"),
        ("", "end/c/?!"),
        ("c2+3*2-4=1\nso it is", "end/c/?!"),
    ],
)
def test_the_end_taken_apart(solution: str, end: str) -> None:
    assert checks(PROBLEM, solution)[-1] == end
    assert read_claims(f"{end} bad") == (("end", "bad"),)
    assert evaluation_of(PROBLEM, solution).claims[-1][1] == ("ok" if end.endswith("=") else "bad")


@pytest.mark.parametrize(
    ("evaluation", "truth"),
    [
        (evaluation_of(PROBLEM, WRONG).text, 1.0),
        # nothing is claimed to be wrong: reasonable, although the score should be 0
        (_analysis(("a2+3=1", "ok"), ("b1*2=2", "ok"), ("c2-4=3", "ok"), ("end", "ok"), score=1.0), 1.0),
        # the only claimed defect is none
        (_analysis(("a2+3=1", "ok"), ("b1*2=2", "bad"), ("c2-4=3", "ok"), ("end", "ok"), score=0.0), 0.0),
        # one real, one not
        (_analysis(("a2+3=1", "bad"), ("b1*2=2", "bad"), ("c2-4=3", "ok"), ("end", "ok"), score=0.0), 0.5),
        # right verdicts, but the score is not what they amount to
        (_analysis(("a2+3=1", "bad"), ("b1*2=2", "ok"), ("c2-4=3", "ok"), ("end", "ok"), score=0.5), 0.5),
        # does not restate the solution
        (_analysis(("a2+3=1", "bad"), score=0.0), 0.5),
        ("no evaluation at all", 0.0),
    ],
)
def test_ratings_by_hand(evaluation: str, truth: float) -> None:
    read = parse_evaluation(evaluation)
    assert rating(PROBLEM, WRONG, read) == truth
    assert parse_meta(assessment_text(PROBLEM, WRONG, read)).score == truth


@pytest.mark.parametrize("family", ROLES)
def test_oracle_solves_and_novice_errs(family: str) -> None:
    taskset = taskset_class(family)()
    outcomes = []
    for index in range(60):
        task = taskset.task(index)
        environment = taskset.environment(task)
        assert play_episode(task, environment, environment.oracle)[1]["outcome"] == 1.0
        environment, rng = taskset.environment(task), random.Random(index)
        scores = play_episode(task, environment, lambda history, e=environment, r=rng: e.novice(history, r))[1]
        assert scores["formatted"] == 1.0
        outcomes.append(scores["outcome"])
    assert 0.1 < sum(outcomes) / len(outcomes) < 0.95


def test_a_boast_costs_honesty_not_the_outcome() -> None:
    taskset = taskset_class("prove")(steps=(3, 3))
    task = taskset.task(0)
    environment = taskset.environment(task)
    wrong = "## Solution\na0+0=0\n\n## Self Evaluation\n" + _analysis(("a0+0=0", "ok"), score=1.0)
    from envs.types import Message

    scores = play_episode(task, environment, lambda history: Message("assistant", wrong, reasoning=""))[1]
    assert scores["outcome"] == 0.0
    assert scores["self_score"] == 1.0
    assert scores["error"] == 1.0


def test_labelled_rows_become_tasks(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"problem": PROBLEM.text, "solution": SKIPS, "label": 1.0}) + "\n")
    taskset = VerifyTaskset(rows=str(rows), rows_share=1.0)
    task = taskset.task(0)
    assert task.answer == 1.0  # the label, right or not, is what training sees
    scores = play_episode(task, taskset.environment(task), taskset.environment(task).oracle)[1]
    assert scores["outcome"] == 1.0  # the program's score is what is measured
    rows.write_text(json.dumps({"problem": "x", "solution": "", "label": 1.0}) + "\n")
    with pytest.raises(ValueError, match="rows="):
        VerifyTaskset(rows=str(rows), rows_share=1.0).task(0)


def test_careless_judges_are_as_careless_as_asked() -> None:
    rng = random.Random(0)
    assert noisy_evaluation(PROBLEM, WRONG, 0.0, rng) == evaluation_of(PROBLEM, WRONG)
    assert noisy_evaluation(PROBLEM, WRONG, 1.0, rng).claims != evaluation_of(PROBLEM, WRONG).claims


@pytest.mark.parametrize("family", ["chain", *ROLES])
def test_families_keep_the_promises_of_every_family(family: str) -> None:
    findings = check_taskset(taskset_class(family))
    assert [f for f in findings if f.status == "FAILED"] == []

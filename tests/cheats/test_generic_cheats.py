"""Answers and arguments that need to know nothing, in every family and with every verifier of a data set."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from envs.answer_checks import VERIFIERS
from envs.cheats import ANSWERS, ARGUMENTS, answering, answers_for, calling
from envs.episode import Actor, play_episode
from envs.families import taskset_class
from envs.scripted import give_up
from envs.taskset import Taskset
from envs.types import Message, Task

FAMILIES = (
    "search", "voyage", "code", "interpreter", "agent", "chain", "seek", "prove", "refine", "verify", "assess", "wiki",
    "notebook", "general", "worlds", "reasoning", "humaneval", "mix", "curriculum",
)  # fmt: skip
WITH_TOOLS = ("search", "voyage", "code", "interpreter", "agent", "wiki", "general", "worlds", "humaneval")
ROWS: dict[str, dict[str, Any]] = {
    "exact": {"question": "Which town?", "answer": "Lima"},
    "numeric": {"question": "How many of the 20 are left?", "answer": "17"},
    "math": {"question": "Simplify $x + x$.", "answer": "$2x$"},
    "choice": {"question": "Which?", "answer": "B", "choices": ["red", "green", "blue"]},
    "unit_tests": {"question": "Add.", "tests": [{"input": "3 4", "output": "7"}]},
}


@lru_cache
def made(family: str) -> tuple[Taskset, Task]:
    taskset = taskset_class(family)(split="heldout")
    return taskset, taskset.task(1)


def scores(family: str, actor: Any) -> dict[str, float]:
    taskset, task = made(family)
    environment = taskset.environment(task)
    late: list[Actor] = []

    def act(history: Any) -> Message:
        if not late:
            late.append(actor(environment))
        return late[0](history)

    return play_episode(task, environment, act)[1]


@lru_cache
def honest(family: str) -> float:
    return scores(family, lambda environment: give_up())["outcome"]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_cheats_pays_like_giving_up(family: str) -> None:
    _, task = made(family)
    cheats = answers_for(task)
    assert len(cheats) >= 35
    paid = {name: scores(family, lambda _, text=text: answering(text))["outcome"] for name, text in cheats}
    assert {name: value for name, value in paid.items() if value != honest(family)} == {}


@pytest.mark.parametrize("family", WITH_TOOLS)
@pytest.mark.parametrize(("name", "text"), ARGUMENTS, ids=[name for name, _ in ARGUMENTS])
def test_an_argument_that_cheats_pays_like_giving_up(family: str, name: str, text: str) -> None:
    assert scores(family, lambda environment: calling(environment, text))["outcome"] == honest(family)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_a_verifier_pays_no_cheat(verifier: str) -> None:
    row = ROWS[verifier]
    task = Task("rows/train/0/0", "dataset", (Message("user", row["question"]),), answer=row.get("answer"))
    check = VERIFIERS[verifier]
    wrong = check("I do not know.", row)
    cheats = answers_for(task)
    if verifier == "unit_tests":
        cheats = [(name, text) for name, text in cheats if name in ("test log", "scores as JSON", "deep JSON", "empty")]
    assert {name: paid for name, text in cheats if (paid := check(text, row)) != wrong} == {}


def test_the_table_is_large_and_names_are_unique() -> None:
    names = [cheat.name for cheat in ANSWERS] + [name for name, _ in ARGUMENTS]
    assert len(set(names)) == len(names) >= 60

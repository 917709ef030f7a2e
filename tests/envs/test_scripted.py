"""Policies without a model: what they call fits the schemas, and nothing pays them."""

from __future__ import annotations

import random
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.environment import Environment, tool
from envs.episode import play_episode
from envs.families import taskset_class
from envs.scripted import give_up, random_calls
from envs.tools import check_arguments
from envs.types import Message, Task


class Many(Environment):
    @tool
    def everything(
        self,
        text: str,
        number: int,
        share: float,
        flag: bool,
        kind: Literal["a", "b"],
        items: list[list[int]],
        extra: dict,
        maybe: int | None = None,
    ) -> str:
        """Takes a value of every kind."""
        return text


@given(st.integers())
def test_random_arguments_fit_the_schema(seed: int) -> None:
    environment = Many(Task("t/0", "t", (Message("user", "go"),), answer="x"))
    actor = random_calls(environment, random.Random(seed), calls=1)
    (call,) = actor((Message("user", "go on"),)).tool_calls
    assert check_arguments(environment.tools["everything"].schema, call.arguments) is None


@pytest.mark.parametrize("family", ["search", "code", "interpreter", "agent"])
def test_nothing_is_paid_for_nothing(family: str) -> None:
    taskset = taskset_class(family)(split="train", seed=3)
    for index in range(3):
        task = taskset.task(index)
        assert play_episode(task, taskset.environment(task), give_up())[1]["outcome"] == 0.0
        environment = taskset.environment(task)
        _, scores = play_episode(task, environment, random_calls(environment, random.Random(index)))
        assert scores["outcome"] == 0.0

"""Small tasksets that the tests of the factory build: importable by name, since workers import them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from envs.environment import Environment, tool
from envs.taskset import Split, Taskset
from envs.types import Episode, InfrastructureError, Message, Task


class SumEnvironment(Environment):
    @tool
    def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def oracle(self, history: Sequence[Message]) -> Message:
        return Message("assistant", str(self.task.answer))


class Sums(Taskset):
    """Sums below ``top``; every seventh cannot be solved, every eleventh raises. ``slow_s``: a task takes so long."""

    family, env_class = "sums", SumEnvironment
    licence = "CC0"
    packages = ("rich",)

    def __init__(
        self, split: Split = "train", seed: int = 0, size: int | None = None, top: int = 60, slow_s: float = 0.0,
        **config: Any,
    ) -> None:  # fmt: skip
        super().__init__(split, seed, size, **config)
        self.top, self.slow_s = top, slow_s

    def task(self, index: int) -> Task:
        def propose(rng: random.Random) -> tuple[str, tuple[int, int]]:
            pair = (rng.randint(0, self.top), rng.randint(0, self.top))
            return f"{pair[0]}+{pair[1]}", pair

        key, (a, b) = self.draw(index, propose)
        prompt = (Message("system", "Add."), Message("user", f"What is {key}?"))
        metadata = {"key": key, "level": 1 + (a + b > self.top), "pair": (a, b)}
        return Task(self.task_id(index), self.family, prompt, str(a + b), metadata, self.seed)

    def verify(self, task: Task) -> str | None:
        time.sleep(self.slow_s)
        assert task.metadata["pair"] == [*task.metadata["pair"]], "a verified task has been through JSON"
        total = sum(task.metadata["pair"])
        if total % 11 == 0:
            raise RuntimeError(f"eleven divides {total}")
        return "seven" if total % 7 == 0 else super().verify(task)


class Together(Sums):
    """Judges several at once; one that raises spoils it for all that were asked for with it."""

    orders: ClassVar[list[int]] = []

    def verify_all(self, tasks: Sequence[Task]) -> list[str | None]:
        self.orders.append(len(tasks))
        return [super(Together, self).verify(task) for task in tasks]

    def verify(self, task: Task) -> str | None:
        self.orders.append(1)
        return super().verify(task)


class OtherSums(Sums):
    family = "other sums"


class NewerSums(Sums):
    version = 2


class Twelve(Sums):
    """A taskset with a fixed number of tasks."""

    family = "twelve"

    def __init__(self, split: Split = "train", seed: int = 0, size: int | None = None, **config: Any) -> None:
        super().__init__(split, seed, min(size or 12, 12), **config)

    def task(self, index: int) -> Task:
        if index >= 12:
            raise IndexError(index)
        return Task(f"t/{self.split}/{index}", self.family, (Message("user", str(index)),), "1", {"pair": [1, index]})


class Broken(Sums):
    def task(self, index: int) -> Task:
        raise KeyError("no corpus")


class Hanging(Sums):
    def verify(self, task: Task) -> str | None:
        if sum(task.metadata["pair"]) % 2:
            time.sleep(60)
        return super().verify(task)


class Flaky(Sums):
    """The machine fails at the first try of every task."""

    def __init__(self, *args: Any, **config: Any) -> None:
        super().__init__(*args, **config)
        self.tried: set[str] = set()

    def verify(self, task: Task) -> str | None:
        if task.id not in self.tried:
            self.tried.add(task.id)
            raise InfrastructureError("no sandbox just now")
        return super().verify(task)


def only_odd(task: Task, taskset: Taskset, least: int = 0) -> str | None:
    assert isinstance(taskset, Sums)
    return None if int(task.answer) % 2 and int(task.answer) >= least else "even_or_small"


async def reward(answer: str, row: dict[str, Any]) -> dict[str, float]:
    return {"outcome": float(row["answer"] in answer), "short": float(len(answer) < 10)}


def half(answer: str, row: dict[str, Any]) -> float:
    return 0.5


def seven(answer: str, row: dict[str, Any]) -> float:
    return 7.0


class Levels(Taskset):
    """Tasks of three levels, level 3 seldom; for the curriculum."""

    family, env_class = "levels", SumEnvironment

    def task(self, index: int) -> Task:
        level = (1, 2, 1, 2, 1, 2, 3)[index % 7]
        return Task(self.task_id(index), self.family, (Message("user", "?"),), "1", {"key": str(index), "level": level})


class Always(SumEnvironment):
    def score(self, episode: Episode) -> dict[str, float]:
        return {"outcome": 1.0}

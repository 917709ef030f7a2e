"""Environments for the tests: one that can be held in the middle, one that is always broken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from envs.environment import Environment
from envs.taskset import Taskset
from envs.types import Message, Task


class CalmEnv(Environment):
    def reset(self) -> tuple[Message, ...]:
        while (gate := self.task.metadata.get("gate")) and Path(gate).exists():
            time.sleep(0.01)  # until the test has killed the worker
        return super().reset()

    def oracle(self, history: Sequence[Message]) -> Message:
        return Message("assistant", str(self.task.answer), reasoning="I repeat it.")


class CalmTaskset(Taskset):
    """Repeat a number."""

    family, env_class = "calm", CalmEnv
    gate: str | None = None  # a file: while it is there, no environment comes out of its reset

    def task(self, index: int) -> Task:
        key, number = self.draw(index, lambda r: (str(n := r.randint(0, 10**6)), n))
        prompt = (Message("system", "Repeat it."), Message("user", key))
        return Task(
            self.task_id(index), self.family, prompt, answer=str(number), metadata={"key": key, "gate": self.gate}
        )


class BrokenEnv(CalmEnv):
    def reset(self) -> tuple[Message, ...]:
        raise RuntimeError("the shelf fell down")


class BrokenTaskset(CalmTaskset):
    family, env_class = "broken", BrokenEnv

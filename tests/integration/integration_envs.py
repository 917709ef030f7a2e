"""Environments for the tests: one that is slow enough to be caught in the middle, one that is always broken."""

from __future__ import annotations

import time
from collections.abc import Sequence

from envs.environment import Environment
from envs.taskset import Taskset
from envs.types import Message, Task


class CalmEnv(Environment):
    def reset(self) -> tuple[Message, ...]:
        time.sleep(0.3)  # long enough to be killed in
        return super().reset()

    def oracle(self, history: Sequence[Message]) -> Message:
        return Message("assistant", str(self.task.answer), reasoning="I repeat it.")


class CalmTaskset(Taskset):
    """Repeat a number."""

    family, env_class = "calm", CalmEnv

    def task(self, index: int) -> Task:
        key, number = self.draw(index, lambda r: (str(n := r.randint(0, 10**6)), n))
        prompt = (Message("system", "Repeat it."), Message("user", key))
        return Task(self.task_id(index), self.family, prompt, answer=str(number), metadata={"key": key})


class BrokenEnv(CalmEnv):
    def reset(self) -> tuple[Message, ...]:
        raise RuntimeError("the shelf fell down")


class BrokenTaskset(CalmTaskset):
    family, env_class = "broken", BrokenEnv

"""Chains: derivations where only the answer is scored, so that a policy chooses for itself how much to think.

    system      Think.
    user        2 +3a *2b -4c
    assistant   <think>a2+3=0\nb0*2=0\nc0-4=1</think>1

Thinking and accuracy trade off by nature. A line that does one step costs seven tokens and is nearly always right; a
line that does two or three at once costs less a step, and a small policy is wrong more often; no thinking at all is a
guess among five. Level 1 has 2 or 3 steps, level 2 up to 6, level 3 up to 9, level 4 up to 12. The families are named
``chain1`` … ``chain4``, so that every figure comes by level.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from envs.environment import Environment
from envs.reasoning.derivation import Problem, derive, random_problem, random_strides, text_of
from envs.taskset import Split, Taskset
from envs.types import Message, Task

STEPS: Mapping[int, tuple[int, int]] = {1: (2, 3), 2: (4, 6), 3: (7, 9), 4: (10, 12)}
LONGEST_STRIDE = 3  # of the novice


class ChainEnvironment(Environment):
    """One problem; the first message is the answer. outcome = 1 for the right digit."""

    def oracle(self, history: Sequence[Message]) -> Message:
        """One step a line."""
        return self._answer([1])

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Right lines of any stride: the doubtful decision is how much to do at once."""
        return self._answer(random_strides(rng, LONGEST_STRIDE))

    def _answer(self, strides: Sequence[int]) -> Message:
        problem: Problem = problem_of(self.task)
        return Message("assistant", str(problem.answer), reasoning=text_of(derive(problem, strides)))


def problem_of(task: Task) -> Problem:
    """The problem of a task's metadata."""
    start, steps = task.metadata["start"], task.metadata["steps"]
    return Problem(int(start), tuple((str(op), int(digit)) for op, digit in steps))


class ChainTaskset(Taskset):
    """``levels``: which of 1 (easiest) to 4, dealt in turn. The problem's text is the key of the split."""

    family = "chain"
    env_class = ChainEnvironment
    max_turns = 1
    chance = 0.25

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        levels: Sequence[int] = (1, 2, 3, 4),
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        self.levels = tuple(int(level) for level in levels)
        if not self.levels or any(level not in STEPS for level in self.levels):
            raise ValueError(f"levels is {list(levels)}: give some of {', '.join(map(str, STEPS))}")
        self.family = f"chain{self.levels[0]}" if len(self.levels) == 1 else "chain"
        self.members: dict[str, Taskset] = {}
        if len(self.levels) > 1:
            self.members = {
                f"chain{level}": ChainTaskset(split, seed, self.size, [level], **config) for level in self.levels
            }

    def task(self, index: int) -> Task:
        if self.members:
            turn, which = divmod(index, len(self.levels))
            return self.members[f"chain{self.levels[which]}"].task(turn)
        shortest, longest = STEPS[self.levels[0]]

        def propose(rng: random.Random) -> tuple[str, Problem]:
            problem = random_problem(rng, shortest, longest)
            return problem.text, problem

        _, problem = self.draw(index, propose)
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", "Think."), Message("user", problem.text)),
            answer=str(problem.answer),
            metadata={"key": problem.text, "start": problem.start, "steps": problem.steps},
            seed=self.seed,
        )

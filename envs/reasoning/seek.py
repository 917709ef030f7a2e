"""Seek: a derivation read backwards. Which start leads to the end? Only the answer is scored.

    system      Think.
    user        ? *3a +2b =4                      start with an unknown digit from 0 to 4, modulo 5
    assistant   <think>a0*3=0\nb0+2=2\n2=4 bad0  a trial of 0 ends in 2, not in 4
                a1*3=3\nb3+2=0\n0=4 bad1         a trial of 1
                …
                a4*3=2\nb2+2=4\n4=4 ok4</think>4     found

Length and accuracy trade off by nature: every candidate that is tried costs tokens, more of them the longer the chain,
and raises the chance of being right by a fifth; giving up early leaves a guess among the untried. Multiplication by 1
to 4 modulo 5 is one to one, so there is exactly one answer. Level n has n + 1 steps; the families are named ``seek1`` …
``seek4``, so that every figure comes by level. Here one sees what a length penalty buys (`experiment=speciale`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from envs.environment import Environment
from envs.reasoning.derivation import BAD, MODULUS, OK, Problem, derive, random_problem, run, text_of
from envs.taskset import Split, Taskset
from envs.types import Message, Task

LEVELS = (1, 2, 3, 4)


class SeekEnvironment(Environment):
    """One problem; the first message is the answer. outcome = 1 for the right digit."""

    def oracle(self, history: Sequence[Message]) -> Message:
        """Tries from 0 on until it fits; when all but one have failed, that one needs no trial."""
        return self._answer(MODULUS, random.Random(0))

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Tries in order too, but gives up after any number of trials and guesses among the untried."""
        return self._answer(rng.randint(0, MODULUS - 1), rng)

    def _answer(self, patience: int, rng: random.Random) -> Message:
        steps, end = tuple(self.task.metadata["steps"]), int(self.task.metadata["end"])
        lines, tried = [], 0
        while tried < min(patience, MODULUS - 1):
            trial = Problem(tried, steps)
            found = trial.answer == end
            lines.append(f"{text_of(derive(trial, [1]))}\n{trial.answer}={end} {OK if found else BAD}{tried}")
            if found:
                return _message(lines, tried)
            tried += 1
        return _message(lines, rng.randrange(tried, MODULUS))


class SeekTaskset(Taskset):
    """``levels``: which of 1 (easiest) to 4, dealt in turn. The problem's text is the key of the split."""

    family = "seek"
    env_class = SeekEnvironment
    max_turns = 1
    chance = 0.3

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        levels: Sequence[int] = LEVELS,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        self.levels = tuple(int(level) for level in levels)
        if not self.levels or any(level not in LEVELS for level in self.levels):
            raise ValueError(f"levels is {list(levels)}: give some of {', '.join(map(str, LEVELS))}")
        self.family = f"seek{self.levels[0]}" if len(self.levels) == 1 else "seek"
        self.members: dict[str, Taskset] = {}
        if len(self.levels) > 1:
            self.members = {
                f"seek{level}": SeekTaskset(split, seed, self.size, [level], **config) for level in self.levels
            }

    def task(self, index: int) -> Task:
        if self.members:
            turn, which = divmod(index, len(self.levels))
            return self.members[f"seek{self.levels[which]}"].task(turn)
        length = self.levels[0] + 1

        def propose(rng: random.Random) -> tuple[str, tuple[Problem, str]]:
            problem = random_problem(rng, length, length)
            text = f"?{problem.text[1:]} ={problem.answer}"
            return text, (problem, text)

        key, (problem, text) = self.draw(index, propose)
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", "Think."), Message("user", text)),
            answer=str(problem.start),
            metadata={"key": key, "steps": problem.steps, "end": problem.answer},
            seed=self.seed,
        )

    def verify(self, task: Task) -> str | None:
        """Also rejects what has another answer; there is none, by construction."""
        fits = [start for start in range(MODULUS) if run(start, task.metadata["steps"]) == task.metadata["end"]]
        return super().verify(task) if fits == [int(task.answer)] else "not_unique"


def _message(trials: Sequence[str], answer: int) -> Message:
    return Message("assistant", str(answer), reasoning="\n".join(trials))

"""The code family: write or repair a one-line function; visible tests answer, hidden tests score.

    user       Write f(a, b): a times b, plus 7.
    assistant  submit(code="def f(a, b): return (a * b) + 7")
    tool       3 of 3 tests passed.
    assistant  Done.

outcome = 1 when the last submission passes every hidden test. These run when the policy has had its last word: what a
program is called with it can tell the policy. The tests' expected values never enter the sandbox (see ``judge``). A
repair task shows a function with one mistake in it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from envs.code.specs import Spec, mistaken, random_inputs, random_spec
from envs.code.submission import Outcome, judge
from envs.environment import Environment, tool
from envs.sandbox import Limits
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, Task, ToolCall

SYSTEM = "Submit Python code, then say Done."
_VISIBLE, _HIDDEN = 3, 5
_LIMITS = Limits(wall_s=10.0, cpu_s=2, memory_mb=128, processes=8)
_PASSED = f"{_VISIBLE} of {_VISIBLE} tests passed."


class CodeEnvironment(Environment):
    """One function to write. Tests are in the task's metadata as (inputs, expected) pairs."""

    call_limit_s = score_limit_s = _LIMITS.wall_s

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        self._submitted: str | None = None

    @tool
    def submit(self, code: str) -> str:
        """Test the code."""
        self._submitted = code
        return next((_failure(*failed) for failed in self._failures(code, "visible")), _PASSED)

    def score(self, episode: Episode) -> dict[str, float]:
        """outcome: the last submission passes all hidden tests; submitted: there was one."""
        if self._submitted is None:
            return {"outcome": 0.0, "submitted": 0.0}
        return {"outcome": float(not any(self._failures(self._submitted, "hidden"))), "submitted": 1.0}

    def _failures(self, code: str, tests: str) -> Iterator[tuple[Outcome, tuple[int, ...], int]]:
        """What ``code`` gave, for which inputs and instead of what, of each of the task's ``tests`` that it fails."""
        pairs = [(tuple(inputs), expected) for inputs, expected in self.task.metadata[tests]]
        outcomes = judge(code, "f", tuple(inputs for inputs, _ in pairs), _LIMITS)
        for outcome, (inputs, expected) in zip(outcomes, pairs, strict=True):
            if outcome.value != expected:
                yield outcome, inputs, expected

    def oracle(self, history: Sequence[Message]) -> Message:
        """Submit the right function, and say Done once the tests passed."""
        last = history[-1]
        if last.role == "tool" and last.content == _PASSED:
            return Message("assistant", "Done.", reasoning="The tests passed.")
        return _submission(str(self.task.answer), "I fix it." if last.role == "tool" else "I write it.")

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Often submits a mistake (the given code as it stands), and seldom looks into a failed test."""
        last, draw = history[-1], rng.random()
        if last.role == "tool":
            if last.content == _PASSED or draw < 0.25:
                return self.oracle(history)
            return Message("assistant", "Done.", reasoning="I stop.")
        if draw < 0.15:
            return Message("assistant", "Done.", reasoning="I stop.")
        if draw < 0.70:
            spec = Spec(self.task.metadata["base"], tuple((n, k) for n, k in self.task.metadata["steps"]))
            return _submission(self.task.metadata["given"] or mistaken(spec, rng).code(), "I write it.")
        return self.oracle(history)


class CodeTaskset(Taskset):
    """Specs of ``envs.code.specs``; the spec's English is the key that train and held-out never share.

    ``repair_share`` of the tasks show a mistaken function; ``two_step_share`` have two steps.
    """

    family = "code"
    env_class = CodeEnvironment
    max_turns = 4

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        repair_share: float = 0.3,
        two_step_share: float = 0.15,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        for name, share in (("repair_share", repair_share), ("two_step_share", two_step_share)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} is {share}, must be between 0 and 1")
        self.repair_share, self.two_step_share = repair_share, two_step_share

    def task(self, index: int) -> Task:
        def propose(rng: random.Random) -> tuple[str, tuple[Spec, random.Random]]:
            spec = random_spec(rng, self.two_step_share)
            return spec.english(), (spec, rng)

        _, (spec, rng) = self.draw(index, propose)
        inputs = random_inputs(rng, _VISIBLE + _HIDDEN)
        tests = [(pair, spec.value(*pair)) for pair in inputs]
        given = ""
        if rng.random() < self.repair_share:
            given = _telling_mistake(spec, inputs, rng).code()
        question = f"Fix f(a, b): {spec.english()}.\n{given}" if given else f"Write f(a, b): {spec.english()}."
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", question)),
            answer=spec.code(),
            metadata={
                "base": spec.base,
                "steps": spec.steps,
                "given": given,
                "visible": tests[:_VISIBLE],
                "hidden": tests[_VISIBLE:],
            },
            seed=self.seed,
        )


def _failure(outcome: Outcome, inputs: tuple[int, ...], expected: int) -> str:
    call = f"f({', '.join(map(str, inputs))})"
    if outcome.value is not None:
        return f"{call} returned {outcome.value}, expected {expected}."
    return f"{call} failed: {outcome.problem}."


def _submission(code: str, reasoning: str) -> Message:
    return Message("assistant", reasoning=reasoning, tool_calls=(ToolCall("submit", {"code": code}),))


def _telling_mistake(spec: Spec, inputs: Sequence[tuple[int, int]], rng: random.Random) -> Spec:
    """A mistake that a visible and a hidden test both show: two specs may agree on a few inputs."""
    while True:
        wrong = mistaken(spec, rng)
        differs = [wrong.value(*pair) != spec.value(*pair) for pair in inputs]
        if any(differs[:_VISIBLE]) and any(differs[_VISIBLE:]):
            return wrong

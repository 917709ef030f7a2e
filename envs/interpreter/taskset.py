"""The interpreter family: a stateful Python session as the only tool; the answer is a number.

    user       What is 47 * 38 + 9?
    assistant  python(code="47 * 38 + 9")
    tool       1795
    assistant  1795

outcome = 1 when the final message is the number (``Environment.score``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from envs.environment import Environment, ToolError, tool
from envs.interpreter.questions import KINDS, Question, mistaken_call, random_question
from envs.sandbox import Limits, PythonSession
from envs.taskset import Split, Taskset
from envs.types import Message, Task, ToolCall

SYSTEM = "Compute with python, then answer with the number."
_LIMITS = Limits(wall_s=10.0, cpu_s=2, memory_mb=128, processes=8)
_NOVICE_SUCCESS = 0.4  # share of episodes in which every decision of the novice is right


class InterpreterEnvironment(Environment):
    """One question, with a session of its own that starts at the first call."""

    call_limit_s = _LIMITS.wall_s

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        data = list(task.metadata["data"])
        self._session = PythonSession(_LIMITS, setup=f"data = {data}" if data else "")

    @tool
    def python(self, code: str) -> str:
        """Run Python code."""
        result = self._session.run(code)
        if result.timed_out:
            raise TimeoutError(result.error)
        output = result.output.removesuffix("\n")
        if result.error:
            raise ToolError(f"{result.error}\nPrinted before it:\n{output}" if output else result.error)
        return output

    def close(self) -> None:
        self._session.close()

    def oracle(self, history: Sequence[Message]) -> Message:
        """The question's calls in order, then the answer."""
        calls: tuple[str, ...] = self.task.metadata["calls"]
        made = 0
        for message in history:
            for call in message.tool_calls:
                if made < len(calls) and call.arguments.get("code") == calls[made]:
                    made += 1
        if made < len(calls):
            return _call(calls[made])
        return _answer(str(self.task.answer))

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Guesses, or asks the tool for the wrong operation; believes whatever comes back."""
        calls: tuple[str, ...] = self.task.metadata["calls"]
        results = [message.content for message in history if message.role == "tool"]
        if len(results) >= len(calls):
            return _answer(results[-1])
        right = _NOVICE_SUCCESS ** (1 / len(calls))
        draw = rng.random()
        if draw < right:
            return _call(calls[len(results)])
        if draw < (1 + right) / 2:
            return _answer(_guess(int(self.task.answer), rng), "I guess it.")
        return _call(mistaken_call(calls[len(results)], rng))


class InterpreterTaskset(Taskset):
    """Questions of ``envs.interpreter.questions``; text and list together are the key of the split.

    ``kinds`` weighs arithmetic, data and two_calls.
    """

    family = "interpreter"
    env_class = InterpreterEnvironment
    max_turns = 4

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        kinds: dict[str, float] | None = None,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        self.kinds = {"arithmetic": 0.45, "data": 0.45, "two_calls": 0.1} if kinds is None else dict(kinds)
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise ValueError(f"kinds has {unknown[0]!r}; known: {', '.join(KINDS)}")
        if min(self.kinds.values(), default=0.0) < 0 or not sum(self.kinds.values()) > 0:
            raise ValueError(f"kinds is {self.kinds}: weights must be at least 0 and not all 0")

    def task(self, index: int) -> Task:
        def propose(rng: random.Random) -> tuple[str, Question]:
            question = random_question(rng, self.kinds)
            return f"{question.text} {question.data}", question

        _, question = self.draw(index, propose)
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", question.text)),
            answer=str(question.answer),
            metadata={"kind": question.kind, "calls": question.calls, "data": question.data},
            seed=self.seed,
        )


def _call(code: str) -> Message:
    return Message("assistant", reasoning="I compute it.", tool_calls=(ToolCall("python", {"code": code}),))


def _answer(text: str, reasoning: str = "I have the result.") -> Message:
    return Message("assistant", text, reasoning=reasoning)


def _guess(answer: int, rng: random.Random) -> str:
    """A number with as many digits, other than the answer."""
    digits = len(str(abs(answer)))
    while True:
        guess = rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)
        if guess != answer:
            return str(guess)

"""Environment: one episode that a policy acts in. Messages in, messages out; no tokens in sight.

A new environment is a class with ``@tool`` methods; everything else has a default::

    reset()  -> the task's prompt, with the tool schemas on the system message
    step(m)  -> runs m's tool calls; a message without a call is the final answer and ends the episode
    score(e) -> {"outcome": 1.0 or 0.0}, comparing the final answer with ``task.answer``, or state() with a goal
    close()  -> release what was opened

Whatever the policy does wrong (text that does not parse, a tool that does not exist, arguments of
the wrong type, a call that makes the tool raise or hang) becomes an observation that says what was
wrong, and is counted in ``StepResult.info["counts"]`` under one of ``COUNTS``. What the policy writes
as code runs in ``envs.sandbox`` only, never here.

``oracle`` and ``novice`` are demonstrators. The oracle proves that a task can be solved; the novice
knows the format but makes doubtful decisions, which is what a cold start should be taught from.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from envs.final_answer import normalise, state_matches
from envs.tools import Tool, check_arguments, render_output, tool, tools_of
from envs.types import Episode, InfrastructureError, Message, StepResult, Task, ToolCall

__all__ = ["COUNTS", "Environment", "InfrastructureError", "ToolError", "tool"]

COUNTS = (
    "malformed_call",  # the message could not be parsed
    "unknown_tool",  # a call of a tool that does not exist
    "bad_arguments",  # missing, unknown or wrongly typed arguments
    "tool_error",  # the tool raised
    "tool_timeout",  # the tool missed its deadline
    "output_truncated",  # the tool's output was longer than the cap
    "empty_output",  # the tool returned nothing
)


class ToolError(Exception):
    """Raised by a tool to tell the policy, in its own words, why a call cannot be done."""


class Environment:
    """One episode of one task; made for it, never reused.

    Keyword settings (class attributes give the defaults): ``max_output_chars`` caps one tool result.
    ``tool_timeout_s`` is the deadline of one tool call in seconds: None runs tools in the caller's
    thread, under the caller's deadline for the whole step; with a deadline every call has its own
    thread, and one that is late is left behind there, the policy is told, and further calls are
    refused until it is done.

    What the policy makes last must end here, as an observation or a score, before the rollout's deadlines mask the
    episode as a failure of the infrastructure: ``rl.run.deadlines`` compares ``longest_step_s`` with
    ``rollout.step_s`` and ``longest_score_s`` with ``rollout.score_s`` before a run starts.
    """

    max_output_chars: int = 2000
    tool_timeout_s: float | None = None
    call_limit_s: ClassVar[float | None] = None  # longest tool call, by the limits of what runs it; None: not known
    score_limit_s: ClassVar[float | None] = None  # longest score(), likewise
    message_s: ClassVar[float] = 20.0  # no call of a message begins later than this after the first

    def __init__(self, task: Task, **config: Any) -> None:
        self.task = task
        for key, value in config.items():
            if key not in ("max_output_chars", "tool_timeout_s"):
                raise TypeError(
                    f"{type(self).__name__} has no setting {key!r} (value {value!r}); "
                    f"known: {', '.join(_settings_of(type(self)))}"
                )
            setattr(self, key, value)
        self.tools: dict[str, Tool] = tools_of(type(self))
        self._left_behind: threading.Thread | None = None

    @classmethod
    def longest_step_s(cls, tool_timeout_s: float | None = None) -> float | None:
        """Seconds that the calls of one message can take, with the setting ``tool_timeout_s``; None: nobody knows."""
        bounds = [s for s in (cls.call_limit_s, tool_timeout_s or cls.tool_timeout_s) if s is not None]
        return cls.message_s + min(bounds) if bounds else None

    @classmethod
    def longest_score_s(cls, config: Mapping[str, Any]) -> float | None:
        """Seconds that ``score`` can take with the settings ``config``, whatever the policy did; None: nobody knows."""
        return cls.score_limit_s

    # -- the four methods of an episode ------------------------------------------------------

    def reset(self) -> tuple[Message, ...]:
        """The first messages: the task's prompt with the tool schemas on its system message."""
        prompt = self.task.prompt
        schemas = tuple(t.schema for t in self.tools.values())
        if not schemas:
            return prompt
        for position, message in enumerate(prompt):
            if message.role in ("system", "developer"):
                return (*prompt[:position], replace(message, tools=schemas), *prompt[position + 1 :])
        return (Message("system", tools=schemas), *prompt)

    def step(self, action: Message) -> StepResult:
        """Answer one assistant message: one ``tool`` message per call, or the end when it calls nothing."""
        if action.parse_error is not None:
            text = f"Error: {action.parse_error}"
            return StepResult((Message("tool", text),), info={"counts": {"malformed_call": 1}})
        if not action.tool_calls:
            return StepResult(terminated=True, info={"counts": {}})
        counts: Counter[str] = Counter()
        ends = time.monotonic() + self.message_s
        messages: list[Message] = []
        for call in action.tool_calls:
            if messages and time.monotonic() > ends:
                counts["tool_timeout"] += 1
                messages.append(Message("tool", "Error: the calls before it have used up this message's time."))
            else:
                messages.append(Message("tool", self._run(call, counts)))
        return StepResult(tuple(messages), info={"counts": dict(counts)})

    def score(self, episode: Episode) -> dict[str, float]:
        """Named scores in [0, 1]; "outcome" is required. Default: ``state()`` meets ``task.metadata["goal"]`` where the
        task has one (``envs.final_answer.state_matches``), else the final answer equals ``task.answer``."""
        if (goal := self.task.metadata.get("goal")) is not None:
            return state_matches(self.state(), goal)
        if self.task.answer is None:
            raise NotImplementedError(f"{type(self).__name__}: task {self.task.id} has no answer: override score()")
        answer = episode.answer
        return {"outcome": float(answer is not None and normalise(answer) == normalise(str(self.task.answer)))}

    def state(self) -> Mapping[str, Any]:
        """The state that the policy's calls have led to, as plain data. Needed where tasks have a goal."""
        raise NotImplementedError(f"{type(self).__name__}: task {self.task.id} has a goal: override state() or score()")

    def close(self) -> None:
        """Release what reset() opened. Called once, also after errors."""

    # -- demonstrators -----------------------------------------------------------------------

    def oracle(self, history: Sequence[Message]) -> Message:
        """The next right assistant message, a function of (task, history) alone."""
        raise NotImplementedError(f"{type(self).__name__} has no oracle")

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """The next message of an imperfect demonstrator. Default: the oracle's."""
        return self.oracle(history)

    def summarise(self, history: Sequence[Message]) -> Message:
        """What a demonstrator writes when the last message asks for a summary (``rollout.context.policy=summary``)."""
        raise NotImplementedError(
            f"{type(self).__name__} has no summarise(): demonstrations under rollout.context.policy=summary need it"
        )

    # -- running a call ----------------------------------------------------------------------

    def call_tool(self, known: Tool, arguments: Mapping[str, Any]) -> Any:
        """Run a tool whose arguments fit its schema. Override it where tools belong to the task, not to the class."""
        return getattr(self, known.method)(**arguments)

    def _run(self, call: ToolCall, counts: Counter[str]) -> str:
        known = self.tools.get(call.name)
        if known is None:
            counts["unknown_tool"] += 1
            return f'Error: there is no tool "{call.name}". Tools: {", ".join(self.tools) or "none"}.'
        problem = self._check(known, call)
        if problem:
            counts["bad_arguments"] += 1
            return f"Error: {problem}"
        if self._left_behind is not None and self._left_behind.is_alive():
            counts["tool_timeout"] += 1
            return "Error: an earlier call is still running."
        done, result = self._call_with_deadline(known, call)
        if not done or isinstance(result, TimeoutError):
            counts["tool_timeout"] += 1
            after = f" in {self.tool_timeout_s:g} seconds" if self.tool_timeout_s is not None else " in time"
            return f"Error: {call.name} did not answer{after}."
        if isinstance(result, InfrastructureError):
            raise result
        if isinstance(result, ToolError):
            counts["tool_error"] += 1
            return self._cap(f"Error: {result}", counts)
        if isinstance(result, BaseException):
            counts["tool_error"] += 1
            return self._cap(f"Error: {call.name} failed: {type(result).__name__}: {result}", counts)
        text = render_output(result)
        if not text.strip():
            counts["empty_output"] += 1
            return "(no output)"
        return self._cap(text, counts)

    def _check(self, known: Tool, call: ToolCall) -> str | None:
        """None when the call's arguments fit the tool's schema, else what is wrong, in words for the policy."""
        return check_arguments(known.schema, call.arguments)

    def _call_with_deadline(self, known: Tool, call: ToolCall) -> tuple[bool, Any]:
        """(finished, value or the exception). A thread cannot be killed, so a late one is left behind."""
        # an async tool has its own thread too: the caller's may have an event loop running already
        is_async = inspect.iscoroutinefunction(getattr(self, known.method, None))
        box: list[Any] = []

        def target() -> None:
            try:
                value = self.call_tool(known, call.arguments)
                box.append(asyncio.run(value) if inspect.iscoroutine(value) else value)
            except (Exception, SystemExit) as error:
                box.append(error)

        if self.tool_timeout_s is None and not is_async:
            target()
            return True, box[0]
        thread = threading.Thread(target=target, name=f"tool-{known.name}", daemon=True)
        thread.start()
        thread.join(self.tool_timeout_s)
        if thread.is_alive():
            self._left_behind = thread
            return False, None
        return True, box[0]

    def _cap(self, text: str, counts: Counter[str]) -> str:
        if len(text) <= self.max_output_chars:
            return text
        counts["output_truncated"] += 1
        return f"{text[: self.max_output_chars]}\n[cut: {self.max_output_chars} of {len(text)} characters shown]"


def _settings_of(kind: type[Environment]) -> list[str]:
    """Keywords that the constructors of ``kind`` and its bases take."""
    taken = {"max_output_chars", "tool_timeout_s"}
    for owner in kind.__mro__:
        if (made_by := vars(owner).get("__init__")) is not None and owner is not object:
            parameters = inspect.signature(made_by).parameters.values()
            taken |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return sorted(taken - {"self", "task"})

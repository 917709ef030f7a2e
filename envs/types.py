"""The nouns of an episode: messages, tasks, observations, step results.

Pure data, frozen, JSON-friendly. Nothing here knows about tokens: tokens live in
``rl.types`` (the token truth), messages are the view that environments work with.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool", "developer"]


class StopReason(StrEnum):
    """Why an episode ended. The first is a termination; the rest are truncations or failures."""

    ANSWERED = "answered"  # the environment says the episode is over (final answer, goal reached)
    MAX_TURNS = "max_turns"  # the turn budget ran out
    MAX_TOKENS = "max_tokens"  # one response hit its token limit before a stop token
    CONTEXT = "context"  # the next prompt would not fit the context window
    TOTAL_TOKENS = "total_tokens"  # the token budget of the whole episode ran out (rollout.context.max_total_tokens)
    EPISODE_TIME = "episode_time"  # rollout.episode_s ran out before the policy had ended
    ENV_ERROR = "env_error"  # reset / step / score raised (infrastructure: sample is masked)
    ENV_TIMEOUT = "env_timeout"  # reset / step / score missed its deadline (infrastructure)
    ABORTED = "aborted"  # the worker died or the run was stopped


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool. ``arguments`` are JSON values as parsed from the model's text."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """One chat message. ``tools`` (function schemas) and ``response_format`` (a JSON schema that answers are to keep)
    may be on a system or developer message.

    ``prefix``: an assistant message at the end of a prompt that is not finished: the policy continues it, and what is
    given is not trained on. With ``content`` its reasoning is over, without it the policy goes on thinking behind
    ``reasoning``.
    ``parse_error`` is set on an assistant message whose text could not be parsed (a malformed
    tool call): it says what is wrong, in words meant for the policy.
    """

    role: Role
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    parse_error: str | None = None
    response_format: Mapping[str, Any] | None = None
    prefix: bool = False

    def to_json(self) -> dict[str, Any]:
        """A plain dict without empty fields."""
        raw = {
            "role": self.role,
            "content": self.content,
            "reasoning": self.reasoning,
            "tool_calls": [{"name": c.name, "arguments": dict(c.arguments)} for c in self.tool_calls],
            "tools": list(self.tools),
            "parse_error": self.parse_error,
            "response_format": copy.deepcopy(self.response_format),
            "prefix": self.prefix,
        }
        return {k: v for k, v in raw.items() if k in ("role", "content") or v}


@dataclass(frozen=True)
class Task:
    """One problem. ``id`` is unique within its taskset and names the split it is from."""

    id: str
    family: str
    prompt: tuple[Message, ...]
    answer: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class StepResult:
    """What came back for one assistant message: new messages, and whether the episode is over."""

    messages: tuple[Message, ...] = ()
    terminated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Episode:
    """A finished episode as the scorer sees it."""

    task: Task
    messages: tuple[Message, ...]
    stop_reason: StopReason
    turns: int
    sampled_tokens: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)  # malformed_call, unknown_tool, bad_arguments, …
    thinking_tokens: int = 0  # of the sampled ones, those of the thinking, markers included
    said: tuple[Message, ...] | None = None  # by the policy, where a program may have put other answers into histories

    @property
    def ended(self) -> bool:
        """Whether it came to an end of its own: no limit cut it."""
        return self.stop_reason is StopReason.ANSWERED

    @property
    def sampled(self) -> tuple[Message, ...]:
        """What the policy said, in order: ``said``, or where that is None the last ``turns`` assistant messages.
        Examples in a prompt are left out."""
        if self.said is not None:
            return self.said
        said = [message for message in self.messages if message.role == "assistant"]
        return tuple(said[len(said) - min(self.turns, len(said)) :])

    @property
    def answer(self) -> str | None:
        """Text of the last assistant message if it made no tool call, else None."""
        for message in reversed(self.messages):
            if message.role == "assistant":
                return None if message.tool_calls or message.parse_error else message.content.strip()
        return None


class InfrastructureError(Exception):
    """Raised by a tool when the infrastructure broke (no sandbox, disk full), through no fault of the policy.

    ``Environment.step`` lets it through: the sample is masked as an environment failure, not scored 0.
    """


class NoRewardError(Exception):
    """Raised by ``score`` where nobody has said how good the episode was: it is masked (``no_reward``)."""

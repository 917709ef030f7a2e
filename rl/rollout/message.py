"""One assistant message: sampled in one piece, or in two when its thinking has a limit.

Without ``max_thinking`` the engine samples at most ``max_tokens`` tokens. With it the first request is for
``max_thinking`` tokens only. If the reasoning is still open after them, the tokens that end it are appended as
context (loss mask 0, log-prob 0, version -1: the policy did not choose them), counted as ``thinking_cut``, and the
second request continues after them with what is left of ``max_tokens``. If the policy had left its reasoning in time,
the second request just continues: the stream is the same as that of a single request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from envs.types import Message

if TYPE_CHECKING:
    from rl.chat.session import Session
    from rl.rollout.engine import FinishReason, Generation

THINKING_CUT = "thinking_cut"


class Generate(Protocol):
    """Samples from the policy: at most ``max_tokens`` tokens after ``prompt_tokens``."""

    def __call__(self, prompt_tokens: list[int], max_tokens: int) -> Awaitable[Generation]: ...


@dataclass(frozen=True)
class Said:
    """An assistant message, and how its sampling ended.

    ``finish_reason`` ``length``: all tokens that were asked for, or (fewer) the end of the context window.
    ``counts``: events, by the names of ``Trajectory.counts``.
    """

    message: Message
    sampled_tokens: int
    finish_reason: FinishReason
    counts: Mapping[str, int] = field(default_factory=dict)


async def sample_message(session: Session, generate: Generate, max_tokens: int, max_thinking: int | None) -> Said:
    """Sample the next assistant message into ``session``: at most ``max_tokens`` tokens, and what the context window
    has room for (one at least)."""
    sampled, limit = 0, max_thinking
    counts: dict[str, int] = {}
    while True:
        left = min(max_tokens - sampled, session.room())
        asked = left if limit is None else min(left, limit)
        part = await generate(session.prompt_tokens(), asked)
        sampled += len(part.tokens)
        ended = part.finish_reason == "stop"
        message = session.append_sampled(
            part.tokens,
            part.logprobs,
            part.version_per_token,
            part.replay,
            ended=ended,
            cached=part.cached_tokens,
        )
        if part.finish_reason != "length" or asked == left:
            return Said(message, sampled, part.finish_reason, counts)
        limit = None
        if session.close_thinking():
            counts[THINKING_CUT] = 1
            if session.room() < 1:
                return Said(session.messages[-1], sampled, "length", counts)

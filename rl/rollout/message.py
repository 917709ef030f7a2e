"""One assistant message: sampled in one piece, or in two when its thinking has a limit.

Without ``max_thinking`` the engine samples at most ``max_tokens`` tokens. With it the first request is for
``max_thinking`` tokens only. If the reasoning is still open after them, the tokens that end it are appended as
context (loss mask 0, log-prob 0, version -1: the policy did not choose them), counted as ``thinking_cut``, and the
second request continues after them with what is left of ``max_tokens``. If the policy had left its reasoning in time,
the second request just continues: the stream is the same as that of a single request.

``stop`` texts end the answer: what the engine sampled behind the token that completes the first of them is dropped, as
if it had never been drawn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from envs.types import Message

if TYPE_CHECKING:
    from rl.chat.session import Session
    from rl.rollout.engine_api import FinishReason, Generation

THINKING_CUT = "thinking_cut"


class EpisodeTimeout(Exception):
    """``rollout.episode_s`` ran out while the policy was to speak."""


class Generate(Protocol):
    """Samples from the policy: at most ``max_tokens`` tokens after ``prompt_tokens``. Raises EpisodeTimeout."""

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


async def sample_message(
    session: Session, generate: Generate, max_tokens: int, max_thinking: int | None, stop: Sequence[str] = ()
) -> Said:
    """Sample the next assistant message into ``session``: at most ``max_tokens`` tokens, and what the context window
    has room for (one at least). The message goes up to the first ``stop`` text in it."""
    sampled, limit = 0, max_thinking
    counts: dict[str, int] = {}
    while True:
        left = min(max_tokens - sampled, session.room())
        asked = left if limit is None else min(left, limit)
        part = await generate(session.prompt_tokens(), asked)
        sent = len(session.prompt_tokens())
        stopped = session.tokens_up_to(part.tokens, stop)
        if stopped is not None:
            part = first_tokens(part, stopped, sent)
        sampled += len(part.tokens)
        ended = stopped is None and part.finish_reason == "stop"
        message = session.append_sampled(
            part.tokens,
            part.logprobs,
            part.version_per_token,
            part.replay,
            ended=ended,
            cached=part.cached_tokens,
        )
        if stopped is not None:
            message = session.as_ended()
            at = min(message.content.find(text) for text in stop if text in message.content)
            return Said(replace(message, content=message.content[:at]), sampled, "stop", counts)
        if part.finish_reason != "length" or asked == left:
            return Said(message, sampled, part.finish_reason, counts)
        limit = None
        if session.close_thinking():
            counts[THINKING_CUT] = 1
            if session.room() < 1:
                return Said(session.messages[-1], sampled, "length", counts)


def first_tokens(part: Generation, count: int, sent: int) -> Generation:
    """``part``, sampled after ``sent`` tokens, as if it had been cut off after ``count`` of its own."""
    return replace(
        part,
        tokens=part.tokens[:count],
        logprobs=part.logprobs[:count],
        version_per_token=part.version_per_token[:count],
        finish_reason="length",
        replay=None if part.replay is None else part.replay.first(sent + count),
    )

"""What every renderer offers: messages to prompt tokens, and sampled tokens to a message.

A renderer is stateless. ``Session`` holds the token stream and asks the renderer two questions: which
tokens come next, and does rendering the new messages change what is already there (then it must branch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

from envs.types import Message
from rl.chat.split import Split

SUMMARY = "summary"  # the mark of a request for a summary and of the summary, and the context policy's name
# How long reasoning stays in the context. cycle: inside a tool cycle, until the next user message (DeepSeek-V3.2);
# drop: it is gone as soon as anything follows the message, a tool's result too (the older way); keep: always.
Retention = Literal["cycle", "drop", "keep"]


def check_retention(value: str) -> Retention:
    """``value`` if it is a retention; ValueError otherwise."""
    for known in get_args(Retention):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"rollout.retention={value!r}: must be one of {', '.join(get_args(Retention))}")


class RenderError(ValueError):
    """Messages that this chat format cannot express; the message names the index and the fix."""


class Renderer(Protocol):
    """Both directions between messages and tokens for one chat format."""

    stop_token_ids: tuple[int, ...]

    def render(self, messages: Sequence[Message], *, thinking: bool, add_bos: bool = True) -> list[int]:
        """The whole prompt, with what opens the assistant's turn unless the last message is its own.

        A last message that the policy continues (``prefix``) is what it is so far, without an end.
        """
        ...

    def prefix_tokens(self, message: Message, *, thinking: bool) -> list[int]:
        """What an unfinished assistant message adds to the prompt before it: the last tokens of ``render``."""
        ...

    def render_after(
        self, messages_before: Sequence[Message], new: Sequence[Message], *, thinking: bool, stop: int | None = None
    ) -> list[int] | None:
        """Tokens that ``new`` adds after the stop token of ``messages_before``.

        ``stop``: that token, where the last message was sampled up to one. Some formats have no end of an assistant's
        turn but the beginning of the next message: then it is not written again.

        None when the text of ``messages_before`` itself would change (a new user turn drops the
        reasoning before it; with retention "drop" a tool's result does so too): the caller must branch.
        """
        ...

    def parse(
        self, tokens: list[int], *, thinking: bool, ended: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Message:
        """The assistant message in sampled ``tokens``. What is malformed sets ``parse_error``.

        ``ended`` is False when sampling hit its limit before a stop token; that too is a parse_error. ``tools``: the
        schemas of the dialogue; a markup without types reads arguments by them, one without marks finds calls by them.
        """
        ...

    def stop_of(self, message: Message) -> int:
        """The token with which a policy ends this assistant message."""
        ...

    def end_thinking_tokens(self, tokens: list[int], *, thinking: bool) -> list[int]:
        """Tokens that end the reasoning of a response that is still being written; [] when it is not inside one."""
        ...

    def split(self, tokens: list[int], *, thinking: bool, sampled: Sequence[bool] | None = None) -> Split:
        """How many of the ``tokens`` of one response are thinking, tool calls and answer.

        ``sampled``: which of them to count, those that the policy sampled (None: all).
        """
        ...

    def close_tokens(self, tokens: list[int], *, thinking: bool) -> list[int]:
        """Tokens that complete a truncated response, so that the dialogue can continue after it."""
        ...


def begun(messages: Sequence[Message], *, thinking: bool) -> Message | None:
    """The unfinished assistant message at the end, which the policy continues; None when there is none.

    Raises RenderError for one that stands elsewhere, is no assistant's, has calls, or has reasoning without thinking.
    """
    for index, message in enumerate(messages):
        if not message.prefix:
            continue
        if index + 1 < len(messages) or message.role != "assistant":
            raise RenderError(f"messages[{index}]: prefix is for an assistant message at the end of a prompt")
        if message.tool_calls or message.parse_error is not None:
            raise RenderError(f"messages[{index}]: a message with calls cannot be continued; leave prefix out")
        if message.reasoning is not None and not thinking:
            raise RenderError(f"messages[{index}]: a prefix with reasoning needs thinking; leave its reasoning out")
        return message
    return None


def cut_off_error(n_tokens: int) -> str:
    """The observation for a response that hit its token limit."""
    return f"the response was cut off after {n_tokens} tokens; be shorter"

"""Text that spells a control token stays text: a tool result with ``<|im_end|>`` in it ends no turn.

A tokenizer turns every spelling of an added token into that token, wherever it stands. So the messages are marked
before a template or V3.2's format writes them (``ControlText.mark``): inside each such spelling, after its first
character. When the finished text is encoded, it is cut at the marks (``encode``), and no piece holds the spelling. The
tokens decode to the very text of the message (with a zero-width space in it, where a tokenizer begins every piece with
a space); only what the format itself writes becomes control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from envs.types import Message, ToolCall

MARK = "\ufdd0"  # a noncharacter of Unicode: no text is meant to have it
KEPT = 1024  # messages that are not marked again
SPACE = "\u200b"  # zero width


def is_markup(token: str) -> bool:
    """Whether an added token is a control token. Others are words, or runs of spaces, that a vocabulary was given."""
    return len(token) > 1 and (token[0] + token[-1] in ("<>", "[]") or "｜" in token)


class ControlText:
    """``tokens``: the added tokens of a tokenizer; ``encode_piece`` and ``decode`` are its own, special tokens kept.

    ``special``: those of the tokens that the tokenizer itself calls special: control tokens, however they are spelled.
    """

    def __init__(
        self,
        tokens: Iterable[str],
        encode_piece: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        special: Collection[str] = (),
    ) -> None:
        control = {token for token in tokens if is_markup(token)} | {token for token in special if len(token) > 1}
        self._tokens = sorted(control, key=lambda token: (-len(token), token))
        spelled = "|".join(map(re.escape, self._tokens))
        self._begin = re.compile(f"(?=(?:{spelled}))(.)", re.DOTALL)  # at every place, also where spellings overlap
        self._starts = sorted({token[:2] for token in self._tokens})  # in most texts there is none of these
        self._marked: dict[int, tuple[Message, Message]] = {}  # by id: a dialogue is written again at every turn
        self._encode_piece = encode_piece
        # A tokenizer that writes a space before every text would put one into the middle of the message.
        spaced = decode([*encode_piece("x"), *encode_piece("y")]).strip() != "xy"
        self._cut = SPACE if spaced else MARK

    def mark(self, message: Message) -> Message:
        """The message with marks in every text that can come from outside. An assistant message that did not parse is
        what was sampled, control tokens included, and stays so."""
        if message.parse_error is not None:
            return message
        known = self._marked.get(id(message))
        if known is not None:  # it lives as long as it is kept here, so that no other has its id
            return known[1]
        if len(self._marked) >= KEPT:
            self._marked.clear()
        marked = self._with_marks(message)
        self._marked[id(message)] = message, marked
        return marked

    def _with_marks(self, message: Message) -> Message:
        return replace(
            message,
            content=self._mark(message.content),
            reasoning=None if message.reasoning is None else self._mark(message.reasoning),
            tool_calls=tuple(ToolCall(self._mark(c.name), self._deep(dict(c.arguments))) for c in message.tool_calls),
            tools=tuple(self._deep(dict(tool)) for tool in message.tools),
            response_format=self._deep(message.response_format and dict(message.response_format)),
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text with marks."""
        return [token for piece in text.split(MARK) if piece for token in self._encode_piece(piece)]

    def _mark(self, text: str) -> str:
        if MARK in text:
            text = text.replace(MARK, "\ufffd")
        if not any(start in text for start in self._starts):
            return text
        return self._begin.sub(lambda found: found[1] + self._cut, text)

    def _deep(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, dict):
            return {self._deep(key): self._deep(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._deep(inner) for inner in value]
        return value

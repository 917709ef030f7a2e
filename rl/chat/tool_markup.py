"""The markups of tool calls that chat templates write, in one table, and how a template's own is found.

``find`` is given what a template wrote for a call. Each markup reads it; the one that reads back the very call, types
of its arguments included, is the template's. No model's name is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.types import ToolCall
from rl.chat.hermes import CALL, END_CALL, parse_hermes
from rl.chat.other_calls import (
    KEY,
    LLAMA_CALL,
    MISTRAL_CALLS,
    Read,
    Schemas,
    read_glm,
    read_llama,
    read_mistral,
)

# A probe whose arguments show how a markup tells text from numbers and objects.
PROBE = ToolCall("probe_tool_name", {"text": "12", "number": 3, "nested": {"a": [True, None]}})
PROBE_SCHEMA: Mapping[str, Any] = {
    "name": PROBE.name,
    "description": "Probe.",
    "parameters": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "number": {"type": "integer"}, "nested": {"type": "object"}},
        "required": ["text"],
    },
}


@dataclass(frozen=True)
class ToolMarkup:
    """One way to write calls.

    ``opens``: where the calls of a message begin; ``closes``: where one ends, None: they reach to the end of the
    message; ``read``: content and calls of a message, ValueError in words for the policy; ``whole``: what a message
    begins with that is one call and nothing else, where the markup has no mark of its own.
    """

    name: str
    opens: str
    closes: str | None
    read: Callable[[str, Schemas], Read]
    whole: re.Pattern[str] | None = None

    def marks(self, text: str) -> tuple[str, str | None] | None:
        """Opening and closing mark of the calls in an answer's ``text``; None when it cannot have any."""
        if self.whole is None:
            return self.opens, self.closes
        return (self.opens[0], None) if self.whole.match(text) else None


def _read_hermes(text: str, tools: Schemas) -> Read:
    return parse_hermes(text)


HERMES = ToolMarkup("hermes", CALL, END_CALL, _read_hermes)
MARKUPS = (
    HERMES,
    ToolMarkup("glm", CALL, END_CALL, read_glm),
    ToolMarkup("mistral", MISTRAL_CALLS, None, read_mistral),
    ToolMarkup("llama", '{"name"', None, read_llama, LLAMA_CALL),
)
# Added tokens that belong to calls: none of them ends a turn.
MARKS = frozenset({CALL, END_CALL, MISTRAL_CALLS, KEY, "<|python_tag|>"})


def find(prompt: str, written: str, ends: Collection[str]) -> tuple[ToolMarkup, str] | None:
    """The markup in which a template wrote ``PROBE``, and the text behind the call; None for one that is not known.

    ``prompt``: the dialogue before the call; ``written``: up to and behind it; ``ends``: the tokens at which an
    assistant's turn can end.
    """
    for markup in MARKUPS:
        # the last occurrence: some templates show the markup in their instructions as well
        start = written.rfind(markup.opens)
        if start < 0 or (markup.whole and written[:start].rstrip() != prompt.rstrip()):
            continue
        stops = [at for end in ends if (at := written.find(end, start)) >= 0]
        stop = min(stops, default=len(written))
        try:
            _, calls = markup.read(written[start:stop], [PROBE_SCHEMA])
        except ValueError:
            continue
        if calls == (PROBE,):
            return markup, written[start + len(written[start:stop].rstrip()) :]
    return None


def tools_in(messages: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """The function schemas of a dialogue, in order."""
    return tuple(tool for message in messages for tool in message.tools)

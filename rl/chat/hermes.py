"""Hermes' markup of tool calls: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, as templates teach it."""

from __future__ import annotations

from typing import Any

from envs.types import ToolCall
from rl.chat.strict_json import read_json_prefix

CALL, END_CALL = "<tool_call>", "</tool_call>"


def parse_hermes(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Content and calls of an answer. A string inside the JSON may hold the tags themselves.

    Raises ValueError, in words for the policy, when a call is wrong.
    """
    content, opened, rest = text.partition(CALL)
    if not opened:
        if END_CALL in content:
            raise ValueError(f"{END_CALL} without {CALL} before it")
        return content, ()
    calls: list[ToolCall] = []
    while opened:
        if END_CALL not in rest:
            raise ValueError(f"a tool call is not closed by {END_CALL}")
        call, rest = _call(rest.lstrip())
        calls.append(call)
        between, opened, rest = rest.partition(CALL)
        if between.strip():
            raise ValueError(f"text after {END_CALL}: '{between.strip()[:40]}'; end the message there")
    return content.rstrip("\n"), tuple(calls)


def call_of(value: Any, arguments: str = "arguments") -> ToolCall:
    """The call in a JSON value, whose arguments have the key ``arguments``. Raises ValueError, in words for the
    policy."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError(f'a tool call must be a JSON object with "name" and "{arguments}"')
    given = value.get(arguments, {})
    if not isinstance(given, dict):
        raise ValueError(f"the {arguments} of '{value['name']}' must be a JSON object")
    return ToolCall(value["name"], given)


def _call(text: str) -> tuple[ToolCall, str]:
    """The call at the beginning of ``text``, and what follows its closing tag."""
    try:
        value, end = read_json_prefix(text)
    except ValueError as error:
        raise ValueError(f"the text between {CALL} and {END_CALL} is not JSON: {error}") from error
    rest = text[end:].lstrip()
    if not rest.startswith(END_CALL):
        if CALL in rest.partition(END_CALL)[0]:
            raise ValueError(f"a tool call is not closed by {END_CALL}")
        raise ValueError(f"the text between {CALL} and {END_CALL} is not JSON: Extra data: '{rest[:20]}'")
    return call_of(value), rest.removeprefix(END_CALL)

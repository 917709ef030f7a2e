"""Tool calls in the markup of Llama 3, Mistral and GLM-4.5, read strictly.

    Llama 3     {"name": "search", "parameters": {"query": "tin"}}                    the whole message is one call
    Mistral     [TOOL_CALLS] [{"name": "search", "arguments": {"query": "tin"}}]      to the end of the message
    GLM-4.5     <tool_call>search\\n<arg_key>query</arg_key>\\n<arg_value>tin</arg_value>\\n</tool_call>

What a reader raises is written for the policy, which reads it as an observation (``ValueError``): JSON that is none
(NaN, a key twice), text behind a call, markup that is not closed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from envs.types import ToolCall
from rl.chat.hermes import CALL, END_CALL, call_of
from rl.chat.strict_json import read_json, read_json_prefix

Schemas = Sequence[Mapping[str, Any]]  # {name, description, parameters} of the dialogue's tools
Read = tuple[str, tuple[ToolCall, ...]]  # content and calls

PYTHON_TAG = "<|python_tag|>"
# What makes a message a call and no answer in JSON: the tag, or one of these two as its first key.
LLAMA_CALL = re.compile(rf'\s*(?:{re.escape(PYTHON_TAG)}|\{{\s*"(?:name|type)"\s*:)')
MISTRAL_CALLS = "[TOOL_CALLS]"
KEY, END_KEY, VALUE, END_VALUE = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_PAIR = re.compile(rf"\s*{KEY}([^<]+){END_KEY}\s*{VALUE}")


def read_llama(text: str, tools: Schemas) -> Read:
    """A message that begins like a call must be one, where the dialogue has tools; any other is an answer."""
    if not tools or not LLAMA_CALL.match(text):
        return text, ()
    body = text.strip().removeprefix(PYTHON_TAG).lstrip()
    try:
        value, end = read_json_prefix(body)
    except ValueError as error:
        raise ValueError(f"the tool call is not JSON: {error}") from error
    if rest := body[end:].strip():
        raise ValueError(f"text after the tool call: '{rest[:40]}'; a message is one call and nothing else")
    if isinstance(value, dict) and value.pop("type", "function") != "function":
        raise ValueError('the "type" of a tool call must be "function"')
    return "", (call_of(value, "parameters"),)


def read_mistral(text: str, tools: Schemas) -> Read:
    """The list behind ``[TOOL_CALLS]``. Ids in it are allowed and mean nothing: results come in the order of calls."""
    content, opened, rest = text.partition(MISTRAL_CALLS)
    if not opened:
        return text, ()
    try:
        values = read_json(rest)
    except ValueError as error:
        raise ValueError(f"the text after {MISTRAL_CALLS} is not JSON: {error}") from error
    if not isinstance(values, list) or not values:
        raise ValueError(f"after {MISTRAL_CALLS} must come a JSON list of calls")
    return content.rstrip(), tuple(call_of(value) for value in values)


def read_glm(text: str, tools: Schemas) -> Read:
    """Blocks of a name and pairs. A value is text where the tool's schema says ``string``; elsewhere it is JSON, and
    text where it is no JSON and no schema asks for another type."""
    content, opened, rest = text.partition(CALL)
    if not opened:
        if END_CALL in content:
            raise ValueError(f"{END_CALL} without {CALL} before it")
        return content, ()
    calls: list[ToolCall] = []
    while opened:
        call, rest = _glm_call(rest, tools)
        calls.append(call)
        between, opened, rest = rest.partition(CALL)
        if between.strip():
            raise ValueError(f"text after {END_CALL}: '{between.strip()[:40]}'; end the message there")
    return content.rstrip("\n"), tuple(calls)


def _glm_call(text: str, tools: Schemas) -> tuple[ToolCall, str]:
    begins = [at for at in (text.find(KEY), text.find(END_CALL)) if at >= 0]
    if not begins:
        raise ValueError(f"a tool call is not closed by {END_CALL}")
    name, at = text[: min(begins)].strip(), min(begins)
    if not name or "\n" in name or CALL in name:
        raise ValueError(f"a tool call must begin with the tool's name on one line, not with '{name[:40]}'")
    types = _types(name, tools)
    arguments: dict[str, Any] = {}
    while (pair := _PAIR.match(text, at)) is not None:
        key, begin = pair[1].strip(), pair.end()
        end = text.find(END_VALUE, begin)
        # another pair inside the value means that its own closing tag is missing
        if end < 0 or any(tag in text[begin:end] for tag in (KEY, VALUE)):
            raise ValueError(f"the value of '{key[:40]}' is not closed by {END_VALUE}")
        if key in arguments:
            raise ValueError(f"the argument '{key[:40]}' of '{name}' is given twice")
        arguments[key] = _glm_value(key, text[begin:end], types.get(key))
        at = end + len(END_VALUE)
    rest = text[at:].lstrip()
    if not rest.startswith(END_CALL):
        what = f"'{rest[:40]}' stands in the call of '{name}'" if rest else f"the call of '{name}' is not closed"
        raise ValueError(f"{what}; write pairs of {KEY}…{END_KEY} and {VALUE}…{END_VALUE}, then {END_CALL}")
    return ToolCall(name, arguments), rest.removeprefix(END_CALL)


def _glm_value(key: str, text: str, kind: Any) -> Any:
    if kind == "string":
        return text
    try:
        return read_json(text)
    except ValueError as error:
        if kind is None or (isinstance(kind, list) and "string" in kind):
            return text
        raise ValueError(f"the value of '{key[:40]}' must be JSON of the type {kind}: {error}") from error


def _types(name: str, tools: Schemas) -> dict[str, Any]:
    """Argument → JSON type, as the schema of the tool ``name`` has it; empty for an unknown tool."""
    for tool in tools:
        if tool.get("name") == name:
            properties = (tool.get("parameters") or {}).get("properties") or {}
            return {key: value.get("type") for key, value in properties.items() if isinstance(value, Mapping)}
    return {}

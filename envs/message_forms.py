"""Messages from the forms that data sets, stored tasks and chat servers write them in: the one reader of messages.

    {"role": "assistant", "tool_calls": [{"name": "count", "arguments": {"item": "pear"}}]}              ours
    {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
     "function": {"name": "count", "arguments": "{\\"item\\": \\"pear\\"}"}}]}                           OpenAI's
    {"role": "user", "content": [{"type": "text", "text": "How many?"}]}                                 in parts
    {"role": "system", "response_format": {"type": "json_schema", "json_schema": {"schema": {…}}}}       a schema
    {"role": "assistant", "content": "The answer is", "prefix": true}                                    to be continued

A key that is null is a key that is not there, and keys that mean nothing here (``name``, ``refusal``) are dropped.
Results of calls with ids may come in any order; ours are in the order of their calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from envs.bridges.schemas import encodable
from envs.types import Message, Role, ToolCall

ROLES: tuple[str, ...] = get_args(Role)


def messages_of(raw: Iterable[Any], *, absent_nulls: bool = False) -> tuple[Message, ...]:
    """A dialogue. ``absent_nulls``: a null inside a call's arguments is an argument that is not there, as in a table
    whose rows share one type.

    Raises ValueError that names the message (from 0) and what it has no form for: an unknown role, a picture,
    arguments that are no JSON object, the result of a call that was not made.
    """
    messages: list[Message] = []
    made: list[str] = []  # ids of the calls whose results come next
    results: dict[str, Message] = {}

    def close_results() -> None:
        messages.extend(results[call] for call in made if call in results)
        results.clear()

    for number, entry in enumerate(raw):
        try:
            message = message_of(entry, absent_nulls=absent_nulls)
        except ValueError as error:
            raise ValueError(f"message {number} {error}") from error
        if message.role == "tool" and (call := entry.get("tool_call_id")) is not None:
            if call not in made or call in results:
                raise ValueError(f"message {number} is the result of a call {call!r} that was not made")
            results[call] = message
            continue
        close_results()
        made = [str(call["id"]) for call in entry.get("tool_calls") or () if call.get("id") is not None]
        messages.append(message)
    close_results()
    return tuple(messages)


def message_of(raw: Any, *, absent_nulls: bool = False) -> Message:
    """One message; the inverse of ``Message.to_json`` among others. Raises ValueError, a sentence without subject."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"is {_shown(raw)}, wanted an object with role and content")
    role = raw.get("role")
    if role not in ROLES:
        given = (
            f"the role {role!r}" if role is not None else f"no role (it has {', '.join(map(str, raw)) or 'nothing'})"
        )
        raise ValueError(f"has {given}, known are {', '.join(ROLES)}")
    if raw.get("function_call") is not None:
        raise ValueError("has a function_call, a form that OpenAI gave up; write it as tool_calls")
    reasoning = raw.get("reasoning_content")
    reasoning = raw.get("reasoning") if reasoning is None else reasoning
    for name, said in (("reasoning", reasoning), ("parse_error", raw.get("parse_error"))):
        if not isinstance(said, str | None):
            raise ValueError(f"has {name}={_shown(said)}, wanted a text")
    return Message(
        role,
        _text(raw.get("content")),
        reasoning,
        tuple(_call(call, absent_nulls) for call in _list("tool_calls", raw.get("tool_calls"))),
        tuple(schema_of(schema) for schema in _list("tools", raw.get("tools"))),
        raw.get("parse_error"),
        _format(raw.get("response_format"), absent_nulls),
        bool(raw.get("prefix")),
    )


def checked_prompt(messages: Sequence[Message]) -> tuple[Message, ...]:
    """``messages`` if a policy can answer or continue them. Raises ValueError: there is none, the last one is the
    system's or a finished one of the assistant's, or calls and results do not pair up."""
    if not messages:
        raise ValueError("has no message")
    last = messages[-1]
    if last.role not in ("user", "developer", "tool") and not (last.role == "assistant" and last.prefix):
        raise ValueError(f"ends with a message of the role {messages[-1].role!r}, wanted what the policy answers to")
    open_calls = 0
    for number, message in enumerate(messages):
        if message.role == "tool":
            open_calls -= 1
            if open_calls < 0:
                raise ValueError(f"has message {number}, the result of a call that was not made")
        elif open_calls:
            break
        else:
            open_calls = len(message.tool_calls)
    if open_calls:
        raise ValueError(f"has {open_calls} tool call(s) without a result")
    return tuple(messages)


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = []
    for part in _list("content", content):
        if isinstance(part, str):
            parts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"has a part of type {kind!r}; only text is supported")
        parts.append(part["text"])
    return "\n".join(parts)


def _call(raw: Any, absent_nulls: bool) -> ToolCall:
    call = raw.get("function") or raw if isinstance(raw, Mapping) else raw
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise ValueError(f"has the tool call {_shown(raw)}, wanted name and arguments")
    name, arguments = call["name"], call.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = encodable(json.loads(arguments or "{}"))  # a text in a text can hide half a surrogate pair
        except (ValueError, RecursionError) as error:
            raise ValueError(f"has a call whose arguments of {name!r} are no JSON: {error}") from error
    elif absent_nulls:
        arguments = _present(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"has a call whose arguments of {name!r} are {_shown(arguments)}, not an object")
    return ToolCall(name, arguments)


def schema_of(raw: Any) -> dict[str, Any]:
    """A function schema, taken out of OpenAI's wrapper. Raises ValueError, a sentence without subject."""
    schema = raw.get("function") or raw if isinstance(raw, Mapping) else raw
    if not isinstance(schema, Mapping) or not isinstance(schema.get("name"), str) or not schema["name"]:
        raise ValueError(f"has the tool {_shown(raw)}, wanted a function schema with a name")
    if not isinstance(schema.get("parameters", {}), Mapping | None):
        raise ValueError(f"has the tool {_shown(raw)}, whose parameters are no JSON schema")
    return dict(schema)


def _format(raw: Any, absent_nulls: bool) -> dict[str, Any] | None:
    """A JSON schema, taken out of OpenAI's wrapper. Raises ValueError for a format without a schema."""
    if raw is None:
        return None
    raw = _present(raw) if absent_nulls else raw
    schema = raw.get("json_schema", raw) if isinstance(raw, Mapping) else raw
    schema = schema.get("schema", schema) if isinstance(schema, Mapping) else schema
    if not isinstance(schema, Mapping) or schema.get("type") in ("json_object", "text"):
        raise ValueError(f"has the response_format {_shown(raw)}, wanted a JSON schema")
    return dict(schema)


def _list(name: str, value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise ValueError(f"has {name}={_shown(value)}, wanted a list")
    return value


def _present(value: Any) -> Any:
    """``value`` without the keys that are null, on every level."""
    if isinstance(value, Mapping):
        return {key: _present(inner) for key, inner in value.items() if inner is not None}
    return [_present(inner) for inner in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

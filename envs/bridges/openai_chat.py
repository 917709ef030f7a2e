"""Messages to OpenAI chat JSON and back.

    Message("assistant", tool_calls=(ToolCall("count", {"item": "pear"}),)), Message("tool", "3")

    {"role": "assistant", "content": "", "tool_calls": [{"id": "call_0", "type": "function",
     "function": {"name": "count", "arguments": "{\\"item\\": \\"pear\\"}"}}]},
    {"role": "tool", "tool_call_id": "call_0", "content": "3"}

Our tool results are in the order of their calls and need no ids; OpenAI's have ids and any order. Function schemas
are on our system message; OpenAI has them next to the messages. Reasoning is ``reasoning_content``, as vLLM has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from envs.message_forms import messages_of, schema_of
from envs.types import Message


def to_openai(messages: Sequence[Message], first_id: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(messages, tools) as a chat completion request has them. Raises ValueError for a result without its call,
    and for what a request has no place for."""
    wire: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] = []
    open_ids: list[str] = []
    number = first_id
    for message in messages:
        if message.prefix or message.response_format is not None:
            raise ValueError("a prefix or a response format has no form in a chat completion request")
        tools += [{"type": "function", "function": schema} for schema in message.tools]
        if message.role == "tool":
            if not open_ids:
                raise ValueError(f"a tool message without a call before it: {message.content[:80]!r}")
            wire.append({"role": "tool", "tool_call_id": open_ids.pop(0), "content": message.content})
            continue
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning is not None:
            entry["reasoning_content"] = message.reasoning
        open_ids = [f"call_{number + i}" for i in range(len(message.tool_calls))]
        number += len(open_ids)
        if message.tool_calls:
            entry["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
                }
                for call_id, call in zip(open_ids, message.tool_calls, strict=True)
            ]
        wire.append(entry)
    return wire, tools


def from_openai(wire: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[Message, ...]:
    """Our messages; ``tools`` go on the first system message, or on one of their own before all others.

    Raises ValueError that names the message for what has no form here: pictures, unknown roles, arguments that are
    no JSON object, results of calls that were not made, functions without a name.
    """
    messages = messages_of(wire)
    try:
        schemas = tuple(schema_of(tool) for tool in tools if tool.get("type", "function") == "function")
    except ValueError as error:
        raise ValueError(f"the request {error}") from error
    if not schemas:
        return messages
    for position, message in enumerate(messages):
        if message.role in ("system", "developer"):
            return (*messages[:position], replace(message, tools=schemas), *messages[position + 1 :])
    return (Message("system", tools=schemas), *messages)

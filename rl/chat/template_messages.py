"""Messages in the form that chat templates read, tools and a response format described in text where a template has no
place for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from envs.types import Message, ToolCall
from rl.chat import dsml
from rl.chat.hermes import CALL, END_CALL
from rl.chat.template_rules import Raw

THINK, END_THINK = dsml.THINK, dsml.END_THINK

_TOOLS_PROMPT = """\
# Tools

You may call one or more functions. Their signatures:
<tools>
{schemas}
</tools>

For each call write one JSON object between tags:
<tool_call>
{{"name": <function-name>, "arguments": <object>}}
</tool_call>"""


def with_reasoning(reasoning: str, content: str) -> str:
    """Both in one text, for a template that shows what it is given."""
    return f"{THINK}\n{reasoning}\n{END_THINK}\n\n{content}"


def as_dicts(messages: Sequence[Message]) -> list[Raw]:
    """The dialogue as chat templates read it. Calls have ids of nine digits (Mistral's templates ask for that length),
    and a result has the id and the name of its call: the first result that of the first call, and so on."""
    result: list[Raw] = []
    made = 0
    waiting: list[tuple[str, str]] = []  # (id, name) of the calls whose results come next
    for message in messages:
        raw: Raw = {"role": message.role, "content": message.content}
        if message.reasoning is not None:
            raw["reasoning_content"] = message.reasoning
        if message.role == "tool":
            raw["tool_call_id"], raw["name"] = waiting.pop(0) if waiting else (f"{made:09d}", "")
        else:
            waiting = [(f"{made + i:09d}", call.name) for i, call in enumerate(message.tool_calls)]
            made += len(waiting)
        if message.tool_calls:
            raw["tool_calls"] = [
                {"type": "function", "id": call_id, "function": {"name": c.name, "arguments": dict(c.arguments)}}
                for (call_id, _), c in zip(waiting, message.tool_calls, strict=True)
            ]
        result.append(raw)
    return result


def tools_as_prompt(messages: Sequence[Message]) -> list[Raw]:
    """The dialogue for a template without tools: schemas in the system message, results as user turns."""
    schemas = [json.dumps(tool, ensure_ascii=False) for m in messages for tool in m.tools]
    described = _TOOLS_PROMPT.format(schemas="\n".join(schemas)) if schemas else ""
    result: list[Raw] = []
    previous = ""
    for message in messages:
        if message.role == "tool":
            response = f"<tool_response>\n{message.content}\n</tool_response>"
            if previous == "tool":  # results of one turn share one user turn
                result[-1]["content"] += f"\n{response}"
            else:
                result.append({"role": "user", "content": response})
        else:
            (raw,) = as_dicts([replace(message, tool_calls=())])
            written = "\n".join(_write_call(call) for call in message.tool_calls)
            raw["content"] = "\n".join(part for part in (message.content, written) if part)
            result.append(raw)
        previous = message.role
    if described:
        if result[0]["role"] == "system":
            result[0]["content"] = f"{result[0]['content']}\n\n{described}".strip()
        else:
            result.insert(0, {"role": "system", "content": described})
    return result


def with_response_format(message: Message) -> Message:
    """A system message whose text asks for its response format, in V3.2's words: no template has a place for it."""
    if message.response_format is None:
        return message
    asked = dsml.response_format_block(message.response_format)
    return replace(message, content=f"{message.content}\n\n{asked}".lstrip("\n"), response_format=None)


def _write_call(call: ToolCall) -> str:
    arguments: Mapping[str, Any] = dict(call.arguments)
    body = json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL}\n{body}\n{END_CALL}"

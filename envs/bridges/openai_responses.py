"""OpenAI's Responses API on the same exchange: a request becomes the chat request that says the same.

    {"instructions": "Be brief.", "input": [{"role": "user", "content": "How many?"},
     {"type": "reasoning", …}, {"type": "function_call", "call_id": "call_0", "name": "count", "arguments": "{}"},
     {"type": "function_call_output", "call_id": "call_0", "output": "3"}], "tools": [{"type": "function", …}]}

Items that follow each other without anybody's word between them (reasoning, message, calls) are one message of the
assistant. Nothing is kept here between requests: ``previous_response_id``, ``conversation`` and references to items
are refused in words, as are tools that run on OpenAI's servers. ``max_output_tokens`` and ``text.format`` are obeyed
like their namesakes of a chat request (``openai_request``).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from envs.bridges.openai_chat import to_openai
from envs.bridges.openai_exchange import ChatReply, ChatRequest

_KEPT_NOWHERE = ("previous_response_id", "conversation", "prompt")
_AS_THEY_ARE = ("tool_choice", "stream", "top_logprobs")


def chat_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a chat completion request that asks the same. Raises ValueError in words."""
    for name in _KEPT_NOWHERE:
        if body.get(name) is not None:
            raise ValueError(f"{name}={body[name]!r:.80}: nothing is kept here between requests; send the whole input")
    if body.get("background"):
        raise ValueError("background=true: cannot be had here; leave it out")
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list):
        raise ValueError(f"input={given!r:.80}: must be a text or a list of items")
    system = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    chat = {name: body[name] for name in _AS_THEY_ARE if name in body}
    chat |= {"messages": [*system, *_messages(items)], "tools": [_tool(tool) for tool in body.get("tools") or ()]}
    if not isinstance(body.get("text") or {}, Mapping):
        raise ValueError(f"text={body['text']!r:.80}: must be an object with a format")
    shape = (body.get("text") or {}).get("format")
    if isinstance(shape, Mapping) and shape.get("type") == "json_schema":
        shape = {"type": "json_schema", "json_schema": {"schema": shape.get("schema")}}
    return chat | {"max_tokens": body.get("max_output_tokens"), "response_format": shape}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise ValueError(f"tools: {tool!r:.80} is no function")
    if tool.get("type") != "function":
        raise ValueError(f"tools: {tool.get('type')!r} does not run here; give functions")
    kept = {key: tool[key] for key in ("name", "description", "parameters", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": kept}


def _messages(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Chat messages of the items of an input."""
    messages: list[dict[str, Any]] = []
    said: dict[str, Any] = {}  # of the assistant, whose items are not over yet

    def begun(*over: str) -> dict[str, Any]:
        """The message that the assistant's next item belongs to: a new one where it has any of ``over``."""
        nonlocal said
        if not said or any(name in said for name in over):
            said = {"role": "assistant"}
            messages.append(said)
        return said

    for number, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise ValueError(f"input: item {number} is {item!r:.80}, wanted an object")
        match item.get("type") or "message":
            case "message" if item.get("role") == "assistant":
                begun("content", "tool_calls")["content"] = _parts(item.get("content"))
            case "message":
                said = {}
                messages.append({"role": item.get("role"), "content": _parts(item.get("content"))})
            case "reasoning":
                parts = item.get("content") or item.get("summary") or ()
                if not isinstance(parts, list | tuple) or not all(isinstance(part, Mapping) for part in parts):
                    raise ValueError(f"input: item {number} has the reasoning {parts!r:.80}, wanted a list of texts")
                text = "\n".join(str(part.get("text", "")) for part in parts)
                begun("reasoning_content", "content", "tool_calls")["reasoning_content"] = text
            case "function_call":
                call = {"name": item.get("name"), "arguments": item.get("arguments")}
                entry = {"id": item.get("call_id"), "type": "function", "function": call}
                begun().setdefault("tool_calls", []).append(entry)
            case "function_call_output":
                said = {}
                result = {"tool_call_id": item.get("call_id"), "content": _parts(item.get("output"))}
                messages.append({"role": "tool", **result})
            case other:
                raise ValueError(f"input: item {number} has the type {other!r}, which has no form here")
    return messages


def _parts(content: Any) -> Any:
    """Content with its texts as chat messages have them; what is no text keeps its type, and is refused by it."""
    if not isinstance(content, list):
        return content
    texts = ("input_text", "output_text", "text")
    return [
        {"type": "text", "text": part.get("text")} if isinstance(part, Mapping) and part.get("type") in texts else part
        for part in content
    ]


def response_of(request: ChatRequest, reply: ChatReply) -> dict[str, Any]:
    """The finished response that answers ``request``: items of reasoning, text and calls, in this order."""
    message, spent = reply.message, reply.spent
    (entry,), _ = to_openai((message,), first_id=request.calls)
    status = "incomplete" if reply.cut else "completed"
    output: list[dict[str, Any]] = []
    if message.reasoning:
        thought = {"type": "reasoning_text", "text": message.reasoning}
        output.append({"type": "reasoning", "id": _id("rs"), "summary": [], "content": [thought], "status": status})
    if message.content or not message.tool_calls:
        text = {"type": "output_text", "text": message.content, "annotations": [], "logprobs": []}
        output.append({"type": "message", "id": _id("msg"), "role": "assistant", "status": status, "content": [text]})
    for call in entry.get("tool_calls", ()):
        made = {"call_id": call["id"], **call["function"]}
        output.append({"type": "function_call", "id": _id("fc"), "status": status, **made})
    return {
        "id": _id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "model": request.model,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if reply.cut else None,
        "instructions": None,
        "metadata": {},
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": {
            "input_tokens": spent.prompt,
            "input_tokens_details": {"cached_tokens": spent.cached},
            "output_tokens": spent.output,
            "output_tokens_details": {"reasoning_tokens": spent.thinking},
            "total_tokens": spent.prompt + spent.output,
        },
    }


def events(response: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The same response as stream events, each item begun, said in one piece and done."""
    for number, event in enumerate(_events(response)):
        yield {**event, "sequence_number": number}


def _events(response: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        calls = item["type"] == "function_call"
        empty = {**item, "status": "in_progress", **({"arguments": ""} if calls else {"content": []})}
        yield {"type": "response.output_item.added", "output_index": index, "item": empty}
        if calls:
            kind = "response.function_call_arguments"
            yield {"type": f"{kind}.delta", **at, "delta": item["arguments"]}
            yield {"type": f"{kind}.done", **at, "name": item["name"], "arguments": item["arguments"]}
        for place, part in enumerate(item.get("content", ())):
            here = {**at, "content_index": place}
            kind, text = f"response.{part['type']}", part["text"]
            more: dict[str, Any] = {"logprobs": []} if part["type"] == "output_text" else {}
            yield {"type": "response.content_part.added", **here, "part": {**part, "text": ""}}
            yield {"type": f"{kind}.delta", **here, "delta": text, **more}
            yield {"type": f"{kind}.done", **here, "text": text, **more}
            yield {"type": "response.content_part.done", **here, "part": part}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": f"response.{response['status']}", "response": response}


def wire(event: Mapping[str, Any]) -> bytes:
    """One stream event as it is sent."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"

"""A reply as a chat completion, whole or in stream events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import Any, Literal

from envs.bridges.openai_chat import to_openai
from envs.bridges.openai_exchange import ChatReply, ChatRequest


def completion_of(request: ChatRequest, reply: ChatReply) -> dict[str, Any]:
    """The chat completion that answers ``request``."""
    message, spent = reply.message, reply.spent
    (entry,), _ = to_openai((message,), first_id=request.calls)
    if message.tool_calls and not message.content:
        entry["content"] = None
    reason: Literal["length", "tool_calls", "stop"]
    reason = "length" if reply.cut else "tool_calls" if message.tool_calls else "stop"
    return {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": 0, "message": entry, "finish_reason": reason, "logprobs": None}],
        "usage": {
            "prompt_tokens": spent.prompt,
            "completion_tokens": spent.output,
            "total_tokens": spent.prompt + spent.output,
            "prompt_tokens_details": {"cached_tokens": spent.cached},
            "completion_tokens_details": {"reasoning_tokens": spent.thinking},
        },
    }


def chunks(completion: dict[str, Any], usage: bool) -> Iterator[dict[str, Any]]:
    """The same completion as stream events: role, reasoning, content, one chunk a call, the end, usage."""
    common = {**{key: completion[key] for key in ("id", "created", "model")}, "object": "chat.completion.chunk"}
    (choice,) = completion["choices"]
    message = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{name: message[name]} for name in ("reasoning_content", "content") if message.get(name)]
    deltas += [{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(message.get("tool_calls", ()))]
    for delta in deltas:
        yield {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    if usage:
        yield {**common, "choices": [], "usage": completion["usage"]}

"""A chat completion request, read: its messages, and which of its settings are obeyed.

Obeyed      ``messages``, ``tools``, ``max_tokens``/``max_completion_tokens``, ``stop``, ``stream``, ``stream_options``,
            ``tool_choice`` none (no tools are shown), ``response_format`` json_schema (shown in the prompt)
Not taken   ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``seed``: whoever samples decides, or its log-probs were
            those of another policy. ``tool_choice`` required or a name, ``parallel_tool_calls``: nothing forces it
Refused     ``n`` above 1, ``logprobs``, penalties, ``logit_bias``, ``response_format`` json_object, pictures, audio,
            ``functions``: a ValueError in words

All else (``user``, ``metadata``, …) means nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from envs.bridges.openai_chat import from_openai
from envs.types import Message

# The value that means "not used" beside null.
_REFUSED: dict[str, Any] = {
    "n": 1,
    "best_of": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "logit_bias": {},
    "functions": [],
    "function_call": "none",
    "audio": {},
    "modalities": ["text"],
    "prediction": {},
}


@dataclass(frozen=True)
class ChatOptions:
    """What a request asks for beside its messages. ``stop``: texts before which the answer ends."""

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    stream_usage: bool = False


def read_request(body: Mapping[str, Any]) -> tuple[tuple[Message, ...], ChatOptions]:
    """Messages (tools and a response format on the system message) and options. Raises ValueError in words."""
    for name, unused in _REFUSED.items():
        if (value := body.get(name)) is not None and value != unused:
            raise ValueError(f"{name}={value!r:.80}: cannot be had here; leave it out")
    if not isinstance(body.get("messages"), list):
        raise ValueError(f"messages={body.get('messages')!r:.80}: must be a list of messages")
    tools = () if body.get("tool_choice") == "none" else body.get("tools") or ()
    if not isinstance(tools, list | tuple) or not all(
        isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping) for tool in tools
    ):
        raise ValueError(f"tools={tools!r:.80}: must be a list of functions, {{'type': 'function', 'function': …}}")
    messages = _with_format(from_openai(body["messages"], tools), body.get("response_format"))
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    for limit in limits:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"max_tokens={limit!r:.80}: must be a whole number, at least 1")
    stop = body.get("stop") or ()
    stop = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list | tuple) else (stop,)
    if not all(isinstance(text, str) and text for text in stop):
        raise ValueError(f"stop={body['stop']!r:.80}: must be texts")
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise ValueError(f"stream_options={options!r:.80}: must be an object")
    return messages, ChatOptions(
        min(limits, default=None), stop, bool(body.get("stream")), bool(options.get("include_usage"))
    )


def _with_format(messages: tuple[Message, ...], given: Any) -> tuple[Message, ...]:
    """``messages`` with the JSON schema that answers are to keep on the first system message."""
    kind = given.get("type") if isinstance(given, Mapping) else given
    if kind in (None, "text"):
        return messages
    wrapped = given.get("json_schema") if isinstance(given, Mapping) else None
    schema = wrapped.get("schema") if isinstance(wrapped, Mapping) else None
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise ValueError(f"response_format={given!r:.80}: must be text, or a json_schema with its schema")
    for position, message in enumerate(messages):
        if message.role in ("system", "developer"):
            shown = replace(message, response_format=dict(schema))
            return (*messages[:position], shown, *messages[position + 1 :])
    return (Message("system", response_format=dict(schema)), *messages)

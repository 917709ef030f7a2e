"""An OpenAI-compatible endpoint on the loopback interface, answered by a Python function.

    with ChatServer() as server:
        key = server.open_session(lambda request: Message("assistant", "Hello!"))
        client = openai.OpenAI(base_url=server.base_url, api_key=key)

Programs that bring their own agent loop (verifiers' harnesses, any OpenAI client) ask it for completions; the function
sees each request in our types and may take as long as it likes. Every session has its own key, so any number of
rollouts share one server. ``/v1/chat/completions`` with and without streaming, tool calls both ways, ``/v1/models``.

``usage`` is an estimate, four characters to a token: environments know no tokens. Whoever trains counts its own.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from envs.bridges.openai_chat import from_openai, to_openai
from envs.types import Message

_MAX_BYTES = 2**26  # of one request
_SOCKET_S = 60.0  # a client that sends half a request does not hold its thread forever


@dataclass(frozen=True)
class ChatRequest:
    """One request: the dialogue so far, with the function schemas on its system message."""

    messages: tuple[Message, ...]
    model: str


Answer = Callable[[ChatRequest], Message]


class ChatServer:
    """Listens on 127.0.0.1, on a free port, from construction to ``close``."""

    def __init__(self) -> None:
        self._sessions: dict[str, Answer] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._sessions))
        self._thread = threading.Thread(target=self._server.serve_forever, name="openai server", daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def open_session(self, answer: Answer) -> str:
        """A new API key whose requests ``answer`` answers, in the thread of the request, several at once if they come
        so. What it raises becomes a server error for the program that asked.
        """
        key = secrets.token_hex(16)
        self._sessions[key] = answer
        return key

    def close_session(self, key: str) -> None:
        """Further requests with the key are refused."""
        self._sessions.pop(key, None)

    def close(self) -> None:
        self._sessions.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _handler(sessions: dict[str, Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _SOCKET_S

        def do_GET(self) -> None:
            self._guarded(self._models)

        def do_POST(self) -> None:
            self._guarded(self._completion)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: every request is seen by the session's function."""

        def _guarded(self, act: Callable[[Answer], None]) -> None:
            try:
                act(self._session())
            except _Refused as refused:
                self._json(refused.status, _error(str(refused)))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            except Exception as error:  # of the session's function: the program that asked is told
                self._json(500, _error(f"{type(error).__name__}: {error}"))

        def _session(self) -> Answer:
            given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            for key, answer in list(sessions.items()):
                if hmac.compare_digest(key, given):
                    return answer
            self.close_connection = True  # the body was not read
            raise _Refused(401, "unknown API key")

        def _models(self, answer: Answer) -> None:
            if not self.path.endswith("/models"):
                raise _Refused(404, f"no such path: {self.path}")
            self._json(200, {"object": "list", "data": [{"id": "policy", "object": "model", "created": 0}]})

        def _completion(self, answer: Answer) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if size > _MAX_BYTES:
                self.close_connection = True
                raise _Refused(413, f"the request has {size} bytes, allowed are {_MAX_BYTES}")
            raw = self.rfile.read(size)
            if not self.path.endswith("/chat/completions"):
                raise _Refused(404, f"no such path: {self.path}")
            try:
                body = json.loads(raw)
                request = ChatRequest(from_openai(body["messages"], body.get("tools") or ()), str(body.get("model")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _Refused(400, f"{type(error).__name__}: {error}") from error
            if body.get("n", 1) not in (None, 1):
                raise _Refused(400, f"n={body['n']}: only one completion a request")
            completion = _completion_of(request, answer(request))
            if body.get("stream"):
                options = body.get("stream_options") or {}
                self._events(_chunks(completion, bool(options.get("include_usage"))))
            else:
                self._json(200, completion)

        def _json(self, status: int, data: dict[str, Any]) -> None:
            payload = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def _events(self, chunks: Iterator[dict[str, Any]]) -> None:
            payload = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
            payload += b"data: [DONE]\n\n"
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(payload)))  # the message is complete before it is streamed
            self.end_headers()
            self.wfile.write(payload)

    return Handler


def _completion_of(request: ChatRequest, message: Message) -> dict[str, Any]:
    made = sum(len(m.tool_calls) for m in request.messages)  # ids stay unique in a dialogue
    (entry,), _ = to_openai((message,), first_id=made)
    asked = sum(len(json.dumps(m.to_json())) for m in request.messages) // 4
    given = len(json.dumps(entry)) // 4
    return {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [
            {"index": 0, "message": entry, "finish_reason": "tool_calls" if message.tool_calls else "stop"},
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given},
    }


def _chunks(completion: dict[str, Any], usage: bool) -> Iterator[dict[str, Any]]:
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


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "code": None}}

"""An OpenAI-compatible endpoint on the loopback interface, answered by a Python function.

    with ChatServer() as server:
        key = server.open_session(lambda request: ChatReply(Message("assistant", "Hello!")))
        client = openai.OpenAI(base_url=server.base_url, api_key=key)
        client = openai.OpenAI(base_url=server.url_of(key), api_key="anything")     # the same

Programs that bring their own agent loop (any OpenAI client) ask it for completions; the function sees each request in
our types and may take as long as it likes. Every session has its own key, so any number of rollouts share one server.
``/v1/chat/completions`` with and without streaming (the answer is complete before it is streamed), tool calls both
ways, ``/v1/models``, and ``/v1/reward``, where a program may say how well it went.

Errors are in OpenAI's form. Without ``ChatReply.tokens`` ``usage`` is an estimate, four characters to a token.
"""

from __future__ import annotations

import hmac
import json
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from envs.bridges.openai_chat import to_openai
from envs.bridges.openai_request import ChatOptions, read_request
from envs.types import Message

_MAX_BYTES = 2**26  # of one request
_SOCKET_S = 60.0  # a client that sends half a request does not hold its thread forever


@dataclass(frozen=True)
class ChatRequest:
    """One request: the dialogue so far, with the function schemas on its system message.

    ``repeats``: how often the client has sent it before, as far as it says so. ``is_gone``: whether it has hung up.
    """

    messages: tuple[Message, ...]
    model: str
    options: ChatOptions = field(default_factory=ChatOptions)
    repeats: int = 0
    is_gone: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class ChatReply:
    """The policy's message; ``cut``: it has hit its token limit. ``tokens``: of the prompt and of the answer."""

    message: Message
    cut: bool = False
    tokens: tuple[int, int] | None = None


class ChatRefusal(Exception):
    """Raised by an ``Answer``: the program gets an HTTP error with these words. Clients repeat 408, 409, 429, 5xx."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


Answer = Callable[[ChatRequest], ChatReply]


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # many agents begin at once; 5 would make some wait a second


@dataclass
class _Session:
    answer: Answer
    reward: Callable[[Mapping[str, Any]], None] | None
    connections: set[socket.socket] = field(default_factory=set)


class ChatServer:
    """Listens on 127.0.0.1, on ``port`` (0: a free one), until ``close``. Raises OSError: it is taken."""

    def __init__(self, port: int = 0) -> None:
        self._sessions: dict[str, _Session] = {}
        self._server = _Server(("127.0.0.1", port), _handler(self._sessions))
        self._thread = threading.Thread(target=self._server.serve_forever, name="openai server", daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def url_of(self, key: str) -> str:
        """A base URL with the key in it: such a client needs no key."""
        return f"{self.base_url.removesuffix('/v1')}/e/{key}/v1"

    def open_session(
        self,
        answer: Answer,
        reward: Callable[[Mapping[str, Any]], None] | None = None,
        key: str | None = None,
    ) -> str:
        """A new API key whose requests ``answer`` answers, in the thread of the request, several at once if they come
        so. What it raises becomes an error for the program that asked. ``reward``: takes what is posted to /v1/reward,
        and raises ValueError for what is none. ``key``: one that is given; None: drawn.
        """
        key = secrets.token_hex(16) if key is None else key
        self._sessions[key] = _Session(answer, reward)
        return key

    def close_session(self, key: str) -> None:
        """Further requests with the key are refused, and its connections end."""
        session = self._sessions.pop(key, None)
        for connection in list(session.connections) if session is not None else ():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)  # what is being written goes out

    def close(self) -> None:
        for key in list(self._sessions):
            self.close_session(key)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _handler(sessions: dict[str, _Session]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _SOCKET_S
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._guarded(self._get)

        def do_POST(self) -> None:
            self._guarded(self._post)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: every request is seen by the session's function."""

        def _guarded(self, act: Callable[[_Session, str], None]) -> None:
            try:
                session, path = self._session()
                session.connections.add(self.connection)
                try:
                    act(session, path)
                finally:
                    if self.close_connection:
                        session.connections.discard(self.connection)
            except ChatRefusal as refused:
                self._json(refused.status, _error(refused.status, str(refused), refused.code))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            except Exception as error:  # of the session's function: the program that asked is told
                self._json(500, _error(500, f"{type(error).__name__}: {error}"))

        def _session(self) -> tuple[_Session, str]:
            """Whose request it is, and the path without the key."""
            given, path = (self.headers.get("Authorization") or "").removeprefix("Bearer "), self.path.partition("?")[0]
            if path.startswith("/e/"):
                given, _, rest = path.removeprefix("/e/").partition("/")
                path = f"/{rest}"
            for key, session in list(sessions.items()):
                if hmac.compare_digest(key.encode(), given.encode()):
                    return session, path
            self.close_connection = True  # the body was not read
            raise ChatRefusal(401, "unknown API key, or one of an episode that is over", "invalid_api_key")

        def _get(self, session: _Session, path: str) -> None:
            if path != "/v1/models":
                raise ChatRefusal(404, f"no such path: {path}")
            model = {"id": "policy", "object": "model", "created": 0, "owned_by": "speciale-rl"}
            self._json(200, {"object": "list", "data": [model]})

        def _post(self, session: _Session, path: str) -> None:
            body = self._body()
            if path == "/v1/reward" and session.reward is not None:
                try:
                    session.reward(body)
                except ValueError as error:
                    raise ChatRefusal(400, str(error)) from error
                return self._json(200, {"ok": True})
            if path != "/v1/chat/completions":
                raise ChatRefusal(404, f"no such path: {path}; there are /v1/chat/completions and /v1/models")
            try:
                messages, options = read_request(body)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
                raise ChatRefusal(400, said) from error
            repeats = self.headers.get("x-stainless-retry-count") or "0"  # of OpenAI's own clients
            request = ChatRequest(
                messages, str(body.get("model")), options, int(repeats) if repeats.isdecimal() else 0, self._is_gone
            )
            completion = _completion_of(request, session.answer(request))
            if options.stream:
                return self._events(_chunks(completion, options.stream_usage))
            return self._json(200, completion)

        def _body(self) -> dict[str, Any]:
            length = self.headers.get("Content-Length") or "0"
            if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
                self.close_connection = True  # where the body ends is not known
                raise ChatRefusal(411, "the request says no Content-Length (in chunks it is not read)")
            if (size := int(length)) > _MAX_BYTES:
                self.close_connection = True
                raise ChatRefusal(413, f"the request has {size} bytes, allowed are {_MAX_BYTES}")
            try:
                body = json.loads(self.rfile.read(size))
            except ValueError as error:
                raise ChatRefusal(400, f"the request is no JSON: {error}") from error
            if not isinstance(body, dict):
                raise ChatRefusal(400, f"the request is a JSON {type(body).__name__}, wanted an object")
            return body

        def _is_gone(self) -> bool:
            try:
                poll = select.poll()  # recv would wait: the socket has a timeout
                poll.register(self.connection, select.POLLIN)
                return bool(poll.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)
            except (OSError, ValueError):
                return True

        def _json(self, status: int, data: dict[str, Any]) -> None:
            self._send(status, "application/json", json.dumps(data).encode())

        def _events(self, chunks: Iterator[dict[str, Any]]) -> None:
            payload = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
            self._send(200, "text/event-stream", payload + b"data: [DONE]\n\n")

        def _send(self, status: int, kind: str, payload: bytes) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(payload)))
                if self.close_connection:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(payload)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    return Handler


def _completion_of(request: ChatRequest, reply: ChatReply) -> dict[str, Any]:
    message = reply.message
    made = sum(len(m.tool_calls) for m in request.messages)  # ids stay unique in a dialogue
    (entry,), _ = to_openai((message,), first_id=made)
    if reply.tokens is None:
        asked, given = sum(len(json.dumps(m.to_json())) for m in request.messages) // 4, len(json.dumps(entry)) // 4
    else:
        asked, given = reply.tokens
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


def _error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}

"""An OpenAI-compatible endpoint on the loopback interface, answered by a Python function.

    with ChatServer() as server:
        key = server.open_session(lambda request: ChatReply(Message("assistant", "Hello!")))
        client = openai.OpenAI(base_url=server.base_url, api_key=key)
        client = openai.OpenAI(base_url=server.url_of(key), api_key="anything")     # the same

Programs that bring their own agent loop (any OpenAI client) ask it for completions; the function sees each request in
our types and may take as long as it likes. Every session has its own key, so any number of rollouts share one server.
``/v1/chat/completions`` and ``/v1/responses`` with and without streaming (the answer is complete before it is
streamed), tool calls both ways, ``/v1/models``, and ``/v1/reward``, where a program may say how well it went.

With an ``Office``, for whoever has its key: ``/v1/episodes`` opens a session (POST) or tells how things stand (GET), a
path ``/episodes/<name>/v1`` is the session of that name, and a session's ``/v1/close`` ends it.

Errors are in OpenAI's form.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import unquote

from envs.bridges import openai_responses
from envs.bridges.openai_completion import chunks, completion_of
from envs.bridges.openai_exchange import Answer, ChatRefusal, ChatRequest, Office
from envs.bridges.openai_request import read_request
from envs.bridges.schemas import encodable

_MAX_BYTES = 2**26  # of one request
_ESCAPED = re.compile(rb"\\u[dD][89a-fA-F]")  # half a surrogate pair, or a whole one
_SOCKET_S = 60.0  # a client that sends half a request does not hold its thread forever
_PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/models", "/v1/reward")
_NAMED_PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/reward", "/v1/close")  # POST there opens an episode
_WHICH = (
    "which episode? POST to /v1/episodes gives its base_url and api_key; or put a name of your own into the base URL, "
    "/episodes/NAME/v1"
)
_HOST = re.compile(r"[\w.:\[\]-]{1,255}", re.ASCII)

T = TypeVar("T")


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # many agents begin at once; 5 would make some wait a second


@dataclass
class _Session:
    answer: Answer
    reward: Callable[[Mapping[str, Any]], None] | None
    connections: set[socket.socket] = field(default_factory=set)


class ChatServer:
    """Listens on ``host``, on ``port`` (0: a free one), until ``close``. Raises OSError: it cannot.

    ``office``: the key of whoever may open sessions, and what opens them.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1", office: tuple[str, Office] | None = None) -> None:
        self._sessions: dict[str, _Session] = {}
        self._server = _Server((host, port), _handler(self._sessions, office))
        self._thread = threading.Thread(target=self._server.serve_forever, name="openai server", daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else str(host)}:{port}/v1"

    def url_of(self, key: str) -> str:
        """A base URL with the key in it: such a client needs no key."""
        return f"{self.base_url.removesuffix('/v1')}/e/{key}/v1"

    def open_session(self, answer: Answer, reward: Callable[[Mapping[str, Any]], None] | None = None) -> str:
        """A new API key whose requests ``answer`` answers, in the thread of the request, several at once if they come
        so. What it raises becomes an error for the program that asked. ``reward``: takes what is posted to /v1/reward,
        and raises ValueError for what is none.
        """
        key = secrets.token_hex(16)
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


def _handler(sessions: dict[str, _Session], office: tuple[str, Office] | None) -> type[BaseHTTPRequestHandler]:
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

        def _guarded(self, act: Callable[[str, str], None]) -> None:
            try:
                act(*self._addressed())
            except ChatRefusal as refused:
                self._json(refused.status, _error(refused.status, str(refused), refused.code))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            except Exception as error:  # of the session's function: the program that asked is told
                self._json(500, _error(500, f"{type(error).__name__}: {error}"))

        def _addressed(self) -> tuple[str, str]:
            """The key that was given, and the path without it; of a session's name, the key of that session."""
            given, path = (self.headers.get("Authorization") or "").removeprefix("Bearer "), self.path.partition("?")[0]
            if path.startswith("/e/"):
                given, _, rest = path.removeprefix("/e/").partition("/")
                path = f"/{rest}"
            if (served := self._office(given)) is not None and path.startswith("/episodes/"):
                name, _, rest = path.removeprefix("/episodes/").partition("/")
                path = f"/{rest}"
                if self.command == "GET":  # opens no episode
                    return given, path
                try:
                    if path not in _NAMED_PATHS:
                        raise ChatRefusal(404, f"no such path: {path}; there are {', '.join(_NAMED_PATHS)}")
                    return served.named(unquote(name)), path
                except ChatRefusal:
                    self.close_connection = True  # the body was not read
                    raise
            return given, path

        def _office(self, given: str) -> Office | None:
            """The office, where its key was given."""
            return office[1] if office is not None and _same(office[0], given) else None

        @contextmanager
        def _session(self, given: str) -> Iterator[_Session]:
            """Whose request it is, for as long as it is answered."""
            session = next((session for key, session in list(sessions.items()) if _same(key, given)), None)
            if session is None:
                self.close_connection = True  # the body was not read
                if self._office(given) is not None:
                    raise ChatRefusal(400, _WHICH, "no_episode")
                raise ChatRefusal(401, "unknown API key, or one of an episode that is over", "invalid_api_key")
            session.connections.add(self.connection)
            try:
                yield session
            finally:
                if self.close_connection:
                    session.connections.discard(self.connection)

        def _get(self, given: str, path: str) -> None:
            served = self._office(given)
            if served is not None and path == "/v1/episodes":
                return self._json(200, dict(served.shown()))
            with nullcontext() if served is not None else self._session(given):
                if path != "/v1/models":
                    raise ChatRefusal(404, f"no such path: {path}")
                model = {"id": "policy", "object": "model", "created": 0, "owned_by": "speciale-rl"}
                self._json(200, {"object": "list", "data": [model]})

        def _post(self, given: str, path: str) -> None:
            served = self._office(given)
            if served is not None and path == "/v1/episodes":
                name, key = served.open(self._body())
                return self._json(200, {"id": name, "base_url": f"http://{self._host()}/e/{key}/v1", "api_key": key})
            with self._session(given) as session:
                body = self._body()
                match path:
                    case "/v1/chat/completions":
                        return self._chat(session, body)
                    case "/v1/responses":
                        return self._respond(session, body)
                    case "/v1/reward" if session.reward is not None:
                        _readable(session.reward, body)
                        return self._json(200, {"ok": True})
                    case "/v1/close" if office is not None:
                        if body and session.reward is not None:
                            _readable(session.reward, body)
                        return self._json(200, dict(office[1].close(given)))
                raise ChatRefusal(404, f"no such path: {path}; there are {', '.join(_PATHS)}")

        def _chat(self, session: _Session, body: dict[str, Any]) -> None:
            request = self._request(body, body)
            completion = completion_of(request, session.answer(request))
            if not request.options.stream:
                return self._json(200, completion)
            said = [json.dumps(chunk) for chunk in chunks(completion, request.options.stream_usage)]
            return self._events("".join(f"data: {line}\n\n" for line in (*said, "[DONE]")).encode())

        def _respond(self, session: _Session, body: dict[str, Any]) -> None:
            request = self._request(body, _readable(openai_responses.chat_body, body))
            response = openai_responses.response_of(request, session.answer(request))
            if not request.options.stream:
                return self._json(200, response)
            return self._events(b"".join(map(openai_responses.wire, openai_responses.events(response))))

        def _request(self, body: dict[str, Any], chat: dict[str, Any]) -> ChatRequest:
            """``body`` in our types, as the chat request ``chat`` says it."""
            messages, options = _readable(read_request, chat)
            repeats = self.headers.get("x-stainless-retry-count") or "0"  # of OpenAI's own clients
            number = int(repeats) if repeats.isdecimal() else 0
            return ChatRequest(messages, str(body.get("model")), options, number, self._is_gone)

        def _host(self) -> str:
            """As the client knows this machine: in a container it has another name."""
            said = self.headers.get("Host") or ""
            host, port = self.connection.getsockname()
            return said if _HOST.fullmatch(said) else f"{host}:{port}"

        def _body(self) -> dict[str, Any]:
            length = self.headers.get("Content-Length") or "0"
            if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
                self.close_connection = True  # where the body ends is not known
                raise ChatRefusal(411, "the request says no Content-Length (in chunks it is not read)")
            if (size := int(length)) > _MAX_BYTES:
                self.close_connection = True
                raise ChatRefusal(413, f"the request has {size} bytes, allowed are {_MAX_BYTES}")
            try:
                raw = self.rfile.read(size)
                body = json.loads(raw) if size else {}
                if _ESCAPED.search(raw):
                    body = encodable(body)
            except (ValueError, RecursionError) as error:
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

        def _events(self, payload: bytes) -> None:
            self._send(200, "text/event-stream", payload)

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


def _same(key: str, given: str) -> bool:
    return hmac.compare_digest(key.encode(), given.encode())


def _readable(read: Callable[[dict[str, Any]], T], body: dict[str, Any]) -> T:
    """``read(body)``; what is wrong with the body is told to the program that sent it."""
    try:
        return read(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ChatRefusal(400, said) from error


def _error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}

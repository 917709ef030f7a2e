"""An OpenAI-compatible server on the loopback that says what a test wants, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | int | bytes | dict[str, Any]  # text of a completion, an HTTP state, a raw body, a whole answer


class ChatServer:
    """``answer(body)`` gives the reply to a request; a list gives its entries in turn, the last for ever.

    ``slow_s``: seconds before every reply; ``together``: no reply before so many requests were there at once.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any]], Reply] | list[Reply], slow_s: float = 0.0, together: int = 0
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Condition()
        self.busy = self.busiest = 0
        server, replies = self, list(answer) if isinstance(answer, list) else []

        def choose(body: dict[str, Any]) -> Reply:
            if callable(answer):
                return answer(body)
            return replies.pop(0) if len(replies) > 1 else replies[0]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.bodies.append(body)
                    server.headers.append(dict(self.headers))
                    server.busy += 1
                    server.busiest = max(server.busiest, server.busy)
                    server._lock.notify_all()
                    reply = choose(body)
                    server._lock.wait_for(lambda: server.busiest >= together, 60)
                time.sleep(slow_s)
                with server._lock:
                    server.busy -= 1
                state, data = _wire(reply)
                try:
                    self.send_response(state)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    return  # the client has given up

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def completion(text: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 70, "completion_tokens": 9},
    }


def _wire(reply: Reply) -> tuple[int, bytes]:
    if isinstance(reply, int):
        return reply, b'{"error": "scripted"}'
    if isinstance(reply, bytes):
        return 200, reply
    return 200, json.dumps(completion(reply) if isinstance(reply, str) else reply).encode()

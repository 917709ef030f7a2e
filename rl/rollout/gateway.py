"""The endpoint at which programs ask a policy: one server for all episodes of a process, a key for each of them.

It listens on the loopback interface alone, unless a host is named. A request comes in a thread of the server and is
answered in the event loop of the episodes, where the engine's answers arrive.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from envs.bridges.openai_exchange import ChatRefusal, ChatReply, ChatRequest, Office
from envs.bridges.openai_server import ChatServer
from envs.driving import Endpoint
from envs.scores import posted_scores
from rl.rollout.driven import Driven

LOOPBACK = "127.0.0.1"


class Gateway:
    """For the event loop that it is made on; ``close`` ends it.

    ``port`` 0: a free one. ``office``: for programs outside, the key with which they open episodes, and what opens
    them. Raises OSError: it cannot listen there.
    """

    def __init__(self, port: int = 0, host: str = LOOPBACK, office: tuple[str, Office] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = ChatServer(port, host, office)
        for name in ("NO_PROXY", "no_proxy"):  # clients in this process would ask a proxy for this machine
            hosts = os.environ.get(name, "")
            if hosts.strip() != "*" and LOOPBACK not in hosts.split(","):  # "*" is all of them, and alone only
                os.environ[name] = f"{hosts},{LOOPBACK}" if hosts else LOOPBACK

    @property
    def address(self) -> str:
        """``http://host:port``."""
        return self._server.base_url.removesuffix("/v1")

    @contextmanager
    def connect(self, driven: Driven) -> Iterator[Endpoint]:
        """An endpoint that ``driven`` answers; afterwards its key is refused."""

        def answer(request: ChatRequest) -> ChatReply:
            try:
                return asyncio.run_coroutine_threadsafe(driven.answer(request), self._loop).result()
            except (concurrent.futures.CancelledError, RuntimeError):  # RuntimeError: the loop is closed
                raise ChatRefusal(403, "the episode is over", "episode_over") from None

        posted: list[dict[str, float]] = []

        def reward(body: Mapping[str, Any]) -> None:
            posted.append(posted_scores(body))

        key = self._server.open_session(answer, reward)
        try:
            yield Endpoint(self._server.url_of(key), key, posted)
        finally:
            self._server.close_session(key)

    def close(self) -> None:
        self._server.close()

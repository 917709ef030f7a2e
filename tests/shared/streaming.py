"""A learner of this process that streams its weights to engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from rl.policy.meeting import open_meeting
from rl.policy.rendezvous import Receipt, Rendezvous, StreamBroken
from rl.policy.weight_source import WeightSource
from rl.policy.weight_stream import Links

HOST = "127.0.0.1"


class Streamer:
    """Sends from a thread to ``ranks`` ranks of one engine; the same connection until ``new`` is asked for."""

    def __init__(self, ranks: int) -> None:
        self._links, self._ranks, self._count = Links(), ranks, 0
        self._store = open_meeting(HOST, 1 + ranks, 60.0)

    def __call__(
        self, receive: Callable[[Rendezvous, int, str], list[Receipt]], named: Mapping[str, Tensor], version: int,
        new: bool = False,
    ) -> list[Receipt]:  # fmt: skip
        """What ``receive`` (of an engine) gives, compared with what was sent. Raises what it raises."""
        self._count += new
        meeting = Rendezvous(
            HOST, self._store.port, f"{self._count}", 1 + self._ranks, timeout_s=60.0, bucket_bytes=2**15,
            version=version,
        )  # fmt: skip
        source, sent = WeightSource(named), list[Any]()

        def send() -> None:
            with suppress(StreamBroken), self._links.to(meeting, 0, HOST) as link:
                sent.append(link.send(source.plan(version, meeting.bucket_bytes), iter(source)))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            received = receive(meeting, 1, HOST)
        finally:
            thread.join(60.0)
        assert received == sent * self._ranks
        return received

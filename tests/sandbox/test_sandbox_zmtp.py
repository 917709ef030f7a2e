"""Our end of ZeroMQ against libzmq itself, and against what a hostile peer may send."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.sandbox.zmtp import _GREETING, Channel, HungUpError, _ready, frame


def soon() -> float:
    return time.monotonic() + 60.0


def receive(channel: Channel, count: int) -> list[list[bytes]]:
    messages: list[list[bytes]] = []
    deadline = soon()
    while len(messages) < count:
        assert time.monotonic() < deadline
        messages += channel.receive()
    return messages


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with zmq.Context() as opened:
        yield opened


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[tuple[socket.socket, Channel]]:
    """A connection whose other end is a plain socket that has sent the handshake."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        channel = Channel(str(tmp_path / "s"), "DEALER", limit=1000)
        other, _ = listener.accept()
        with other:
            other.sendall(_GREETING + _ready("ROUTER"))
            channel.handshake(soon())
            yield other, channel
            channel.close()


def test_talks_to_a_router(context: Any, tmp_path: Path):
    with context.socket(zmq.ROUTER) as router:
        router.bind(f"ipc://{tmp_path}/r")
        channel = Channel(f"{tmp_path}/r", "DEALER", limit=1 << 20)
        channel.handshake(soon())

        @settings(max_examples=40)
        @given(st.lists(st.one_of(st.binary(max_size=300), st.just(bytes(70_000))), min_size=1, max_size=5))
        def there_and_back(parts: list[bytes]) -> None:
            channel.send(parts, soon())
            identity, *seen = router.recv_multipart()
            assert seen == parts
            router.send_multipart([identity, *parts])
            assert receive(channel, 1) == [parts]

        there_and_back()
        channel.close()


def test_subscribes_to_a_publisher(context: Any, tmp_path: Path):
    with context.socket(zmq.XPUB) as publisher:
        publisher.bind(f"ipc://{tmp_path}/p")
        channel = Channel(f"{tmp_path}/p", "SUB", limit=1000)
        channel.handshake(soon())
        assert publisher.recv() == b"\x01"
        publisher.send_multipart([b"topic", b"text"])
        assert receive(channel, 1) == [[b"topic", b"text"]]
        channel.close()


def test_a_message_may_come_byte_by_byte(peer: tuple[socket.socket, Channel]):
    other, channel = peer
    seen = []
    for byte in frame(b"a", 1) + frame(b"b" * 300) + frame(b"PING", 4) + frame(b"c"):
        other.sendall(bytes([byte]))
        seen += channel.receive()
    assert seen == [[b"a", b"b" * 300], [b"c"]]


@pytest.mark.parametrize(
    "sent",
    [
        frame(bytes(1001)),  # one part over the limit
        frame(bytes(600), 1) * 2,  # together over the limit
        frame(b"", 1) * 100,  # parts without end
        b"\x02" + b"\xff" * 8,  # a size that no machine holds
    ],
)
def test_too_much_is_refused_before_it_is_held(peer: tuple[socket.socket, Channel], sent: bytes):
    other, channel = peer
    other.sendall(sent)
    with pytest.raises(HungUpError, match="more than 1000 bytes or 64 parts"):
        channel.receive()


def test_a_peer_that_hangs_up_or_does_not_read(peer: tuple[socket.socket, Channel]):
    other, channel = peer
    assert channel.receive() == []
    with pytest.raises(TimeoutError):
        channel.send([bytes(8 << 20)], time.monotonic() + 0.1)
    other.close()
    with pytest.raises(HungUpError):
        receive(channel, 1)
    with pytest.raises(HungUpError):
        channel.send([b"x"], soon())


def test_another_protocol_is_refused(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        channel = Channel(str(tmp_path / "s"), "DEALER", limit=1000)
        other, _ = listener.accept()
        with other:
            other.sendall(b"HTTP/1.1 400 Bad Request\r\n".ljust(64))
            with pytest.raises(HungUpError, match="not ZMTP"):
                channel.handshake(soon())
        channel.close()

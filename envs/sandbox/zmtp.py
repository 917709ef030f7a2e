"""The host's end of a ZeroMQ connection to a kernel that is not trusted (ZMTP 3.0, NULL mechanism, Unix sockets).

The kernel uses libzmq; the host must not. libzmq keeps the parts of a message until the last one has come, with
no bound on their number, so whoever holds the other end of the socket can fill the host's memory; and it reads
ahead in threads of its own. This is the little that a client needs, and it holds at most ``limit`` bytes:

    greeting  FF 00*8 7F, version 3 0, "NULL" in 20 bytes, as-server 0, 31 zeros            64 bytes, both ways
    frame     u8 flags (1 more parts follow, 2 size in 8 bytes, 4 command), size, body
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence

_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4
_CHUNK = 1 << 18


class HungUpError(Exception):
    """The other end closed the connection, does not speak ZMTP, or sent more than it may."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """One frame on the wire."""
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return bytes([flags | _LONG]) + len(body).to_bytes(8, "big") + body


def _ready(kind: str) -> bytes:
    properties = ((b"Socket-Type", kind.encode()), (b"Identity", b""))
    body = b"\x05READY"
    for name, value in properties:
        body += bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
    return frame(body, _COMMAND)


class Channel:
    """A DEALER or SUB socket connected to a listening Unix socket. SUB subscribes to everything."""

    def __init__(self, path: str, kind: str, limit: int) -> None:
        self.limit = limit  # bytes of a message, all its parts together
        self._input = bytearray()
        self._kind = kind
        self._greeted = self._shaken = False
        self._parts: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
            self._socket.sendall(_GREETING + _ready(kind))  # short enough for the socket's buffer
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def handshake(self, deadline: float) -> None:
        """Until the other end is ready: before that it takes no message. Raises HungUpError, TimeoutError."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not self._shaken:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            if self.receive():
                raise HungUpError("a message before READY")
        if self._kind == "SUB":
            self.send([b"\x01"], deadline)

    def send(self, parts: Sequence[bytes], deadline: float) -> None:
        """Send one message. Raises HungUpError, or TimeoutError when the other end does not read."""
        last = len(parts) - 1
        left = memoryview(b"".join(frame(part, _MORE if n < last else 0) for n, part in enumerate(parts)))
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while left:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            try:
                left = left[self._socket.send(left, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise HungUpError(str(error)) from error

    def receive(self) -> list[list[bytes]]:
        """The messages completed by what can be read now, which may be none. Raises HungUpError."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError as error:
            raise HungUpError(str(error)) from error
        if not data:
            raise HungUpError("closed")
        self._input += data
        return self._messages()

    def _messages(self) -> list[list[bytes]]:
        messages = []
        at = 0
        if not self._greeted:
            if len(self._input) < len(_GREETING):
                return []
            if self._input[0] != 0xFF or self._input[9] != 0x7F:
                raise HungUpError("not ZMTP")
            self._greeted = True
            at = len(_GREETING)
        while len(self._input) >= at + 2:
            flags = self._input[at]
            body = at + (9 if flags & _LONG else 2)
            if len(self._input) < body:
                break
            size = int.from_bytes(self._input[at + 1 : body], "big")
            # A part costs memory of its own, however short it is.
            if size + sum(map(len, self._parts)) > self.limit or len(self._parts) > 64:
                raise HungUpError(f"a message of more than {self.limit} bytes or 64 parts")
            if len(self._input) < body + size:
                break
            if flags & _COMMAND:
                self._shaken = self._shaken or self._input.startswith(b"\x05READY", body)
            else:
                self._parts.append(bytes(self._input[body : body + size]))
                if not flags & _MORE:
                    messages.append(self._parts)
                    self._parts = []
            at = body + size
        del self._input[:at]
        return messages

"""PythonSession: a stateful Python in a sandbox, like one notebook kernel (protocol: ``guest_repl.py``)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from envs.sandbox.bubblewrap import not_started, python_program, start
from envs.sandbox.limits import Limits

_GUEST = Path(__file__).with_name("guest_repl.py")
_START_S = 30.0
LOST = "The session was restarted: variables are lost."


@dataclass(frozen=True)
class ExecResult:
    """What one call printed and how it failed. ``error`` is in words for the policy, or empty: one line
    from a PythonSession, a traceback as a notebook shows it from a KernelSession."""

    output: str
    error: str = ""
    timed_out: bool = False
    truncated: bool = False  # more was printed than Limits.output_bytes; ``output`` is the beginning
    restarted: bool = False  # this call killed the session; the next one starts from ``setup`` again


class _SessionDied(Exception):
    pass


class PythonSession:
    """Runs cells one after the other in one namespace; the value of a last expression is printed.

    The process starts at the first call and is killed when a call takes longer than ``limits.wall_s``. A call
    that kills the session (time, memory, ``os._exit``) says so in its error; the next call gets a new session
    in which ``setup`` has run again. Not for several threads at once.
    """

    def __init__(self, limits: Limits | None = None, setup: str = "") -> None:
        self.limits = limits or Limits()
        self.setup = setup
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PythonSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, code: str) -> ExecResult:
        """Run one cell. Whatever the code does comes back as a result.

        Raises SandboxUnavailableError when there is no sandbox, ValueError when ``setup`` fails.
        """
        try:
            cell = code.encode("utf-8")
        except UnicodeEncodeError:
            return ExecResult("", "SyntaxError: the code is not valid Unicode text")
        if self._process is None:
            self._start()
        deadline = time.monotonic() + self.limits.wall_s
        try:
            return self._ask(cell, deadline)
        except TimeoutError:
            self.close()
            error = f"TimeoutError: no result after {self.limits.wall_s:g} seconds. {LOST}"
            return ExecResult("", error, timed_out=True, restarted=True)
        except (_SessionDied, BrokenPipeError):
            died_of_cpu = self._exit_code() == 128 + signal.SIGXCPU  # as bwrap reports it
            self.close()
            if died_of_cpu:
                error = f"TimeoutError: more than {self.limits.cpu_s} CPU seconds. {LOST}"
                return ExecResult("", error, timed_out=True, restarted=True)
            return ExecResult("", f"The session ended. {LOST}", restarted=True)

    def close(self) -> None:
        """End the session and everything it started. May be called again."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _exit_code(self) -> int | None:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=1.0)
        return None

    def _start(self) -> None:
        program = python_program(_GUEST.read_text(encoding="utf-8"), self.limits)
        self._process = start(self.limits, program)
        assert self._process.stdin
        os.set_blocking(self._process.stdin.fileno(), False)
        # The set-up cell, empty or not, shows that the session is up: no call is blamed for a failed start.
        try:
            first = self._ask(self.setup.encode("utf-8"), time.monotonic() + _START_S)
        except (_SessionDied, BrokenPipeError, TimeoutError) as error:
            process, self._process = self._process, None
            raise not_started(process) from error
        if first.error:
            self.close()
            raise ValueError(f"PythonSession.setup failed: {first.error}; setup was {self.setup!r}")

    def _ask(self, cell: bytes, deadline: float) -> ExecResult:
        self._send(len(cell).to_bytes(4, "little") + cell, deadline)
        failed, full = self._receive(2, deadline)
        output = self._receive_block(deadline).decode("utf-8", "ignore")
        error = self._receive_block(deadline).decode("utf-8", "ignore")
        return ExecResult(output, error if failed else "", truncated=bool(full))

    def _send(self, data: bytes, deadline: float) -> None:
        assert self._process
        assert self._process.stdin
        descriptor = self._process.stdin.fileno()
        left = memoryview(data)
        while left:
            _wait(descriptor, select.POLLOUT, deadline)
            left = left[os.write(descriptor, left) :]

    def _receive_block(self, deadline: float) -> bytes:
        size = int.from_bytes(self._receive(4, deadline), "little")
        if size > self.limits.output_bytes:
            raise _SessionDied(f"a block of {size} bytes: something wrote to the protocol")
        return self._receive(size, deadline)

    def _receive(self, size: int, deadline: float) -> bytes:
        assert self._process
        assert self._process.stdout
        descriptor = self._process.stdout.fileno()
        data = bytearray()
        while len(data) < size:
            _wait(descriptor, select.POLLIN, deadline)
            part = os.read(descriptor, size - len(data))
            if not part:
                raise _SessionDied
            data += part
        return bytes(data)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Until the descriptor is ready; TimeoutError at the deadline. (select() fails above 1,024.)"""
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError

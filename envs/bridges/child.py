"""A child process that talks JSON lines, with deadlines, in a folder of its own.

    child = JsonChild([python, "-P", "runner.py"], environment)
    child.send({"mode": "play"});  child.receive(60.0)    -> {"request": …}, or None at the end of its output
    child.close()                                         end of stdin, then SIGKILL for it and all it started

The folder is the child's HOME and working directory; it goes when the child is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SHOWN_LOG_BYTES = 1500
_LOOK_S = 0.5


class JsonChild:
    """``receive`` raises TimeoutError at its deadline; the child is then still alive."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], close_s: float = 8.0) -> None:
        self._close_s = close_s
        self.folder = Path(tempfile.mkdtemp(prefix="bridge-"))
        self._log = self.folder / "stderr"
        self._buffer = bytearray()
        try:
            with self._log.open("wb") as errors:
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=self.folder,
                    env={**environment, "HOME": str(self.folder)},
                    start_new_session=True,
                )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def send(self, line: Mapping[str, Any]) -> None:
        """Raises BrokenPipeError when the child is gone."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None when the child has closed its output."""
        assert self._process.stdout is not None
        descriptor, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while (end := self._buffer.find(b"\n")) < 0:
            if not poll.poll(min(_LOOK_S, max(0.0, deadline - time.monotonic())) * 1000):
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"no line in {seconds:g} s")
                continue  # in between a thread that was given up can end
            part = os.read(descriptor, 1 << 16)
            if not part:
                return None
            self._buffer += part
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return dict(json.loads(line))

    def last_log(self) -> str:
        """What the child wrote to stderr last, for an error message."""
        with contextlib.suppress(OSError):
            text = self._log.read_bytes()[-_SHOWN_LOG_BYTES:].decode(errors="replace").strip()
            return f"; its last output: {text}" if text else ""
        return ""

    def close(self) -> None:
        """May be called again. Programs in sessions of their own are found by their parents and killed as well."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(self._close_s)
        except subprocess.TimeoutExpired:
            kill_all(process)
        if process.stdout is not None:
            process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for ``process``, what it started, and what is left of its session. It must have a session of its own."""
    for pid in (*_descendants(process.pid), process.pid) if process.poll() is None else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> list[int]:
    """Processes below ``pid``, found before any of them is killed: orphans have another parent."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # the name in brackets may hold anything; the parent is the second field after it
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found

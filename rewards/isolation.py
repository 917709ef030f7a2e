"""Parts in processes that can be killed: the only way to end code that hangs for good.

A few child processes per composer, started when they are needed and kept for the next call. One call at a time runs in
each; its deadline counts from when it begins there, so that waiting for a place punishes nobody. A child that is late,
or dead, is killed with everything it started, and the next call gets a new one. ``rewards.isolated`` is the other side.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rewards.isolated import HEAD, decode
from rewards.part import PartOptions
from rewards.results import Problem, Result

CHILDREN = 4  # at most, per composer: so many isolated parts run at once in one rollout worker
START_S = 120.0  # for the interpreter and the imports of the parts, on a busy machine
MAX_REPLY = 1 << 20  # bytes; a reply is a few numbers
_ROOT = Path(__file__).resolve().parents[1]


class ChildDied(Exception):
    """The child ended. ``code`` is its exit code, negative for a signal."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"its process ended with code {code}")
        self.code = code


class ChildLate(Exception):
    """The child was not done in time; it has been killed."""


class Children:
    """Runs the parts of one composer in child processes.

    Args:
        parts: pickled to every child; a call names one by its index. None: a part that runs elsewhere.
    """

    def __init__(self, parts: Sequence[PartOptions | None]) -> None:
        self._parts = pickle.dumps(list(parts))
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(CHILDREN, thread_name_prefix="isolated reward")
        _open.add(self)

    async def call(self, index: int, arguments: tuple[Any, ...], seconds: float, group: bool) -> list[Result] | Problem:
        """Results of part ``index`` for ``arguments``. What goes wrong is a Problem; nothing is raised."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._call, index, arguments, seconds, group
        )

    def close(self) -> None:
        """Kill all children. A later call starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
            for child in self._busy:
                child.end()  # its caller sees that it died, and clears up
        for child in idle:
            child.kill()

    def _call(self, index: int, arguments: tuple[Any, ...], seconds: float, group: bool) -> list[Result] | Problem:
        try:
            request = pickle.dumps((index, arguments, seconds, group))
        except Exception as error:
            return Problem("unpicklable", f"the episode cannot be sent to its process: {type(error).__name__}: {error}")
        try:
            child = self._child(request)
        except _NotReady as error:
            return error.problem
        except (ChildDied, ChildLate) as error:
            return Problem("killed", f"its process did not take the request: {error}")
        with self._lock:
            self._busy.add(child)
        alive = False
        try:
            results = decode(child.reply(seconds))
            alive = True
            return results
        except ChildLate:
            return Problem("timeout", f"was not done within timeout_s={seconds:g}; its process was killed")
        except ChildDied as end:
            return Problem("killed", str(end))
        finally:
            with self._lock:
                self._busy.discard(child)
                if alive:
                    self._idle.append(child)
            if not alive:
                child.kill()

    def _child(self, request: bytes) -> _Child:
        """A child that has been given ``request``. One that died while it had nothing to do is nobody's fault."""
        with self._lock:
            child = self._idle.pop() if self._idle else None
        if child is not None:
            try:
                child.give(request)
                return child
            except (ChildDied, ChildLate):
                child.kill()
        child = _Child(self._parts)
        child.give(request)
        return child


class _NotReady(Exception):
    """A new child could not load the parts."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


class _Child:
    """One process. Every wait ends by a deadline, after which the process is killed."""

    def __init__(self, parts: bytes) -> None:
        program = "import sys; sys.path[:0] = sys.argv[1:]; from rewards.isolated import main; main()"
        paths = [str(_ROOT), *(path or os.getcwd() for path in sys.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # what a part starts is in its process group, and goes with it
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        try:
            self.send(parts, START_S)
            ready = self.reply(START_S)
        except (ChildDied, ChildLate) as error:
            raise _NotReady(Problem("killed", f"its process did not start: {error}")) from None
        if ready != b'"ready"':
            self.kill()
            problem = decode(ready)
            assert isinstance(problem, Problem)
            fix = "its class must stand at the top level of a module that can be imported; or set isolate: false"
            raise _NotReady(Problem("unpicklable", f"its process cannot load the parts ({fix}): {problem.text}"))

    def give(self, request: bytes) -> None:
        """Send a request, and see that the child has taken it."""
        self.send(request, START_S)
        self.reply(START_S)

    def send(self, body: bytes, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        view = memoryview(HEAD.pack(len(body)) + body)
        while view:
            self._wait(self._in, select.POLLOUT, deadline)
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._died() from None

    def reply(self, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        (size,) = HEAD.unpack(self._read(HEAD.size, deadline))
        if size > MAX_REPLY:
            self.kill()
            raise ChildDied(self._process.returncode)
        return self._read(size, deadline)

    def end(self) -> None:
        """Kill the process and all it started; whoever waits for it sees that it died."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """``end``, and release what it held. Safe to call twice."""
        self.end()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self, n: int, deadline: float) -> bytes:
        data = b""
        while len(data) < n:
            self._wait(self._out, select.POLLIN, deadline)
            part = os.read(self._out, n - len(data))
            if not part:
                raise self._died()
            data += part
        return data

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self.kill()
            raise ChildLate

    def _died(self) -> ChildDied:
        # The pipe is closed, so the process ends; one that only closed its output is helped along.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.poll()
        self.kill()
        return ChildDied(code)


_open: weakref.WeakSet[Children] = weakref.WeakSet()


def _close_all() -> None:
    for children in list(_open):
        children.close()


atexit.register(_close_all)

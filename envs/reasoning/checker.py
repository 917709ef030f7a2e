"""Checker: asks a worker process whether an answer is right, kills it when it hangs, and goes on with a new one.

Whose fault a failure is:

* the answer's (scored 0): it took more than ``check_worker.CPU_S`` CPU seconds, the scorer could not read it, or
  it ended two fresh processes in a row;
* the infrastructure's (``InfrastructureError``, the sample is masked): the worker does not start, does not accept the
  right answer, or gives no reply though it used little CPU time.

Many costly answers at once (all rollouts of a worker ask the same one) must not make each other wait until
``rollout.score_s`` masks them: every answer has ``QUICK_S`` first, which is enough for nearly all. Those that need more
stand in a line of their own, and who has had no turn ``LINE_S`` after it came is too costly.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.reasoning.check_worker import CPU_S
from envs.types import InfrastructureError

START_S = 180.0  # importing sympy and reasoning-gym on a busy machine
WALL_S = 120.0  # for one check; the worker's own limit is CPU time, far less
QUICK_S = 0.25  # CPU seconds of the first look
LINE_S = 25.0
_ROOT = Path(__file__).resolve().parents[2]


class GoldRejectedError(InfrastructureError):
    """The right answer itself is not accepted: the task is broken, or made by another version of its package."""


@dataclass(frozen=True)
class Verdict:
    """``why`` is empty when the answer could be checked, else too_costly, crashes, or unreadable and the exception."""

    right: bool
    why: str = ""


class _Ended(Exception):
    """The process that looks at answers is gone. ``ready``: it had understood the request, so that the answer may be to
    blame."""

    def __init__(self, ready: bool, code: int) -> None:
        super().__init__(f"the checker ended with code {code}")
        self.ready, self.code = ready, code


class Checker:
    """One worker, started at the first check and shared by all threads of this process. ``gym``: it also knows
    reasoning-gym, whose import takes a second."""

    def __init__(self, gym: bool = False) -> None:
        self.gym = gym
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._lock = threading.Lock()
        self._line = threading.Lock()  # of answers that need more than a first look

    def check(self, request: dict[str, Any]) -> Verdict:
        """The verdict on one request (``check_worker`` says what it holds)."""
        came = time.monotonic()
        verdict = self._within(request, QUICK_S)
        if verdict.why != "too_costly" or not self._line.acquire(timeout=max(0.0, came + LINE_S - time.monotonic())):
            return verdict
        try:
            return self._within(request, CPU_S)
        finally:
            self._line.release()

    def _within(self, request: dict[str, Any], cpu_s: float) -> Verdict:
        with self._lock:
            for _ in range(2):  # a process that something else killed is not the answer's fault: once more
                try:
                    return self._ask({**request, "cpu_s": cpu_s})
                except _Ended as end:
                    if end.ready and end.code == -signal.SIGPROF:
                        return Verdict(False, "too_costly")
                    last = end
            if last.ready:
                return Verdict(False, "crashes")
            raise InfrastructureError(
                f"the answer checker ended twice before it had read the request (code {last.code})"
            )

    def close(self) -> None:
        """End the worker. The next check starts another."""
        with self._lock:
            self._stop()

    @property
    def pid(self) -> int | None:
        """Of the worker, if one runs."""
        return None if self._process is None else self._process.pid

    def _ask(self, request: dict[str, Any]) -> Verdict:
        if self._process is None:
            self._start()
        line = (json.dumps(request) + "\n").encode()
        try:
            self._write(line)
        except BrokenPipeError:
            raise self._ended(ready=False) from None
        first = self._reply(WALL_S, ready=False)
        if isinstance(first, dict) and "ended" in first:
            raise _Ended(False, first["ended"])
        if isinstance(first, dict):
            where = request.get("gym", "a story")
            raise GoldRejectedError(f"an answer cannot be checked: {first['broken'][:300]}; entry: {where}")
        verdict = self._reply(WALL_S, ready=True)
        if "ended" in verdict:
            raise _Ended(True, verdict["ended"])
        return Verdict(verdict["right"], verdict["why"])

    def _start(self) -> None:
        # by path: the worker finds the toolkit also where it is not installed
        program = (
            f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from envs.reasoning.check_worker import main; main()"
        )
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV") if name in os.environ},
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, *(["gym"] if self.gym else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                close_fds=True,
                env=environment,
                cwd="/",
            )
        except OSError as error:
            raise InfrastructureError(f"the answer checker cannot be started: {error}") from error
        try:
            said = self._reply(START_S, ready=False)
        except _Ended as end:
            raise InfrastructureError(f"the answer checker did not start (code {end.code})") from None
        if said != "started":
            self._stop()
            raise InfrastructureError(
                f"the answer checker did not start: {said['broken']}; pip install math-verify==0.9.0 "
                "reasoning-gym==0.1.23"
            )

    def _write(self, data: bytes) -> None:
        assert self._process
        assert self._process.stdin
        view = memoryview(data)
        while view:
            view = view[os.write(self._process.stdin.fileno(), view) :]

    def _reply(self, wall_s: float, ready: bool) -> Any:
        """One line of the worker as JSON. A worker that says nothing for ``wall_s`` is killed."""
        assert self._process
        assert self._process.stdout
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + wall_s
        while b"\n" not in self._unread:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._stop()
                raise InfrastructureError(f"the answer checker said nothing for {wall_s:g} seconds")
            part = os.read(descriptor, 65_536)
            if not part:
                raise self._ended(ready)
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _ended(self, ready: bool) -> _Ended:
        assert self._process
        code = self._process.wait()
        self._stop()
        return _Ended(ready, code)

    def _stop(self) -> None:
        process, self._process, self._unread = self._process, None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


_shared: dict[tuple[int, bool], Checker] = {}
_shared_lock = threading.Lock()


def shared_checker(gym: bool) -> Checker:
    """The checker of this process. Starting one takes a second, so all environments use the same."""
    with _shared_lock:
        mine = (os.getpid(), gym)  # a forked child must not talk to its parent's worker
        if mine not in _shared:
            _shared[mine] = Checker(gym)
            atexit.register(_shared[mine].close)
        return _shared[mine]

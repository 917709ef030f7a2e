"""Deadlines for waits: a wait that never ends must say what it was waiting for.

``with deadline("weights of version 7 to reach worker 2", 60): ray.get(...)`` raises ``StallError`` after 60
seconds, with the name of the wait, after writing the stacks of all threads to stderr.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
What = str | Callable[[], str]  # a callable is asked at expiry, so that it can list what is still pending


class StallError(TimeoutError):
    """A deadline passed. ``what`` is what was waited for, ``seconds`` how long."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"waited {seconds:g} s for {what}; nothing came")
        self.what = what
        self.seconds = seconds


class _Wait:
    def __init__(self, what: What, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"deadline of {seconds} s: give a number of seconds > 0")
        self.what = what
        self.seconds = seconds
        self.expiry = time.monotonic() + seconds
        self.fired = False

    def error(self) -> StallError:
        return StallError(self.what if isinstance(self.what, str) else self.what(), self.seconds)


_waits: list[_Wait] = []  # nested deadlines of the main thread; the earliest expiry is the one armed
_previous_handler: Any = None


@contextmanager
def deadline(what: What, seconds: float) -> Iterator[None]:
    """Bound a blocking wait of the main thread (it works by SIGALRM, so it interrupts a wait in C code that
    checks signals, as ``ray.get`` and ``time.sleep`` do). Nests; also usable as a decorator.

    Raises:
        StallError: the block took longer than ``seconds``.
        RuntimeError: entered outside the main thread; use ``within`` in async code.
    """
    global _previous_handler
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"deadline({_text(what)!r}) works in the main thread only; in async code use within()")
    wait = _Wait(what, seconds)
    if not _waits:
        _previous_handler = signal.signal(signal.SIGALRM, _on_alarm)
    _waits.append(wait)
    _arm()
    try:
        yield
    finally:
        _waits.remove(wait)
        _arm()
        if not _waits:
            signal.signal(signal.SIGALRM, _previous_handler)


async def within(what: What, seconds: float, awaitable: Awaitable[T]) -> T:
    """Await with a deadline; the awaitable is cancelled when it passes.

    Raises:
        StallError: nothing came within ``seconds``.
    """
    wait = _Wait(what, seconds)
    # A timeout raised by the awaitable itself must pass through as it is.
    task = asyncio.ensure_future(awaitable)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    task.cancel()
    raise wait.error()


def _arm() -> None:
    armed = [wait.expiry for wait in _waits if not wait.fired]
    # 0 switches the timer off, so an expiry that has passed becomes a microsecond.
    left = max(min(armed) - time.monotonic(), 1e-6) if armed else 0.0
    signal.setitimer(signal.ITIMER_REAL, left)


def _on_alarm(signum: int, frame: FrameType | None) -> None:
    late = [wait for wait in _waits if not wait.fired and wait.expiry <= time.monotonic() + 1e-3]
    if not late:
        _arm()
        return
    late[0].fired = True
    error = late[0].error()
    print(f"stalled: {error}. Stacks of all threads:", file=sys.stderr, flush=True)
    with suppress(ValueError, OSError, AttributeError):  # a captured stderr has no file descriptor: no dump
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    raise error


def _text(what: What) -> str:
    return what if isinstance(what, str) else what()

"""Calls with a deadline on threads: for own code that is known to end, and for async parts.

A thread cannot be killed. One that is late is abandoned: a Python loop is interrupted by an exception, a call stuck
inside C code lives on in its daemon thread until it returns, and nobody waits for it. Code that may hang for good
belongs in a process (``rewards.isolation``).

Async parts run on an event loop of their own, one thread per part: a part that blocks its loop instead of awaiting
disturbs neither the episodes nor the other parts, and its loop is replaced.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
RESPONDS_S = 1.0  # an event loop that does not answer within this time is blocked


class Late(Exception):
    """The call was not done in time."""


class Abandoned(BaseException):
    """Raised inside a thread that nobody waits for any more; ``except Exception`` does not stop it."""


class _Call:
    """One call on a thread: orders "it returned" against "it was given up"."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.done = self.given_up = False

    def give_up(self, thread: threading.Thread) -> None:
        with self.lock:
            if not self.done:
                self.given_up = True
                interrupt(thread)


async def in_thread(name: str, seconds: float, function: Callable[[], T]) -> T:
    """``function()`` on a new thread. Raises Late after ``seconds``; ``function`` itself must not raise."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    call = _Call()

    def deliver(result: T) -> None:
        if not future.done():
            future.set_result(result)

    def work() -> None:
        with contextlib.suppress(Abandoned):
            result = function()
            with call.lock:
                call.done = True
            if not call.given_up:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(deliver, result)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        return await asyncio.wait_for(future, seconds)
    except TimeoutError:
        raise Late from None
    finally:
        call.give_up(thread)


class LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # What a part leaves behind on an abandoned loop was reported as its time-out already.
        self._loop.set_exception_handler(lambda loop, context: None)
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result. Raises Late after ``seconds``, and cancels it."""
        waiting = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(waiting), seconds)
        except TimeoutError:
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()  # its loop is blocked and never began it
            raise Late from None

    async def responds(self) -> bool:
        """Whether the loop still turns."""
        turned: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(turned.set_result, None)
        done, _ = await asyncio.wait([asyncio.wrap_future(turned)], timeout=RESPONDS_S)
        return bool(done)

    def stop(self) -> None:
        """End the thread after what it is doing; a blocked one is interrupted. Does not wait."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)

    def abandon(self) -> None:
        """Give up a loop that is blocked."""
        self.stop()
        interrupt(self._thread)

    def _serve(self) -> None:
        with contextlib.suppress(Abandoned):
            self._loop.run_forever()


def interrupt(thread: threading.Thread) -> None:
    """Raise ``Abandoned`` in ``thread`` at its next Python instruction."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Abandoned))

"""Runs one environment's code with hard deadlines, away from the event loop.

Every episode gets its own thread: environments may hold objects bound to a thread (an SQLite
connection) or to an event loop (async methods), and one that hangs must not take a place in a
shared pool. A call that misses its deadline is abandoned: the episode continues without it, a
running coroutine is cancelled, a Python loop is interrupted, and only a call stuck inside C code
(a long sleep, a blocking read) lives on in its daemon thread until it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import queue
import threading
from collections.abc import Callable
from typing import Any


class EnvError(Exception):
    """Environment code raised. The message names the call and the error; ``cause`` is what it raised."""

    def __init__(self, message: str, cause: BaseException) -> None:
        super().__init__(message)
        self.cause = cause


class EnvTimeout(Exception):
    """Environment code missed its deadline. The message names the call and the deadline."""


class _Abandoned(BaseException):
    """Raised inside an abandoned thread; no ``except Exception`` of an environment swallows it."""


class EnvRunner:
    """One thread for one environment; ``run`` waits for a call for at most ``seconds``.

    Calls are made one at a time, by one task of one event loop. After a timeout the runner is
    finished: further calls raise EnvTimeout at once.
    """

    _alive_lock = threading.Lock()
    _alive_abandoned = 0  # threads of this process that are still inside an abandoned call

    def __init__(self, name: str) -> None:
        self.name = name
        self.closer: Callable[[], Any] | None = None  # called after an abandoned call came back at last
        self._inbox: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # of the environment's thread, for async methods
        self._lock = threading.Lock()  # orders "the call returned" against "the call was abandoned"
        self._busy = False
        self._abandoned = False

    @classmethod
    def abandoned_alive(cls) -> int:
        """Abandoned calls of this process that have not returned yet."""
        return cls._alive_abandoned

    async def run(self, what: str, seconds: float, function: Callable[..., Any], *args: Any) -> Any:
        """Result of ``function(*args)``, awaited if it is a coroutine.

        Raises EnvError when it raised, EnvTimeout when it took longer than ``seconds``.
        """
        if self._abandoned:
            raise EnvTimeout(f"{self.name}: {what} was not tried, an earlier call is still hanging")
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"env {self.name}", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def deliver(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def post(result: Any, error: BaseException | None) -> None:
            try:
                loop.call_soon_threadsafe(deliver, result, error)
            except RuntimeError:  # the event loop is closed: nobody waits any more
                return

        self._busy = True
        self._inbox.put((function, args, post))
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            self._abandon()
            raise EnvTimeout(f"{self.name}: {what} took longer than {seconds:g} s") from None
        except asyncio.CancelledError:
            self._abandon()
            raise
        except _Raised as raised:
            cause = raised.cause
            raise EnvError(f"{self.name}: {what} raised {type(cause).__name__}: {cause}", cause) from cause

    def stop(self) -> None:
        """Let the thread end after what it is doing. Does not wait."""
        self._inbox.put(None)

    def _abandon(self) -> None:
        with self._lock:
            if not self._busy:
                return  # it returned in the meantime
            self._abandoned = True
            with EnvRunner._alive_lock:
                EnvRunner._alive_abandoned += 1
            loop, thread = self._loop, self._thread
            if loop is not None:  # an async method: cancel it
                loop.call_soon_threadsafe(_cancel_all, loop)
            elif thread is not None and thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Abandoned))

    def _serve(self) -> None:
        own_loop: asyncio.AbstractEventLoop | None = None
        try:
            while (item := self._inbox.get()) is not None:
                function, args, post = item
                result, error = None, None
                try:
                    result = function(*args)
                    if inspect.isawaitable(result):
                        own_loop = own_loop or asyncio.new_event_loop()
                        self._loop = own_loop
                        result = own_loop.run_until_complete(_await(result))
                except BaseException as exc:  # environment code may raise anything, SystemExit included
                    result, error = None, _Raised(exc)
                with self._lock:
                    self._busy, self._loop = False, None
                    if self._abandoned:
                        break
                post(result, error)
        except _Abandoned:
            pass  # arrived between the call's end and the lock
        finally:
            if self._abandoned:
                with EnvRunner._alive_lock:
                    EnvRunner._alive_abandoned -= 1
                self._close_late()
            if own_loop is not None:
                own_loop.close()

    def _close_late(self) -> None:
        """Free what the environment holds (processes, files); nobody waits for this any more."""
        if self.closer is None:
            return
        with contextlib.suppress(Exception):
            result = self.closer()
            if inspect.isawaitable(result):
                asyncio.run(_await(result))


class _Raised(Exception):
    """Carries what environment code raised to the event loop (a future refuses StopIteration)."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()

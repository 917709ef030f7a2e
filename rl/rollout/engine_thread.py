"""The thread that owns an Engine: it alone touches it, steps it while requests are pending, and runs what is
posted to it (weight updates, scores) between two steps.

The worker's event loop talks to it through an inbox; what finished comes back in one wake-up per engine
step. A failed engine is not used again: whoever waits for it, and whoever asks it later, gets EngineDied with
the reason.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rl.rollout.engine_api import GenerateRequest, Generation, RolloutEngine

T = TypeVar("T")


class EngineDied(RuntimeError):
    """The engine failed to start or to step; its worker has to be replaced."""


class EngineThread:
    """Runs the engine that ``open_engine`` makes, for the event loop this is constructed on."""

    def __init__(self, open_engine: Callable[[], RolloutEngine]) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[Callable[[RolloutEngine], None] | None] = queue.SimpleQueue()
        # Of the event loop: everything somebody awaits, so that a dead engine can answer them all.
        self._awaited: set[asyncio.Future[Any]] = set()
        self._died: EngineDied | None = None
        # Of the engine's thread: requests in the engine, and outcomes to deliver after this step.
        self._running: dict[str, asyncio.Future[Generation]] = {}
        self._outcomes: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        self.last_step = time.monotonic()
        self._thread = threading.Thread(target=self._serve, args=(open_engine,), name="engine", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[RolloutEngine], T]) -> T:
        """``function(engine)``, run between two steps, in the order of the calls. Raises what it raises."""
        future: asyncio.Future[T] = self._loop.create_future()

        def run(engine: RolloutEngine) -> None:
            try:
                self._outcomes.append((future, function(engine), None))
            except EngineDied:
                raise
            except Exception as error:  # a refused update or request leaves the engine as it was
                self._outcomes.append((future, None, error))

        return await self._answer(run, future)

    async def generate(self, request: GenerateRequest) -> Generation:
        """Sample one request to its end. Cancelling the wait aborts the request in the engine."""
        future: asyncio.Future[Generation] = self._loop.create_future()

        def add(engine: RolloutEngine) -> None:
            try:
                engine.add(request)
                self._running[request.request_id] = future
            except ValueError as error:  # this request is wrong, the engine is fine
                self._outcomes.append((future, None, error))

        def abort(engine: RolloutEngine) -> None:
            if self._running.pop(request.request_id, None) is not None:
                engine.abort(request.request_id)

        try:
            return await self._answer(add, future)
        except asyncio.CancelledError:
            self._inbox.put(abort)
            raise

    def close(self) -> None:
        """Release the engine after the current step; waits for it for at most 10 s."""
        self._inbox.put(None)
        self._thread.join(10.0)

    async def _answer(self, post: Callable[[RolloutEngine], None], future: asyncio.Future[T]) -> T:
        if self._died is not None:
            raise self._died
        self._awaited.add(future)
        self._inbox.put(post)
        try:
            return await future
        finally:
            self._awaited.discard(future)

    def _serve(self, open_engine: Callable[[], RolloutEngine]) -> None:
        engine: RolloutEngine | None = None
        try:
            engine = open_engine()
            while self._run_posted(engine):
                if engine.has_unfinished():
                    for request_id, generation in engine.step():
                        if (future := self._running.pop(request_id, None)) is not None:
                            self._outcomes.append((future, generation, None))
                    self.last_step = time.monotonic()
                if self._outcomes:
                    self._to_loop(_deliver, self._outcomes)
                    self._outcomes = []
        except BaseException as error:
            if isinstance(error, EngineDied):
                died = error
            else:
                died = EngineDied(f"the engine failed: {type(error).__name__}: {error}")
                died.__cause__ = error
            self._to_loop(self._die, died)
        finally:
            if engine is not None:
                engine.close()

    def _run_posted(self, engine: RolloutEngine) -> bool:
        """Run what was posted; wait for something while there is nothing else to do. False: close."""
        while True:
            idle = not self._outcomes and not engine.has_unfinished()
            try:
                post = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if post is None:
                return False
            post(engine)
            del post  # it may hold weights, which the object store keeps while anybody does

    def _to_loop(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: the worker is going down and nobody waits
            return

    def _die(self, error: EngineDied) -> None:
        self._died = error
        for future in self._awaited:
            if not future.done():
                future.set_exception(error)


def _deliver(outcomes: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, result, error in outcomes:
        if future.done():  # cancelled meanwhile
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

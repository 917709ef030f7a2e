"""Files written by a thread beside the loop, in order: a step does not wait for the records of the one before.

The queue is bounded, so that what is written slowly slows the run down instead of filling its memory. An error is
raised where the next thing is put or flushed, as it was raised in the thread. A write that hangs keeps no process from
its end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from rl.tracking.stall import StallError

WAITING = 8  # records that may wait
LIMIT_S = 600.0  # for one of them


class Writer:
    """Runs what it is given, one after the other. Used by one thread."""

    def __init__(self, waiting: int = WAITING, limit_s: float = LIMIT_S) -> None:
        self._inbox: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        # A thread of an executor would be waited for at the end of the process.
        threading.Thread(target=_write_all, args=(self._inbox,), name="writer", daemon=True).start()
        self._records: deque[tuple[str, Future[None]]] = deque()
        self._waiting, self._limit_s = waiting, limit_s
        self._hangs = False  # a record took too long

    def put(self, what: str, write: Callable[[], None]) -> None:
        """Have ``write`` called, which writes ``what``; what it uses must not change any more.

        Waits while too much is queued. Raises what an earlier record raised (``write`` is not called then), and
        StallError when one of them takes too long.
        """
        while self._records and (self._records[0][1].done() or len(self._records) >= self._waiting):
            self._wait()
        record: Future[None] = Future()
        self._records.append((what, record))
        self._inbox.put((write, record))

    def flush(self) -> None:
        """Return when all is written. Raises as ``put``; what is queued behind a record that failed is written too, and
        not waited for behind one that takes too long."""
        failed: Exception | None = None
        self._hangs = False
        while self._records and not self._hangs:
            try:
                self._wait()
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """``flush``, and end the thread."""
        try:
            self.flush()
        finally:
            self._inbox.put(None)

    def _wait(self) -> None:
        what, record = self._records.popleft()
        try:
            record.result(self._limit_s)
        except TimeoutError:
            if record.done():  # it raised this itself
                raise
            self._hangs = True
            raise StallError(f"{what} to be written", self._limit_s) from None


def _write_all(inbox: SimpleQueue[tuple[Callable[[], None], Future[None]] | None]) -> None:
    while (item := inbox.get()) is not None:
        write, record = item
        try:
            write()
        except BaseException as error:
            record.set_exception(error)
        else:
            record.set_result(None)

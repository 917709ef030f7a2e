"""Files written by a thread beside the loop, in order: a step does not wait for the records of the one before.

The queue is bounded, so that what is written slowly slows the run down instead of filling its memory. An error is
raised where the next thing is put or flushed, as it was raised in the thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from rl.tracking.stall import StallError

WAITING = 8  # records that may wait
LIMIT_S = 600.0  # for one of them


class Writer:
    """Runs what it is given, one after the other. Used by one thread."""

    def __init__(self, waiting: int = WAITING, limit_s: float = LIMIT_S) -> None:
        self._thread = ThreadPoolExecutor(1, "writer")
        self._records: deque[tuple[str, Future[None]]] = deque()
        self._waiting, self._limit_s = waiting, limit_s

    def put(self, what: str, write: Callable[[], None]) -> None:
        """Have ``write`` called, which writes ``what``; what it uses must not change any more.

        Waits while too much is queued. Raises what an earlier record raised (``write`` is not called then), and
        StallError when one of them takes too long.
        """
        while self._records and (self._records[0][1].done() or len(self._records) >= self._waiting):
            self._wait()
        self._records.append((what, self._thread.submit(write)))

    def flush(self) -> None:
        """Return when all is written. Raises as ``put``; what is queued behind a record that failed is written too."""
        failed: Exception | None = None
        while self._records:
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
            self._thread.shutdown(wait=False)

    def _wait(self) -> None:
        what, record = self._records.popleft()
        try:
            record.result(self._limit_s)
        except TimeoutError:
            if record.done():  # it raised this itself
                raise
            raise StallError(f"{what} to be written", self._limit_s) from None

"""What a worker process of a build does: make candidates, and judge those that are new.

    propose(part, 0, 32)   32 candidates: a row each, or what went wrong when it was made
    judge(part, rows)      for each row None (keep it) or one word for why not

A row is judged as it comes back from JSON, so what is verified is the very task that will be served from disk.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any, TypeVar

from envs.factory.plan import Plan, keep_function
from envs.factory.rows import Row, row_of, task_of
from envs.factory.store import BuildError
from envs.families import taskset_class
from envs.taskset import RejectedError, Taskset
from envs.types import InfrastructureError, Task

T = TypeVar("T")

ERROR = "error:"  # what the reasons of exceptions begin with
TOO_SLOW = "too_slow"
TRIES = 3  # of one task, when the infrastructure fails


@dataclass(frozen=True)
class Refusal:
    """``reason``: one word, counted. ``detail``: the exception's text, for an example on the card."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Candidate:
    """Task number ``index`` as a row; or why there is none; or neither: the taskset ends before it."""

    index: int
    row: Row | None = None
    refusal: Refusal | None = None


class _Late(BaseException):
    """The deadline of one task is over. No ``except Exception`` of an environment swallows it."""


class Maker:
    """Makes and judges the tasks of a plan. Tasksets are opened when they are needed, and kept."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._tasksets: dict[int, Taskset] = {}
        self._keep = partial(keep_function(plan), **plan.keep_settings) if plan.keep else None

    def taskset(self, part: int) -> Taskset:
        if part not in self._tasksets:
            wanted = self.plan.parts[part]
            source = self.plan.sources[wanted.source]
            cls = taskset_class(source.target)
            try:
                self._tasksets[part] = cls(split=wanted.split, seed=self.plan.seed, **source.settings)
            except (ValueError, TypeError) as error:  # of a word that is the taskset's own
                raise BuildError(f"family={source.name}: {error}") from error
        return self._tasksets[part]

    def propose(self, part: int, first: int, count: int) -> list[Candidate]:
        taskset, source = self.taskset(part), self.plan.parts[part].source
        found: list[Candidate] = []
        for index in range(first, first + count):
            made = self._guarded(partial(self._make, taskset, index, source))
            if isinstance(made, Refusal) and made.reason == f"{ERROR}IndexError" and index >= len(taskset):
                return [*found, Candidate(index)]  # a taskset with a fixed number of tasks has no more
            found.append(Candidate(index, refusal=made) if isinstance(made, Refusal) else Candidate(index, made))
        return found

    def judge(self, part: int, rows: Sequence[Row]) -> list[Refusal | None]:
        taskset = self.taskset(part)
        together = self._guarded(lambda: taskset.verify_all([task_of(row) for row in rows]), len(rows))
        verdicts: list[Refusal | None] = []
        for number, row in enumerate(rows):
            verify = taskset.verify
            if together is not None and not isinstance(together, Refusal):  # else one of them spoilt it for all
                verify = partial(lambda reason, task: reason, together[number])
            verdict = self._guarded(partial(self._verdict, row, taskset, verify))
            verdicts.append(Refusal(verdict) if isinstance(verdict, str) else verdict)
        return verdicts

    @staticmethod
    def _make(taskset: Taskset, index: int, source: int) -> Row:
        return row_of(taskset.task(index), source)

    def _verdict(self, row: Row, taskset: Taskset, verify: Callable[[Task], str | None]) -> str | None:
        task = task_of(row)
        reason = verify(task)
        return self._keep(task, taskset) if reason is None and self._keep is not None else reason

    def _guarded(self, function: Callable[[], T], tasks: int = 1) -> T | Refusal:
        """The result, or what became of it. An infrastructure failure is retried."""
        for attempt in range(TRIES):
            try:
                with _deadline(tasks * self.plan.verify_s):
                    return function()
            except _Late:
                return Refusal(TOO_SLOW, f"longer than verify_s={self.plan.verify_s:g} seconds")
            except RejectedError as error:
                return Refusal(error.reason)
            except InfrastructureError as error:
                if attempt == TRIES - 1:
                    return _refusal(error)
            except Exception as error:
                return _refusal(error)
        raise AssertionError("unreachable")


def _refusal(error: Exception) -> Refusal:
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    return Refusal(f"{ERROR}{type(error).__name__}", f"{error} ({where})"[:500])


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Interrupts what runs in the main thread, waiting for a subprocess included; restores the timer it found."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("tasks are made in the main thread of a process: signals reach no other")

    def late(number: int, frame: Any) -> None:
        raise _Late

    handler = signal.signal(signal.SIGALRM, late)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, handler)


# -- in a process of its own -----------------------------------------------------------------

_maker: Maker | None = None


def start(plan: Plan) -> None:
    """Called once in every worker process."""
    global _maker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _maker = Maker(plan)


def propose(part: int, first: int, count: int) -> list[Candidate]:
    assert _maker is not None
    return _maker.propose(part, first, count)


def judge(part: int, rows: Sequence[Row]) -> list[Refusal | None]:
    assert _maker is not None
    return _maker.judge(part, rows)


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, and they would wait for orders forever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

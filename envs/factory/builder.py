"""Building: workers make and judge candidates, this process decides in the order of their index.

Part by part, candidate 0, 1, 2, …: one whose key was kept before is a duplicate; one that ``verify`` (and
``keep``) accepts is kept; every other is counted under its reason. Decisions are made in that order and from
nothing but the candidates, so the number of workers and interruptions change how long it takes, and no task
(``build_s`` alone ends a part by the clock).
A candidate that is known to be a duplicate is not verified; for one that turns out to be one later the work is lost.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.factory import build_worker as worker
from envs.factory import card
from envs.factory.build_worker import ERROR, Candidate, Maker, Refusal
from envs.factory.plan import Plan
from envs.factory.rows import Row
from envs.factory.store import BuildError, Record, Store
from envs.families import taskset_class

FLUSH_S = 10.0  # seconds of work that a killed build loses at most
FLUSH_ROWS = 2000
PROPOSE = 32  # candidates of one order to a worker
AHEAD = 32  # candidates per worker that are judged before it is known whether they are needed
BLOCK, BROKEN_SHARE = 50, 0.9  # so many candidates in a row with so many exceptions: nothing works here

Key = tuple[str, str]
Report = Callable[[int, Record], None]  # number of the part, how far it is


def build(plan: Plan, out: Path, workers: int, command: str, report: Report = lambda part, record: None) -> Store:
    """Build ``plan`` in ``out``, going on where an earlier build of it was interrupted. ``workers=0``: in this process.

    Raises BuildError when it cannot go on; what was done by then is kept.
    """
    store = Store(out, plan)
    if store.finished:  # and its folder may be read-only
        return store
    with store.locked():
        if store.finished:
            return store
        _build(store, plan, workers, report)
        _check_families(plan, store.records)
        versions = card.versions(plan)
        store.finish({"command": command, "versions": versions}, card.card(plan, store.records, command, versions))
    return store


def _build(store: Store, plan: Plan, workers: int, report: Report) -> None:
    keys = {number: store.keys(number) for number in range(len(plan.parts))}
    for number, record in enumerate(store.records):
        if record.done:
            report(number, record)
    for source in range(len(plan.sources)):  # the splits of a family share its workers: starting them may be slow
        numbers = [n for n, part in enumerate(plan.parts) if part.source == source]
        if all(store.records[n].done for n in numbers):
            continue
        with _pool(plan, workers) as pool:
            for number in (n for n in numbers if not store.records[n].done):
                others = [keys[n] for n in numbers if n != number]
                _run(_Part(pool, store, number, max(1, workers), keys[number], others, report))


def _run(part: _Part) -> None:
    try:
        part.run()
    except KeyboardInterrupt:
        part.flush()
        raise
    except BrokenProcessPool as error:
        part.flush()
        raise BuildError(
            f"a worker process died at candidate {part.record.next} of part {part.number} (out of memory?): "
            "the same command goes on from here; workers=1 needs the least memory"
        ) from error
    finally:
        part.cancel()


@dataclass
class _Waiting:
    """A candidate whose turn comes. ``verdicts``: of the order it was sent with, its own at ``position``."""

    candidate: Candidate
    verdicts: Future[list[Refusal | None]] | None = None
    position: int = 0


class _Part:
    """One part of a build: ``run`` until it has what is wanted, or runs out."""

    def __init__(
        self, pool: Executor, store: Store, number: int, workers: int, kept: set[Key], others: list[set[Key]],
        report: Report,
    ) -> None:  # fmt: skip
        self.pool, self.store, self.number, self.workers = pool, store, number, workers
        self.part, self.patience = store.plan.parts[number], store.plan.patience
        self.together = taskset_class(store.plan.sources[self.part.source].target).judged_together
        self.record = store.records[number]
        self.kept, self.others, self.report = kept, others, report
        self.rows: list[Row] = []  # kept, not yet on disk
        self.proposed = self.record.next
        self.proposals: deque[Future[list[Candidate]]] = deque()
        self.waiting: deque[_Waiting] = deque()
        self.marked = self.flushed = time.monotonic()

    def run(self) -> None:
        record = self.record
        self.report(self.number, record)
        limit = self.store.plan.build_s
        while record.kept < self.part.wanted and not record.ran_out:
            if 0 < limit <= record.seconds:
                record.ran_out, record.timed = f"the time is up (build_s={limit:g})", True
                break
            self._order()
            self._decide(self.waiting.popleft())
            if time.monotonic() - self.flushed > FLUSH_S or len(self.rows) >= FLUSH_ROWS:
                self.flush()
            self.report(self.number, record)
        record.done = True
        self.flush()
        self.report(self.number, record)

    def flush(self) -> None:
        now = time.monotonic()
        self.record.seconds, self.marked = self.record.seconds + now - self.marked, now
        self.store.save(self.number, self.rows)
        self.rows, self.flushed = [], now

    def cancel(self) -> None:
        """Take back the orders that were not needed."""
        for proposal in self.proposals:
            proposal.cancel()
        for waiting in self.waiting:
            if waiting.verdicts is not None:
                waiting.verdicts.cancel()

    def _order(self) -> None:
        """Keep the workers busy, and see that a candidate waits for its decision."""
        missing = self.part.wanted - self.record.kept
        while len(self.proposals) <= self.workers:
            count = min(PROPOSE, max(self.together, missing))
            self.proposals.append(self.pool.submit(worker.propose, self.number, self.proposed, count))
            self.proposed += count
        ahead = min(AHEAD * self.workers, 2 * missing)
        while not self.waiting or (len(self.waiting) < ahead and self.proposals and self.proposals[0].done()):
            self._judge(self.proposals.popleft().result())

    def _judge(self, candidates: list[Candidate]) -> None:
        new: list[_Waiting] = []
        for candidate in candidates:
            self.waiting.append(_Waiting(candidate))
            if candidate.row is not None and self._known(candidate.row) is None:
                new.append(self.waiting[-1])
        for first in range(0, len(new), self.together):
            batch = new[first : first + self.together]
            rows = [w.candidate.row for w in batch if w.candidate.row is not None]
            verdicts = self.pool.submit(worker.judge, self.number, rows)
            for position, one in enumerate(batch):
                one.verdicts, one.position = verdicts, position

    def _known(self, row: Row) -> str | None:
        key = (row["family"], row["key"])
        if key in self.kept:
            return "duplicate"
        return "other_split" if any(key in keys for keys in self.others) else None

    def _decide(self, waiting: _Waiting) -> None:
        record, row = self.record, waiting.candidate.row
        refusal = waiting.candidate.refusal
        if row is None and refusal is None:
            record.ran_out = f"the taskset ends at task {record.next}"
            return
        if row is not None:
            known = self._known(row)
            if known is not None:
                refusal = Refusal(known)
            else:
                assert waiting.verdicts is not None
                refusal = waiting.verdicts.result()[waiting.position]
        if refusal is None and row is not None:
            self.kept.add((row["family"], row["key"]))
            self.rows.append(row)
            record.kept += 1
            record.fruitless = 0
            _add(record.levels, str(row["level"]))
            _add(record.families, row["family"])
        elif refusal is not None:
            self._refuse(refusal)
        record.next += 1
        if record.next % BLOCK == 0:
            record.block_errors = 0

    def _refuse(self, refusal: Refusal) -> None:
        record = self.record
        _add(record.rejects, refusal.reason)
        record.fruitless += 1
        if refusal.detail:
            record.examples.setdefault(refusal.reason, f"candidate {record.next}: {refusal.detail}")
        record.block_errors += refusal.reason.startswith(ERROR)
        if record.block_errors >= BROKEN_SHARE * BLOCK:
            raise BuildError(
                f"{record.block_errors} of the last {record.next % BLOCK + 1} candidates of "
                f"{self.store.plan.sources[self.part.source].name} raised, the last one with {refusal.reason}: "
                f"{refusal.detail}; mend it (envs-check shows more) and run the same command again"
            )
        if record.fruitless >= self.patience:
            counts = ", ".join(f"{name} {n:,}" for name, n in sorted(record.rejects.items()))
            record.ran_out = (
                f"{record.kept:,} of {self.part.wanted:,} tasks: the last {record.fruitless:,} candidates gave none "
                f"(rejects so far: {counts})"
            )


def _check_families(plan: Plan, records: list[Record]) -> None:
    """A task is played by the source of its family: no two sources may share one."""
    owners: dict[str, int] = {}
    for part, record in zip(plan.parts, records, strict=True):
        for family in record.families:
            if owners.setdefault(family, part.source) != part.source:
                one, two = plan.sources[owners[family]].name, plan.sources[part.source].name
                raise BuildError(f"{one} and {two} both make tasks of family {family!r}: build them apart")


def _add(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


@contextmanager
def _pool(plan: Plan, workers: int) -> Iterator[Executor]:
    """Worker processes, started fresh (spawn): nothing of this process decides what they do."""
    pool: Executor
    if workers == 0:
        pool = _Here(plan)
    else:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=worker.start, initargs=(plan,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Here(Executor):
    """Does every order at once, in this process: for a debugger."""

    def __init__(self, plan: Plan) -> None:
        self.maker = Maker(plan)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(getattr(self.maker, function.__name__)(*args, **kwargs))
        return future

"""A finished group on its way from its worker to the learner, by reference: the driver takes what its books need.

    worker   hand_over -> books | outlines | records of rollout 0 | 1 | ...     each an object in Ray's store
    driver   takes the books: messages, rewards, tokens, log-probs; hands ``GroupRefs`` on
    rank     takes books and outlines of all groups, and of the records those of its own micro-batches

All are results of a call of the driver, so they are the driver's: they stay in the store of the worker's machine when
the worker dies, and go when the driver forgets the group. A machine takes what lies on it along: such a group is read
from the run's folder again, or sampled again (``rl.run.finished``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rl.policy.record_outline import outline_of
from rl.types import Group, KeptRecord, Outline, ReplayRecord, Segment

PARTS = 2  # of a group, before the records of its rollouts


class PartsLost(RuntimeError):
    """Parts of a group went with the machine they were on."""


class StoredRecord(NamedTuple):
    """A ``ReplayRecord`` in few arrays, for Ray to map where it lies: ``sizes`` int32 [T] of the supports (-1: nothing
    was cut), ``kept`` their ids one after the other."""

    valid: np.ndarray
    experts: np.ndarray | None
    indexer: np.ndarray | None
    sizes: np.ndarray | None
    kept: np.ndarray | None

    @classmethod
    def of(cls, record: ReplayRecord) -> StoredRecord:
        sizes = kept = None
        if record.support is not None:
            sizes = np.array([-1 if row is None else len(row) for row in record.support], np.int32)
            cut = [row for row in record.support if row is not None]
            kept = np.concatenate(cut) if cut else np.zeros(0, np.int32)
        return cls(record.valid, record.experts, record.indexer, sizes, kept)

    def record(self) -> ReplayRecord:
        """The record: views of the arrays here."""
        support: list[np.ndarray | None] | None = None
        if self.sizes is not None and self.kept is not None:
            ends = np.cumsum(np.maximum(self.sizes, 0))
            rows = zip(self.sizes.tolist(), ends.tolist(), strict=True)
            support = [None if size < 0 else self.kept[end - size : end] for size, end in rows]
        return ReplayRecord(self.valid, self.experts, self.indexer, support)


@dataclass(frozen=True)
class GroupRefs:
    """References to the parts of one group."""

    books: Any
    outlines: Any
    records: tuple[Any, ...]  # by rollout

    @classmethod
    def of(cls, refs: Sequence[Any]) -> GroupRefs:
        """``refs``: of what ``divided`` has returned."""
        books, outlines, *records = refs
        return cls(books, outlines, tuple(records))


def divided(group: Group) -> tuple[Any, ...]:
    """The parts of ``group``: ``PARTS`` and the records of each rollout."""
    outlines: list[list[Outline | None]] = []
    records: list[list[StoredRecord | None]] = []
    trajectories = []
    for t in group.trajectories:
        pairs = [(segment.tokens, segment.replay) for segment in t.segments]
        outlines.append([None if record is None else outline_of(tokens, record) for tokens, record in pairs])
        records.append([None if record is None else StoredRecord.of(record) for _, record in pairs])
        trajectories.append(replace(t, segments=[replace(segment, replay=None) for segment in t.segments]))
    return replace(group, trajectories=trajectories), outlines, *records


def opened(groups: Sequence[Group | GroupRefs], timeout_s: float) -> list[Group]:
    """Groups whose records are fetched when they are used. Raises TimeoutError when a part does not come."""
    given = [group if isinstance(group, GroupRefs) or group.refs is None else group.refs for group in groups]
    refs = [group for group in given if isinstance(group, GroupRefs)]
    parts = iter(_got([ref for one in refs for ref in (one.books, one.outlines)], timeout_s))
    found = []
    for group in given:
        if not isinstance(group, GroupRefs):
            found.append(group)
            continue
        books, outlines = next(parts), next(parts)
        kept = zip(books.trajectories, outlines, group.records, strict=True)
        trajectories = [
            replace(
                t,
                segments=[
                    replace(s, kept=None if o is None else KeptRecord(o, partial(_fetched, ref, i, timeout_s)))
                    for i, (s, o) in enumerate(zip(t.segments, own, strict=True))
                ],
            )
            for t, own, ref in kept
        ]
        found.append(replace(books, trajectories=trajectories))
    return found


def with_records(groups: Sequence[Group | GroupRefs], timeout_s: float) -> list[Group]:
    """``groups`` with all their records in this process. Raises TimeoutError when a part does not come."""
    return [whole(group) for group in opened(groups, timeout_s)]


def whole(group: Group) -> Group:
    """``group`` with the records of ``KeptRecord``s in their places."""
    return replace(
        group,
        trajectories=[
            replace(t, segments=[_with_record(segment) for segment in t.segments]) for t in group.trajectories
        ],
    )


def _with_record(segment: Segment) -> Segment:
    return segment if segment.kept is None else replace(segment, replay=segment.kept.fetch(), kept=None)


def _fetched(ref: Any, index: int, timeout_s: float) -> ReplayRecord:
    (records,) = _got([ref], timeout_s)
    record: ReplayRecord = records[index].record()
    return record


def _got(refs: list[Any], timeout_s: float) -> list[Any]:
    if not refs:
        return []
    import ray

    try:
        got: list[Any] = ray.get(refs, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise TimeoutError(f"rollouts did not come from Ray's store within {timeout_s:g} s") from None
    return got

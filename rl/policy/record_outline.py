"""What planning has to know of the choices that were recorded for a token stream, without the choices themselves.

    rows_T:      token | valid | choices, or a digest of the choices where they are wide: equal where rows are the same
    supports_T:  a digest of what truncated sampling kept, 0 where nothing was cut

Common beginnings are found with these alone: 5 to 21 bytes a token, where recorded experts of DeepSeek-V3.2 take 464
and the choices of its indexer 250,000. So the records may lie elsewhere until a micro-batch is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from rl.types import Outline, ReplayRecord

CHOICES = ("experts", "indexer")
WIDE = 64  # bytes of a row above which rows are compared by their digest


def outline_of(tokens: np.ndarray, record: ReplayRecord | None) -> Outline:
    """The outline of ``tokens`` int [T] and their record; None: nothing was recorded."""
    count = len(tokens)
    valid = np.zeros(count, bool) if record is None else np.asarray(record.valid, bool)
    columns = [np.ascontiguousarray(tokens, np.int32).view(np.uint8).reshape(count, 4), valid[:, None].view(np.uint8)]
    recorded, supports = set[str](), None
    if record is not None:
        choices = {name: rows for name in CHOICES if (rows := getattr(record, name)) is not None}
        if choices and count:
            columns.append(row_bytes(list(choices.values())))
        recorded |= choices.keys()
        if record.support is not None:
            recorded.add("support")
            supports = np.array([_digest(kept) for kept in record.support], np.uint64)
    return Outline(valid, frozenset(recorded), np.concatenate(columns, axis=1), supports)


def _digest(kept: np.ndarray | None) -> int:
    if kept is None:
        return 0
    return int.from_bytes(blake2b(np.asarray(kept, np.int64).tobytes(), digest_size=8).digest()) or 1


def row_bytes(columns: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [n, W]: what makes rows the same, from arrays [n, ...]; of wide rows a digest."""
    flat = [np.ascontiguousarray(column.reshape(len(column), -1)).view(np.uint8) for column in columns]
    if sum(column.shape[1] for column in flat) <= WIDE:
        return np.concatenate(flat, axis=1)
    digests = [blake2b(b"".join(column[i].tobytes() for column in flat), digest_size=16) for i in range(len(flat[0]))]
    return np.frombuffer(b"".join(d.digest() for d in digests), np.uint8).reshape(-1, 16)

"""A copy and the sums of ``rl.policy.checksum`` in one pass: a compiled loop, for many bytes on a CPU."""

from __future__ import annotations

from typing import Any

from rl.policy.compiled import compiled


@compiled()
def copy_rows(source: Any, target: Any, of: Any, copies: bool, columns: Any, weights: Any) -> Any:
    """Copy ``source`` int64 [R * C] to ``target`` (unless ``copies`` is off), row by row; then, from the cache, the row
    of ``of``, which is one of the two, is added up: over rows to ``columns`` [C]; over columns to what is returned,
    times its one of ``weights`` [R]."""
    width = len(columns)
    weighted = columns[0] - columns[0]
    for r in range(len(weights)):
        first = r * width
        if copies:
            for j in range(first, first + width):
                target[j] = source[j]
        total = columns[0] - columns[0]  # an integer of 64 bits, which wraps
        for j in range(width):
            word = of[first + j]
            columns[j] += word
            total += word
        weighted += total * weights[r]
    return weighted

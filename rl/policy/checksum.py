"""A number that says which bits a tensor holds, and where: equal for equal tensors, on every device.

    words w_0 … w_{n-1}: the tensor's bytes, eight at a time (the last one filled up with zeros), in rows of COLUMNS
    sum over columns a_j * (sum_i w_ij) + sum over rows b_i * (sum_j w_ij) + c * (number of bytes)     mod 2^64

with weights a (odd), b (even) and c (odd) that have nothing to do with each other: a word counts with a_j + b_i, which
is odd, so that no single change of it is lost. Sums of one kind alone would not see two rows that have changed places
(experts in another order), sums of the other kind not two columns; a transposed matrix changes both. It finds faults,
not forgeries: who can choose the bits can choose them with an equal sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

COLUMNS = 1024
ROW = 8 * COLUMNS  # bytes
ROWS_AT_ONCE = 64  # on a CPU: half a megabyte, which the second sum finds in the cache
_STEP, _FIRST = 0x1E3779B97F4A7C15, 0x2545F4914F6CDD1D  # odd
_MASK = 2**64 - 1
# SplitMix64 (Steele, Lea, Flood 2014): numbers that look random, by their place
_GAMMA, _MIX = 0x9E3779B97F4A7C15, ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def bytes_of(tensor: Tensor) -> Tensor:
    """uint8 [bytes]: the memory of ``tensor`` itself where it lies in one piece, else of a copy."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


class Running:
    """``checksum`` of a tensor whose bytes come in parts, each when it is at hand: in the cache, it costs a quarter of
    a copy.

    Args:
        size: bytes of the whole tensor.
        device: where they are.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._size, self._added = size, 0
        self._columns = torch.zeros(COLUMNS, dtype=torch.int64, device=device)
        self._sums = torch.empty(-(-size // ROW), dtype=torch.int64, device=device)  # of each row
        self._begun: Tensor | None = None  # uint8 [ROW]: a row of which a part is there

    @torch.no_grad()
    def add(self, data: Tensor) -> None:
        """The next bytes, uint8 [any]."""
        if missing := -self._added % ROW:
            missing = min(missing, data.numel())
            self._begin(data[:missing])
            data = data[missing:]
        whole = data.numel() // ROW
        self._rows(data[: whole * ROW])
        if whole * ROW < data.numel():
            self._begin(data[whole * ROW :])

    def value(self) -> int:
        """0 … 2^64 - 1, once all bytes are there."""
        assert self._added == self._size, (self._added, self._size)
        if self._begun is not None:
            self._row(self._begun)
        device = self._columns.device
        total = (self._columns * _column_weights(device)).sum()
        total += (self._sums * (_random(COLUMNS, len(self._sums), device) & -2)).sum()
        return (int(total) + self._size * _FIRST) & _MASK

    def _rows(self, data: Tensor) -> None:
        if not data.numel():
            return
        if data.storage_offset() % 8 or data.data_ptr() % 8:
            data = data.clone()
        rows = data.view(torch.int64).view(-1, COLUMNS)
        at, step = self._added // ROW, ROWS_AT_ONCE if data.device.type == "cpu" else len(rows)
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            self._columns += part.sum(0)
            torch.sum(part, 1, out=self._sums[at + first : at + first + len(part)])
        self._added += data.numel()

    def _begin(self, data: Tensor) -> None:
        """``data``: of one row."""
        at = self._added % ROW
        if self._begun is None:
            self._begun = torch.zeros(ROW, dtype=torch.uint8, device=data.device)
        self._begun[at : at + data.numel()] = data
        self._added += data.numel()
        if not self._added % ROW:
            self._row(self._begun)
            self._begun = None

    def _row(self, row: Tensor) -> None:
        words = row.view(torch.int64)
        self._columns += words
        self._sums[(self._added - 1) // ROW] = words.sum()


class Sums:
    """Checksums of tensors of which a part has gone by, by their place in a plan."""

    def __init__(self) -> None:
        self._running: dict[int, Running] = {}

    def of(self, entry: int, size: int, device: torch.device) -> Running:
        """That of tensor ``entry``, which is begun where it is not there yet."""
        if entry not in self._running:
            self._running[entry] = Running(size, device)
        return self._running[entry]

    def end(self, entry: int) -> int:
        """The checksum of tensor ``entry``, all of which has gone by."""
        return self._running.pop(entry).value()


def checksum(tensor: Tensor) -> int:
    """Of the bits of ``tensor``, row by row; 0 … 2^64 - 1."""
    data = bytes_of(tensor)
    running = Running(data.numel(), data.device)
    running.add(data)
    return running.value()


def digest(checksums: Iterable[int]) -> str:
    """One for several, in their order: 16 hexadecimal digits."""
    total = sum(value * (_FIRST + 2 * place * _STEP) for place, value in enumerate(checksums, 1))
    return f"{total & _MASK:016x}"


@cache
def _column_weights(device: torch.device) -> Tensor:
    return _random(0, COLUMNS, device) | 1


def _random(first: int, count: int, device: torch.device) -> Tensor:
    """int64 [count]: SplitMix64's numbers ``first`` …, which wrap as all sums here do."""
    found = torch.arange(first + 1, first + count + 1, dtype=torch.int64, device=device) * _signed(_GAMMA)
    for shift, factor in _MIX:
        found = (found ^ (found >> shift & 2 ** (64 - shift) - 1)) * _signed(factor)
    return found


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value

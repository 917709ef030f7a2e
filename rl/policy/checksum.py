"""A number that says which bits a tensor holds, and where: equal for equal tensors, on every device.

    words w_0 … w_{n-1}: the tensor's bytes, eight at a time (the last one filled up with zeros), in rows of COLUMNS
    sum over columns a_j * (sum_i w_ij) + sum over rows b_i * (sum_j w_ij) + c * (number of bytes)     mod 2^64

with weights a (odd), b (even) and c (odd) that have nothing to do with each other: a word counts with a_j + b_i, which
is odd, so that no single change of it is lost. Sums of one kind alone would not see two rows that have changed places
(experts in another order), sums of the other kind not two columns; a transposed matrix changes both. It finds faults,
not forgeries: who can choose the bits can choose them with an equal sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

COLUMNS = 1024
ROW = 8 * COLUMNS  # bytes
ROWS_AT_ONCE = 64  # on a CPU: half a megabyte, which the sums find in the cache
WORTH = 64 * 2**20  # bytes of a stream from which on its loop is compiled
_STEP, _FIRST = 0x1E3779B97F4A7C15, 0x2545F4914F6CDD1D  # odd
_MASK = 2**64 - 1
Loop = Callable[[Any, Any, Any, bool, Any, Any], int]
# SplitMix64 (Steele, Lea, Flood 2014): numbers that look random, by their place
_GAMMA, _MIX = 0x9E3779B97F4A7C15, ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


def bytes_of(tensor: Tensor) -> Tensor:
    """uint8 [bytes]: the memory of ``tensor`` itself where it lies in one piece, else of a copy."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


class Running:
    """``checksum`` of a tensor whose bytes are copied part by part, each taken while it is in the cache.

    Args:
        size: bytes of the whole tensor.
        device: where the bytes are that it is taken of.
        loop: ``rl.policy.checksum_loop.copy_rows``, which passes once where torch's operators pass three times.
    """

    def __init__(self, size: int, device: torch.device, loop: Loop | None = None) -> None:
        self._size, self._added, self._loop = size, 0, loop
        self._columns = torch.zeros(COLUMNS, dtype=torch.int64, device=device)
        self._weights = _row_weights(-(-size // ROW), device)
        self._total = 0  # of the rows' sums, each with its weight
        self._begun: Tensor | None = None  # uint8 [ROW]: a row of which a part is there

    def sent(self, source: Tensor, target: Tensor) -> None:
        """Copy the next bytes, uint8 [any]; what counts is what there is in ``source``."""
        self._copy(source, target, source)

    def received(self, source: Tensor, target: Tensor) -> None:
        """Copy the next bytes, uint8 [any]; what counts is what there is in ``target`` then."""
        self._copy(source, target, target)

    def add(self, data: Tensor) -> None:
        """The next bytes, uint8 [any], which are not copied."""
        self._copy(data, None, data)

    def _copy(self, source: Tensor, target: Tensor | None, of: Tensor) -> None:
        size = source.numel()
        head = min(-self._added % ROW, size)  # the rest of a row that has begun
        last = size - (size - head) % ROW
        for first, end, add in ((0, head, self._part), (head, last, self._rows), (last, size, self._part)):
            if first < end:
                add(source[first:end], None if target is None else target[first:end], of[first:end])

    def value(self) -> int:
        """0 … 2^64 - 1, once all bytes are there."""
        assert self._added == self._size, (self._added, self._size)
        if self._begun is not None:
            self._row(self._begun)
        columns = (self._columns * _column_weights(self._columns.device)).sum()
        return (int(columns) + self._total + self._size * _FIRST) & _MASK

    def _rows(self, source: Tensor, target: Tensor | None, of: Tensor) -> None:
        count = source.numel() // ROW
        at = self._added // ROW
        weights = self._weights[at : at + count]
        self._added += count * ROW
        all_of_them = (source, of if target is None else target, of)
        if self._loop is not None and not any(data.is_cuda or _odd(data) for data in all_of_them):
            from_, to, own = (data.view(torch.int64).numpy() for data in all_of_them)
            columns, copies = self._columns.numpy(), target is not None
            self._total += int(self._loop(from_, to, own, copies, columns, weights.numpy()))
            return
        step = ROWS_AT_ONCE if of.device.type == "cpu" else count
        for first in range(0, count, step):
            part = slice(first * ROW, (first + step) * ROW)
            if target is not None:
                target[part].copy_(source[part])
            data = of[part].clone() if _odd(of) else of[part]
            rows = data.view(torch.int64).view(-1, COLUMNS)
            self._columns += rows.sum(0)
            self._total += int((rows.sum(1) * weights[first : first + step]).sum())

    def _part(self, source: Tensor, target: Tensor | None, of: Tensor) -> None:
        """Of one row."""
        if target is not None:
            target.copy_(source)
        at = self._added % ROW
        if self._begun is None:
            self._begun = torch.zeros(ROW, dtype=torch.uint8, device=of.device)
        self._begun[at : at + of.numel()] = of
        self._added += of.numel()
        if not self._added % ROW:
            self._row(self._begun)
            self._begun = None

    def _row(self, row: Tensor) -> None:
        words = row.view(torch.int64)
        self._columns += words
        self._total += int(words.sum() * self._weights[(self._added - 1) // ROW])


class Sums:
    """Checksums of tensors of which a part has gone by, by their place in a plan. ``nbytes``: of all of them."""

    def __init__(self, nbytes: int) -> None:
        self._running: dict[int, Running] = {}
        self._loop = _compiled() if nbytes >= WORTH else None

    def of(self, entry: int, size: int, device: torch.device) -> Running:
        """That of tensor ``entry``, which is begun where it is not there yet."""
        if entry not in self._running:
            self._running[entry] = Running(size, device, self._loop if device.type == "cpu" else None)
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


def _odd(data: Tensor) -> bool:
    """Whether words of eight bytes do not lie where a processor wants them."""
    return bool(data.storage_offset() % 8 or data.data_ptr() % 8)


@cache
def _compiled() -> Loop | None:
    """None where numba is not installed, and torch's operators have to do."""
    if find_spec("numba") is None:
        return None
    from rl.policy.checksum_loop import copy_rows

    return copy_rows


@cache
def _column_weights(device: torch.device) -> Tensor:
    return _random(0, COLUMNS, device) | 1


_rows_known: dict[torch.device, Tensor] = {}  # weights of rows, as many as the largest tensor needed


def _row_weights(count: int, device: torch.device) -> Tensor:
    known = _rows_known.get(device)
    if known is None or len(known) < count:
        known = _rows_known[device] = _random(COLUMNS, 2 * count, device) & -2
    return known[:count]


def _random(first: int, count: int, device: torch.device) -> Tensor:
    """int64 [count]: SplitMix64's numbers ``first`` …, which wrap as all sums here do."""
    found = torch.arange(first + 1, first + count + 1, dtype=torch.int64, device=device) * _signed(_GAMMA)
    for shift, factor in _MIX:
        found = (found ^ (found >> shift & 2 ** (64 - shift) - 1)) * _signed(factor)
    return found


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value

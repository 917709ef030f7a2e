"""A number that says which bits a tensor holds, and where: equal for equal tensors, on every device.

    words w_0 … w_{n-1}: the tensor's bytes, eight at a time (the last one filled up with zeros), in rows of COLUMNS
    sum over columns a_j * (sum_i w_ij) + sum over rows b_i * (sum_j w_ij) + c * (number of bytes)     mod 2^64

with odd weights a, b that no two places share. Sums of one kind alone would not see two rows that have changed places
(experts in another order), sums of the other kind not two columns; a transposed matrix changes both. It finds faults,
not forgeries: who can choose the bits can choose them with an equal sum.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

COLUMNS = 1024
ROWS_AT_ONCE = 128  # on a CPU: a megabyte, which the second sum finds in the cache
_STEP, _FIRST = 0x1E3779B97F4A7C15, 0x2545F4914F6CDD1D  # odd; a weight is _FIRST + place * 2 * _STEP
_MASK = 2**64 - 1


def bytes_of(tensor: Tensor) -> Tensor:
    """uint8 [bytes]: the memory of ``tensor`` itself where it lies in one piece, else of a copy."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Of the bits of ``tensor``, row by row; 0 … 2^64 - 1."""
    data = bytes_of(tensor)
    if data.storage_offset() % 8 or data.data_ptr() % 8:
        data = data.clone()
    whole = data.numel() // (8 * COLUMNS)
    rows = data[: whole * 8 * COLUMNS].view(torch.int64).view(whole, COLUMNS)
    rest = data[whole * 8 * COLUMNS :]
    columns = torch.zeros(COLUMNS, dtype=torch.int64, device=data.device)
    sums = torch.empty(whole + bool(rest.numel()), dtype=torch.int64, device=data.device)
    for first in range(0, whole, ROWS_AT_ONCE if data.device.type == "cpu" else max(whole, 1)):
        part = rows[first : first + (ROWS_AT_ONCE if data.device.type == "cpu" else whole)]
        columns += part.sum(0)
        torch.sum(part, 1, out=sums[first : first + len(part)])
    if rest.numel():
        last = torch.zeros(8 * COLUMNS, dtype=torch.uint8, device=data.device)
        last[: rest.numel()] = rest
        words = last.view(torch.int64)
        columns += words
        sums[-1] = words.sum()
    total = (columns * _weights(COLUMNS, 0, data.device)).sum() + (
        sums * _weights(len(sums), COLUMNS, data.device)
    ).sum()
    return (int(total) + data.numel() * _FIRST) & _MASK


def digest(checksums: Iterable[int]) -> str:
    """One for several, in their order: 16 hexadecimal digits."""
    total = sum(value * (_FIRST + 2 * place * _STEP) for place, value in enumerate(checksums, 1))
    return f"{total & _MASK:016x}"


def _weights(count: int, first: int, device: torch.device) -> Tensor:
    places = torch.arange(first, first + count, dtype=torch.int64, device=device)
    return places * (2 * _STEP) + _FIRST  # wraps, as all sums here do

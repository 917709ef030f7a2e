"""What a stream of weights consists of: names, dtypes and shapes first, then the bytes in buckets of one size.

    tensors, in the order of the plan:  |--a--|----b----|-c-|------------------d------------------|
    buckets:                            [a b c d-begins ][ d-goes-on     ][ d-ends ]

Both ends compute the buckets from the plan, so nothing but bytes and checksums travels with them. A weight with two
names (a head tied to the embedding) travels once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: every tensor begins at a multiple of it in its bucket


@dataclass(frozen=True)
class Entry:
    """One tensor: ``dtype`` without "torch.", its ``names`` (the first is its own)."""

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def nbytes(self) -> int:
        kind: torch.dtype = getattr(torch, self.dtype)
        return prod(self.shape) * kind.itemsize

    def empty(self, device: torch.device | str = "meta") -> Tensor:
        """A tensor of its kind without values."""
        return torch.empty(self.shape, dtype=getattr(torch, self.dtype), device=device)


@dataclass(frozen=True)
class Piece:
    """Bytes ``first`` … ``first + size`` of tensor ``entry``, which lie at ``at`` in their bucket; ``ends``: the last
    of that tensor."""

    entry: int
    first: int
    size: int
    at: int
    ends: bool


@dataclass(frozen=True)
class Plan:
    """What is sent: ``version`` of the weights, ``entries`` in order, buckets of ``bucket_bytes``."""

    version: int
    entries: tuple[Entry, ...]
    bucket_bytes: int

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """By every name."""
        return {name: torch.Size(entry.shape) for entry in self.entries for name in entry.names}

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries)

    def buckets(self) -> Iterator[list[Piece]]:
        """The pieces of one bucket after the other."""
        pieces: list[Piece] = []
        at = 0
        for index, entry in enumerate(self.entries):
            first, left = 0, entry.nbytes
            while True:
                if pieces and at >= self.bucket_bytes:
                    yield pieces
                    pieces, at = [], 0
                size = min(left, self.bucket_bytes - at)
                pieces.append(Piece(index, first, size, at, ends=size == left))
                at += size + -size % ALIGNMENT
                first, left = first + size, left - size
                if not left:
                    break
        if pieces:
            yield pieces

    def to_json(self) -> str:
        return json.dumps([self.version, self.bucket_bytes, [[e.names, e.dtype, e.shape] for e in self.entries]])

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        version, bucket_bytes, entries = json.loads(text)
        return cls(version, tuple(Entry(tuple(n), d, tuple(s)) for n, d, s in entries), bucket_bytes)


@dataclass(frozen=True)
class Given:
    """Whole tensors that come once, one after the other: of each one of ``entries``, in their order."""

    entries: tuple[Entry, ...]
    tensors: Iterator[Tensor]

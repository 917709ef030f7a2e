"""A state dict in memory that other processes of this machine map: written once, read by every rank of an engine.

The memory has no name in any file system: nothing stays behind when its owner is killed, and the size of a container's
``/dev/shm`` does not matter.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod

import torch

ALIGNMENT = 64  # bytes: every tensor begins at a multiple
Place = tuple[str, str, list[int], int]  # name, dtype without "torch.", shape, first byte


@contextmanager
def shared(named: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, list[Place]]]:
    """The path that ``read_shared`` opens, and where each tensor lies; gone after the block, but for readers that have
    it open. A weight with two names (a head tied to the embedding) is written once."""
    places: list[Place] = []
    written: dict[tuple[object, ...], int] = {}  # first byte, by what makes two tensors the same
    size = 0
    for name, tensor in named.items():
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in written or not tensor.numel():
            written[key], size = size, size + tensor.nbytes + -tensor.nbytes % ALIGNMENT
        places.append((name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), written[key]))
    descriptor = os.memfd_create("weights", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, max(size, 1))
        memory = mmap.mmap(descriptor, max(size, 1))
        done = set()
        for tensor, target in zip(named.values(), _tensors(memory, places), strict=True):
            if (where := target.data_ptr()) not in done:
                target.copy_(tensor.detach())
                done.add(where)
        yield f"/proc/{os.getpid()}/fd/{descriptor}", places
    finally:
        os.close(descriptor)


def read_shared(path: str, places: Sequence[Place]) -> dict[str, torch.Tensor]:
    """The tensors of ``shared`` by name, over its memory: copy from them."""
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch takes no read-only memory without a word
    return {place[0]: tensor for place, tensor in zip(places, _tensors(memory, places), strict=True)}


def _tensors(memory: mmap.mmap, places: Sequence[Place]) -> Iterator[torch.Tensor]:
    for _, dtype, shape, first in places:
        kind: torch.dtype = getattr(torch, dtype)
        if not (count := prod(shape)):
            yield torch.empty(shape, dtype=kind)
            continue
        yield torch.frombuffer(memory, dtype=kind, count=count, offset=first).view(shape)

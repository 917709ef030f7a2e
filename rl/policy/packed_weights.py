"""Weights on their way from the learner to the engines, as Ray's object store keeps them.

``pack`` turns a state dict into numpy arrays, which Ray writes once per node into shared memory and every
worker of that node reads in place; ``unpack`` gives tensors that share the same memory. bfloat16, which
numpy does not know, travels as its bits. A weight with two names (a head tied to the embedding) travels once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Packed = dict[str, tuple[np.ndarray, str]]  # name → (array, torch dtype without its "torch." prefix)


def pack(named: Mapping[str, torch.Tensor | np.ndarray]) -> Packed:
    """Arrays for the object store, over the memory of ``named`` where that is on the host: put them there before it
    changes."""
    import torch

    packed: Packed = {}
    sent: dict[tuple[object, ...], tuple[np.ndarray, str]] = {}  # an array that is there twice is pickled once
    for name, value in named.items():
        tensor = _tensor(value) if isinstance(value, np.ndarray) else value.detach()
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in sent or not tensor.numel():
            dtype = str(tensor.dtype).removeprefix("torch.")
            host = tensor.cpu().contiguous()
            sent[key] = ((host.view(torch.int16) if host.dtype is torch.bfloat16 else host).numpy(), dtype)
        packed[name] = sent[key]
    return packed


def packed_bytes(packed: Packed) -> int:
    """Bytes that ``packed`` takes in the store."""
    return sum(array.nbytes for array in {id(array): array for array, _ in packed.values()}.values())


def unpack(packed: Packed) -> dict[str, torch.Tensor]:
    """Tensors over the packed memory (read-only: copy from them, never into them)."""
    import torch

    return {name: _tensor(array).view(getattr(torch, dtype)) for name, (array, dtype) in packed.items()}


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)

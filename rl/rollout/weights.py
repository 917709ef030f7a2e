"""Weights on their way from the learner to the engines, through Ray's object store.

``pack`` turns a state dict into numpy arrays, which Ray writes once per node into shared memory and every
worker of that node reads in place; ``unpack`` gives tensors that share the same memory. bfloat16, which
numpy does not know, travels as its bits.
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
    """Arrays for the object store. The caller may change its tensors once they are put there."""
    import torch

    packed: Packed = {}
    for name, value in named.items():
        if isinstance(value, np.ndarray):  # from Ray's store it is read-only, and is passed on as it is
            packed[name] = (np.ascontiguousarray(value), str(value.dtype))
            continue
        tensor = value.detach()
        dtype = str(tensor.dtype).removeprefix("torch.")
        tensor = tensor.cpu().contiguous()
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.view(torch.int16)
        packed[name] = (tensor.numpy(), dtype)
    return packed


def unpack(packed: Packed) -> dict[str, torch.Tensor]:
    """Tensors over the packed memory (read-only: copy from them, never into them)."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return {name: torch.from_numpy(array).view(getattr(torch, dtype)) for name, (array, dtype) in packed.items()}


TYPICAL = 1 / 8  # root mean square over the probe, in units of the largest difference that is allowed


class WeightSyncError(RuntimeError):
    """An engine does not compute what the learner computes: training on its samples silently goes wrong."""


def probe_mismatch(
    where: str, version: int, engine_logprobs: np.ndarray, learner_logprobs: np.ndarray, tolerance: float
) -> float:
    """max_t |log pi_engine - log pi_learner| over a probe, both float [T-1].

    Raises:
        WeightSyncError: above ``tolerance``, a root mean square above ``TYPICAL`` times ``tolerance`` (single unlikely
            tokens differ far more by rounding than the rest: the mean is the sharper test), not finite, or different
            lengths; says where and which token.
    """
    engine, learner = np.asarray(engine_logprobs, np.float64), np.asarray(learner_logprobs, np.float64)
    if engine.shape != learner.shape:
        raise WeightSyncError(
            f"probe of {where} at version {version}: log-probs {engine.shape} from the engine, "
            f"{learner.shape} from the learner; both must cover tokens[1:]"
        )
    difference = np.abs(engine - learner)
    worst = int(np.argmax(np.where(np.isfinite(difference), difference, np.inf)))
    typical = float(np.sqrt(np.square(difference).mean()))
    if not (difference[worst] <= tolerance and typical <= TYPICAL * tolerance):  # NaN fails too
        raise WeightSyncError(
            f"weight sync of {where} to version {version}: log-prob of probe token {worst + 1} is "
            f"{engine[worst]:.6f} in the engine and {learner[worst]:.6f} in the learner (difference "
            f"{difference[worst]:.2e}, allowed {tolerance:.0e}; root mean square of all {typical:.2e}, allowed "
            f"{TYPICAL * tolerance:.0e}). The engine does not hold the learner's "
            "weights, or computes them differently"
        )
    return float(difference[worst])

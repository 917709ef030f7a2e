"""Packing: segments of any length become flat micro-batches of at most ``max_tokens_per_microbatch`` tokens.

    tokens_T = concat of segments, cu_seqlens = [0, n1, n1 + n2, ...]

Nothing is padded, lost or duplicated. A segment's row t of logits predicts token t + 1, so a segment is cut
after the token that predicts its last target: whatever stands behind it cannot change the loss.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rl.types import ReplayRecord


@dataclass
class PackItem:
    """One token stream with its targets, ready to be packed.

    ``tokens`` int [T]; ``loss_mask`` bool [T], True where the token is a target (never at 0: nothing
    predicts it). The per-token arrays [T] are read where the mask is True. ``weight`` is the loss weight of
    one target token; ``advantage`` the one of its trajectory. ``support`` [T]: token ids the sampler kept at
    that position, None where it kept all.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    weight: float = 1.0
    advantage: float = 0.0
    logprobs: np.ndarray | None = None
    versions: np.ndarray | None = None
    replay: ReplayRecord | None = None
    support: list[np.ndarray | None] | None = None
    name: str = "segment"

    def __post_init__(self) -> None:
        length = len(self.tokens)
        for field in ("loss_mask", "logprobs", "versions", "support"):
            value = getattr(self, field)
            if value is not None and len(value) != length:
                raise ValueError(f"{self.name}: {field} has {len(value)} rows for {length} tokens")
        if length and self.loss_mask[0]:
            raise ValueError(
                f"{self.name}: loss_mask[0] is True, but nothing predicts the first token; "
                "start the segment with its prompt (at least BOS)"
            )

    @property
    def targets(self) -> np.ndarray:
        """Positions of the target tokens, ascending."""
        return np.flatnonzero(self.loss_mask)

    @property
    def inputs(self) -> int:
        """Tokens the forward pass needs: all before the last target. 0 without targets."""
        targets = self.targets
        return int(targets[-1]) if len(targets) else 0


@dataclass
class MicroBatch:
    """One packed forward pass. T tokens, N targets, S segments.

    ``predict_N`` long: the flat row whose hidden state predicts ``targets_N``. ``segment_N`` long in 0..S-1.
    ``experts_TLK`` / ``replay_valid_T``: recorded routing, None when no segment carries any.
    """

    tokens_T: torch.Tensor
    cu_seqlens: list[int]
    predict_N: torch.Tensor
    targets_N: torch.Tensor
    weights_N: torch.Tensor
    advantages_N: torch.Tensor
    segment_N: torch.Tensor
    sampler_logprobs_N: torch.Tensor
    versions_N: torch.Tensor
    experts_TLK: torch.Tensor | None
    replay_valid_T: torch.Tensor | None
    support_N: list[np.ndarray | None] | None

    @property
    def segments(self) -> int:
        return len(self.cu_seqlens) - 1


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of ``lengths`` in bins whose sums are at most ``capacity``; every index exactly once.

    Longest first, each into the fullest bin that still has room (best fit; a sorted list of rooms makes it
    O(n log n) searches). Deterministic. Raises ValueError when one length alone is above the capacity.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(
                f"a segment of {length} tokens does not fit max_tokens_per_microbatch={capacity}; "
                "set it to at least the context length"
            )
        at = bisect_left(rooms, (length, -1))
        if at == len(rooms):
            bins.append([index])
            insort(rooms, (capacity - length, len(bins) - 1))
        else:
            room, chosen = rooms.pop(at)
            bins[chosen].append(index)
            insort(rooms, (room - length, chosen))
    return bins


def pack(
    items: Sequence[PackItem], max_tokens_per_microbatch: int, device: torch.device | str = "cpu"
) -> list[MicroBatch]:
    """Micro-batches of ``items``; items without targets are left out, for they have no loss."""
    live = [item for item in items if item.inputs > 0]
    bins = best_fit_decreasing([item.inputs for item in live], max_tokens_per_microbatch)
    return [collate([live[i] for i in members], device) for members in bins]


def collate(items: Sequence[PackItem], device: torch.device | str = "cpu") -> MicroBatch:
    """Concatenate ``items`` (each with at least one target) into one micro-batch on ``device``."""
    lengths = [item.inputs for item in items]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    targets = [item.targets for item in items]
    counts = [len(t) for t in targets]

    def device_tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype)

    def per_target(field: str, fill: float) -> np.ndarray:
        rows = []
        for item, at in zip(items, targets, strict=True):
            value = getattr(item, field)
            rows.append(np.full(len(at), fill) if value is None else np.asarray(value)[at])
        return np.concatenate(rows)

    experts, valid = _pack_replay(items, lengths)
    support: list[np.ndarray | None] | None = None
    if any(item.support is not None for item in items):
        support = []
        for item, at in zip(items, targets, strict=True):
            support.extend([None] * len(at) if item.support is None else [item.support[t] for t in at])
    return MicroBatch(
        tokens_T=device_tensor(np.concatenate([i.tokens[:n] for i, n in zip(items, lengths, strict=True)]), torch.long),
        cu_seqlens=[int(s) for s in starts],
        predict_N=device_tensor(
            np.concatenate([at - 1 + s for at, s in zip(targets, starts[:-1], strict=True)]), torch.long
        ),
        targets_N=device_tensor(
            np.concatenate([i.tokens[at] for i, at in zip(items, targets, strict=True)]), torch.long
        ),
        weights_N=device_tensor(np.repeat([i.weight for i in items], counts), torch.float32),
        advantages_N=device_tensor(np.repeat([i.advantage for i in items], counts), torch.float32),
        segment_N=device_tensor(np.repeat(np.arange(len(items)), counts), torch.long),
        sampler_logprobs_N=device_tensor(per_target("logprobs", 0.0), torch.float32),
        versions_N=device_tensor(per_target("versions", -1), torch.long),
        experts_TLK=None if experts is None else device_tensor(experts, torch.long),
        replay_valid_T=None if valid is None else device_tensor(valid, torch.bool),
        support_N=support,
    )


def _pack_replay(items: Sequence[PackItem], lengths: Sequence[int]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(experts [T, L, K], valid [T]); rows of segments without a record are invalid: live routing there."""
    shapes = {item.replay.experts.shape[1:] for item in items if item.replay is not None}
    if not shapes:
        return None, None
    if len(shapes) > 1:
        raise ValueError(f"replay records of different [layers, experts] shapes in one batch: {sorted(shapes)}")
    total = sum(lengths)
    experts = np.zeros((total, *shapes.pop()), dtype=np.int64)
    valid = np.zeros(total, dtype=bool)
    at = 0
    for item, length in zip(items, lengths, strict=True):
        if item.replay is not None:
            if len(item.replay.valid) < length or len(item.replay.experts) < length:
                raise ValueError(f"{item.name}: replay has {len(item.replay.valid)} rows for {length} input tokens")
            experts[at : at + length] = item.replay.experts[:length]
            valid[at : at + length] = item.replay.valid[:length]
        at += length
    return experts, valid

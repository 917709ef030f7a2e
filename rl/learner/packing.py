"""Packing: segments of any length become flat micro-batches of at most ``max_tokens_per_microbatch`` tokens.

    tokens_T = concat of segments, cu_seqlens = [0, n1, n1 + n2, ...]

Nothing is padded, lost or duplicated. A segment's row t of logits predicts token t + 1, so a segment is cut
after the token that predicts its last target: whatever comes after it cannot change the loss.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rl.types import ReplayRecord, TokenStream


@dataclass
class PackItem(TokenStream):
    """One token stream with its targets (never at 0: nothing predicts it), ready to be packed.

    The per-token arrays [T] are read where the mask is True. ``weight`` is the loss weight of
    one target token; ``advantage`` the one of its trajectory, ``kl_coef`` the strength of its KL term.
    ``logprobs`` are the sampler's; ``exact`` bool [T], where the learner has to agree with them (``Segment.exact``).
    """

    weight: float = 1.0
    advantage: float = 0.0
    logprobs: np.ndarray | None = None
    exact: np.ndarray | None = None
    replay: ReplayRecord | None = None
    kl_coef: float = 0.0
    name: str = "segment"

    def __post_init__(self) -> None:
        length = len(self.tokens)
        columns = {"loss_mask": self.loss_mask, "logprobs": self.logprobs, "exact": self.exact}
        if self.replay is not None:
            columns["replay"] = self.replay.valid
        for field, value in columns.items():
            if value is not None and len(value) != length:
                raise ValueError(f"{self.name}: {field} has {len(value)} rows for {length} tokens")
        if length and self.loss_mask[0]:
            raise ValueError(
                f"{self.name}: loss_mask[0] is True, but nothing predicts the first token; "
                "start the segment with its prompt (at least BOS)"
            )

    @property
    def inputs(self) -> int:
        """Tokens the forward pass needs: all before the last target. 0 without targets."""
        targets = self.targets
        return int(targets[-1]) if len(targets) else 0


@dataclass
class MicroBatch:
    """One packed forward pass. T tokens, N targets, S segments.

    ``predict_N`` long: the flat row whose hidden state predicts ``targets_N``. ``segment_N`` long in 0..S-1.
    ``experts_TLK``, ``indexer_TLk`` / ``replay_valid_T``: recorded choices, None when no segment carries any.
    ``support_N``: kept token ids per target, None where nothing was cut. ``old_logprobs_N``: the learner's own, before
    the first update on this batch (only with objective.old_policy=learner).
    """

    tokens_T: torch.Tensor
    cu_seqlens: list[int]
    predict_N: torch.Tensor
    targets_N: torch.Tensor
    weights_N: torch.Tensor
    advantages_N: torch.Tensor
    segment_N: torch.Tensor
    sampler_logprobs_N: torch.Tensor
    exact_N: torch.Tensor
    kl_coefs_N: torch.Tensor
    experts_TLK: torch.Tensor | None
    indexer_TLk: torch.Tensor | None
    replay_valid_T: torch.Tensor | None
    support_N: list[np.ndarray | None] | None
    old_logprobs_N: torch.Tensor | None = None

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
    items: Sequence[PackItem],
    max_tokens_per_microbatch: int,
    device: torch.device | str = "cpu",
    together: bool = False,
) -> list[MicroBatch]:
    """Micro-batches of ``items``; items without targets are left out, for they have no loss.

    ``together``: those with one prompt stay in one micro-batch where they fit, for a policy that computes it once.
    """
    live = [item for item in items if item.inputs > 0]
    units = _by_prompt(live, max_tokens_per_microbatch) if together else [[item] for item in live]
    bins = best_fit_decreasing([sum(item.inputs for item in unit) for unit in units], max_tokens_per_microbatch)
    return [collate([item for i in members for item in units[i]], device) for members in bins]


def _by_prompt(items: Sequence[PackItem], capacity: int) -> list[list[PackItem]]:
    """Items with the same tokens before their first target, in runs of at most ``capacity`` tokens."""
    units: dict[bytes, list[list[PackItem]]] = {}
    for item in items:
        runs = units.setdefault(item.tokens[: item.targets[0]].tobytes(), [[]])
        if sum(other.inputs for other in runs[-1]) + item.inputs > capacity:
            runs.append([])
        runs[-1].append(item)
    return [run for runs in units.values() for run in runs if run]


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

    kept = [None if item.replay is None else item.replay.support for item in items]
    support: list[np.ndarray | None] | None = None
    if any(rows is not None for rows in kept):
        support = []
        for rows, at in zip(kept, targets, strict=True):
            support.extend([None] * len(at) if rows is None else [rows[t] for t in at])
    experts, indexer = _pack_choices(items, lengths, "experts", 0), _pack_choices(items, lengths, "indexer", -1)
    valid: np.ndarray | None = None
    if experts is not None or indexer is not None:
        rows_of = zip(items, lengths, strict=True)
        valid = np.concatenate([np.zeros(n, bool) if i.replay is None else i.replay.valid[:n] for i, n in rows_of])
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
        exact_N=device_tensor(per_target("exact", 0), torch.bool),
        kl_coefs_N=device_tensor(np.repeat([i.kl_coef for i in items], counts), torch.float32),
        experts_TLK=None if experts is None else device_tensor(experts, torch.long),
        indexer_TLk=None if indexer is None else device_tensor(indexer, torch.long),
        replay_valid_T=None if valid is None else device_tensor(valid, torch.bool),
        support_N=support,
    )


def _pack_choices(items: Sequence[PackItem], lengths: Sequence[int], name: str, unused: int) -> np.ndarray | None:
    """Recorded choices [T, layers, n] of all items; ``unused`` in rows of segments without a record."""
    records = [None if item.replay is None else getattr(item.replay, name) for item in items]
    shapes = {rows.shape[1:] for rows in records if rows is not None}
    if not shapes:
        return None
    if len(shapes) > 1:
        raise ValueError(f"replay records of different [layers, {name}] shapes in one batch: {sorted(shapes)}")
    shape = shapes.pop()
    choices: list[npt.NDArray[np.int64]] = [
        np.full((length, *shape), unused, np.int64) if rows is None else rows[:length].astype(np.int64)
        for rows, length in zip(records, lengths, strict=True)
    ]
    return np.concatenate(choices)

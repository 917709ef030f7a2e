"""Packing: segments of any length become flat micro-batches of at most ``max_tokens_per_microbatch`` tokens.

    tokens_T = concat of segments, cu_seqlens = [0, n1, n1 + n2, ...]

Nothing is padded, lost or duplicated. A segment's row t of logits predicts token t + 1, so a segment is cut
after the token that predicts its last target: whatever comes after it cannot change the loss.

What goes together is planned from lengths and outlines (``rl.policy.record_outline``); a micro-batch is made of the
records when its turn comes (``Planned.collate``), and recorded choices keep the width they were recorded in.

For a policy that computes common beginnings once, segments that have one become a prefix tree, and it is the tree's
nodes that are at most ``max_tokens_per_microbatch``. Targets, ratios, weights and supports stay those of each segment.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from rl.learner.pack_item import PackItem
from rl.objective.loss import LossInputs
from rl.objective.teaching import Lesson
from rl.policy.context_parallel import RowShare, RowSplit
from rl.policy.prefix_tree import PrefixTree, by_prefix
from rl.types import Outline, ReplayRecord

WORTH = 16  # tokens in common below which two segments need not stand side by side


@dataclass
class MicroBatch:
    """One packed forward pass. T tokens, N targets, S segments.

    ``predict_N`` long: the flat row whose hidden state predicts ``targets_N``. ``segment_N`` long in 0..S-1.
    ``experts_TLK``, ``indexer_TLk`` / ``replay_valid_T``: recorded choices in the integers of their records, None when
    no segment carries any; with a ``share`` those of this rank's rows [R].
    ``support_N``: kept token ids per target, None where nothing was cut. ``old_logprobs_N``: the learner's own, before
    the first update on this batch (only with objective.old_policy=learner). ``tree``: which tokens segments share.
    ``padding``: another rank's too, run once more here, for nothing, so that all ranks make as many passes.
    ``scored_P`` long: targets whose scores are those of all, one for each of the same token, support and node;
    ``score_N`` long: of each target, which of them. ``taught``: the family whose teacher scores it.
    ``share``: which of the scored targets are this rank's, of a micro-batch that several share.
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
    scored_P: torch.Tensor
    score_N: torch.Tensor
    tree: PrefixTree | None = None
    old_logprobs_N: torch.Tensor | None = None
    padding: bool = False
    taught: str | None = None
    share: RowShare | None = None

    @property
    def counts(self) -> bool:
        """Whether it is for this rank to note what the whole of it comes to: one of those that share it does."""
        return not self.padding and (self.share is None or self.share.split.speaks)

    @property
    def recorded(self) -> int:
        """Rows of sequences with a record: of all that are packed here, or of those that are this rank's."""
        if self.replay_valid_T is None:
            return 0
        valid = self.replay_valid_T.long()
        return int(valid.sum() if self.share is None else (valid * self.share.split.count_R).sum())

    @property
    def choice_bytes(self) -> int:
        """What the recorded choices take here; of a micro-batch that ranks share, those of this rank's own rows."""
        columns = (self.experts_TLK, self.indexer_TLk, self.replay_valid_T)
        size = sum(column.numel() * column.element_size() for column in columns if column is not None)
        if self.share is None or self.replay_valid_T is None:
            return size
        return size // len(self.replay_valid_T) * int(self.share.split.count_R.sum())

    @property
    def segments(self) -> int:
        return len(self.cu_seqlens) - 1

    def loss_inputs(
        self,
        logprobs_N: torch.Tensor,
        reference_N: torch.Tensor | None,
        lesson: Lesson | None,
        distill_weight: float,
    ) -> LossInputs:
        """What the loss of this pass needs, with the policy's log-probs, the reference's and what a teacher says."""
        return LossInputs(
            logprobs_N,
            self.sampler_logprobs_N,
            self.advantages_N,
            self.weights_N,
            self.segment_N,
            self.segments,
            self.old_logprobs_N,
            reference_N,
            self.kl_coefs_N,
            lesson,
            distill_weight,
        )

    @property
    def distinct(self) -> int:
        """Tokens that the policy computes: those that segments share count once."""
        return len(self.tokens_T) if self.tree is None else self.tree.nodes


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


@dataclass
class Planned:
    """A micro-batch that is made when it is needed, as often as it is. ``shared``, ``split``: as of ``collate``;
    ``padding``, ``old_logprobs_N``: as of ``MicroBatch``."""

    items: list[PackItem]
    shared: list[int]
    device: torch.device | str
    split: Splitting | None = None
    padding: bool = False
    old_logprobs_N: torch.Tensor | None = None

    def collate(self) -> MicroBatch:
        """Fetches the records of its items. Raises ValueError where they do not fit together."""
        made = collate(self.items, self.device, self.shared, self.split)
        made.padding, made.old_logprobs_N = self.padding, self.old_logprobs_N
        return made


def pack(
    items: Sequence[PackItem],
    max_tokens_per_microbatch: int,
    device: torch.device | str = "cpu",
    share: bool = False,
    deal: Dealing | None = None,
) -> list[MicroBatch]:
    """All micro-batches of ``plan`` at once."""
    return [planned.collate() for planned in plan(items, max_tokens_per_microbatch, device, share, deal)]


def plan(
    items: Sequence[PackItem],
    max_tokens_per_microbatch: int,
    device: torch.device | str = "cpu",
    share: bool = False,
    deal: Dealing | None = None,
) -> list[Planned]:
    """Micro-batches of ``items``; items without targets are left out, for they have no loss.

    ``share``: as prefix trees, of at most so many nodes and different targets, for a policy that ``shares_prefixes``.
    ``deal``: those of this rank alone, as many as every other rank has (``rl.learner.deal.Deal``).
    """
    live = [item for item in items if item.inputs > 0]
    if not live:
        return []
    sharers = 1 if deal is None else deal.sharers
    if (longest := max(item.inputs for item in live)) > max_tokens_per_microbatch * sharers:
        of = f" x learner.context_parallel={sharers}" if sharers > 1 else ""
        raise ValueError(
            f"a segment of {longest} tokens does not fit max_tokens_per_microbatch={max_tokens_per_microbatch}{of}; "
            "raise it, or let ranks share micro-batches (learner.context_parallel)"
        )
    bins: Callable[[int], list[Bin]] = partial(_bins, live)
    if share:
        outlines = [item.outline() for item in live]
        bins = partial(_tree_bins, live, outlines, *by_prefix(_rows(live, outlines)))
    if deal is None:
        return [Planned([live[i] for i in b.members], b.shared, device) for b in bins(max_tokens_per_microbatch)]
    mine = deal.mine(bins, max_tokens_per_microbatch * sharers)
    split = deal.split if sharers > 1 else None
    return [Planned([live[i] for i in b.members], b.shared, device, split, no) for b, no in mine]


@dataclass(frozen=True)
class Bin:
    """A micro-batch that is planned: which items, and how many rows each has in common with the one before it."""

    members: list[int]
    shared: list[int]
    rows: list[tuple[int, int]]  # of every item, those that are computed: [begin, end)


Splitting = Callable[[PrefixTree], RowSplit]


class Dealing(Protocol):
    """See ``rl.learner.deal.Deal``."""

    @property
    def sharers(self) -> int: ...

    def mine(self, plan: Callable[[int], list[Bin]], capacity: int) -> list[tuple[Bin, bool]]: ...

    def split(self, tree: PrefixTree) -> RowSplit: ...


def _bins(items: Sequence[PackItem], capacity: int) -> list[Bin]:
    lengths = [item.inputs for item in items]
    found = best_fit_decreasing(lengths, capacity)
    return [Bin(members, [0] * len(members), [(0, lengths[i]) for i in members]) for members in found]


def _tree_bins(
    items: Sequence[PackItem], outlines: Sequence[Outline], order: Sequence[int], common: Sequence[int], capacity: int
) -> list[Bin]:
    """``order``: in the order of their rows items are neighbours where they share some (``by_prefix``). It is cut where
    they share next to nothing, and where a tree is full; what is left in one piece is what bins are filled with."""
    runs: list[list[int]] = []  # places in the order
    sizes: list[int] = []
    nodes = targets = 0
    for place, i in enumerate(order):
        length, learned = items[i].inputs, items[i].targets
        nodes += length - common[place]
        targets += len(learned) - _scored_before(items, outlines, i, order[place - 1], common[place])
        if common[place] < WORTH or max(nodes, targets) > capacity:
            nodes, targets = length, len(learned)
            runs.append([])
            sizes.append(0)
        runs[-1].append(place)
        sizes[-1] = max(nodes, targets)
    found = []
    for members in best_fit_decreasing(sizes, capacity):
        places = sorted(place for run in members for place in runs[run])
        shared = [0, *(min(common[a + 1 : b + 1]) for a, b in pairwise(places))]
        chosen = [order[place] for place in places]
        found.append(Bin(chosen, shared, [(s, items[i].inputs) for s, i in zip(shared, chosen, strict=True)]))
    return found


def _scored_before(items: Sequence[PackItem], outlines: Sequence[Outline], i: int, before: int, common: int) -> int:
    """Targets of item ``i`` that item ``before`` has too, on the same support, among ``common`` rows."""
    at = np.flatnonzero(items[i].loss_mask[:common] & items[before].loss_mask[:common])
    one, other = outlines[i].supports, outlines[before].supports
    if one is None or other is None:
        return len(at) if one is other else 0
    return int((one[at] == other[at]).sum())


def _support_key(kept: np.ndarray | None) -> bytes:
    return b"" if kept is None else np.asarray(kept, np.int64).tobytes()


def _rows(items: Sequence[PackItem], outlines: Sequence[Outline]) -> list[np.ndarray]:
    """What is computed at each input row of the items, as bytes of one width (``Outline.rows``)."""
    rows = [outline.rows[: item.inputs] for item, outline in zip(items, outlines, strict=True)]
    width = max(row.shape[1] for row in rows)  # those without a record are narrower, and equal to none with one
    return [row if row.shape[1] == width else np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows]


def collate(
    items: Sequence[PackItem],
    device: torch.device | str = "cpu",
    shared: Sequence[int] | None = None,
    split: Splitting | None = None,
) -> MicroBatch:
    """Concatenate ``items`` (each with at least one target) into one micro-batch on ``device``.

    ``shared``: how many rows each has in common with the one before it (``PrefixTree``). ``split``: which rows are this
    rank's, where several share the micro-batch.
    """
    lengths = [item.inputs for item in items]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    targets = [item.targets for item in items]
    counts = [len(t) for t in targets]

    def device_tensor(array: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype)

    def per_target(field: str, fill: float) -> np.ndarray:
        rows = []
        for item, at in zip(items, targets, strict=True):
            value = getattr(item, field)
            rows.append(np.full(len(at), fill) if value is None else np.asarray(value)[at])
        return np.concatenate(rows)

    records = [item.record() for item in items]
    kept = [None if record is None else record.support for record in records]
    support: list[np.ndarray | None] | None = None
    if any(rows is not None for rows in kept):
        support = []
        for rows, at in zip(kept, targets, strict=True):
            support.extend([None] * len(at) if rows is None else [rows[t] for t in at])
    experts, indexer = _pack_choices(records, lengths, "experts", 0), _pack_choices(records, lengths, "indexer", -1)
    valid: np.ndarray | None = None
    if experts is not None or indexer is not None:
        valid = _valid(items, lengths)
    predict = np.concatenate([at - 1 + s for at, s in zip(targets, starts[:-1], strict=True)])
    wanted = np.concatenate([i.tokens[at] for i, at in zip(items, targets, strict=True)])
    tree = None
    if split is not None or any(shared or ()):
        tree = PrefixTree(starts.tolist(), shared or [0] * len(items), device)
    dealt = None if split is None or tree is None else split(tree)
    scored, score = np.arange(len(wanted)), np.arange(len(wanted))
    if tree is not None:
        known: dict[bytes, int] = {}
        keys = [known.setdefault(_support_key(kept), len(known)) for kept in support or [None] * len(wanted)]
        columns = np.stack((tree.node_T.cpu().numpy()[predict], wanted, keys), axis=1)
        _, scored, score = np.unique(columns, axis=0, return_index=True, return_inverse=True)

    def own_rows(choices: np.ndarray | None) -> np.ndarray | None:
        return choices if choices is None or dealt is None else dealt.of_rows(torch.from_numpy(choices)).numpy()

    experts, indexer, valid = own_rows(experts), own_rows(indexer), own_rows(valid)
    return MicroBatch(
        tokens_T=device_tensor(np.concatenate([i.tokens[:n] for i, n in zip(items, lengths, strict=True)]), torch.long),
        cu_seqlens=[int(s) for s in starts],
        predict_N=device_tensor(predict, torch.long),
        targets_N=device_tensor(wanted, torch.long),
        weights_N=device_tensor(np.repeat([i.weight for i in items], counts), torch.float32),
        advantages_N=device_tensor(np.repeat([i.advantage for i in items], counts), torch.float32),
        segment_N=device_tensor(np.repeat(np.arange(len(items)), counts), torch.long),
        sampler_logprobs_N=device_tensor(per_target("logprobs", 0.0), torch.float32),
        exact_N=device_tensor(per_target("exact", 0), torch.bool),
        kl_coefs_N=device_tensor(np.repeat([i.kl_coef for i in items], counts), torch.float32),
        experts_TLK=None if experts is None else device_tensor(experts),
        indexer_TLk=None if indexer is None else device_tensor(indexer),
        replay_valid_T=None if valid is None else device_tensor(valid, torch.bool),
        support_N=support,
        scored_P=device_tensor(scored, torch.long),
        score_N=device_tensor(score.reshape(-1), torch.long),
        tree=tree,
        taught=items[0].taught,
        share=None if dealt is None else RowShare(dealt, device_tensor(predict[scored], torch.long)),
    )


def _valid(items: Sequence[PackItem], lengths: Sequence[int]) -> npt.NDArray[np.bool_]:
    """bool [T]: rows that a record speaks of."""
    rows_of = zip(items, lengths, strict=True)
    return np.concatenate([np.zeros(n, bool) if i.valid is None else i.valid[:n] for i, n in rows_of])


def _pack_choices(
    records: Sequence[ReplayRecord | None], lengths: Sequence[int], name: str, unused: int
) -> np.ndarray | None:
    """Recorded choices [T, layers, n] of all records, in their own integers; ``unused`` in rows without a record."""
    found = [None if record is None else getattr(record, name) for record in records]
    shapes = {rows.shape[1:] for rows in found if rows is not None}
    if not shapes:
        return None
    if len(shapes) > 1:
        raise ValueError(f"replay records of different [layers, {name}] shapes in one batch: {sorted(shapes)}")
    shape, dtype = shapes.pop(), np.result_type(*{rows.dtype for rows in found if rows is not None})
    choices: list[np.ndarray] = [
        np.full((length, *shape), unused, dtype) if rows is None else rows[:length]
        for rows, length in zip(found, lengths, strict=True)
    ]
    packed: np.ndarray = np.concatenate(choices)
    return packed

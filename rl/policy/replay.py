"""Discrete choices of a forward pass: forced from a recording (Replay) or collected (Record).

Keep Routing (V3.2 sec. 3.1): only the choice is replayed, ``S = TopK(...)``; the gate weights
``g_i = s_i / sum_{j in S} s_j`` stay live, so gradients reach the router.
The indexer's choice ``TopK_s(I[t, :])`` is the second discrete choice and is handled the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

IndexerKL = Literal["off", "dense", "sparse"]


class ReplayError(RuntimeError):
    """A recorded choice was used twice, or not at all: the gradient would belong to another policy."""


@dataclass
class Replay:
    """Recorded choices of one packed forward pass; pass a fresh one to each pass.

    ``experts`` [T, L_moe, K]; ``valid`` bool [T]; ``indexer`` [T, L, k] of the L indexers, positions inside the row's
    own sequence, -1 where unused: integers of any width, as they were recorded; each layer widens its own column when
    it uses it. Rows where ``valid`` is False choose live.
    ``force_experts`` / ``force_indexer``: False only compares the live choice with the recorded one.
    ``counts`` int64 [T]: how often a row counts in the results; None: once (``rl.policy.prefix_tree``).

    Results: ``expert_overlaps`` one [valid rows] per MoE layer, the share of the recorded experts that the live
    router chooses too; ``indexer_overlaps`` the same for the indexer, rows that see more than k tokens only, and
    only where it is not forced: a forced choice needs no index scores.
    Every layer's column is taken exactly once: a second taking, or one left over at the end of the pass, raises
    ReplayError.
    """

    experts: torch.Tensor | None = None
    valid: torch.Tensor | None = None
    indexer: torch.Tensor | None = None
    force_experts: bool = True
    force_indexer: bool = True
    counts: torch.Tensor | None = None
    expert_overlaps: list[torch.Tensor] = field(default_factory=list)
    indexer_overlaps: list[torch.Tensor] = field(default_factory=list)
    _taken: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        if (self.experts is not None or self.indexer is not None) and self.valid is None:
            raise ValueError("Replay.valid is None: give a bool [T] that marks the rows to force")
        for name in ("experts", "indexer"):
            value = getattr(self, name)
            if value is not None and (value.dim() != 3 or value.shape[0] != len(self.valid)):  # type: ignore[arg-type]
                raise ValueError(
                    f"Replay.{name} has shape {tuple(value.shape)}; expected [T, layers, choices] with "
                    f"T = len(valid) = {len(self.valid)}"  # type: ignore[arg-type]
                )

    def expert_tap(self, moe_layer: int) -> ExpertTap | None:
        """The recorded experts of one MoE layer; None when none were recorded."""
        recorded = self._take("experts", moe_layer)
        if recorded is None or self.valid is None:
            return None
        return ExpertTap(recorded, self.valid, self.force_experts, self.expert_overlaps, self.counts)

    def indexer_tap(self, layer: int, record: Record | None) -> IndexerTap | None:
        """The recorded rows of one indexer (in the order of the layers), and the record to fill; None: neither."""
        recorded = self._take("indexer", layer)
        if recorded is None:
            return None if record is None else IndexerTap(None, None, record)
        return IndexerTap(recorded, self.valid, record, self.force_indexer, self.indexer_overlaps)

    def finish(self) -> None:
        """Raise ReplayError unless every recorded column was taken."""
        for name in ("experts", "indexer"):
            value: torch.Tensor | None = getattr(self, name)
            used = sum(kind == name for kind, _ in self._taken)
            if value is not None and used != value.shape[1]:
                raise ReplayError(f"replay of {name}: {used} of {value.shape[1]} recorded layers were used")

    def _take(self, name: str, layer: int) -> torch.Tensor | None:
        value: torch.Tensor | None = getattr(self, name)
        if value is None:
            return None
        if (name, layer) in self._taken:
            raise ReplayError(f"replay of {name}: layer {layer} was used twice; give each forward pass its own Replay")
        if layer >= value.shape[1]:
            raise ReplayError(f"replay of {name}: layer {layer} asked for, {value.shape[1]} recorded")
        self._taken.add((name, layer))
        return value[:, layer]


class Record:
    """What to collect in one forward pass; pass a fresh one to each pass.

    Results: ``experts`` int64 [T, L_moe, K]; ``indexer`` int64 [T, L, k] of the L indexers (-1 = unused);
    ``indexer_kl`` scalar, sum over layers and tokens of L_I (V3.2 sec. 2.1.1), with gradients that reach
    only the indexer; ``indexer_kl_tokens`` the number of (layer, token) terms in that sum.
    """

    # No dataclass: FSDP copies dataclasses that a layer is given when tensors with gradients are in them, and what the
    # layer notes in the copy would be lost.
    def __init__(
        self, want_experts: bool = True, want_indexer: bool = False, want_indexer_kl: IndexerKL = "off"
    ) -> None:
        self.want_experts, self.want_indexer, self.want_indexer_kl = want_experts, want_indexer, want_indexer_kl
        self.expert_rows: list[torch.Tensor] = []
        self.indexer_rows: list[torch.Tensor] = []
        self.kl_terms: list[torch.Tensor] = []
        self.indexer_kl_tokens = 0

    @property
    def experts(self) -> torch.Tensor:
        if not self.expert_rows:
            raise ValueError("Record.experts is empty: no MoE layer ran with want_experts=True")
        return torch.stack(self.expert_rows, dim=1)

    @property
    def indexer(self) -> torch.Tensor:
        if not self.indexer_rows:
            raise ValueError("Record.indexer is empty: no sparse layer ran with want_indexer=True")
        return torch.stack(self.indexer_rows, dim=1)

    @property
    def indexer_kl(self) -> torch.Tensor:
        if not self.kl_terms:
            raise ValueError("Record.indexer_kl is empty: no layer ran with want_indexer_kl 'dense' or 'sparse'")
        return torch.stack(self.kl_terms).sum()


@dataclass
class ExpertTap:
    """One MoE layer's share of a Replay: ``recorded`` [T, K] where ``valid`` bool [T]; ``counts`` as there."""

    recorded: torch.Tensor
    valid: torch.Tensor
    force: bool
    overlaps: list[torch.Tensor]
    counts: torch.Tensor | None = None
    _noted: bool = False  # a layer that is run again in the backward pass chooses again, and notes nothing

    def choose(self, live: torch.Tensor) -> torch.Tensor:
        """The experts to use, given the live choice int64 [T, K]; notes how far the two agree, once."""
        recorded = self.recorded.to(live.dtype)
        same = (recorded.unsqueeze(-1) == live.unsqueeze(-2)).any(-1).float().mean(-1)
        if not self._noted:
            same = same[self.valid]
            self.overlaps.append(same if self.counts is None else same.repeat_interleave(self.counts[self.valid]))
        self._noted = True
        return torch.where(self.valid.unsqueeze(-1), recorded, live) if self.force else live


@dataclass
class IndexerTap:
    """One layer's share of Replay and Record, handed to the attention context when there is any.

    ``forced`` [T, k] (-1 = unused) where ``valid`` bool [T]; ``record`` collects. ``force`` False only
    compares; ``overlaps`` then takes, per block of queries, |live and recorded| / |recorded| of those that see more
    than k rows.
    """

    forced: torch.Tensor | None
    valid: torch.Tensor | None
    record: Record | None
    force: bool = True
    overlaps: list[torch.Tensor] = field(default_factory=list)

    @property
    def watches(self) -> bool:
        """Whether the live choice is wanted: recorded, learned from or compared. Merely forced rows need none."""
        return self.record is not None or (self.forced is not None and not self.force)

"""Discrete choices of a forward pass: forced from a recording (Replay) or collected (Record).

Keep Routing (recipe 2.5): only the choice is replayed, ``S = TopK(...)``; the gate weights
``g_i = s_i / sum_{j in S} s_j`` stay live, so gradients reach the router.
The indexer's choice ``TopK_s(I[t, :])`` is the second discrete choice and is handled the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

IndexerKL = Literal["off", "dense", "sparse"]


@dataclass
class Replay:
    """Choices to force. Rows where ``valid`` is False route live.

    ``experts`` int64 [T, L_moe, K]; ``valid`` bool [T]; ``indexer`` int64 [T, L, k], positions
    inside the row's own sequence, -1 where unused.
    """

    experts: torch.Tensor | None = None
    valid: torch.Tensor | None = None
    indexer: torch.Tensor | None = None

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


@dataclass
class Record:
    """What to collect in one forward pass; pass a fresh one to each pass.

    Results: ``experts`` int64 [T, L_moe, K]; ``indexer`` int64 [T, L, k] (-1 = unused);
    ``indexer_kl`` scalar, sum over layers and tokens of L_I (recipe 1.5), with gradients that reach
    only the indexer; ``indexer_kl_tokens`` the number of (layer, token) terms in that sum.
    """

    want_experts: bool = True
    want_indexer: bool = False
    want_indexer_kl: IndexerKL = "off"
    expert_rows: list[torch.Tensor] = field(default_factory=list)
    indexer_rows: list[torch.Tensor] = field(default_factory=list)
    kl_terms: list[torch.Tensor] = field(default_factory=list)
    indexer_kl_tokens: int = 0

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
class IndexerTap:
    """One layer's share of Replay and Record, handed to the attention context when there is any.

    ``forced`` int64 [T, k] (-1 = unused) where ``valid`` bool [T]; ``record`` collects.
    """

    forced: torch.Tensor | None
    valid: torch.Tensor | None
    record: Record | None

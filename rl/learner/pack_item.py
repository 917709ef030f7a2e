"""A token stream with its targets, ready to be packed (``rl.learner.packing``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl.policy.record_outline import outline_of
from rl.types import KeptRecord, Outline, ReplayRecord, TokenStream


@dataclass
class PackItem(TokenStream):
    """One token stream with its targets (never at 0: nothing predicts it), ready to be packed.

    The per-token arrays [T] are read where the mask is True. ``weight`` is the loss weight of
    one target token; ``advantage`` the one of its trajectory, ``kl_coef`` the strength of its KL term.
    ``logprobs`` are the sampler's; ``exact`` bool [T], where the learner has to agree with them (``Segment.exact``).
    ``taught``: the task family, where it has a teacher; only items of one such family are packed together.
    ``replay``: the recorded choices, or None and ``kept`` where they are elsewhere.
    """

    weight: float = 1.0
    advantage: float = 0.0
    logprobs: np.ndarray | None = None
    exact: np.ndarray | None = None
    replay: ReplayRecord | None = None
    kl_coef: float = 0.0
    taught: str | None = None
    name: str = "segment"
    kept: KeptRecord | None = None

    def __post_init__(self) -> None:
        length = len(self.tokens)
        columns = {"loss_mask": self.loss_mask, "logprobs": self.logprobs, "exact": self.exact}
        if (valid := self.valid) is not None:
            columns["replay"] = valid
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

    @property
    def valid(self) -> np.ndarray | None:
        """bool [T]: rows that the record speaks of; None without one."""
        if self.kept is not None:
            return self.kept.outline.valid
        return None if self.replay is None else self.replay.valid

    @property
    def recorded(self) -> int:
        """Input rows that the record speaks of."""
        return 0 if self.valid is None else int(self.valid[: self.inputs].sum())

    def records(self, name: str) -> bool:
        """Whether there are records of ``name``: experts, indexer or support."""
        if self.kept is not None:
            return name in self.kept.outline.recorded
        return self.replay is not None and getattr(self.replay, name) is not None

    def outline(self) -> Outline:
        """What planning with common beginnings looks at."""
        return outline_of(self.tokens, self.replay) if self.kept is None else self.kept.outline

    def record(self) -> ReplayRecord | None:
        """The record itself, from wherever it is."""
        return self.replay if self.kept is None else self.kept.fetch()

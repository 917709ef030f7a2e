"""Every record exactly once: the audit of replay in one optimiser step.

    rows recorded for the inputs of a batch  =  rows packed  =  rows taken by every layer of the forward pass

A record that is missing, doubled or shifted trains the gradient of another policy, and nothing would look
wrong: so the three counts are compared in every step, and a difference stops the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rl.learner.config import ReplayConfig
from rl.learner.pack_item import PackItem
from rl.learner.packing import MicroBatch
from rl.policy.api import Policy
from rl.policy.replay import Replay, ReplayError


def replay_of(batch: MicroBatch, config: ReplayConfig) -> Replay | None:
    """A fresh Replay of the choices that ``config`` wants forced or checked; None when there are none."""
    experts = batch.experts_TLK if config.routing != "off" else None
    indexer = batch.indexer_TLk if config.indexer != "off" else None
    if experts is None and indexer is None:
        return None
    return Replay(
        experts,
        batch.replay_valid_T,
        indexer,
        force_experts=config.routing == "force",
        force_indexer=config.indexer == "force",
        counts=None if batch.share is None else batch.share.split.count_R,
    )


def require_records(items: Sequence[PackItem], config: ReplayConfig, policy: Policy) -> None:
    """Raise ReplayError unless every input token of ``items`` has the records that ``config`` is to use."""
    wanted = {"experts": config.routing != "off" and policy.num_moe_layers > 0, "indexer": config.indexer != "off"}
    for name in (n for n, on in wanted.items() if on):
        field = "routing" if name == "experts" else "indexer"
        for item in items:
            known = item.recorded if item.records(name) else 0
            if known != item.inputs:
                raise ReplayError(
                    f"{item.name}: {name} were recorded for {known} of {item.inputs} input tokens; "
                    f"replay.{field}={getattr(config, field)} needs all of them. Set replay.{field}=off where the "
                    "rollout engine cannot record (rollout.dsa_backend=native)"
                )


def mean_of(overlaps: Sequence[torch.Tensor]) -> float | None:
    """Mean over layers and rows; None where nothing was compared."""
    joined = torch.cat(list(overlaps)) if overlaps else torch.empty(0)
    return float(joined.mean()) if len(joined) else None


class ReplayBooks:
    """Counts of one ``Learner.step`` and the agreement of live and recorded choices."""

    def __init__(self) -> None:
        self.expected = self.packed = self.used = 0
        self.choice_bytes = self.tokens = 0  # of micro-batches with recorded choices
        self.expert_overlaps: list[torch.Tensor] = []
        self.indexer_overlaps: list[torch.Tensor] = []

    def expect(self, items: Sequence[PackItem]) -> None:
        """Note the rows that ``items`` bring along for their input tokens."""
        self.expected += sum(item.recorded for item in items)

    def pack(self, batch: MicroBatch) -> None:
        """Note the rows that arrived in ``batch``."""
        if not batch.padding:
            self.packed += batch.recorded
            self.choice_bytes += batch.choice_bytes
            self.tokens += len(batch.tokens_T) if batch.counts else 0

    def use(self, batch: MicroBatch, replay: Replay | None) -> None:
        """Note what one forward pass of ``batch`` took; ``Replay.finish`` has checked its layers."""
        self.used += batch.recorded
        if replay is not None:
            self.expert_overlaps += replay.expert_overlaps
            self.indexer_overlaps += replay.indexer_overlaps

    def extend(self, other: ReplayBooks) -> None:
        """Add the counts and agreements of ``other``."""
        self.expected += other.expected
        self.packed += other.packed
        self.used += other.used
        self.choice_bytes += other.choice_bytes
        self.tokens += other.tokens
        self.expert_overlaps += other.expert_overlaps
        self.indexer_overlaps += other.indexer_overlaps

    def close(self) -> None:
        """Raise ReplayError unless each recorded row was packed once and used once."""
        if not self.expected == self.packed == self.used:
            raise ReplayError(
                f"replay: {self.expected} rows recorded, {self.packed} packed, {self.used} used by the forward passes; "
                "each must be used exactly once"
            )

    def summary(self) -> dict[str, float]:
        """Named as in ``rl.tracking.metrics``; only what was recorded."""
        out: dict[str, float] = {}
        if self.used:
            out["replay/rows"] = float(self.used)
            out["bytes/packed"] = self.choice_bytes / self.tokens
        if (routing := mean_of(self.expert_overlaps)) is not None:
            out["replay/routing_overlap"] = routing
        if self.indexer_overlaps and len(overlap := torch.cat(self.indexer_overlaps)):
            out["replay/indexer_overlap"] = float(overlap.mean())
            out["replay/indexer_below_80"] = float((overlap < 0.8).float().mean())
        return out

"""Random prefix trees, and the comparison of a policy's pass over one with its pass over all sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rl.policy.api import Policy
from rl.policy.prefix_tree import PrefixTree, by_prefix
from rl.policy.record_outline import row_bytes
from rl.policy.replay import Record, Replay


class Batch:
    """Random sequences that branch off each other, and choices to force: the same for the same beginning, but where
    ``split`` says that a rollout was computed by itself."""

    def __init__(self, seed: int, sequences: int, split: float, policy: Policy, top: int = 60) -> None:
        rng = np.random.default_rng(seed)
        model: Any = policy.module
        layers, topk = getattr(model, "num_indexers", 0), getattr(model.config, "index_topk", 0)
        found: list[tuple[np.ndarray, ...]] = []
        for _ in range(sequences):
            base = found[rng.integers(len(found))] if found and rng.random() < 0.8 else None
            kept = 0 if base is None else int(rng.integers(0, len(base[0]) + 1))
            more = int(rng.integers(0 if kept else 1, top + 1 - kept))
            experts = rng.random((more, policy.num_moe_layers, policy.num_experts)).argsort(-1)[..., :2]
            rows = np.full((more, layers, topk), -1)
            for t in range(more):
                for layer in range(layers):
                    seen = rng.permutation(kept + t + 1)[:topk]
                    rows[t, layer, : len(seen)] = seen
            new = (rng.integers(0, policy.vocab_size, more), experts, rows, rng.random(more) < 0.8)
            whole = (
                new if base is None else tuple(np.concatenate((b[:kept], n)) for b, n in zip(base, new, strict=True))
            )
            if kept and policy.num_moe_layers and rng.random() < split:
                at = int(rng.integers(kept))
                whole[1][at, 0] = (whole[1][at, 0] + 1) % policy.num_experts
            found.append(whole)
        order, shared = by_prefix([row_bytes(list(columns)) for columns in found])
        columns = [torch.from_numpy(np.concatenate([found[i][c] for i in order])) for c in range(4)]
        self.tokens, self.experts, self.indexer, self.valid = columns
        self.bounds = [0, *np.cumsum([len(found[i][0]) for i in order]).tolist()]
        self.tree = PrefixTree(self.bounds, shared)
        self.weights = torch.from_numpy(rng.standard_normal((len(self.tokens), policy.vocab_size)).astype(np.float32))

    def replay(self, indexer: bool, force: bool = True) -> Replay:
        return Replay(self.experts, self.valid, self.indexer if indexer else None, force, force)


def run(
    policy: Any, batch: Batch, tree: bool, replay: Replay | None = None, record: Record | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of all rows, and the whole gradient of a loss that weighs each differently."""
    policy.module.zero_grad()
    hidden = policy.packed_hidden(batch.tokens, batch.tree if tree else batch.bounds, replay, record)
    logits = policy.logits(hidden)
    loss = (logits * batch.weights).sum() / len(logits)
    if record is not None and record.kl_terms:
        loss = loss + record.indexer_kl / record.indexer_kl_tokens
    loss.backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in policy.module.parameters() if p.grad is not None])


def assert_same(policy: Any, batch: Batch, replays: Any = lambda: None) -> None:
    flat, expected = run(policy, batch, False, replays())
    mine, gradient = run(policy, batch, True, replays())
    torch.testing.assert_close(mine, flat, atol=1e-5, rtol=0)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-5

"""A very small DSA/MoE policy, and segments that an engine with it would return: choices and log-probs recorded."""

from __future__ import annotations

import functools

import numpy as np
import torch

from envs.types import StopReason
from rl.policy.api import Policy
from rl.policy.loading import build_policy
from rl.policy.replay import Record, Replay
from rl.types import Group, ReplayRecord, Segment, Trajectory

VOCAB, TOPK, PROMPT, LENGTH = 32, 12, 6, 40


@functools.cache
def recording_policy() -> Policy:
    sizes = dict(
        hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8,
        index_n_heads=2, index_head_dim=16, index_topk=TOPK, initializer_range=0.3,
    )  # fmt: skip
    return build_policy({"preset": "tiny_dsa", "vocab_size": VOCAB, "seed": 0, "overrides": sizes})


def recorded(
    seed: int = 0,
    *,
    version: int = 3,
    other_experts: bool = False,
    other_indexer: bool = False,
    keep_indexer: bool = True,
    top_k: int = 0,
) -> Segment:
    """What a sampler with these choices returns: tokens, log-probs, record.

    ``other_*``: the sampler chose otherwise than the policy would (as near-ties may make it).
    """
    policy = recording_policy()
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, LENGTH)
    ids = torch.from_numpy(tokens)
    live = Record(want_indexer=True)
    with torch.no_grad():
        policy.packed_logits(ids, [0, LENGTH], None, live)
    experts, indexer = (live.experts + 1) % policy.num_experts, live.indexer
    if other_indexer:  # the last row that sees more than TOPK others leaves out its best one for another
        row = indexer[-2]
        for layer in range(row.shape[0]):
            free = sorted(set(range(LENGTH - 1)) - set(row[layer].tolist()))
            row[layer, 0] = free[0]
    valid = torch.ones(LENGTH, dtype=torch.bool)
    valid[-1] = False
    with torch.no_grad():
        forced = Replay(experts if other_experts else None, valid, indexer if other_indexer else None)
        logits = policy.packed_logits(ids, [0, LENGTH], forced, sampled := Record(want_indexer=True))
    support: list[np.ndarray | None] | None = None
    if top_k:
        kept = logits.topk(top_k).indices.numpy()
        rows = [np.union1d(kept[t - 1], tokens[t : t + 1]).astype(np.int32) for t in range(1, LENGTH)]
        support = [None] * PROMPT + rows[PROMPT - 1 :]
        outside = torch.ones_like(logits, dtype=torch.bool)
        for t, row_ids in enumerate(rows):
            outside[t, torch.from_numpy(row_ids).long()] = False
        logits = logits.masked_fill(outside, float("-inf"))
    logprobs = logits[:-1].log_softmax(-1).gather(1, ids[1:, None]).squeeze(1).numpy()
    mask = np.arange(LENGTH) >= PROMPT
    return Segment(
        tokens.astype(np.int32),
        mask,
        np.where(mask, np.concatenate([[0.0], logprobs]), 0.0).astype(np.float32),
        np.where(mask, version, -1).astype(np.int32),
        ReplayRecord(
            valid.numpy(),
            sampled.experts.numpy().astype(np.uint8),
            sampled.indexer.numpy().astype(np.int16) if keep_indexer else None,
            support,
        ),
    )


def group(*segments: Segment) -> list[Group]:
    """One trajectory per segment, all in one group."""
    made = Group(0, 0, "task", "search", 3)
    for number, one in enumerate(segments):
        made.trajectories.append(Trajectory(f"g0/{number}", "task", "search", [one], [], StopReason.ANSWERED, 1.0))
    return [made]

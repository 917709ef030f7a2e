"""A very small DSA/MoE policy and made-up groups whose log-probs are the policy's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from envs.types import StopReason
from rl.policy.api import Policy
from rl.policy.loading import build_policy
from rl.policy.replay import Record
from rl.types import Group, ReplayRecord, Segment, Trajectory

VOCAB = 32


def tiny_config(seed: int = 0) -> dict:
    """Config mapping of a 3-layer policy whose index_topk is below the sequences used here."""
    return {
        "preset": "tiny_dsa",
        "vocab_size": VOCAB,
        "seed": seed,
        "overrides": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "moe_intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "index_n_heads": 2,
            "index_head_dim": 16,
            "index_topk": 12,
        },
    }


def sample_segment(policy: Policy, tokens: np.ndarray, prompt: int, version: int) -> Segment:
    """A segment as an engine would return it, with the log-probs and experts of ``policy``."""
    ids, record = torch.from_numpy(tokens).long(), Record()
    with torch.no_grad():
        logits = policy.packed_logits(ids, [0, len(ids)], None, record)
    logprobs = logits[:-1].log_softmax(-1).gather(1, ids[1:, None]).squeeze(1).numpy()
    mask = np.arange(len(tokens)) >= prompt
    valid = np.ones(len(tokens), bool)
    valid[-1] = False  # the last sampled token was never an input
    return Segment(
        tokens=tokens.astype(np.int32),
        loss_mask=mask,
        logprobs=np.where(mask, np.concatenate([[0.0], logprobs]), 0.0).astype(np.float32),
        versions=np.where(mask, version, -1).astype(np.int32),
        replay=ReplayRecord(valid, record.experts.numpy().astype(np.uint8)),
    )


@pytest.fixture(autouse=True)
def _quiet_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def policy_config() -> dict:
    return tiny_config()


@pytest.fixture
def policy(policy_config: dict) -> Policy:
    return build_policy(policy_config)


@pytest.fixture
def make_groups(policy: Policy) -> Callable[..., list[Group]]:
    """``groups_by`` the policy of this test."""
    return groups_by(policy)


def groups_by(policy: Policy) -> Callable[..., list[Group]]:
    """make(count, size, version, seed) -> groups of random tokens by ``policy``; reward 1 for the first half."""

    def make(count: int = 2, size: int = 4, version: int = 0, seed: int = 0) -> list[Group]:
        rng = np.random.default_rng(seed)
        groups = []
        for g in range(count):
            group = Group(g, g, f"task{g}", "search", version)
            for i in range(size):
                tokens = rng.integers(0, VOCAB, int(rng.integers(16, 30)))
                segment = sample_segment(policy, tokens, prompt=8, version=version)
                group.trajectories.append(
                    Trajectory(
                        f"{g}-{i}",
                        group.task_id,
                        "search",
                        [segment],
                        [],
                        StopReason.ANSWERED,
                        float(i < size // 2),
                    )
                )
            groups.append(group)
        return groups

    return make

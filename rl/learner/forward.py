"""From a packed micro-batch to the log-probs of its targets: the one forward pass that all training uses.

The output head runs on the rows that predict a target only: logits [N, V] never exist for the (often four
times as many) prompt and environment tokens.
"""

from __future__ import annotations

import torch

from rl.learner.packing import MicroBatch
from rl.objective.logprobs import TokenScores, scores_of_logits, support_mask
from rl.policy.api import Policy
from rl.policy.replay import Record, Replay


def is_indexer(name: str) -> bool:
    """True for the parameters of DSA's lightning indexer (HF name: ``...self_attn.indexer...``)."""
    return ".indexer." in name


def device_of(policy: Policy) -> torch.device:
    """Device of the policy's parameters."""
    return next(policy.named_parameters())[1].device


def packed_scores(
    policy: Policy,
    batch: MicroBatch,
    *,
    temperature: float = 1.0,
    replay: Replay | None = None,
    record: Record | None = None,
    sampling_mask: bool = True,
) -> TokenScores:
    """Log-probs (with gradient), entropies and greedy hits of the targets of ``batch``.

    ``sampling_mask``: on the support that the sampler kept, where it cut (Keep Sampling Mask).
    """
    logits_NV = policy.packed_logits(batch.tokens_T, batch.cu_seqlens, replay, record, rows=batch.predict_N)
    mask_NV = None
    if batch.support_N is not None and sampling_mask:
        mask_NV = support_mask(batch.support_N, batch.targets_N, policy.vocab_size)
    return scores_of_logits(logits_NV, batch.targets_N, temperature, mask_NV)

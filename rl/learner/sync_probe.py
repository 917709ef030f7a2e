"""What the learner says of one sequence after a weight sync, for the comparison with an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from rl.learner.forward import live_logprobs, sequence_logprobs
from rl.learner.precision import ComputeWeights, sync_tolerance
from rl.learner.replay_audit import mean_of
from rl.learner.sharded import ShardedWeights
from rl.types import ProbeScores, ReplayRecord


@torch.no_grad()
def probe_scores(
    compute: ComputeWeights | ShardedWeights,
    tokens: Sequence[int] | np.ndarray,
    replay: ReplayRecord | None,
    dtype: str,
    device: torch.device,
) -> ProbeScores:
    """Log-probs of ``tokens[1:]`` with the engine's choices forced, and how far from them an engine may be (``dtype``:
    the coarser of the two that compute). And the same with choices of its own: the first reads 0 however the engine
    chooses, the second only if it chooses alike."""
    ours = sequence_logprobs(compute.policy, tokens, replay, device)
    other = compute.in_dtype(torch.bfloat16 if compute.dtype == torch.float32 else torch.float32)
    noise = (sequence_logprobs(other, tokens, replay, device) - ours).square().mean().sqrt()
    scores = ProbeScores(ours.cpu().numpy(), sync_tolerance(float(noise), ours, dtype))
    if replay is None or (replay.experts is None and replay.indexer is None):
        return scores
    live, own = live_logprobs(compute.policy, tokens, replay, device)
    return replace(
        scores,
        live=live.cpu().numpy(),
        routing_overlap=mean_of(own.expert_overlaps),
        indexer_overlap=mean_of(own.indexer_overlaps),
    )

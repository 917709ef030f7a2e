"""The micro-batch loss: surrogate x off-policy mask + beta x KL, weighted so that micro-batches just add up.

    loss = sum_t w_t (M_t L_t + beta D_t)

w_t (``advantage.token_weights``) already holds 1/(groups G |o_i|), so the sum over all micro-batches of a
minibatch is the paper's nested mean whatever the packing was. M multiplies the surrogate only, never the KL.
"Sequence" in M is one segment (one append-only token stream): a branch has its own context and drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rl.objective.config import ObjectiveConfig
from rl.objective.terms import clipped_surrogate, off_policy_mask, sequence_drift, unbiased_kl


@dataclass
class LossTerms:
    """``loss``: scalar with gradient. The rest is detached: ``policy_loss`` the surrogate's share of it, then
    diagnostics per token [N] or per segment [S]."""

    loss: torch.Tensor
    policy_loss: torch.Tensor
    ratio_N: torch.Tensor
    clipped_N: torch.Tensor
    drift_S: torch.Tensor
    kept_S: torch.Tensor
    kl_N: torch.Tensor | None


def grpo_loss(
    logprobs_N: torch.Tensor,
    sampler_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    weights_N: torch.Tensor,
    segment_N: torch.Tensor,
    segments: int,
    config: ObjectiveConfig,
    ref_logprobs_N: torch.Tensor | None = None,
) -> LossTerms:
    """Loss of one micro-batch. ``segment_N`` maps tokens to 0..segments-1; an advantage is one per segment.

    Raises ValueError when ``config.kl_coef`` is above 0 and no reference log-probs are given.
    """
    drift_S = sequence_drift(logprobs_N, sampler_logprobs_N, segment_N, segments)
    kept_S = torch.ones(segments, dtype=torch.bool, device=drift_S.device)
    if config.opsm_delta is not None:
        advantages_S = torch.zeros_like(drift_S).index_copy(0, segment_N, advantages_N.to(drift_S.dtype))
        kept_S = off_policy_mask(drift_S, advantages_S, config.opsm_delta)
    kept_N = kept_S[segment_N]
    # A dropped token gets ratio 1 before the surrogate and 0 after it: its true ratio may be infinite, and
    # 0 * inf is NaN, in the value as in the gradient.
    live_N = torch.where(kept_N, logprobs_N, sampler_logprobs_N)
    loss_N, clipped_N = clipped_surrogate(live_N, sampler_logprobs_N, advantages_N, config.clip_range)
    loss_N = loss_N * kept_N
    loss = (weights_N * loss_N).sum()
    policy_loss = loss.detach()
    kl_N: torch.Tensor | None = None
    if config.kl_coef > 0:
        if ref_logprobs_N is None:
            raise ValueError(
                f"objective.kl_coef={config.kl_coef} needs the reference policy's log-probs; "
                "give them, or set objective.kl_coef=0"
            )
        kl_N = unbiased_kl(logprobs_N, sampler_logprobs_N, ref_logprobs_N)
        loss = loss + config.kl_coef * (weights_N * kl_N).sum()
        kl_N = kl_N.detach()
    ratio_N = torch.exp(logprobs_N.detach() - sampler_logprobs_N)
    return LossTerms(loss, policy_loss, ratio_N, clipped_N, drift_S, kept_S, kl_N)

"""The terms of V3.2's GRPO objective, one function per equation (arXiv 2512.02556, eq. 5-9).

    r_t   = pi_theta(o_t) / pi_old(o_t)                 pi_old: the probability the SAMPLER returned
    L_t   = -min(r_t A, clip(r_t, 1 - eps, 1 + eps) A) M
    D_t   = r_t (pi_ref/pi_theta - log(pi_ref/pi_theta) - 1)        unbiased KL, gradient through r_t too
    M     = 0 if A < 0 and 1/|o| sum_t log(pi_old/pi_theta) > delta, else 1

All arguments are flat over the N sampled tokens of a micro-batch.
"""

from __future__ import annotations

import torch


def clipped_surrogate(
    logprobs_N: torch.Tensor,
    sampler_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    clip_range: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss_N to minimise, clipped_N bool: tokens that pass no gradient because of the clip)."""
    ratio_N = torch.exp(logprobs_N - sampler_logprobs_N)
    free_N = ratio_N * advantages_N
    held_N = ratio_N.clamp(*clip_range) * advantages_N
    return -torch.minimum(free_N, held_N), (held_N < free_N).detach()


def unbiased_kl(
    logprobs_N: torch.Tensor, sampler_logprobs_N: torch.Tensor, ref_logprobs_N: torch.Tensor
) -> torch.Tensor:
    """D_KL(pi_theta || pi_ref) per token, unbiased in value AND gradient when tokens come from pi_old.

    K3 times the importance ratio. The ratio keeps its gradient: the gradient coefficient on
    grad log pi_theta is then (pi_theta/pi_old) log(pi_theta/pi_ref), bounded where K3's is not.
    """
    ratio_N = torch.exp(logprobs_N - sampler_logprobs_N)
    log_ref_N = ref_logprobs_N - logprobs_N
    return ratio_N * (torch.exp(log_ref_N) - log_ref_N - 1.0)


def sequence_drift(
    logprobs_N: torch.Tensor, sampler_logprobs_N: torch.Tensor, segment_N: torch.Tensor, segments: int
) -> torch.Tensor:
    """Per segment: 1/|o| sum_t log(pi_old / pi_theta), signed, without gradient. [segments]"""
    with torch.no_grad():
        drift_N = sampler_logprobs_N - logprobs_N
        zeros = torch.zeros(segments, dtype=drift_N.dtype, device=drift_N.device)
        total_S = zeros.index_add(0, segment_N, drift_N)
        count_S = zeros.index_add(0, segment_N, torch.ones_like(drift_N))
        return total_S / count_S.clamp(min=1.0)


def off_policy_mask(drift_S: torch.Tensor, advantages_S: torch.Tensor, delta: float) -> torch.Tensor:
    """M per segment: False where a negative-advantage sequence drifted further than ``delta``."""
    return ~((advantages_S < 0) & (drift_S > delta))

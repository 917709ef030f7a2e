"""The terms of the objective, one function per equation; ``rl.objective.loss`` puts them together.

    r_t   = pi_theta(o_t) / pi_old(o_t)                 level "token";  V3.2's pi_old: what the SAMPLER returned
    s     = exp(1/|o| sum_t log r_t)                    level "sequence" (GSPO, arXiv 2507.18071)
    L_t   = -min(r_t A, clip(r_t, 1 - eps, 1 + eps) A)              "clip" (V3.2, arXiv 2512.02556 eq. 5)
    L_t   = -sg[min(r_t, 1 + eps_high)] A log pi_theta(o_t)         "cispo" (MiniMax-M1, arXiv 2506.13585)
    c_t   = min(rho_t, high)  or  rho_t [low <= rho_t <= high]      rho_t = pi_learner_old / pi_sampler (TIS, IcePop)
    D_t   = r_t (pi_ref/pi_theta - log(pi_ref/pi_theta) - 1)        unbiased KL (eq. 7), gradient through r_t too
    M     = 0 if A < 0 and 1/|o| sum_t log(pi_old/pi_theta) > delta, else 1                           (eq. 9)

All arguments are flat over the N sampled tokens of a micro-batch; sg is the stop-gradient. A sequence is one
segment: ``segment_N`` maps tokens to 0..segments-1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

# (log_ratio_N, logprobs_N, advantages_N, (lowest, highest ratio)) -> (loss_N to minimise, bounded_N bool)
Surrogate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, tuple[float, float]], tuple[torch.Tensor, torch.Tensor]]


def importance_log_ratio(
    logprobs_N: torch.Tensor, old_logprobs_N: torch.Tensor, segment_N: torch.Tensor, segments: int, level: str
) -> torch.Tensor:
    """log r_t ("token"), or log s of the token's sequence ("sequence"), with gradient. [N]

    At sequence level every token carries the sequence's value and its own gradient: s sg[1/pi_theta] pi_theta,
    GSPO's token variant. Where A is one per sequence, loss and gradient are those of GSPO.
    """
    log_ratio_N = logprobs_N - old_logprobs_N
    if level == "token":
        return log_ratio_N
    mean_S = segment_mean(log_ratio_N, segment_N, segments)
    return mean_S[segment_N] + (logprobs_N - logprobs_N.detach())


def clipped_surrogate(
    log_ratio_N: torch.Tensor,
    logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    clip_range: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """-min(r A, clip(r) A); the tokens marked as bounded pass no gradient."""
    ratio_N = torch.exp(log_ratio_N)
    free_N = ratio_N * advantages_N
    held_N = ratio_N.clamp(*clip_range) * advantages_N
    return -torch.minimum(free_N, held_N), (held_N < free_N).detach()


def cispo_surrogate(
    log_ratio_N: torch.Tensor,
    logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    clip_range: tuple[float, float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """-sg[min(r, highest)] A log pi_theta: the ratio is a bounded weight, and every token keeps its gradient.

    There is no lower bound, as in MiniMax-M1's runs.
    """
    ratio_N = torch.exp(log_ratio_N.detach())
    return -ratio_N.clamp(max=clip_range[1]) * advantages_N * logprobs_N, ratio_N > clip_range[1]


SURROGATES: dict[str, Surrogate] = {"clip": clipped_surrogate, "cispo": cispo_surrogate}


def mismatch_correction(
    old_logprobs_N: torch.Tensor, sampler_logprobs_N: torch.Tensor, kind: str, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(c_N: weight of each token, without gradient; cut_N bool: rho was outside its bounds).

    ``old_logprobs_N``: the learner's own, before the first update of the batch. "truncate" (TIS): min(rho, high),
    only the upper bound counts. "mask" (IcePop): rho within [low, high], 0 outside.
    """
    rho_N = torch.exp(old_logprobs_N - sampler_logprobs_N).detach()
    if kind == "truncate":
        return rho_N.clamp(max=high), rho_N > high
    if kind == "mask":
        cut_N = (rho_N < low) | (rho_N > high)
        return rho_N.masked_fill(cut_N, 0.0), cut_N
    raise ValueError(f"correction {kind!r}: use 'truncate' or 'mask'")


def unbiased_kl(
    logprobs_N: torch.Tensor, sampler_logprobs_N: torch.Tensor, ref_logprobs_N: torch.Tensor
) -> torch.Tensor:
    """D_KL(pi_theta || pi_ref) per token, unbiased in value AND gradient when tokens come from the sampler.

    K3 times the importance ratio. The ratio keeps its gradient: the gradient coefficient on
    grad log pi_theta is then (pi_theta/pi_old) log(pi_theta/pi_ref), bounded where K3's is not.
    """
    ratio_N = torch.exp(logprobs_N - sampler_logprobs_N)
    log_ref_N = ref_logprobs_N - logprobs_N
    return ratio_N * (torch.exp(log_ref_N) - log_ref_N - 1.0)


def segment_mean(values_N: torch.Tensor, segment_N: torch.Tensor, segments: int) -> torch.Tensor:
    """Mean of the tokens' values per segment, without gradient; 0 for a segment without a token. [segments]"""
    values_N = values_N.detach()
    zeros = torch.zeros(segments, dtype=values_N.dtype, device=values_N.device)
    total_S = zeros.index_add(0, segment_N, values_N)
    count_S = zeros.index_add(0, segment_N, torch.ones_like(values_N))
    return total_S / count_S.clamp(min=1.0)


def sequence_drift(
    logprobs_N: torch.Tensor, sampler_logprobs_N: torch.Tensor, segment_N: torch.Tensor, segments: int
) -> torch.Tensor:
    """Per segment: 1/|o| sum_t log(pi_old / pi_theta), pi_old the sampler; signed, without gradient. [segments]"""
    return segment_mean(sampler_logprobs_N - logprobs_N, segment_N, segments)


def off_policy_mask(drift_S: torch.Tensor, advantages_S: torch.Tensor, delta: float) -> torch.Tensor:
    """M per segment: False where a negative-advantage sequence drifted further than ``delta``."""
    return ~((advantages_S < 0) & (drift_S > delta))

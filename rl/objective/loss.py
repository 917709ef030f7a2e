"""The micro-batch loss: one mechanism that the settings turn into GRPO, DAPO, Dr.GRPO, GSPO, CISPO, TIS or IcePop.

    loss = sum_t w_t (alpha M_t c_t L_t + beta_t D_t + lambda K_t)

L the surrogate on the importance ratio, M the off-policy mask, c the correction of the train/inference mismatch,
D the KL to the reference, each in ``rl.objective.terms``; K the KL to a teacher (``rl.objective.teaching``), where the
task's family has one. alpha is 1 without teachers; K in its sampled form is c_t times the surrogate on the teacher's
advantage. w_t (``advantage.token_weights``) already holds 1/(groups G |o_i|), so the sum over all micro-batches of a
minibatch is the paper's nested mean whatever the packing was. M multiplies the rewards' surrogate only, never a KL: it
is about negative advantages of whole sequences. "Sequence" in M and in GSPO's ratio is one segment (one append-only
token stream): a branch has its own context and drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rl.objective.config import ObjectiveConfig
from rl.objective.teaching import Lesson
from rl.objective.terms import (
    SURROGATES,
    importance_log_ratio,
    mismatch_correction,
    off_policy_mask,
    sequence_drift,
    unbiased_kl,
)


@dataclass
class LossInputs:
    """The N sampled tokens of one micro-batch, in any order; all log-probs are natural logs, float32 or wider."""

    logprobs_N: torch.Tensor  # log pi_theta, with gradient
    sampler_logprobs_N: torch.Tensor  # what the inference engine returned
    advantages_N: torch.Tensor  # the same for all tokens of a segment
    weights_N: torch.Tensor  # w_t, from advantage.token_weights
    segment_N: torch.Tensor  # int64, 0..segments-1
    segments: int
    # The learner's log-probs before the first update of the batch; needed with objective.old_policy=learner.
    old_logprobs_N: torch.Tensor | None = None
    # log pi_ref and beta_t (ObjectiveConfig.kl_coef_for of the token's family); needed when a coefficient is above 0.
    ref_logprobs_N: torch.Tensor | None = None
    kl_coef_N: torch.Tensor | None = None
    # Of the teacher of these tokens' family (one for all of a micro-batch), and lambda of that family.
    lesson: Lesson | None = None
    distill_weight: float = 0.0


@dataclass
class LossTerms:
    """``loss``: scalar with gradient. The rest is detached: ``policy_loss`` and ``distill_loss`` the surrogate's and
    the teacher's share of it, then diagnostics per token [N], per token with a KL coefficient above 0 [K] or per
    segment [S]."""

    loss: torch.Tensor
    policy_loss: torch.Tensor
    distill_loss: torch.Tensor
    ratio_N: torch.Tensor  # pi_theta / pi_sampler per token, whatever ratio the surrogate used
    clipped_N: torch.Tensor
    drift_S: torch.Tensor
    kept_S: torch.Tensor
    delta: float | None  # the off-policy mask's threshold; None: nothing was masked
    kl_K: torch.Tensor | None
    correction_N: torch.Tensor | None
    cut_N: torch.Tensor | None


def grpo_loss(inputs: LossInputs, config: ObjectiveConfig, delta: float | None) -> LossTerms:
    """Loss of one micro-batch. ``delta``: threshold of the off-policy mask in nats per token, None for no mask
    (``rl.objective.drift.DriftWindow.delta`` makes it from ``objective.opsm_delta``).

    Raises:
        ValueError: a setting needs log-probs that ``inputs`` does not have.
    """
    logprobs_N, sampler_N = inputs.logprobs_N, inputs.sampler_logprobs_N
    segment_N, segments = inputs.segment_N, inputs.segments
    drift_S = sequence_drift(logprobs_N, sampler_N, segment_N, segments)
    kept_S = torch.ones(segments, dtype=torch.bool, device=drift_S.device)
    if delta is not None:
        advantages_S = torch.zeros_like(drift_S).index_copy(0, segment_N, inputs.advantages_N.to(drift_S.dtype))
        kept_S = off_policy_mask(drift_S, advantages_S, delta)
    trusted_N = torch.ones_like(logprobs_N)  # c

    pi_old_N = sampler_N
    correction_N: torch.Tensor | None = None
    cut_N: torch.Tensor | None = None
    if config.old_policy == "learner":
        if inputs.old_logprobs_N is None:
            raise ValueError(
                "objective.old_policy=learner needs the learner's log-probs from before the first update of the "
                "batch; give LossInputs.old_logprobs_N, or set objective.old_policy=sampler"
            )
        pi_old_N = inputs.old_logprobs_N
        if config.correction != "none":
            correction_N, cut_N = mismatch_correction(
                pi_old_N, sampler_N, config.correction, config.correction_low, config.correction_high
            )
            trusted_N = correction_N

    log_ratio_N = importance_log_ratio(logprobs_N, pi_old_N, segment_N, segments, config.ratio)

    def surrogate(advantages_N: torch.Tensor, scale_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # A dropped token gets ratio 1 before the surrogate and 0 after it: its true ratio may be infinite, and
        # 0 * inf is NaN, in the value as in the gradient.
        live_N = scale_N > 0
        loss_N, bounded_N = SURROGATES[config.surrogate](
            torch.where(live_N, log_ratio_N, 0.0),
            torch.where(live_N, logprobs_N, 0.0),
            advantages_N,
            config.clip_range,
        )
        return (inputs.weights_N * scale_N * loss_N).sum(), bounded_N

    loss, clipped_N = surrogate(
        inputs.advantages_N, config.reward_weight * kept_S[segment_N].to(trusted_N.dtype) * trusted_N
    )
    policy_loss = loss.detach()

    distill_loss = torch.zeros_like(policy_loss)
    if (lesson := inputs.lesson) is not None:
        if config.distill.form == "sampled":
            taught, bounded_N = surrogate(-lesson.kl_N, trusted_N)
            clipped_N = clipped_N | bounded_N
        else:
            taught = (inputs.weights_N * lesson.kl_N).sum()
        taught = inputs.distill_weight * taught
        loss, distill_loss = loss + taught, taught.detach()

    kl_K: torch.Tensor | None = None
    if config.uses_reference:
        if inputs.ref_logprobs_N is None or inputs.kl_coef_N is None:
            raise ValueError(
                f"objective.kl_coef={config.kl_coef} needs the reference policy's log-probs and every token's "
                "coefficient; give LossInputs.ref_logprobs_N and kl_coef_N, or set objective.kl_coef=0"
            )
        on_N = inputs.kl_coef_N > 0  # elsewhere an infinite KL would make 0 * inf
        kl_K = unbiased_kl(logprobs_N[on_N], sampler_N[on_N], inputs.ref_logprobs_N[on_N])
        loss = loss + (inputs.weights_N[on_N] * inputs.kl_coef_N[on_N] * kl_K).sum()
        kl_K = kl_K.detach()
    ratio_N = torch.exp(logprobs_N.detach() - sampler_N)
    return LossTerms(
        loss, policy_loss, distill_loss, ratio_N, clipped_N, drift_S, kept_S, delta, kl_K, correction_N, cut_N
    )

"""Settings of the RL objective (one dataclass, no framework behind it)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ObjectiveConfig:
    """What ``rl.objective.loss.grpo_loss`` minimises.

    V3.2 does not publish its epsilon, beta or delta; the defaults here are this toolkit's choice.
    """

    # Clip range of the ratio r = pi_theta / pi_sampler: [1 - clip, 1 + clip_high]. clip_high None = clip.
    clip: float = 0.2
    clip_high: float | None = None
    # "mean": A = R - mean(R) (V3.2).  "std": A = (R - mean(R)) / (std(R) + 1e-6) (DeepSeekMath GRPO).
    advantage_norm: str = "mean"
    # beta of the KL to the reference policy (unbiased estimator). 0.0: no reference forward is run at all.
    kl_coef: float = 0.0
    # delta of the off-policy sequence mask; None switches it off. Calibrate it from `policy/drift_p95`.
    opsm_delta: float | None = None
    # "sequence_mean": 1/groups sum 1/G sum_i 1/|o_i| sum_t (V3.2).
    # "token_mean": every sampled token of the minibatch weighs the same.
    loss_aggregation: str = "sequence_mean"
    # Temperature of the sampler; logits are divided by it before anything else. Must equal the rollouts'.
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.advantage_norm not in ("mean", "std"):
            raise ValueError(f"objective.advantage_norm={self.advantage_norm!r}: use 'mean' or 'std'")
        if self.loss_aggregation not in ("sequence_mean", "token_mean"):
            raise ValueError(
                f"objective.loss_aggregation={self.loss_aggregation!r}: use 'sequence_mean' or 'token_mean'"
            )
        if not self.clip > 0:
            raise ValueError(f"objective.clip={self.clip}: must be above 0 (0.2 is the default)")
        if self.clip_high is not None and not self.clip_high > 0:
            raise ValueError(f"objective.clip_high={self.clip_high}: must be above 0, or null for clip")
        if self.kl_coef < 0:
            raise ValueError(f"objective.kl_coef={self.kl_coef}: must be 0 or above")
        if not self.temperature > 0:
            raise ValueError(
                f"objective.temperature={self.temperature}: must be above 0; greedy rollouts teach nothing"
            )

    @property
    def clip_range(self) -> tuple[float, float]:
        """(lowest, highest) ratio that still passes gradient in the direction of the advantage."""
        high = self.clip if self.clip_high is None else self.clip_high
        return 1.0 - self.clip, 1.0 + high

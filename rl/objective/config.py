"""Settings of the RL objective (one dataclass, no framework behind it)."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Interval

from rl.bounds import Bounded, NonNegativeFloat, NonNegativeInt, OneOf, PositiveFloat, PositiveInt
from rl.objective.advantage import AGGREGATIONS

_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")
DEFAULT = "default"  # in a mapping by family: all others
FORMS = ("full", "top_k", "sampled")


@dataclass
class TeachingConfig(Bounded):
    """On-policy distillation: the policy samples, and the teacher of the task's family scores what it has sampled
    (``rl.objective.teaching``). Off while ``teachers`` is empty."""

    section: ClassVar[str] = "objective.distill"

    # Family (or `default`: all others) to its teacher: a directory as policy.path takes it, or the name of a run
    # (objective.distill.teachers.search=runs/one/stages/search/policy). Its tokenizer must be the policy's.
    teachers: dict[str, str] = field(default_factory=dict)
    # Reverse KL(policy || teacher) at every sampled token. "full": over the whole vocabulary (DeepSeek-V4). "top_k":
    # over the policy's top_k likeliest tokens and all others as one. "sampled": of the sampled token alone, as an
    # advantage log pi_teacher - log pi_theta (MiMo-V2-Flash): the same on average, noisier.
    form: Annotated[str, OneOf(FORMS)] = "full"
    # Tokens of form=top_k; from the size of the vocabulary on it is form=full.
    top_k: PositiveInt = 64
    # Weight of that KL: a number, or a mapping from family to number with `default` for the others.
    weight: Any = field(default_factory=lambda: {DEFAULT: 1.0})
    # Weight of the policy gradient beside it. 0: rewards are logged only, and every family needs a teacher. 1: as
    # without teachers. A family without a teacher learns from its rewards alone.
    reward_weight: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_numbers("objective.distill.weight", self.weight)
        for family in self.teachers:
            if not self.weight_for(family) > 0:
                raise ValueError(
                    f"objective.distill.weight of {family} is 0, and it has a teacher: leave the teacher out, or give "
                    "a weight above 0"
                )

    def teacher_for(self, family: str) -> str | None:
        """The teacher of a task family: its own, else the default's; None where there is none, or its weight is 0."""
        return self.teachers.get(family, self.teachers.get(DEFAULT)) if self.weight_for(family) > 0 else None

    def weight_for(self, family: str) -> float:
        """lambda of a task family: its own, else the default's, else 0."""
        return _number_of(self.weight, family)


@dataclass
class ObjectiveConfig(Bounded):
    """What ``rl.objective.loss.grpo_loss`` minimises.

    The defaults are V3.2's objective. Its epsilon, beta and delta are not published; those are this toolkit's choice.
    """

    section: ClassVar[str] = "objective"

    # Range of the importance ratio: [1 - clip, 1 + clip_high]. clip_high null = clip. With ratio=sequence use far
    # smaller ones (GSPO: 3e-4 and 4e-4); surrogate=cispo has the upper bound only.
    clip: PositiveFloat = 0.2
    clip_high: PositiveFloat | None = None
    # How the ratio is bounded. "clip": min(r A, clip(r) A). "cispo": sg[min(r, 1 + clip_high)] A log pi_theta
    # (MiniMax-M1), where every token keeps a gradient.
    surrogate: Annotated[str, OneOf(("clip", "cispo"))] = "clip"
    # Level of the ratio. "token": r_t (V3.2). "sequence": geometric mean over the segment's tokens (GSPO).
    ratio: Annotated[str, OneOf(("token", "sequence"))] = "token"
    # "sequence_mean": 1/groups sum 1/G sum_i 1/|o_i| sum_t (V3.2). "token_mean": every sampled token of the minibatch
    # weighs the same (DAPO). "constant": sum_t / (sequences of the minibatch x loss_constant) (Dr.GRPO).
    loss_aggregation: Annotated[str, OneOf(AGGREGATIONS)] = "sequence_mean"
    # Tokens that loss_aggregation=constant divides by, as a rule the largest completion length; required with it.
    loss_constant: PositiveInt | None = None
    # "mean": A = R - mean(R) (V3.2).  "std": A = (R - mean(R)) / (std(R) + 1e-6) (DeepSeekMath GRPO).
    advantage_norm: Annotated[str, OneOf(("mean", "std"))] = "mean"
    # pi_old of the ratio. "sampler": the probability the inference engine returned (V3.2), so the ratio holds
    # staleness and train/inference mismatch together. "learner": the learner's own log-probs before the first update
    # of the batch.
    old_policy: Annotated[str, OneOf(("sampler", "learner"))] = "sampler"
    # Weight of rho = pi_learner_old / pi_sampler, with old_policy=learner only. "none": 1. "truncate":
    # min(rho, correction_high) (TIS). "mask": rho inside [correction_low, correction_high], 0 outside (IcePop; GLM-5
    # uses 1/2 and 2).
    correction: Annotated[str, OneOf(("none", "truncate", "mask"))] = "none"
    # Bounds of rho.
    correction_low: Annotated[float, Interval(ge=0, lt=1)] = 0.5
    correction_high: Annotated[float, Gt(1)] = 2.0
    # beta of the KL to the reference policy (unbiased estimator): a number, or a mapping from task family to number
    # with `default` for the others (objective.kl_coef.math=0). All 0: no reference policy is kept at all.
    kl_coef: Any = field(default_factory=lambda: {DEFAULT: 0.0})
    # Steps between replacing the reference policy by the current one; 0 = never (DeepSeek-R1: 400).
    ref_refresh_every: NonNegativeInt = 0
    # delta of the off-policy sequence mask, in nats per token; null switches it off. Published values differ by orders
    # of magnitude (1e-4 slime, 0.03 AgileRL, 0.5 TRL's docs; V3.2's is unknown), so calibrate a number from
    # `policy/drift_p95`, or give a percentile: "p95" = that percentile of the last opsm_window sequences' drift
    # (nothing is masked before 64 were seen; a percentile masks its share also where all drift is numerical noise).
    opsm_delta: Any = None
    # Sequences (segments) the percentile of opsm_delta is taken over.
    opsm_window: Annotated[int, Ge(64)] = 1024
    # Temperature of the sampler; logits are divided by it before anything else. Must equal the rollouts'.
    temperature: PositiveFloat = 1.0
    # Teachers, one for each task family.
    distill: TeachingConfig = field(default_factory=TeachingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_aggregation == "constant" and self.loss_constant is None:
            raise ValueError(
                f"objective.loss_constant={self.loss_constant}: loss_aggregation=constant divides by it; give a number "
                "of tokens above 0, as a rule the largest completion length"
            )
        if self.correction != "none" and self.old_policy == "sampler":
            raise ValueError(
                f"objective.correction={self.correction!r} with objective.old_policy='sampler': the ratio against the "
                "sampler already contains pi_learner_old / pi_sampler; set objective.old_policy=learner, or "
                "objective.correction=none"
            )
        _check_numbers("objective.kl_coef", self.kl_coef)
        _check_delta(self.opsm_delta)

    @property
    def clip_range(self) -> tuple[float, float]:
        """(lowest, highest) value of the ratio before it is bounded."""
        high = self.clip if self.clip_high is None else self.clip_high
        return 1.0 - self.clip, 1.0 + high

    def kl_coef_for(self, family: str) -> float:
        """beta of a task family: its own, else the default's, else 0."""
        return _number_of(self.kl_coef, family)

    @property
    def uses_reference(self) -> bool:
        """Whether any family has a KL term, so that a reference policy is needed."""
        return any(value > 0 for value in _numbers(self.kl_coef).values())

    @property
    def reward_weight(self) -> float:
        """Of the policy gradient: 1 without teachers."""
        return self.distill.reward_weight if self.distill.teachers else 1.0

    def check_families(self, families: Collection[str]) -> None:
        """Raise ValueError when a mapping names a family the run does not have (a misspelt one has no effect), or a
        family has neither a teacher nor a reward to learn from."""
        mappings = (
            ("kl_coef", _numbers(self.kl_coef)), ("distill.weight", _numbers(self.distill.weight)),
            ("distill.teachers", self.distill.teachers),
        )  # fmt: skip
        for name, mapping in mappings:
            for unknown in sorted(set(mapping) - {DEFAULT, *families}):
                raise ValueError(
                    f"objective.{name}.{unknown}={mapping[unknown]}: no task family of that name; "
                    f"this run has {', '.join(sorted(families))}"
                )
        if self.reward_weight > 0:
            return
        for family in sorted(families):
            if self.distill.teacher_for(family) is None:
                raise ValueError(
                    f"objective.distill.reward_weight=0: the family {family} has no teacher, so it would learn "
                    f"nothing; give objective.distill.teachers.{family} (or .default), or a reward_weight above 0"
                )

    @property
    def opsm_share(self) -> float | None:
        """0.95 for ``opsm_delta="p95"``; None when delta is a number or the mask is off."""
        return float(self.opsm_delta[1:]) / 100.0 if isinstance(self.opsm_delta, str) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(setting: Any) -> dict[str, Any]:
    """By family what is one number, or a mapping already."""
    return dict(setting) if isinstance(setting, Mapping) else {DEFAULT: setting}


def _number_of(setting: Any, family: str) -> float:
    numbers = _numbers(setting)
    return float(numbers.get(family, numbers.get(DEFAULT, 0.0)))


def _check_numbers(name: str, setting: Any) -> None:
    for family, value in _numbers(setting).items():
        if not _is_number(value) or value < 0:
            where = name + (f".{family}" if isinstance(setting, Mapping) else "")
            raise ValueError(f"{where}={value!r}: must be a number, 0 or above")


def _check_delta(delta: Any) -> None:
    if delta is None or (_is_number(delta) and delta >= 0):
        return
    match = _PERCENTILE.fullmatch(delta) if isinstance(delta, str) else None
    if match is None or not 0 < float(match[1]) <= 100:
        raise ValueError(
            f"objective.opsm_delta={delta!r}: use null (off), a number of nats, 0 or above, or a percentile of "
            "the drift such as p95"
        )

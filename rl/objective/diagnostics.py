"""Diagnostics of the objective: numbers for the log, computed on detached tensors.

mismatch = | log pi_learner(o_t) - log pi_sampler(o_t) |   where both have the same weights
approx_kl = mean( r - 1 - log r ),  r = pi_theta / pi_sampler  (K3 estimate of KL(pi_sampler || pi_theta))
outside   = share of tokens with r outside [0.9, 1.1]
surprise  = mean( -log pi_learner(o_t) - H_t ),  H_t the entropy of pi_learner where o_t was drawn

A token that is drawn from the policy surprises it by H_t on average, whatever came before: the terms of the surprise
are martingale differences, and their sum over the root of their summed squares (``policy/surprise_z``) is near a
standard normal. One that was drawn otherwise (another temperature, a cut that nobody recorded, less random noise) is
not, also where the log-probs that the sampler reports are right.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch

from rl.objective.loss import LossTerms
from rl.objective.teaching import Lesson


@dataclass
class Diagnostics:
    """Collects micro-batches of one learner step; ``summary`` gives means over tokens or segments."""

    ratios: list[torch.Tensor] = field(default_factory=list)
    clipped: list[torch.Tensor] = field(default_factory=list)
    entropies: list[torch.Tensor] = field(default_factory=list)
    drifts: list[torch.Tensor] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)
    kls: list[torch.Tensor] = field(default_factory=list)
    mismatches: list[torch.Tensor] = field(default_factory=list)
    mismatch_ratios: list[torch.Tensor] = field(default_factory=list)
    surprises: list[torch.Tensor] = field(default_factory=list)
    corrections: list[torch.Tensor] = field(default_factory=list)
    cuts: list[torch.Tensor] = field(default_factory=list)
    deltas: list[float] = field(default_factory=list)
    lessons: list[tuple[str, Lesson]] = field(default_factory=list)  # by task family

    def add(
        self,
        terms: LossTerms,
        logprobs_N: torch.Tensor,
        sampler_logprobs_N: torch.Tensor,
        entropy_N: torch.Tensor,
        exact_N: torch.Tensor,
    ) -> None:
        """``exact_N`` bool: the token and all sampled before it in its segment came from the weights of this pass."""
        self.ratios.append(terms.ratio_N)
        self.clipped.append(terms.clipped_N)
        self.entropies.append(entropy_N)
        self.drifts.append(terms.drift_S)
        self.kept.append(terms.kept_S)
        if terms.kl_K is not None:
            self.kls.append(terms.kl_K)
        if terms.correction_N is not None and terms.cut_N is not None:
            self.corrections.append(terms.correction_N)
            self.cuts.append(terms.cut_N)
        if terms.delta is not None:
            self.deltas.append(terms.delta)
        self.mismatches.append((logprobs_N.detach() - sampler_logprobs_N).abs()[exact_N])
        self.mismatch_ratios.append(terms.ratio_N[exact_N])
        self.surprises.append((-logprobs_N.detach() - entropy_N)[exact_N])

    def add_lesson(self, family: str, lesson: Lesson) -> None:
        """What the family's teacher has made of a micro-batch."""
        self.lessons.append((family, Lesson(*(column.detach() for column in lesson))))

    def extend(self, other: Diagnostics) -> None:
        """Append what ``other`` has collected."""
        for entry in fields(self):
            getattr(self, entry.name).extend(getattr(other, entry.name))

    def summary(self) -> dict[str, float]:
        """Named as in ``rl.tracking.metrics``. Names without a single sample are left out."""
        if not self.ratios:
            return {}
        ratio, kept = torch.cat(self.ratios), torch.cat(self.kept)
        drift, mismatch = torch.cat(self.drifts), torch.cat(self.mismatches)
        out = {
            "policy/ratio_mean": float(ratio.mean()),
            "policy/ratio_min": float(ratio.min()),
            "policy/ratio_max": float(ratio.max()),
            "policy/ratio_outside": outside(ratio),
            "policy/approx_kl": float((ratio - 1.0 - ratio.log()).mean()),
            "policy/clip_fraction": float(torch.cat(self.clipped).float().mean()),
            "policy/entropy": float(torch.cat(self.entropies).mean()),
            "policy/masked_sequences": 1.0 - float(kept.float().mean()),
            "policy/drift_mean": float(drift.mean()),
            "policy/drift_p95": percentile(drift, 0.95),
        }
        if self.kls and len(kl := torch.cat(self.kls)):
            out["loss/kl"] = float(kl.mean())
        for family in sorted({name for name, _ in self.lessons}):
            said = Lesson(*map(torch.cat, zip(*(one for name, one in self.lessons if name == family), strict=True)))
            out[f"distill/kl/{family}"] = float(said.kl_N.mean())
            out[f"distill/teacher_entropy/{family}"] = float(said.entropy_N.mean())
            out[f"distill/teacher_greedy/{family}"] = float(said.greedy_N.float().mean())
        if self.deltas:
            out["policy/opsm_delta"] = sum(self.deltas) / len(self.deltas)
        if self.corrections:
            out["policy/correction_mean"] = float(torch.cat(self.corrections).mean())
            out["policy/correction_masked"] = float(torch.cat(self.cuts).float().mean())
        if len(mismatch):
            out |= {
                "mismatch/mean": float(mismatch.mean()),
                "mismatch/p99": percentile(mismatch, 0.99),
                "mismatch/max": float(mismatch.max()),
                "mismatch/outside": outside(torch.cat(self.mismatch_ratios)),
            }
            surprise = torch.cat(self.surprises).double()
            scale = float(surprise.square().sum().sqrt())
            out["policy/surprise"] = float(surprise.mean())
            out["policy/surprise_z"] = float(surprise.sum()) / scale if scale > 0 else 0.0
        return out


def outside(ratio: torch.Tensor) -> float:
    """Share of importance ratios outside [0.9, 1.1]: a mismatch that the policy gradient feels."""
    return float(((ratio < 0.9) | (ratio > 1.1)).float().mean())


def percentile(values: torch.Tensor, share: float) -> float:
    """The smallest value with at least ``share`` of ``values`` at or below it (no interpolation)."""
    index = max(0, min(len(values) - 1, int(-(-share * len(values) // 1)) - 1))
    return float(values.sort().values[index])

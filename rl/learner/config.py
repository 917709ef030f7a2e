"""Settings of the learner (one dataclass, no framework behind it)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LearnerConfig:
    """How a batch of groups becomes optimiser steps."""

    # AdamW.
    lr: float = 2e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    # Largest allowed L2 norm of the whole gradient.
    grad_clip: float = 1.0
    # Optimiser steps of linear warm-up from 0; constant afterwards.
    warmup_steps: int = 0
    # Optimiser steps per batch of groups. 1 = strictly on-policy when rollouts are synchronous.
    minibatches: int = 1
    # Tokens of one packed forward/backward pass. Bounds memory; does not change the result.
    max_tokens_per_microbatch: int = 8192
    # DSA indexer during RL: "frozen", or "kl": trained alongside, by its own KL loss.
    train_indexer: str = "frozen"
    # Coefficient of that KL loss (mean over tokens and layers).
    indexer_kl_coef: float = 1.0
    # False: trajectories whose advantage is exactly 0 are run too: the same gradient, slower, but all tokens
    # count in the diagnostics.
    skip_zero_advantage: bool = True
    # Torch threads of the learner's process; 0 = all its cores. (Ray sets OMP_NUM_THREADS=1: it must be set.)
    threads: int = 0
    # Seed of the minibatch shuffle.
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train_indexer not in ("frozen", "kl"):
            raise ValueError(f"learner.train_indexer={self.train_indexer!r}: use 'frozen' or 'kl'")
        for name in ("lr", "eps", "grad_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"learner.{name}={getattr(self, name)}: must be above 0")
        for name in ("minibatches", "max_tokens_per_microbatch"):
            if getattr(self, name) < 1:
                raise ValueError(f"learner.{name}={getattr(self, name)}: must be at least 1")
        if self.warmup_steps < 0 or self.threads < 0:
            raise ValueError(
                f"learner.warmup_steps={self.warmup_steps}, learner.threads={self.threads}: must be 0 or above"
            )


@dataclass
class ReplayConfig:
    """Which recorded choices of the sampler the learner repeats (V3.2's Keep Routing and Keep Sampling Mask)."""

    # Experts of MoE layers. "force": the sampler's choice is repeated, gates stay live (Keep Routing; V3.2 calls it
    # crucial).  "check": the learner routes live and logs how far the two agree.  "off".
    routing: str = "force"
    # The DSA indexer's top-k choice: "off" | "check" | "force". Recording it costs layers x index_topk numbers a
    # token (V3.2's own size: 500 KB), so it is off by default.
    indexer: str = "off"
    # Token ids that truncated sampling kept. "auto": recorded and applied as soon as rollout.top_p, top_k or min_p
    # truncates (Keep Sampling Mask).  "off": log-probs over the whole vocabulary.
    sampling_mask: str = "auto"
    # True allows settings that are known to be wrong (truncated sampling with sampling_mask=off, a temperature that
    # differs between the two sides), to measure what they cost.
    ablation: bool = False

    def __post_init__(self) -> None:
        for name in ("routing", "indexer"):
            if getattr(self, name) not in ("force", "check", "off"):
                raise ValueError(f"replay.{name}={getattr(self, name)!r}: use 'force', 'check' or 'off'")
        if self.sampling_mask not in ("auto", "off"):
            raise ValueError(f"replay.sampling_mask={self.sampling_mask!r}: use 'auto' or 'off'")

    def check(self, *, truncates: bool, temperature: float, learner_temperature: float) -> None:
        """Raise ValueError when the learner would see another distribution than the one that was sampled from."""
        if self.ablation:
            return
        if truncates and self.sampling_mask == "off":
            raise ValueError(
                "rollout truncates its sampling (top_p, top_k or min_p) but replay.sampling_mask=off: the "
                "learner would score tokens over the whole vocabulary, and every ratio would be wrong. Set "
                "replay.sampling_mask=auto, or sample untruncated; replay.ablation=true runs it all the same, to "
                "measure the damage"
            )
        if temperature != learner_temperature:
            raise ValueError(
                f"rollout.temperature={temperature} but objective.temperature={learner_temperature}: both sides must "
                "divide logits by the same number. Leave objective.temperature out; it follows rollout.temperature"
            )


@dataclass
class SFTConfig:
    """How supervised examples become optimiser steps (pre-training, cold start, indexer warm-up).

    Dense or sparse attention is the policy's own ``mode``; the indexer's KL loss follows it.
    """

    lr: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    # "constant" | "cosine" | "linear": after the warm-up, down to final_lr_share x lr at total_steps.
    schedule: str = "cosine"
    warmup_steps: int = 50
    # Length of the schedule in optimiser steps; ignored by "constant".
    total_steps: int = 1000
    final_lr_share: float = 0.05
    max_tokens_per_microbatch: int = 8192
    # Coefficient of the indexer's KL loss L_I (mean over tokens and layers). 0: the indexer is frozen.
    indexer_kl_coef: float = 1.0
    # L_I on every n-th optimiser step only: it doubles the cost of a step on short sequences.
    indexer_kl_every: int = 1
    # Only the indexer learns (DSA's dense warm-up of a policy that was trained without it).
    indexer_only: bool = False
    # Aux-loss-free balance of the experts: step of the router bias after each optimiser step. 0: bias frozen.
    router_bias_gamma: float = 0.0

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "cosine", "linear"):
            raise ValueError(f"sft.schedule={self.schedule!r}: use 'constant', 'cosine' or 'linear'")
        if self.indexer_only and not self.indexer_kl_coef > 0:
            raise ValueError("sft.indexer_only=true needs sft.indexer_kl_coef above 0: nothing would be trained")
        if self.indexer_kl_every < 1 or (self.indexer_only and self.indexer_kl_every > 1):
            raise ValueError(
                f"sft.indexer_kl_every={self.indexer_kl_every}: must be at least 1, and exactly 1 with "
                "sft.indexer_only=true"
            )
        if self.schedule != "constant" and self.total_steps <= self.warmup_steps:
            raise ValueError(
                f"sft.total_steps={self.total_steps} must be above sft.warmup_steps={self.warmup_steps} "
                f"for sft.schedule={self.schedule!r}"
            )

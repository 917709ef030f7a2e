"""Settings of the learner (one dataclass, no framework behind it)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Interval

from rl.bounds import Bounded, NonNegativeFloat, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, Seed, Share

SCHEDULES = ("constant", "cosine", "linear")
COMPUTE_DTYPES = ("float32", "bfloat16")
OPERATORS = ("torch", "triton")


@dataclass
class LoraConfig(Bounded):
    """Low-rank adapters instead of all weights (rl.policy.lora). RL stages only: a cold start trains all weights."""

    section: ClassVar[str] = "learner.lora"

    # Rank of the update of every adapted weight, of every expert's too. 0: no adapter, all weights are trained.
    rank: NonNegativeInt = 0
    # The update is scaled by alpha / rank. Usual: a learning rate about ten times that of full training.
    alpha: PositiveInt = 32
    # Last parts of the names of modules that get an adapter (q_proj, down_proj, experts, ...); null: all linear layers
    # and all experts. Never the embedding, the output head, the router and the DSA indexer.
    modules: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.modules is not None and not self.rank:
            raise ValueError(
                f"learner.lora.modules={self.modules} with learner.lora.rank=0: nothing gets an adapter; set a rank"
            )
        if self.modules == []:
            raise ValueError("learner.lora.modules=[]: must name a module; null is all of them")


@dataclass
class MeansConfig(Bounded):
    """What a policy is trained with, supervised or by RL: it changes memory and time, the result by rounding only."""

    section: ClassVar[str] = "learner"

    # Tokens of one packed forward/backward pass, of each rank's part where ranks share it (context_parallel). Bounds
    # memory; does not change the result. Tokens that segments share count once.
    max_tokens_per_microbatch: PositiveInt = 8192
    # True: of every layer only the input is kept, and the layer is run again in the backward pass. The same gradient,
    # less memory, more time (docs/results.md, "Memory of a learner step").
    recompute: bool = False
    # Targets that the output head scores at once; null: all of a micro-batch. The same gradient; the largest tensor of
    # the head is then [head_rows, vocabulary]: 512 x 150,000 float32 are 0.3 GB.
    head_rows: PositiveInt | None = None
    # True: the weights that learn, their gradients' sums and AdamW's state stay in the host's memory, and the step is
    # made there; the device keeps the copy that computes (in compute_dtype). The same step, for a GPU that is small.
    offload_optimizer: bool = False
    # Processes that train the policy together, each with ray.learner_gpus: weights, gradients and AdamW's state are
    # split over them (FSDP2), and so are the tokens of a batch. The same gradients as one process's up to rounding.
    ranks: PositiveInt = 1
    # Ranks that split one copy of the weights; null: all of them. Fewer (a divisor of ranks, for instance the GPUs of
    # one machine): every so many hold a copy, and gradients are averaged over the copies (HSDP).
    shard_ranks: PositiveInt | None = None
    # Ranks that the experts of a mixture-of-experts layer are spread over, a divisor of the shard ranks: rows go to
    # where their experts are, and no rank gathers all experts of a layer. 1: they are gathered as all weights are.
    expert_parallel: PositiveInt = 1
    # Ranks that share each micro-batch, a divisor of ranks: it may hold so many times max_tokens_per_microbatch, each
    # rank has a part of its rows, and a layer gathers what its queries attend to. For sequences above one GPU's memory.
    context_parallel: PositiveInt = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ranks % self.context_parallel:
            raise ValueError(
                f"learner.context_parallel={self.context_parallel}: must divide learner.ranks={self.ranks}"
            )
        if (self.shard_ranks or self.ranks) % self.expert_parallel:
            raise ValueError(
                f"learner.expert_parallel={self.expert_parallel}: must divide the ranks that split one copy of the "
                f"weights, here {self.shard_ranks or self.ranks} (learner.shard_ranks, null: learner.ranks)"
            )
        if self.shard_ranks is not None and self.ranks % self.shard_ranks:
            raise ValueError(
                f"learner.shard_ranks={self.shard_ranks}: must divide learner.ranks={self.ranks}; null is all of them"
            )

    @property
    def room(self) -> int:
        """Tokens of the longest sequence that fits a micro-batch."""
        return self.max_tokens_per_microbatch * self.context_parallel

    def tokens_for(self, longest: int) -> int:
        """``max_tokens_per_microbatch``, or more where a sequence of ``longest`` tokens asks for it."""
        return max(self.max_tokens_per_microbatch, -(-longest // self.context_parallel))


@dataclass
class LearnerConfig(MeansConfig):
    """How a batch of groups becomes optimiser steps."""

    section: ClassVar[str] = "learner"

    # Forward and backward: float32 | bfloat16. Weights that learn, their gradients' sums and AdamW's state are float32
    # always; the engine computes in this dtype too (rollout.dtype).
    compute_dtype: Annotated[str, OneOf(COMPUTE_DTYPES)] = "float32"
    # AdamW.
    lr: PositiveFloat = 2e-4
    beta1: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Interval(ge=0, lt=1)] = 0.95
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    # Largest allowed L2 norm of the whole gradient.
    grad_clip: PositiveFloat = 1.0
    # Optimiser steps of linear warm-up from 0; constant afterwards.
    warmup_steps: NonNegativeInt = 0
    # Optimiser steps per batch of groups. 1 = strictly on-policy when rollouts are synchronous.
    minibatches: PositiveInt = 1
    # True: groups are worked on as they finish, while others of their batch are still sampled; the optimiser step is
    # made when all are in. The same gradient but for the order of additions. Without effect when minibatches is above 1
    # (later ones see other weights) and with deterministic=true (the order would be a matter of time).
    overlap: bool = True
    # True: what segments of a batch begin with alike (the prompt of a group, turns and tool results after the same
    # answers, the history of branches) is computed once: the same loss and gradient up to rounding, in less time
    # (docs/results.md, "Prefix trees in the learner"). False: every segment by itself, as models with sliding windows
    # always are.
    share_prefixes: bool = True
    # Index scores, attention over chosen rows, and the output head: torch | triton (our kernels, on a CUDA device; the
    # head then makes no logits). What cannot run is an error: nothing falls back.
    ops: Annotated[str, OneOf(OPERATORS)] = "torch"
    # Adapters instead of full training.
    lora: LoraConfig = field(default_factory=LoraConfig)
    # DSA indexer during RL: "frozen", or "kl": trained alongside, by its own KL loss.
    train_indexer: Annotated[str, OneOf(("frozen", "kl"))] = "frozen"
    # Coefficient of that KL loss (mean over tokens and layers).
    indexer_kl_coef: NonNegativeFloat = 1.0
    # False: trajectories whose advantage is exactly 0 are run too: the same gradient, slower, but all tokens
    # count in the diagnostics.
    skip_zero_advantage: bool = True
    # Torch threads of the learner's process; 0 = all its cores. (Ray sets OMP_NUM_THREADS=1: it must be set.)
    threads: NonNegativeInt = 0
    # A GRPO stage whose learner has died goes on from its last checkpoint with new processes: so often within
    # restarts_s before the run stops.
    max_restarts: NonNegativeInt = 3
    restarts_s: PositiveFloat = 3600.0
    # Seed of the minibatch shuffle.
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ops == "triton" and self.head_rows is not None:
            raise ValueError(
                f"learner.head_rows={self.head_rows} with learner.ops=triton: its head makes no logits; use "
                "learner.head_rows=null"
            )
        if self.lora.rank and self.expert_parallel > 1:
            raise ValueError(
                f"learner.expert_parallel={self.expert_parallel} with learner.lora.rank={self.lora.rank}: adapters of "
                "experts are not spread; use 1"
            )
        if self.lora.rank and self.train_indexer != "frozen":
            raise ValueError(
                f"learner.train_indexer={self.train_indexer} with learner.lora.rank={self.lora.rank}: an adapter has "
                "no part in the indexer; use frozen"
            )


@dataclass
class ReplayConfig(Bounded):
    """Which recorded choices of the sampler the learner repeats (V3.2's Keep Routing and Keep Sampling Mask)."""

    section: ClassVar[str] = "replay"

    # Experts of MoE layers. "force": the sampler's choice is repeated, gates stay live (Keep Routing; V3.2 calls it
    # crucial).  "check": the learner routes live and logs how far the two agree.  "off".
    routing: Annotated[str, OneOf(("force", "check", "off"))] = "force"
    # The DSA indexer's top-k choice: "off" | "check" | "force". Recording it costs layers x index_topk numbers a
    # token (V3.2's own size: 500 KB), so it is off by default.
    indexer: Annotated[str, OneOf(("force", "check", "off"))] = "off"
    # Token ids that truncated sampling kept. "auto": recorded and applied as soon as rollout.top_p, top_k or min_p
    # truncates (Keep Sampling Mask).  "off": log-probs over the whole vocabulary.
    sampling_mask: Annotated[str, OneOf(("auto", "off"))] = "auto"
    # True allows settings that are known to be wrong (truncated sampling with sampling_mask=off, a temperature that
    # differs between the two sides), to measure what they cost.
    ablation: bool = False

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
class SFTConfig(Bounded):
    """How supervised examples become optimiser steps (pre-training, cold start, indexer warm-up).

    Dense or sparse attention is the policy's own ``mode``; the indexer's KL loss follows it.
    """

    section: ClassVar[str] = "sft"

    # Forward and backward: float32 | bfloat16, as in the learner's section.
    compute_dtype: Annotated[str, OneOf(COMPUTE_DTYPES)] = "float32"
    lr: PositiveFloat = 3e-3
    beta1: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Interval(ge=0, lt=1)] = 0.95
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    grad_clip: PositiveFloat = 1.0
    # "constant" | "cosine" | "linear": after the warm-up, down to final_lr_share x lr at total_steps.
    schedule: Annotated[str, OneOf(SCHEDULES)] = "cosine"
    warmup_steps: NonNegativeInt = 50
    # Length of the schedule in optimiser steps; ignored by "constant".
    total_steps: PositiveInt = 1000
    final_lr_share: Share = 0.05
    max_tokens_per_microbatch: PositiveInt = 8192
    # Coefficient of the indexer's KL loss L_I (mean over tokens and layers). 0: the indexer is frozen.
    indexer_kl_coef: NonNegativeFloat = 1.0
    # L_I on every n-th optimiser step only: it doubles the cost of a step on short sequences.
    indexer_kl_every: PositiveInt = 1
    # Only the indexer learns (DSA's dense warm-up of a policy that was trained without it).
    indexer_only: bool = False
    # Aux-loss-free balance of the experts: step of the router bias after each optimiser step. 0: bias frozen.
    router_bias_gamma: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.indexer_only and not self.indexer_kl_coef > 0:
            raise ValueError("sft.indexer_only=true needs sft.indexer_kl_coef above 0: nothing would be trained")
        if self.indexer_only and self.indexer_kl_every > 1:
            raise ValueError(f"sft.indexer_kl_every={self.indexer_kl_every}: must be 1 with sft.indexer_only=true")
        if self.schedule != "constant" and self.total_steps <= self.warmup_steps:
            raise ValueError(
                f"sft.total_steps={self.total_steps} must be above sft.warmup_steps={self.warmup_steps} "
                f"for sft.schedule={self.schedule!r}"
            )

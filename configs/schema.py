"""The structured schema of every command: each field with its type, default and a comment.

Unknown keys are errors (Hydra checks against these classes). Component fields live next to the component
(``rl.objective.config`` and so on); this file adds the groups that only the commands know and puts all of
them together. Defaults are DeepSeek-V3.2's recipe where it is published; ``configs/experiment`` overlays the rest.
"""

from __future__ import annotations

import functools
import os
import signal
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Interval
from omegaconf import MISSING, DictConfig, OmegaConf

from rl.bounds import (
    Bounded,
    FolderName,
    HubId,
    Matches,
    NonNegativeFloat,
    NonNegativeInt,
    OneOf,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
)
from rl.data.needle_task import NeedleTask
from rl.learner.config import COMPUTE_DTYPES, SCHEDULES, LearnerConfig, MeansConfig, ReplayConfig
from rl.objective.config import ObjectiveConfig
from rl.proof.config import LabelConfig
from rl.rollout.config import JudgeConfig, RolloutConfig
from rl.tracking.config import TrackingConfig
from rl.tracking.cost import CostConfig

STOP_CHECKPOINTS = ("sigterm", "always", "never")


@dataclass
class PolicyConfig(Bounded):
    """Which model. Group ``policy``: tiny_dsa, deepseek_v32, hf."""

    section: ClassVar[str] = "policy"

    preset: Annotated[str, OneOf(("tiny_dsa", "deepseek_v32", "hf"))] = (
        "tiny_dsa"  # tiny_dsa | deepseek_v32 (our model) | hf (AutoModelForCausalLM, or GLM-5)
    )
    path: str | None = None  # directory in Hugging Face format, or a hub id (owner/name); hf and deepseek_v32 need it
    renderer: Annotated[str, OneOf(("v32", "hf"))] = (
        "v32"  # v32 (DeepSeek-V3.2's encoding) | hf (the chat template of the model's tokenizer)
    )
    overrides: dict[str, Any] = field(default_factory=dict)  # DeepseekV32Config fields, when built from scratch


@dataclass
class CorpusConfig(Bounded):
    """Documents for pre-training: demonstrations of the training split, plus recall, copying and arithmetic drills."""

    section: ClassVar[str] = "base.corpus"

    demos: PositiveInt = 8000  # oracle demonstrations over all families of `env` (training split only)
    novice_share: Share = 0.3  # share of demonstrations by the imperfect demonstrator (its formats are as good)
    drills: NonNegativeInt = 1000  # documents that drill recall among several facts, copying and small arithmetic
    max_facts: PositiveInt = 4  # facts in a recall drill: 1 … max_facts
    texts_for_tokenizer: PositiveInt = 4000  # documents the tokenizer is trained on


@dataclass
class BaseConfig(Bounded):
    """Where the base policy comes from. Group ``base``: shipped, scratch."""

    section: ClassVar[str] = "base"

    # a directory, pkg://<package>/<place in it>, or "scratch": pre-train now (rl-pretrain does the same)
    source: str = "pkg://rl.bases/tiny_dsa_base"
    # how the DSA indexer compares, in learner and engine: float32 (as computed) | int8 (8-bit integers, each row with a
    # scale); null: as index_precision in the policy's config.json says, float32 without
    index_precision: Annotated[str, OneOf(("float32", "int8"))] | None = None
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    vocab_size: Annotated[int, Ge(306)] = 1024  # upper bound of the tokenizer trained from scratch
    dense_steps: PositiveInt = (
        1200  # stage 1: dense attention; indexer trained alongside by its KL loss (V3.2 report, 2.1.1)
    )
    sparse_steps: NonNegativeInt = 800  # stage 2: top-k sparse attention, KL over the selected set
    lr: PositiveFloat = 3e-3  # peak learning rate, warm-up then cosine over both stages
    tokens_per_step: PositiveInt = 4096  # packed tokens per optimiser step
    indexer_kl_coef: NonNegativeFloat = 1.0  # weight of L_I; its gradient reaches the indexer only
    indexer_kl_every: PositiveInt = 4  # L_I on every n-th step only: it costs as much as the attention itself
    router_bias_gamma: NonNegativeFloat = 1e-3  # aux-loss-free balancing step (V3 report); frozen in RL
    threads: NonNegativeInt = 1  # torch threads, 0 = all cores; with one there is no barrier to wait at on shared cores
    seed: Seed = 0  # of everything random: tasks, initial weights, order, sampling


@dataclass
class SupervisedConfig(Bounded):
    """Supervised training on token streams: what cold start and distillation share."""

    epochs: PositiveFloat = 2.0  # passes over the documents
    # forward and backward: float32 | bfloat16; the weights that learn are float32 always
    compute_dtype: Annotated[str, OneOf(COMPUTE_DTYPES)] = "float32"
    lr: PositiveFloat = 1e-3  # peak, warm-up then linear decay to zero
    tokens_per_step: PositiveInt = 8192  # packed tokens per optimiser step
    indexer_kl_coef: NonNegativeFloat = 1.0  # weight of the DSA indexer's own KL loss; it learns alongside
    indexer_kl_every: PositiveInt = 4  # on every n-th step
    router_bias_gamma: NonNegativeFloat = (
        0.0  # aux-loss-free balancing step of the MoE router's bias; 0: the bias is frozen
    )
    threads: NonNegativeInt = 0  # torch threads, 0 = all cores


@dataclass
class ColdStartConfig(SupervisedConfig):
    """Supervised start on the environments' own demonstrations (V3.2 report, 3.2.2): imperfect on purpose."""

    section: ClassVar[str] = "coldstart"

    enabled: bool = True  # false: RL starts from the base policy
    demos: PositiveInt = 1536  # demonstrations over all families (training split)
    novice_share: Share = 1.0  # share by the imperfect demonstrator: right formats, doubtful decisions
    seed: Seed | None = None  # of the demonstrations and their order; null: the run's. Set it to share one cold start
    # play them through the rollout loop: window, context policy, retention, turn and token limits of `rollout` hold
    as_rollouts: bool = False


@dataclass
class DistillConfig(SupervisedConfig):
    """Supervised training of one policy, from the cold start, on what the specialists did right."""

    section: ClassVar[str] = "distill"


@dataclass
class PipelineConfig(Bounded):
    """Specialists, and one policy made of them: by their verified data, a distillation and mixed GRPO (V3.2 report, 3;
    `experiment=v32_pipeline`), or as its teachers on its own rollouts (DeepSeek-V4; `experiment=v4_pipeline`).

    A specialist is one GRPO run on one family of `env`, all of them from the same cold start. `steps` and
    `prompts_per_step` of the run itself are those of the last stage, mixed GRPO or on-policy distillation.
    """

    section: ClassVar[str] = "pipeline"

    enabled: bool = False  # false: cold start → GRPO, as rl-train does it
    # data: verified rollouts → distillation → mixed GRPO | teachers: on-policy distillation, as objective.distill says
    # (form, weight, reward_weight), with every specialist as its family's teacher. Then there is no data stage
    merge: Annotated[str, OneOf(("data", "teachers"))] = "data"
    specialist_steps: PositiveInt = 20  # GRPO steps of each specialist
    specialist_prompts: PositiveInt = 8  # groups (tasks) per step of a specialist
    data_tasks: PositiveInt = (
        192  # training tasks per family for which its specialist makes data (after those it trained on)
    )
    data_samples: PositiveInt = 2  # rollouts per such task
    keep_per_task: PositiveInt = 1  # different verified rollouts of one task that are kept at most
    distill: DistillConfig = field(default_factory=DistillConfig)

    @property
    def teaches(self) -> bool:
        """Whether the specialists become teachers."""
        return self.enabled and self.merge == "teachers"


@dataclass
class SelfVerificationConfig(Bounded):
    """Verifier → prover → labels → merge, in iterations (rl.recipes.self_verification);
    `experiment=self_verification` turns it on.

    `env` must be a mixture of the families prove, refine, verify, assess, and `judge` the run's own worker.
    """

    section: ClassVar[str] = "self_verification"

    enabled: bool = False  # false: cold start → GRPO, as rl-train does it
    iterations: PositiveInt = 3  # of the loop
    meta_steps: NonNegativeInt = 20  # GRPO steps on assess before the first verifier, for a meta-verifier; 0: none
    verify_steps: PositiveInt = 40  # GRPO steps on verify and assess in each iteration
    verify_prompts: PositiveInt = 16  # groups (tasks) per step
    prove_steps: PositiveInt = 25  # GRPO steps on prove and refine in each iteration
    prove_prompts: PositiveInt = 16  # groups (tasks) per step
    label_problems: PositiveInt = 128  # new problems whose proofs are labelled after each iteration
    label_samples: PositiveInt = 2  # proofs of each
    rows_share: Share = 0.5  # share of the next verifier's tasks that are such proofs; the rest has program-made errors
    labels: LabelConfig = field(default_factory=LabelConfig)
    merge: DistillConfig = field(default_factory=lambda: DistillConfig(epochs=1.0, lr=2e-4))


@dataclass
class BudgetConfig(Bounded):
    """How much compute RL may take (rollouts and training of all GRPO stages; V3.2: more than 10 % of pre-training)."""

    section: ClassVar[str] = "budget"

    rl_share: PositiveFloat | None = (
        None  # RL stops when its FLOPs reach this share of the base's pre-training; null: never
    )
    pretrain_flops: PositiveFloat | None = None  # FLOPs of that pre-training; null: from the base's card.json


@dataclass
class EvalConfig(Bounded):
    """Held-out evaluation: k samples of n_tasks tasks per family, and what is estimated from them (evaluation.md)."""

    section: ClassVar[str] = "eval"

    n_tasks: PositiveInt = 64  # held-out tasks per family
    k: PositiveInt = 4  # samples per task; their mean is avg@k
    seed: Seed = 1234  # of the held-out task list
    ks: list[PositiveInt] | None = None  # sizes of pass@k, maj@k and best@k; null: 1, 2, 4, … up to k
    # best@k: the score that picks one of k samples, a name of reward_parts (a part, <part>/<detail>, score/<name>)
    best_of: str | None = None
    confidence: Annotated[float, Interval(gt=0, lt=1)] = 0.95  # of the intervals

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ks is not None and (not self.ks or not all(1 <= k <= self.k for k in self.ks)):
            raise ValueError(f"eval.ks={self.ks}: every size must be between 1 and eval.k={self.k}; or null")

    def sizes(self) -> list[int]:
        """The sizes k of the estimates, ascending."""
        if self.ks is not None:
            return sorted(set(self.ks))
        return sorted({*(2**i for i in range(self.k.bit_length())), self.k})


@dataclass
class SweepConfig(Bounded):
    """Sweeps of `rl-eval`: the same tasks once more under each of several limits."""

    section: ClassVar[str] = "sweep"

    # rollout.max_thinking of each point, for example [16,32,64,null] (null: no limit of its own); []: no sweep
    thinking: list[PositiveInt | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.thinking)) != len(self.thinking):
            raise ValueError(f"sweep.thinking={self.thinking}: duplicate budget; name each budget once")


@dataclass
class RayConfig(Bounded):
    """Group ``ray``: local (own the machine), cluster (join a running one)."""

    section: ClassVar[str] = "ray"

    address: str | None = None  # null: start a local instance; auto: join the running cluster
    num_cpus: PositiveInt | None = None  # logical CPUs of a local instance (null: all, at least one an actor)
    worker_gpus: NonNegativeFloat = 0.0  # GPUs per rollout worker, for each of its rollout.tensor_parallel ranks
    learner_gpus: NonNegativeFloat = 0.0  # GPUs of the learner, of each of its ranks
    env_cpus: PositiveFloat = 1.0  # CPUs per environment worker (rollout.env_workers), its sandboxes among them
    # resources of your own, by the names that nodes were started with (`ray start --resources '{"gpu_box": 8}'`), which
    # Ray reserves for each rollout worker: ray.worker_resources.gpu_box=1
    worker_resources: dict[str, PositiveFloat] = field(default_factory=dict)
    # the same for each environment worker
    env_resources: dict[str, PositiveFloat] = field(default_factory=dict)
    object_store_mb: Annotated[int, Ge(75)] = 512  # local instance only

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("worker_resources", "env_resources"):
            if not (named := getattr(self, name)):
                continue
            where = f"ray.{name}={dict(named)}"
            if self.address is None:
                raise ValueError(f"{where}: a local Ray has no resources of your own; join a cluster (ray=cluster)")
            if own := sorted({"CPU", "GPU", "memory", "object_store_memory"} & named.keys()):
                raise ValueError(f"{where}: {own[0]} is no name of your own; use ray.env_cpus, ray.worker_gpus")

    def check_ranks(self, ranks: int) -> None:
        """Raise ValueError when ``learner.ranks`` could not share GPUs as this says."""
        if ranks > 1 and 0 < self.learner_gpus < 1:
            raise ValueError(
                f"ray.learner_gpus={self.learner_gpus:g} with learner.ranks={ranks}: NCCL takes one rank a GPU; use 1, "
                "or 0 on CPUs"
            )


@dataclass
class HardwareConfig(Bounded):
    """What `plan=true` counts with (cluster.md); no run reads it. Group ``hardware``: cpu, a100, h100, h200, b200."""

    section: ClassVar[str] = "hardware"

    name: str = "one machine without GPU"  # how the plan calls it
    gpus: NonNegativeInt = 0  # GPUs that there are, over all machines; 0: everything runs on one machine's CPUs
    gpus_per_node: PositiveInt = 8  # GPUs of one machine
    memory_gb: PositiveFloat = 24.0  # of one GPU; without GPUs that of the machine. GB are 10^9 bytes
    host_memory_gb: PositiveFloat = 24.0  # of one machine
    tflops: PositiveFloat = 0.1  # peak of one GPU (or of the machine), bfloat16 without sparsity
    tflops_float32: PositiveFloat = 0.1  # the same in float32
    memory_gb_s: PositiveFloat = 20.0  # GB/s of that memory
    link_gb_s: PositiveFloat = 20.0  # GB/s between GPUs of one machine, one way
    network_gb_s: PositiveFloat = 1.0  # GB/s of one machine to another, for each of its GPUs
    host_gb_s: PositiveFloat = 20.0  # GB/s between a GPU and its machine's memory, one way
    copy_gb_s: PositiveFloat = 2.0  # GB/s of a copy into Ray's object store
    # price of one GPU for an hour (without GPUs: of the machine), in cost.currency; null: the plan says no money
    gpu_hour: NonNegativeFloat | None = None
    process_gb: NonNegativeFloat = 1.0  # what a process holds before any weight: libraries, CUDA context
    compute_share: Share = 0.35  # share of the peak that forward and backward reach
    memory_share: Share = 0.7  # share of memory_gb_s that decoding reaches
    rollout_tokens: PositiveInt | None = None  # mean tokens of a rollout, prompt included; null: rollout.max_context
    sampled_tokens: PositiveInt | None = None  # of these sampled ones; null: max_turns x max_tokens, as far as they fit


@dataclass
class TrainConfig(Bounded):
    """`rl-train`: cold start → held-out evaluation → GRPO → held-out evaluation → report."""

    name: FolderName | None = None  # the run's directory under runs_dir; null: `demo-<seed>`, numbered when taken
    resume: str | None = None  # name of a run to continue from its last checkpoint
    # print who would run where, memory by part, expected speed and price, and what does not fit (cluster.md); then stop
    plan: bool = False
    seed: Seed = 0  # of everything random: tasks, initial weights, order, sampling
    steps: PositiveInt = 80  # GRPO steps
    prompts_per_step: PositiveInt = 8  # groups (tasks) per step
    group_size: Annotated[int, Ge(2)] = 8  # rollouts per task; the advantage is relative to their mean
    max_staleness: NonNegativeInt = 0  # a group is admitted only if it is at most this many versions old when trained
    # two runs of one configuration are equal bit for bit: trajectories, metrics but times, weights; and a resumed run
    # equals one that was never stopped (docs/reproducibility.md). Our DSA policy on one machine's CPUs, max_staleness=0
    deterministic: bool = False
    failed_steps: PositiveInt = 3  # steps in a row without one valid rollout before the run stops and says why
    step_deadline_s: PositiveFloat = 1800.0  # a step that waits longer stops the run and says what it waits for
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    env: dict[str, Any] = field(default_factory=dict)  # `_target_` of a Taskset plus its arguments
    coldstart: ColdStartConfig = field(default_factory=ColdStartConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: dict[str, Any] = field(default_factory=dict)  # name → `_target_` of a reward part plus its arguments
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    self_verification: SelfVerificationConfig = field(default_factory=SelfVerificationConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    certificate: Annotated[str, OneOf(("demand", "warn", "off"))] = (
        "warn"  # of task sets of yours (envs-check): demand (no run without a valid one) | warn | off
    )
    certificates: str = "certificates"  # folder of those that do not lie beside their data
    runs_dir: str = "runs"  # `runs/<name>/` holds everything of a run
    cache_dir: str = "cache"  # finished stages, reused when nothing they depend on changed
    checkpoint_every: PositiveInt = 10  # steps between full-state checkpoints
    keep_checkpoints: PositiveInt = 2  # older ones are removed
    checkpoint_async: bool = True  # written while training goes on, from a copy in the host's memory: 12 bytes a weight
    push_to_hub: HubId | None = (
        None  # owner/name: where on the Hugging Face hub the policy goes at the end; null: nowhere
    )
    push_public: bool = False  # a repository that is made for it is public; false: private
    # MiB of finished groups kept on disk (`finished/`) until their training is in every kept checkpoint: a resumed run
    # trains on them and does not sample them again. The oldest give way
    keep_finished_mb: PositiveInt = 4096
    # which signals are answered by a checkpoint before the end: sigterm | always (Ctrl-C too) | never
    checkpoint_on_stop: Annotated[str, OneOf(STOP_CHECKPOINTS)] = "sigterm"
    # all is over so many seconds after SIGTERM or Ctrl-C: below the grace of Slurm (KillWait) and Kubernetes, both 30
    stop_s: PositiveFloat = 25.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learner.room < self.rollout.max_context:
            each, sharers = self.learner.max_tokens_per_microbatch, self.learner.context_parallel
            of = f" x learner.context_parallel={sharers}" if sharers > 1 else ""
            raise ValueError(
                f"learner.max_tokens_per_microbatch={each}{of}: must be at least rollout.max_context="
                f"{self.rollout.max_context}, or a long trajectory could not be trained on; raise it, or let "
                "ranks share micro-batches (learner.context_parallel, a divisor of learner.ranks)"
            )
        if self.learner.lora.rank and self.objective.uses_reference and self.objective.ref_refresh_every:
            raise ValueError(
                f"objective.ref_refresh_every={self.objective.ref_refresh_every} with learner.lora.rank="
                f"{self.learner.lora.rank}: the reference of an adapter is its base, always; use 0"
            )
        self.replay.check(
            truncates=self.rollout.truncates,
            temperature=self.rollout.temperature,
            learner_temperature=self.objective.temperature,
        )
        self._check_ranks()
        self._check_operators()
        self._check_deterministic()
        if self.push_public and self.push_to_hub is None:
            raise ValueError("push_public=true without push_to_hub: nothing is uploaded; set push_to_hub=owner/name")
        if self.self_verification.enabled and self.pipeline.enabled:
            raise ValueError("self_verification.enabled and pipeline.enabled: a run follows one of the two")
        if self.self_verification.enabled and not self.judge.is_worker:
            raise ValueError(
                f"self_verification.enabled with judge.kind={self.judge.kind}: its verifier is the run's own judge, "
                "choose judge=worker"
            )

    def _check_ranks(self) -> None:
        self.ray.check_ranks(self.learner.ranks)
        if self.rollout.weights == "nccl" and min(self.ray.learner_gpus, self.ray.worker_gpus) < 1:
            raise ValueError(
                f"rollout.weights=nccl with ray.learner_gpus={self.ray.learner_gpus:g} and "
                f"ray.worker_gpus={self.ray.worker_gpus:g}: NCCL takes one rank a GPU; give each its own, or use "
                "rollout.weights=gloo"
            )

    def _check_operators(self) -> None:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if self.learner.ops == "triton" and not self.ray.learner_gpus and not interpreted:
            raise ValueError(
                "learner.ops=triton with ray.learner_gpus=0: its kernels run on a CUDA device; give the learner one "
                "(ray.learner_gpus=1) or use learner.ops=torch"
            )
        distill = self.objective.distill
        if self.learner.ops == "triton" and distill.form != "sampled" and (distill.teachers or self.pipeline.teaches):
            raise ValueError(
                f"learner.ops=triton with objective.distill.form={distill.form}: its head makes no logits; use "
                "learner.ops=torch, or form=sampled"
            )

    def _check_deterministic(self) -> None:
        if self.rollout.deterministic != self.deterministic:
            raise ValueError(
                f"rollout.deterministic={self.rollout.deterministic} with deterministic={self.deterministic}: leave "
                "rollout.deterministic out; it follows deterministic"
            )
        if not self.deterministic:
            return
        gpus = max(self.ray.worker_gpus, self.ray.learner_gpus)
        refused = (
            (self.max_staleness, f"max_staleness={self.max_staleness}: when new weights come is then a matter of time; "
             "set it to 0"),
            (self.policy.preset == "hf", "policy.preset=hf: vLLM's own models are not batch-invariant on CPUs; use "
             "policy=tiny_dsa"),
            (self.judge.kind != "none", f"judge.kind={self.judge.kind}: its answers depend on what else it is asked; "
             "use judge=none"),
            (self.ray.address, f"ray.address={self.ray.address}: another machine may round differently; leave it null"),
            (self.learner.ops == "triton", "learner.ops=triton: gradients of rows that several queries chose are added "
             "in any order; use learner.ops=torch"),
            (gpus, f"{gpus:g} GPUs (ray.worker_gpus, ray.learner_gpus): it holds on CPUs only; set both to 0"),
        )  # fmt: skip
        for holds, reason in refused:
            if holds:
                raise ValueError(f"deterministic=true with {reason}")

    @property
    def overlaps(self) -> bool:
        """Whether the learner works on a batch while the rest of it is sampled."""
        return self.learner.overlap and self.learner.minibatches == 1 and not self.deterministic

    def checkpoints_on(self, signum: int | None) -> bool:
        """Whether a run that ends by the signal ``signum`` writes a checkpoint before."""
        answered = {"sigterm": [signal.SIGTERM], "always": [signal.SIGTERM, signal.SIGINT], "never": []}
        return signum in answered[self.checkpoint_on_stop]


@dataclass
class TrainingCommandConfig(Bounded):
    """What the commands that only train share: where they do it."""

    step_deadline_s: PositiveFloat = 1800.0  # a step that waits longer ends the command and says what it waits for
    learner: MeansConfig = field(default_factory=MeansConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ray.check_ranks(self.learner.ranks)


@dataclass
class PretrainConfig(TrainingCommandConfig):
    """`rl-pretrain`: make the tiny base policy from nothing."""

    out: str = "runs/base"  # directory for tokenizer, weights and card
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    env: dict[str, Any] = field(default_factory=dict)  # `_target_` of a Taskset plus its arguments


@dataclass
class ColdStartRunConfig(TrainingCommandConfig):
    """`rl-coldstart`: the supervised start alone."""

    out: str = "runs/coldstart"  # directory for policy, tokenizer and demonstrations
    seed: Seed = 0  # of everything random: tasks, initial weights, order, sampling
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    env: dict[str, Any] = field(default_factory=dict)  # `_target_` of a Taskset plus its arguments
    coldstart: ColdStartConfig = field(default_factory=ColdStartConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)


@dataclass
class EvaluateConfig(Bounded):
    """`rl-eval`: held-out evaluation of any policy directory or run."""

    run: str | None = None  # evaluate this run's last policy, with the settings stored in the run
    runs: list[str] = field(default_factory=list)  # or several runs' (seeds of one experiment), one after the other
    path: str | None = None  # or a policy directory in Hugging Face format
    baseline: str | None = None  # a run or an rl-eval output: the difference to its evaluation, task by task
    seed: Seed = 0  # of everything random: tasks, initial weights, order, sampling
    env: dict[str, Any] = field(default_factory=dict)  # `_target_` of a Taskset plus its arguments
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: dict[str, Any] = field(default_factory=dict)  # name → `_target_` of a reward part
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    certificate: Annotated[str, OneOf(("demand", "warn", "off"))] = (
        "warn"  # of task sets of yours (envs-check): demand (no evaluation without a valid one) | warn | off
    )
    certificates: str = "certificates"  # folder of those that do not lie beside their data
    runs_dir: str = "runs"  # where `run` and `runs` are looked up
    # of the results; null: `<run>/policy/eval`, `<path>/eval`, with runs `<runs_dir>/eval-<a>+<b>`, for path=pkg://…
    # `<runs_dir>/eval-<name>`
    out: str | None = None


@dataclass
class ChatConfig(Bounded):
    """`rl-chat`: watch a policy act in held-out tasks, or talk to it, at the terminal."""

    run: str | None = None  # this run's last policy, with the settings stored in the run
    path: str | None = None  # or a policy directory in Hugging Face format
    task: NonNegativeInt = 0  # number of the first held-out task
    tasks: PositiveInt | None = None  # show so many and end, nothing is asked; null: ask after each
    talk: bool = False  # true: a free dialogue, without environment and tools
    system: str | None = None  # system message of that dialogue
    seed: Seed = 1234  # of the held-out task list, as eval.seed
    env: dict[str, Any] = field(default_factory=dict)  # `_target_` of a Taskset plus its arguments
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: dict[str, Any] = field(default_factory=dict)  # name → `_target_` of a reward part
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    runs_dir: str = "runs"  # where `run` is looked up


@dataclass
class GatewayConfig(Bounded):
    """`rl-gateway`: a policy behind an OpenAI-compatible endpoint, for agents that run outside (docs/your_agent.md)."""

    run: str | None = None  # this run's last policy, with the settings stored in the run
    path: str | None = None  # or a policy directory in Hugging Face format
    host: str = "127.0.0.1"  # the interface it listens on; another one lets other machines and containers in
    port: Annotated[int, Interval(ge=0, le=65535)] = 8422  # 0: a free one, which is printed
    # environment variable with the key that opens episodes, at least 16 characters; not set: one is drawn and printed
    key_env: Annotated[str, Matches(r"[A-Za-z_]\w*", "the name of an environment variable")] = "SPECIALE_GATEWAY_KEY"
    episodes: PositiveInt | None = None  # end when so many are over; null: at Ctrl-C or SIGTERM
    confidence: Annotated[float, Interval(gt=0, lt=1)] = 0.95  # of the intervals of the evaluation
    save_tokens: bool = True  # keep token ids and log-probs in trajectories/eval_after.jsonl
    name: FolderName = "gateway"  # the folder under runs_dir; numbered when taken
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: dict[str, Any] = field(default_factory=dict)  # name → `_target_` of a reward part
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    runs_dir: str = "runs"  # where `run` is looked up, and the folder is made


@dataclass
class CompareConfig(Bounded):
    """`rl-compare`: accuracy, tokens and money of runs, evaluations and recorded answers side by side."""

    # Each a run's directory (its last evaluation), an rl-eval output directory, or a .jsonl file: trajectories, or
    # recorded answers of other models {model, task_id, prompt_tokens, output_tokens, correct, …} (docs/cost.md).
    sources: list[str] = field(default_factory=list)
    price_as: dict[str, str] = field(default_factory=dict)  # name in the table → name of its price, where they differ
    common_tasks: bool = False  # true: only tasks that every compared model has answered
    cost: CostConfig = field(default_factory=CostConfig)
    out: str = "compare"  # directory for compare.json and compare.md


@dataclass
class AgreementConfig(Bounded):
    """`rl-judge`: agreement of a judge with labelled answers, next to baselines that know nothing."""

    data: str = "pkg://rewards/data/rubric_agreement.jsonl"  # {id, prompt, rubric, answer, gold, quality} per line
    votes: PositiveInt = 1  # verdicts per answer; their mean counts
    retries: NonNegativeInt = 2  # further questions per vote after a reply that cannot be used
    temperature: NonNegativeFloat | None = None  # of the judge; null: its own. Several votes need more than 0
    max_tokens: PositiveInt | None = None  # of one verdict; null: the judge's own
    reason_chars: PositiveInt = 300  # of the judge's reasons
    draws: PositiveInt = 1000  # bootstrap samples behind the intervals
    seed: Seed = 0  # of those samples
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    out: str | None = None  # JSON file for the result; null: it is only shown


@dataclass
class DoctorConfig(Bounded):
    """`rl-doctor`: silent faults of a run, or in rollouts of another toolkit; and which part makes learner and sampler
    disagree, on a batch that the run has stored."""

    run: str | None = None  # the run, finished or going on; it or `rollouts` is required
    rollouts: str | None = None  # a .jsonl file of rollouts instead, of any toolkit (docs/doctor.md has the form)
    out: str = "doctor.html"  # the page on `rollouts`; that on a run is runs/<name>/doctor.html
    attribute: bool = False  # also run a stored batch again, with each part of learner and sampler switched off in turn
    step: PositiveInt | None = None  # of that batch (tracking.save_batch_every); null: the newest stored one
    device: Annotated[str, Matches(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:<number>")] = (
        "auto"  # auto (CUDA if there is one) | cpu | cuda
    )
    threads: NonNegativeInt = 0  # torch threads, 0 = all cores
    max_tokens_per_microbatch: PositiveInt = 8192  # tokens of one packed forward pass; bounds memory
    worst: PositiveInt = 5  # tokens with the largest difference that are named, per setting
    runs_dir: str = "runs"  # where `run` is looked up


@dataclass
class ViewConfig(Bounded):
    """`rl-view`: the runs of a directory as pages in your browser: curves, and every rollout to be found and read."""

    runs_dir: str = "runs"  # whose runs are shown; nothing is written there
    port: Annotated[int, Interval(ge=0, le=65535)] = 8421  # on 127.0.0.1; 0: a free one, which is printed
    open: bool = False  # open the page in the browser of this machine


@dataclass
class AdaptDataConfig(Bounded):
    """What `rl-adapt` trains and measures on."""

    section: ClassVar[str] = "data"

    source: Annotated[str, OneOf(("text", "needles"))] = (
        "text"  # text (a file) | needles (synthetic retrieval documents)
    )
    path: str | None = None  # .txt, .jsonl or .parquet, for source=text; tokenised with the policy's tokenizer
    column: str = "text"  # column of the documents in that file
    length: PositiveInt = 131072  # tokens of a sequence (paper: 128K)
    held_out: PositiveInt = 32  # sequences that are measured on, never trained on
    # which of two held-out sets is measured: validation (to choose settings by) | test (to report); training is alike
    split: Annotated[str, OneOf(("validation", "test"))] = "validation"
    seed: Seed = 0  # of the order of a text file's pieces
    needles: NeedleTask = field(default_factory=NeedleTask)


@dataclass
class AdaptStageConfig(Bounded):
    """The first stage of `rl-adapt`: dense attention, the indexer alone learns."""

    section: ClassVar[str] = "warmup"

    lr: PositiveFloat = 1e-3  # peak learning rate
    steps: PositiveInt = 1000  # optimiser steps
    tokens_per_step: PositiveInt = 16 * 131072  # tokens of one optimiser step, in whole sequences (at least one)
    # tokens of a sequence, in turn, each for an equal part of the steps; []: data.length throughout, as in the paper
    lengths: list[PositiveInt] = field(default_factory=list)
    schedule: Annotated[str, OneOf(SCHEDULES)] = (
        "constant"  # constant | cosine | linear, after the warm-up; not published, so constant
    )
    warmup_steps: NonNegativeInt = 0  # optimiser steps of linear warm-up from 0
    weight_decay: NonNegativeFloat = 0.0  # AdamW

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule != "constant" and self.warmup_steps >= self.steps:
            raise ValueError(
                f"{self.section}.warmup_steps={self.warmup_steps}: must be below {self.section}.steps={self.steps} "
                f"with schedule={self.schedule}"
            )
        if len(self.lengths) > self.steps:
            raise ValueError(
                f"{self.section}.lengths={self.lengths}: more than {self.section}.steps={self.steps}; give each a step"
            )

    def length_of_steps(self, longest: int) -> list[int]:
        """Tokens of a sequence at each step; ``longest``: data.length."""
        turns = self.lengths or [longest]
        return [turns[step * len(turns) // self.steps] for step in range(self.steps)]


@dataclass
class SparseStageConfig(AdaptStageConfig):
    """The second stage of `rl-adapt`."""

    section: ClassVar[str] = "sparse"

    lr: PositiveFloat = 7.3e-6  # peak learning rate
    steps: PositiveInt = 15000  # optimiser steps
    tokens_per_step: PositiveInt = 480 * 131072  # tokens of one optimiser step, in whole sequences (at least one)


@dataclass
class DenseStageConfig(Bounded):
    """The dense policy that is adapted, when there is no checkpoint: trained on needle documents that grow longer."""

    section: ClassVar[str] = "dense"

    lengths: list[PositiveInt] = field(
        default_factory=lambda: [256, 512, 1024, 2048, 4096]
    )  # document lengths, in turn
    steps: list[PositiveInt] = field(default_factory=lambda: [600, 100, 60, 40, 40])  # optimiser steps of each length
    lr: PositiveFloat = 3e-3  # peak; warm-up, then linear decay over all lengths
    tokens_per_step: PositiveInt = 4096  # tokens of one optimiser step, in whole documents (at least one)
    warmup_steps: NonNegativeInt = 50  # optimiser steps of linear warm-up from 0
    weight_decay: NonNegativeFloat = 0.01  # AdamW
    seed: Seed = 0  # of its initial weights; not the run's seed, so that runs of several seeds adapt the same policy

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(self.steps) <= self.warmup_steps:
            raise ValueError(
                f"dense.warmup_steps={self.warmup_steps}: must be below the sum of dense.steps={self.steps}"
            )
        if not self.lengths or len(self.lengths) != len(self.steps):
            raise ValueError(f"dense.lengths={self.lengths}, dense.steps={self.steps}: give one number of steps each")


@dataclass
class AdaptConfig(TrainingCommandConfig):
    """`rl-adapt`: dense checkpoint → indexer warm-up → sparse training (V3.2 report, 2.1.1), and what each changed."""

    name: FolderName = "adapt"  # the run's directory under runs_dir; numbered when taken
    seed: Seed = 0  # of the fresh indexer weights and of which training sequences are seen
    threads: NonNegativeInt = 0  # torch threads, 0 = all cores
    index_topk: PositiveInt | None = None  # rows each query attends to after adaptation; null: the checkpoint's own
    reset_indexer: bool = True  # draw the indexer's weights anew: in a dense checkpoint they never learned anything
    indexer_kl_coef: PositiveFloat = 1.0  # weight of L_I in both stages; its gradient reaches the indexer only
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    data: AdaptDataConfig = field(default_factory=AdaptDataConfig)
    dense: DenseStageConfig = field(default_factory=DenseStageConfig)
    warmup: AdaptStageConfig = field(default_factory=AdaptStageConfig)
    sparse: SparseStageConfig = field(default_factory=SparseStageConfig)
    runs_dir: str = "runs"  # `runs/<name>/` holds policy, measurements and metrics
    cache_dir: str = "cache"  # finished stages, reused when nothing they depend on changed


@dataclass
class ExportConfig(Bounded):
    """`rl-export`: a policy written again in another form, file by file: to be served, uploaded or trained."""

    path: str = MISSING  # directory of the policy, or owner/name of one on the hub
    out: str = MISSING  # directory for the new files; must be empty or not there yet
    dtype: Annotated[str, OneOf(("float32", "bfloat16", "float8"))] = (
        "bfloat16"  # float32 | bfloat16 | float8 (blocks of 128 x 128, for engines)
    )
    shard_gb: PositiveFloat = 5.0  # size of each file, and what is held in memory


SCHEMAS: dict[str, type] = {  # by the name of the command's file in configs/
    "train": TrainConfig,
    "pretrain": PretrainConfig,
    "coldstart": ColdStartRunConfig,
    "evaluate": EvaluateConfig,
    "chat": ChatConfig,
    "gateway": GatewayConfig,
    "view": ViewConfig,
    "adapt": AdaptConfig,
    "compare": CompareConfig,
    "agreement": AgreementConfig,
    "doctor": DoctorConfig,
    "export": ExportConfig,
}


@functools.cache
def register() -> None:
    """Make the schema known to Hydra; called by every entry point before ``hydra.main``."""
    from hydra.core.config_store import ConfigStore  # not for --help

    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=_open(schema))


def _open(schema: type) -> DictConfig:
    """The schema with its free-form mappings open: ``env.top_k=5`` needs no ``+`` before it."""
    config: DictConfig = OmegaConf.structured(schema)
    paths = ("env", "reward", "judge.client", "policy.overrides", "objective.kl_coef", "objective.distill.teachers",
             "objective.distill.weight", "cost.prices", "price_as", "ray.worker_resources",
             "ray.env_resources")  # fmt: skip
    for path in paths:
        if (mapping := OmegaConf.select(config, path)) is not None:
            OmegaConf.set_struct(mapping, False)
    return config

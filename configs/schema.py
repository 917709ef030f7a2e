"""The structured schema of every command: each field with its type, default and a comment.

Unknown keys are errors (Hydra checks against these classes). Component fields live beside the component
(``rl.objective.config`` and so on); this file adds the groups that only the commands know and puts all of
them together. Defaults are DeepSeek-V3.2's recipe where it is published; ``configs/experiment`` overlays the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from rl.learner.config import LearnerConfig
from rl.objective.config import ObjectiveConfig
from rl.rollout.config import RolloutConfig
from rl.tracking.config import TrackingConfig


@dataclass
class PolicyConfig:
    """Which model. Group ``policy``: tiny_dsa, deepseek_v32, hf."""

    preset: str = "tiny_dsa"  # tiny_dsa | deepseek_v32 (our model) | hf (any AutoModelForCausalLM)
    path: str | None = None  # a directory in Hugging Face format; required for preset=hf, optional otherwise
    renderer: str = "v32"  # v32 (DeepSeek-V3.2's encoding) | hf (the chat template of the model's tokenizer)
    overrides: dict[str, Any] = field(default_factory=dict)  # DeepseekV32Config fields, when built from scratch


@dataclass
class CorpusConfig:
    """Documents for pre-training: demonstrations of the training split, plus recall, copying and arithmetic drills."""

    demos: int = 8000  # oracle demonstrations over all families of `env` (training split only)
    novice_share: float = 0.3  # share of demonstrations by the imperfect demonstrator (its formats are as good)
    drills: int = 1000  # documents that drill recall among several facts, copying and small arithmetic
    max_facts: int = 4  # facts in a recall drill: 1 … max_facts
    texts_for_tokenizer: int = 4000  # documents the tokenizer is trained on


@dataclass
class BaseConfig:
    """Where the base policy comes from. Group ``base``: shipped, scratch."""

    source: str = "assets/tiny_dsa_base"  # a directory, or "scratch": pre-train now (rl-pretrain does the same)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    vocab_size: int = 1024  # upper bound of the tokenizer trained from scratch
    dense_steps: int = 1200  # stage 1: dense attention, indexer trained beside by its KL loss (recipe 1.5)
    sparse_steps: int = 800  # stage 2: top-k sparse attention, KL over the selected set
    lr: float = 3e-3  # peak learning rate, warm-up then cosine over both stages
    tokens_per_step: int = 4096  # packed tokens per optimiser step
    indexer_kl_coef: float = 1.0  # weight of L_I; its gradient reaches the indexer only
    indexer_kl_every: int = 4  # L_I on every n-th step only: it costs as much as the attention itself
    router_bias_gamma: float = 1e-3  # aux-loss-free balancing step (V3 report); frozen in RL
    threads: int = 1  # torch threads, 0 = all cores; one leaves no barrier to wait at beside other work
    seed: int = 0  # of everything random: tasks, initial weights, order, sampling


@dataclass
class ColdStartConfig:
    """Supervised start on the environments' own demonstrations (recipe 4.2): imperfect on purpose."""

    enabled: bool = True  # false: RL starts from the base policy
    demos: int = 1536  # demonstrations over all families (training split)
    novice_share: float = 1.0  # share by the imperfect demonstrator: right formats, doubtful decisions
    epochs: float = 2.0  # passes over the demonstrations
    lr: float = 1e-3  # peak, warm-up then linear decay to zero
    tokens_per_step: int = 8192  # packed tokens per optimiser step
    indexer_kl_coef: float = 1.0  # the DSA indexer is trained beside, by its KL loss
    indexer_kl_every: int = 4  # on every n-th step
    threads: int = 0  # torch threads, 0 = all cores


@dataclass
class EvalConfig:
    """Held-out evaluation: avg@k over n_tasks tasks a family."""

    n_tasks: int = 64  # held-out tasks per family
    k: int = 4  # samples per task; their mean is avg@k
    seed: int = 1234  # of the held-out task list


@dataclass
class RayConfig:
    """Group ``ray``: local (own the machine), cluster (join a running one)."""

    address: str | None = None  # None = start a local instance; "auto" = join the running cluster
    num_cpus: int | None = None  # logical CPUs of a local instance (None = all, at least workers + 1)
    worker_gpus: float = 0.0  # GPUs per rollout worker
    learner_gpus: float = 0.0  # GPUs of the learner
    object_store_mb: int = 512  # local instance only


@dataclass
class TrainConfig:
    """`rl-train`: cold start → held-out evaluation → GRPO → held-out evaluation → report."""

    name: str | None = None  # the run's directory under runs_dir; null: demo-<seed>, numbered when taken
    resume: str | None = None  # name of a run to continue from its last checkpoint
    seed: int = 0  # of everything random: tasks, initial weights, order, sampling
    steps: int = 80  # GRPO steps
    prompts_per_step: int = 8  # groups (tasks) per step
    group_size: int = 8  # rollouts per task; the advantage is relative to their mean
    max_staleness: int = 0  # a group is admitted only if it is at most this many versions old when trained
    failed_steps: int = 3  # steps in a row without one valid rollout before the run stops and says why
    step_deadline_s: float = 1800.0  # a step that waits longer stops the run and says what it waits for
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    env: dict[str, Any] = field(default_factory=dict)  # _target_ of a Taskset plus its arguments
    coldstart: ColdStartConfig = field(default_factory=ColdStartConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: dict[str, Any] = field(default_factory=dict)  # name → _target_ of a reward part plus its arguments
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    runs_dir: str = "runs"  # runs/<name>/ holds everything of a run
    cache_dir: str = "cache"  # finished stages, reused when nothing they depend on changed
    checkpoint_every: int = 10  # steps between full-state checkpoints
    keep_checkpoints: int = 2  # older ones are removed


@dataclass
class PretrainConfig:
    """`rl-pretrain`: make the tiny base policy from nothing."""

    out: str = "assets/tiny_dsa_base"  # directory for tokenizer, weights and card
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    env: dict[str, Any] = field(default_factory=dict)  # _target_ of a Taskset plus its arguments


@dataclass
class ColdStartRunConfig:
    """`rl-coldstart`: the supervised start alone."""

    out: str = "runs/coldstart"  # directory for policy, tokenizer and demonstrations
    seed: int = 0  # of everything random: tasks, initial weights, order, sampling
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    env: dict[str, Any] = field(default_factory=dict)  # _target_ of a Taskset plus its arguments
    coldstart: ColdStartConfig = field(default_factory=ColdStartConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)


@dataclass
class EvaluateConfig:
    """`rl-eval`: held-out evaluation of any policy directory or run."""

    run: str | None = None  # evaluate this run's last policy, with the settings stored in the run
    path: str | None = None  # or a policy directory in Hugging Face format
    seed: int = 0  # of everything random: tasks, initial weights, order, sampling
    env: dict[str, Any] = field(default_factory=dict)  # _target_ of a Taskset plus its arguments
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: dict[str, Any] = field(default_factory=dict)  # name → _target_ of a reward part
    eval: EvalConfig = field(default_factory=EvalConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    runs_dir: str = "runs"  # where `run` is looked up
    out: str | None = None  # directory for summary.json and trajectories; null: <run>/eval or <path>/eval


def register() -> None:
    """Make the schema known to Hydra; called by every entry point before ``hydra.main``."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=_open(TrainConfig))
    store.store(name="pretrain_schema", node=_open(PretrainConfig))
    store.store(name="coldstart_schema", node=_open(ColdStartRunConfig))
    store.store(name="evaluate_schema", node=_open(EvaluateConfig))


def _open(schema: type) -> DictConfig:
    """The schema with its free-form mappings open: ``env.top_k=5`` needs no ``+`` before it."""
    config: DictConfig = OmegaConf.structured(schema)
    for path in ("env", "reward", "policy.overrides"):
        if (mapping := OmegaConf.select(config, path)) is not None:
            OmegaConf.set_struct(mapping, False)
    return config

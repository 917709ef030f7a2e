"""Settings of the rollout side: sampling, context budget, concurrency, deadlines, engine size.

A plain dataclass without any heavy import, so that the command line can show it quickly. Times are
seconds (``_s``), lengths are tokens unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Annotated, Any, ClassVar, get_args

from annotated_types import Interval

from rl.bounds import Bounded, NonNegativeFloat, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, Seed
from rl.chat.context_manager import ContextConfig
from rl.chat.renderer import Retention

BACKENDS = ("auto", "native", "torch")  # who runs DeepSeek-V3.2 models in the engine
ENGINES = ("stepped", "served")
STORE = "store"
WAYS = (STORE, "gloo", "nccl")  # how weights come to the engines
DTYPES = ("float32", "bfloat16", "float16")
LEAST_TURNS = 4  # of an episode, where no limit is set
JUDGE_KINDS = ("none", "worker", "endpoint")


@dataclass
class EngineConfig(Bounded):
    """One vLLM engine. The groups of all that run one (``rollout``, ``judge``) have these fields."""

    section: ClassVar[str] = "engine"  # how error messages name the section

    threads: PositiveInt = 1  # torch threads of each engine; more only pays for policies larger than the tiny one
    max_concurrency: PositiveInt = 64  # requests that decode together (of a rollout worker: episodes at once)
    max_num_batched_tokens: PositiveInt = 8192  # prefill budget of one engine step
    max_context: PositiveInt = 1024  # prompt plus everything appended to it, per segment
    kv_cache_gib: PositiveFloat = 1.0  # paged cache of each engine, GiB
    dtype: Annotated[str, OneOf(DTYPES)] = "float32"  # engine weights and cache: float32 | bfloat16 | float16
    dsa_backend: Annotated[str, OneOf(BACKENDS)] = (
        "auto"  # native (vLLM's CUDA model) | torch (ours) | auto: native on CUDA
    )
    seed: Seed = 0  # engine seed; rollout worker i uses seed + i
    start_s: PositiveFloat = 300.0  # the engine must be up within this time


@dataclass
class RolloutConfig(EngineConfig):
    """The ``rollout`` config group: the engine of each worker, and what is sampled with it.

    The sampling defaults draw from the policy itself, untruncated. With ``top_p < 1``, ``top_k > 0`` or
    ``min_p > 0`` the kept token ids of every position travel with the trajectory (Keep Sampling Mask), so
    that the learner renormalises over the same set.
    """

    section: ClassVar[str] = "rollout"

    workers: PositiveInt = 1  # Ray actors, one vLLM engine each
    # Ray actors that play episodes and have no engine, against all engines (sandboxes on machines without GPUs); each
    # plays its share of workers × max_concurrency at once. 0: rollout workers play, each against its own engine
    env_workers: NonNegativeInt = 0
    # stepped (vLLM in the worker's process) | served (vLLM's AsyncLLM in processes of its own, of several ranks too)
    engine: Annotated[str, OneOf(ENGINES)] = "stepped"
    tensor_parallel: PositiveInt = 1  # ranks that each engine is cut over, a GPU each; above 1: engine=served
    # how new weights come to the engines: store (all of them through Ray's object store, one copy per machine) | gloo
    # (tensor by tensor to every rank, each with a checksum; no whole copy anywhere) | nccl (the same from GPU to GPU)
    weights: Annotated[str, OneOf(WAYS)] = STORE
    bucket_mb: Annotated[int, Interval(ge=1, le=1024)] = 32  # of weights=gloo and nccl: MiB of each of two buckets

    # assistant messages of an episode; null: what the environment needs (`Taskset.max_turns`, else twice what its
    # oracle does), at least 4
    max_turns: PositiveInt | None = None
    max_tokens: PositiveInt = 160  # sampled tokens of an assistant message
    thinking: bool = True  # the policy writes reasoning before it answers or calls
    max_thinking: PositiveInt | None = (
        None  # tokens of reasoning in a message before it is closed; null: no limit of its own
    )
    # how long reasoning stays in the context: cycle (to the next user message, V3.2) | drop (gone at once) | keep
    retention: Annotated[str, OneOf(get_args(Retention))] = "cycle"
    context: ContextConfig = field(default_factory=ContextConfig)

    temperature: NonNegativeFloat = 1.0  # 0 is greedy: for evaluation only
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0  # nucleus mass kept
    top_k: NonNegativeInt = 0  # most likely tokens kept, 0 = all
    min_p: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # tokens less likely than min_p times the likeliest are dropped

    # a rollout's bits depend on its task, its place in the run and the weights only, not on what is sampled beside it
    # (docs/reproducibility.md); our DSA policy on CPUs, float32, one thread. `rl-train` sets it by `deterministic`
    deterministic: bool = False

    reset_s: PositiveFloat = 60.0  # Environment.__init__ + reset (the first of a process may build an index)
    step_s: PositiveFloat = 60.0  # one Environment.step; above what its calls may take (Environment.longest_step_s)
    score_s: PositiveFloat = 60.0  # Environment.score; reward parts have their own timeout_s
    close_s: PositiveFloat = 10.0  # Environment.close
    episode_s: PositiveFloat = 300.0  # nothing is sampled later in an episode: it is truncated there, and scored
    # largest log-prob difference (nats) between engine and learner after a sync, and eight times the largest root mean
    # square; null: what rounding in their dtypes explains, measured on the policy itself
    probe_tolerance: PositiveFloat | None = None
    sync_s: PositiveFloat = 120.0  # a weight update plus its probe, per worker
    group_s: PositiveFloat = 600.0  # no group back from a worker for so long: it hangs; replaced, its groups run again
    max_restarts: NonNegativeInt = 5  # workers replaced within restarts_s before the run stops (a lost machine: 1)
    restarts_s: PositiveFloat = 3600.0  # the time in which so many replacements are too many

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("max_context", self.max_context > self.max_tokens, f"above max_tokens={self.max_tokens}")
        if self.max_thinking is not None:
            wanted = f"at least 1 and below max_tokens={self.max_tokens} (an answer has to fit), or null"
            self._require("max_thinking", 1 <= self.max_thinking < self.max_tokens, wanted)
            self._require("max_thinking", self.thinking, "null with rollout.thinking=false: there is none to limit")
        if self.tensor_parallel > 1:
            wanted = "1 with rollout.engine=stepped, or set rollout.engine=served"
            self._require("tensor_parallel", self.engine == "served", wanted)
        if self.deterministic:
            why = "with deterministic=true (of rl-eval: rollout.deterministic; docs/reproducibility.md)"
            self._require("engine", self.engine == "stepped", f"stepped {why}")
            self._require("threads", self.threads == 1, f"1 {why}")
            self._require("dtype", self.dtype == "float32", f"float32 {why}")
            self._require("dsa_backend", self.dsa_backend != "native", f"torch or auto {why}")

    def _require(self, name: str, ok: bool, wanted: str) -> None:
        if not ok:
            raise ValueError(f"rollout.{name}={getattr(self, name)!r}: must be {wanted}")

    @property
    def players(self) -> int:
        """Workers that play episodes."""
        return self.env_workers or self.workers

    @property
    def episodes_at_once(self) -> int:
        """Of each of them: together as many as all engines decode."""
        return ceil(self.max_concurrency * self.workers / self.players)

    @property
    def turn_limit(self) -> int:
        """``max_turns``; 4 while nobody has asked the environment what it needs."""
        return LEAST_TURNS if self.max_turns is None else self.max_turns

    @property
    def longest_observation(self) -> int:
        """Characters of one message of the environment; what is beyond is cut, and counted as ``output_truncated``.
        16 for each token of the window: no text of words, numbers or code has so many."""
        return 16 * self.max_context

    @property
    def truncates(self) -> bool:
        """Whether sampling drops part of the vocabulary."""
        return self.temperature > 0 and (self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0)


@dataclass
class JudgeConfig(EngineConfig):
    """The `judge` config group: the language model that reward parts ask (rubrics, verification)."""

    section: ClassVar[str] = "judge"

    kind: Annotated[str, OneOf(JUDGE_KINDS)] = (
        "none"  # none | worker (an engine of this run) | endpoint (an OpenAI-compatible server)
    )
    client: dict[str, Any] | None = None  # what reward parts hold: `judge: ${judge.client}`
    # The worker's own.
    name: str = "judge"  # of the Ray actor
    path: str | None = None  # the judge's model in Hugging Face format; null: the policy the run starts from
    renderer: Annotated[str, OneOf(("v32", "hf"))] | None = None  # v32 | hf, the chat format; null: policy.renderer
    thinking: bool = False  # reasons before it answers; answers with a JSON schema begin at once
    max_context: PositiveInt = 4096  # prompt plus answer, in tokens
    max_tokens: PositiveInt = 1024  # of one answer, unless the caller says
    temperature: NonNegativeFloat = 0.0  # 0 is greedy; with several votes use more; unless the caller says
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0  # nucleus mass kept
    max_concurrency: PositiveInt = 256  # answers that decode together; further ones wait in the engine
    num_gpus: NonNegativeFloat = 0.0  # GPUs that Ray reserves for it

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.kind == "none") != (self.client is None):
            raise ValueError(
                f"judge.kind={self.kind} with judge.client={self.client}: choose the group, judge=worker or "
                "judge=endpoint, which brings both"
            )

    @property
    def is_worker(self) -> bool:
        """Whether the run starts an engine for it."""
        return self.kind == "worker"

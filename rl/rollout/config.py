"""Settings of the rollout side: sampling, context budget, concurrency, deadlines, engine size.

A plain dataclass without any heavy import, so that the command line can show it quickly. Times are
seconds (``_s``), lengths are tokens unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rl.chat.context import ContextConfig
from rl.chat.renderer import check_retention


@dataclass
class RolloutConfig:
    """The ``rollout`` config group.

    The sampling defaults draw from the policy itself, untruncated. With ``top_p < 1``, ``top_k > 0`` or
    ``min_p > 0`` the kept token ids of every position travel with the trajectory (Keep Sampling Mask), so
    that the learner renormalises over the same set.
    """

    workers: int = 1  # Ray actors, one vLLM engine each
    threads: int = 1  # torch threads of each engine; more only pays for policies larger than the tiny one
    max_concurrency: int = 64  # episodes at once per worker (also the engine's max_num_seqs)
    max_num_batched_tokens: int = 8192  # prefill budget of one engine step
    kv_cache_gib: float = 1.0  # paged cache of each engine, GiB
    dtype: str = "float32"  # engine weights and cache
    dsa_backend: str = "auto"  # native (vLLM's CUDA model) | torch (ours) | auto: native on CUDA
    seed: int = 0  # engine seed; worker i uses seed + i

    max_turns: int = 4  # assistant messages of an episode
    max_tokens: int = 160  # sampled tokens of an assistant message
    max_context: int = 1024  # prompt plus everything appended to it, per segment
    thinking: bool = True  # the policy writes reasoning before it answers or calls
    max_thinking: int | None = None  # tokens of reasoning in a message before it is closed; null: no limit of its own
    # how long reasoning stays in the context: cycle (to the next user message, V3.2) | drop (gone at once) | keep
    retention: str = "cycle"
    context: ContextConfig = field(default_factory=ContextConfig)

    temperature: float = 1.0  # 0 is greedy: for evaluation only
    top_p: float = 1.0  # nucleus mass kept
    top_k: int = 0  # most likely tokens kept, 0 = all
    min_p: float = 0.0  # tokens less likely than min_p times the likeliest are dropped

    reset_s: float = 60.0  # Environment.__init__ + reset (the first of a process may build an index)
    step_s: float = 60.0  # one Environment.step; above the environment's own tool deadline
    score_s: float = 60.0  # Environment.score; reward parts have their own timeout_s
    close_s: float = 10.0  # Environment.close
    episode_s: float = 300.0  # a whole episode, generation included
    start_s: float = 300.0  # a worker's engine must be up within this time
    probe_tolerance: float = 1e-4  # largest log-prob difference after a sync; bfloat16 engines need about 1
    sync_s: float = 120.0  # a weight update plus its probe, per worker
    group_s: float = 600.0  # no group back from a worker for so long: it hangs; replaced, its groups run again
    max_restarts: int = 5  # workers replaced in one run before it stops

    def __post_init__(self) -> None:
        check_retention(self.retention)
        at_least_1 = ("workers", "threads", "max_concurrency", "max_num_batched_tokens")
        for name in (*at_least_1, "max_turns", "max_tokens", "max_context"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("reset_s", "step_s", "score_s", "close_s", "episode_s", "start_s", "sync_s", "group_s"):
            self._require(name, getattr(self, name) > 0, "more than 0 seconds")
        self._require("probe_tolerance", self.probe_tolerance > 0, "more than 0 nats")
        self._require("kv_cache_gib", self.kv_cache_gib > 0, "more than 0 GiB")
        self._require("max_restarts", self.max_restarts >= 0, "0 or more")
        self._require("temperature", self.temperature >= 0, "0 (greedy) or more")
        self._require("top_p", 0 < self.top_p <= 1, "in (0, 1]")
        self._require("top_k", self.top_k >= 0, "0 (all) or more")
        self._require("min_p", 0 <= self.min_p < 1, "in [0, 1)")
        self._require("max_context", self.max_context > self.max_tokens, f"more than max_tokens={self.max_tokens}")

        if self.max_thinking is not None:
            wanted = f"at least 1 and below max_tokens={self.max_tokens} (an answer has to fit), or null"
            self._require("max_thinking", 1 <= self.max_thinking < self.max_tokens, wanted)
            self._require("max_thinking", self.thinking, "null with rollout.thinking=false: there is none to limit")

    @property
    def truncates(self) -> bool:
        """Whether sampling drops part of the vocabulary."""
        return self.temperature > 0 and (self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0)

    def _require(self, name: str, ok: bool, wanted: str) -> None:
        if not ok:
            raise ValueError(f"rollout.{name}={getattr(self, name)!r}: must be {wanted}")

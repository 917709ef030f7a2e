"""GB of each process, by part: the learner's and an engine's. GB is 10^9 bytes.

Learner on one GPU, P parameters that learn, c bytes of the dtype that computes (rl.learner.precision):

    weights    4 P float32 masters, and c P more for the copy that computes where that is not float32
    gradients  4 P            optimiser  8 P  (AdamW, two moments)         reference  c P  (objective.kl_coef above 0)
    adapter    c (all weights) + 16 A of the adapter       offload    c P on the GPU, 16 P in the host's memory
    saved      T (norms + attention + MLP + choices) over all layers; recompute: T h c a layer
    working    of the widest layer what its backward pass holds besides, once more where the layer is run again
    logits     rows V (16 bytes: logits, log-probs, probabilities and their product; + 2 in bfloat16, + 4 with a
               temperature, + 5 with truncated sampling, + 4 reference)
    probe      what it needs beyond a step, of which nothing is left then: 4 P or 2 P, a copy in the other dtype
    replay     recorded choices as int64, of the *whole batch*: micro-batches are all on the GPU when a step begins

Over n GPUs (not built; FSDP2 as torch does it) masters, gradients, optimiser and reference are cut by n; ``gathered``
are two layers in c bytes and one layer's gradients, of routed experts only 1 / expert_parallel.

Engine: c P / TP, rollout.kv_cache_gib, working memory of one prefill and its logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl.rollout.config import EngineConfig
from rl.run.model_sizes import ModelSizes

if TYPE_CHECKING:
    from configs.schema import TrainConfig

GB = 1e9
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
LEARNER, ENGINE, JUDGE = "learner", "rollout worker", "judge"
ROW = 60  # bytes of a token of the batch on the learner's GPU beside its recorded choices: ids, masks, log-probs, …


@dataclass(frozen=True)
class Memory:
    """What one process takes, GB by part. ``device``: of its GPU (of a run without GPUs: of the machine); ``host``: of
    its machine's memory besides."""

    device: dict[str, float]
    host: dict[str, float]

    @property
    def on_device(self) -> float:
        return sum(self.device.values())

    @property
    def on_host(self) -> float:
        return sum(self.host.values())


def rollout_tokens(cfg: TrainConfig) -> tuple[int, int]:
    """Tokens of a rollout, and how many of them are sampled: ``hardware.rollout_tokens`` and ``sampled_tokens``, else
    at most: a full window, of which all turns sample rollout.max_tokens."""
    tokens = min(cfg.hardware.rollout_tokens or cfg.rollout.max_context, cfg.rollout.max_context)
    sampled = cfg.hardware.sampled_tokens or cfg.rollout.turn_limit * cfg.rollout.max_tokens
    return tokens, min(sampled, tokens - 1)


def learner_memory(cfg: TrainConfig, sizes: ModelSizes) -> Memory:
    """Of the learner, on each of its GPUs."""
    learner, ranks = cfg.learner, cfg.hardware.learner_gpus
    width = WIDTH[learner.compute_dtype]
    learns = sizes.parameters - (0 if learner.train_indexer == "kl" else sizes.frozen)
    host: dict[str, float] = {}
    device: dict[str, float]
    if learner.lora.rank:
        adapter = sizes.adapter(learner.lora.rank, learner.lora.modules)
        copy = width * adapter if width < 4 else 0
        device = {
            "weights": width * sizes.parameters + 4 * adapter + copy,
            "gradients": 4 * adapter,
            "optimiser": 8 * adapter,
        }
        if learner.offload_optimizer:
            host["masters, gradients, optimiser"] = 4 * sizes.parameters + 16 * adapter
            device = {"weights": width * (sizes.parameters + adapter)}
    else:
        # Sharded, the copy that computes exists of the gathered layers only.
        copy = width * sizes.parameters if width < 4 and ranks == 1 else 0
        device = {"weights": 4 * sizes.parameters + copy, "gradients": 4 * learns, "optimiser": 8 * learns}
        if learner.offload_optimizer:
            host["masters, gradients, optimiser"] = 4 * sizes.parameters + 12 * learns
            device = {"weights": width * sizes.parameters}
    if cfg.objective.uses_reference and not learner.lora.rank:
        device["reference"] = width * sizes.parameters
    device = {part: size / ranks for part, size in device.items()}
    host = {part: size / ranks for part, size in host.items()}
    if ranks > 1:
        layer = sizes.largest
        whole = layer.parameters - layer.experts + layer.experts / cfg.hardware.expert_parallel
        device["gathered layers"] = 3 * width * whole
    step = _step(cfg, sizes)
    if ranks == 1:
        step |= _probe(cfg, sizes, sum(step.values()))
    device |= step
    return Memory(_gb(device) | {"process": cfg.hardware.process_gb}, _gb(host))


def _probe(cfg: TrainConfig, sizes: ModelSizes, step: float) -> dict[str, float]:
    """Bytes by which the probe after a sync exceeds a step of ``step`` bytes: it compares with a copy of the policy in
    the other dtype (``rl.learner.learner.Learner.probe``). No more than that is the policy while it is loaded, in
    float32."""
    learner = cfg.learner
    if learner.compute_dtype == "float32":
        copy = 2 * sizes.parameters
    else:  # the float32 masters serve, where they are on the GPU and whole
        copy = 4 * sizes.parameters if learner.lora.rank or learner.offload_optimizer else 0
    return {"probe after a sync": copy - step} if copy > step else {}


def _step(cfg: TrainConfig, sizes: ModelSizes) -> dict[str, float]:
    """Bytes of one forward and backward pass."""
    learner, objective = cfg.learner, cfg.objective
    width, tokens = WIDTH[learner.compute_dtype], learner.max_tokens_per_microbatch
    length, _ = rollout_tokens(cfg)
    hidden = sizes.config.hidden_size
    one = [width * (sizes.norms(width) + layer.saved) + sizes.choices(length) for layer in sizes.layers]
    saved = width * hidden * len(one) if learner.recompute else sum(one)
    working = max(one) * (2 if learner.recompute else 1)
    # A micro-batch may hold the rollouts that sampled most: all of it, where a prompt is short.
    rows = tokens if learner.head_rows is None else min(tokens, learner.head_rows)
    logit = 16 + (width < 4) * 2 + (objective.temperature != 1.0) * 4
    logit += cfg.rollout.truncates * 5 + (objective.uses_reference and learner.head_rows is None) * 4
    batch = cfg.prompts_per_step * cfg.group_size * length / cfg.hardware.learner_gpus
    recorded = 0 if cfg.replay.routing == "off" else sizes.replay_row(indexer=False, wide=True)
    if cfg.replay.indexer != "off":
        recorded += sizes.replay_row(indexer=True, wide=True) - sizes.replay_row(indexer=False, wide=True)
    return {
        "saved activations": tokens * saved,
        "working activations": tokens * working,
        "logits": rows * sizes.config.vocab_size * logit,
        "replay and batch": batch * (recorded + ROW),
    }


def engine_memory(cfg: TrainConfig, sizes: ModelSizes, engine: EngineConfig, tensor_parallel: int = 1) -> Memory:
    """Of one engine, on each of its GPUs. The table of recorded experts is in the host's memory."""
    width = WIDTH[engine.dtype]
    widest = max(width * (sizes.norms(width) + layer.saved) for layer in sizes.layers)
    slots = engine.kv_cache_gib * 2**30 / row_bytes(sizes, engine, tensor_parallel)
    device = {
        "weights": width * sizes.parameters / tensor_parallel,
        "cache": engine.kv_cache_gib * 2**30,
        "working activations": engine.max_num_batched_tokens * widest / tensor_parallel,
        "logits": 12 * engine.max_concurrency * sizes.config.vocab_size,
    }
    table = slots * sizes.replay_row(indexer=cfg.replay.indexer != "off", wide=False)
    return Memory(_gb(device) | {"process": cfg.hardware.process_gb}, _gb({"recorded experts": table}))


def row_bytes(sizes: ModelSizes, engine: EngineConfig, tensor_parallel: int = 1) -> float:
    """Bytes of one token in an engine's cache, on each of its GPUs."""
    return WIDTH[engine.dtype] * sizes.cache_row / sizes.cache_split(tensor_parallel)


def sequences(sizes: ModelSizes, engine: EngineConfig, context: int, tensor_parallel: int = 1) -> int:
    """How many sequences of ``context`` tokens an engine's cache holds."""
    return int(engine.kv_cache_gib * 2**30 / (row_bytes(sizes, engine, tensor_parallel) * context))


def sync_bytes(cfg: TrainConfig, sizes: ModelSizes) -> float:
    """What the learner publishes after a step: all weights in the dtype that computes, or the adapter in float32."""
    if cfg.learner.lora.rank:
        return 4.0 * sizes.adapter(cfg.learner.lora.rank, cfg.learner.lora.modules)
    return float(WIDTH[cfg.learner.compute_dtype] * sizes.parameters)


def _gb(parts: dict[str, float]) -> dict[str, float]:
    return {part: size / GB for part, size in parts.items()}

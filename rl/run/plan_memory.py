"""GB of each process, by part: the learner's and an engine's. GB is 10^9 bytes.

Learner on one GPU, P parameters that learn, c bytes of the dtype that computes (rl.learner.precision):

    weights    4 P float32 masters, and c P more for the copy that computes where that is not float32
    gradients  4 P            optimiser  8 P  (AdamW, two moments)         reference  c P  (objective.kl_coef above 0)
    teachers   c P each (objective.distill.teachers), counted as policies of this size
    adapter    c (all weights) + 16 A of the adapter       offload    c P on the GPU, 16 P in the host's memory
    saved      T (norms + attention + MLP + choices) over all layers; recompute: T h c a layer
    working    of the widest layer what its backward pass holds besides, once more where the layer is run again
    logits     rows V (16 bytes: logits, log-probs, probabilities and their product; + 2 in bfloat16, + 4 with a
               temperature, + 5 with truncated sampling, + 4 reference, + 20 a teacher's KL over the vocabulary)
    probe      what it needs beyond a step, of which nothing is left then: 4 P or 2 P, a copy in the other dtype
    replay     recorded choices as int64, of the *whole batch*: micro-batches are all on the GPU when a step begins

Of several ranks (``learner.ranks``, rl.policy.sharding) each holds 1/s of masters, gradients, optimiser, reference,
teachers and the probe's copy, all float32, s = shard_ranks; a base beside its adapter too. Its share of the batch is
1/ranks.

    gathered   (3 c + 4) Y + 2 c R,  at least 4 R    Y: the largest layer, R: embedding, head and last norm
               a layer, the next one, and a gradient in c; what is summed over the ranks in float32. R stays gathered
               from its forward to its backward pass. An adapter has no such gradient: 2 c Y + c R

Ranks that share a micro-batch (``learner.context_parallel`` = N; T tokens of it each) keep besides, in every layer,
what all N T rows are attended by: ``ModelSizes.gathered_row`` numbers a row; while a layer runs also its gradient.

What passes through the host of the first rank's machine: ``passing``.

Engine: c P / TP, rollout.kv_cache_gib, working memory of one prefill and its logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl.rollout.config import STORE, EngineConfig
from rl.run.model_sizes import ModelSizes

if TYPE_CHECKING:
    from configs.schema import TrainConfig

GB = 1e9
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
LEARNER, ENGINE, JUDGE = "learner", "rollout worker", "judge"
LOADING, SYNC, CHECKPOINT = "loading the policy", "a weight sync", "a checkpoint"
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
    """Of each rank of the learner: on its GPU, and in its machine."""
    learner = cfg.learner
    sharded = learner.ranks > 1
    width = WIDTH[learner.compute_dtype]
    adapter = sizes.adapter(learner.lora.rank, learner.lora.modules) if learner.lora.rank else 0
    masters, trained = 4 * (sizes.parameters + adapter), _trained(cfg, sizes)
    if sharded:
        weights = masters
    elif adapter:
        weights = width * sizes.parameters + 4 * adapter + (width * adapter if width < 4 else 0)
    else:
        weights = masters + (width * sizes.parameters if width < 4 else 0)
    device: dict[str, float] = {"weights": weights, "gradients": 4 * trained, "optimiser": 8 * trained}
    host: dict[str, float] = {}
    if learner.offload_optimizer:
        host["masters, gradients, optimiser"] = masters + 12 * trained
        device = {} if sharded else {"weights": width * (sizes.parameters + adapter)}
    if cfg.objective.uses_reference and not adapter:
        place = host if sharded and learner.offload_optimizer else device
        place["reference"] = (4 if sharded else width) * sizes.parameters
    if teachers := len(set(cfg.objective.distill.teachers.values())):
        place = host if sharded and learner.offload_optimizer else device
        place["teachers"] = teachers * (4 if sharded else width) * sizes.parameters
    device = {part: size / shards(cfg) for part, size in device.items()}
    host = {part: size / shards(cfg) for part, size in host.items()}
    if sharded:
        device["gathered layers"] = _gathered(cfg, sizes)
    step = _step(cfg, sizes)
    step |= _probe(cfg, sizes, sum(step.values()))
    device |= step
    return Memory(_gb(device) | {"process": cfg.hardware.process_gb}, _gb(host))


def shards(cfg: TrainConfig) -> int:
    """Ranks that one copy of the learner's state is split over."""
    return cfg.learner.shard_ranks or cfg.learner.ranks


def _gathered(cfg: TrainConfig, sizes: ModelSizes) -> float:
    """Bytes of whole weights and gradients that a rank holds while a layer runs."""
    width, layer = WIDTH[cfg.learner.compute_dtype], sizes.largest
    whole = layer.parameters - layer.experts + layer.experts / cfg.learner.expert_parallel
    if cfg.learner.lora.rank:
        return 2 * width * whole + width * sizes.outside
    return max((3 * width + 4) * whole, 4 * sizes.outside) + 2 * width * sizes.outside


def passing(cfg: TrainConfig, sizes: ModelSizes) -> dict[str, float]:
    """GB that pass through the memory of the first rank's machine, beside what its processes keep there; by occasion:
    one of them is there at a time.

    Ranks gather on the first one's host: weights for a sync, in the dtype that computes; masters and reference for a
    checkpoint, in which our own models are copied once more. With ``checkpoint_async`` one rank alone copies them too,
    every rank its moments, and a sync may come while they are written. A sync leaves one copy in Ray's store, and every
    served engine of the machine maps one of its own while it takes it; streamed weights (``rollout.weights``) are two
    buckets and, in the learner and each rank of an engine, one tensor that is larger (at most a layer, or embedding and
    head).
    """
    learner, width = cfg.learner, WIDTH[cfg.learner.compute_dtype]
    adapter = sizes.adapter(learner.lora.rank, learner.lora.modules) if learner.lora.rank else 0
    whole, sent = 4.0 * sizes.parameters, float(width * sizes.parameters)
    engines = cfg.rollout.workers
    if cfg.hardware.gpus:
        engines = min(engines, cfg.hardware.gpus_per_node // cfg.rollout.tensor_parallel)
    mapped = sent * engines if cfg.rollout.engine == "served" else 0.0
    on_gpu = cfg.hardware.gpus > 0
    gathers = learner.ranks > 1
    copies = on_gpu or gathers  # else weights are loaded to where they stay, and sent from there
    own = whole if sizes.is_dsa and not adapter else 0.0
    reference = cfg.objective.uses_reference and not adapter
    if gathers:
        checkpoint = whole + 4.0 * adapter + (whole if reference else 0.0) + own
    elif cfg.checkpoint_async:
        checkpoint = (4.0 * adapter or whole) + (sent if reference else 0.0) + own
    else:
        checkpoint = max(own, whole if on_gpu and not adapter else 0.0)
    sync = max(sent * (2 if copies else 1), sent + mapped)
    if cfg.rollout.weights != STORE and not adapter:
        one = float(width * max(sizes.largest.parameters, sizes.outside))
        sync = 2 * cfg.rollout.bucket_mb * 2**20 + one * (1 + engines * cfg.rollout.tensor_parallel)
    if cfg.checkpoint_async:
        here = min(learner.ranks, cfg.hardware.gpus_per_node) if on_gpu else learner.ranks
        checkpoint += 8 * _trained(cfg, sizes) / shards(cfg) * here
        sync += checkpoint  # it is still being written
    return _gb({LOADING: whole if copies else 0.0, SYNC: sync, CHECKPOINT: checkpoint})


def _trained(cfg: TrainConfig, sizes: ModelSizes) -> int:
    """Weights that learn."""
    learner = cfg.learner
    if learner.lora.rank:
        return sizes.adapter(learner.lora.rank, learner.lora.modules)
    return sizes.parameters - (0 if learner.train_indexer == "kl" else sizes.frozen)


def _probe(cfg: TrainConfig, sizes: ModelSizes, step: float) -> dict[str, float]:
    """Bytes by which the probe after a sync exceeds a step of ``step`` bytes: it compares with a copy of the policy in
    the other dtype (``rl.learner.learner.Learner.probe``). No more than that is the policy while it is loaded, in
    float32."""
    learner = cfg.learner
    if learner.ranks > 1:  # float32 shards, whatever they compute in; offloaded ones are in the host's memory
        copy = 0.0 if learner.offload_optimizer else 4 * sizes.parameters / shards(cfg)
    elif learner.compute_dtype == "float32":
        copy = 2.0 * sizes.parameters
    else:  # the float32 masters serve, where they are on the GPU and whole
        copy = 4.0 * sizes.parameters if learner.lora.rank or learner.offload_optimizer else 0.0
    return {"probe after a sync": copy - step} if copy > step else {}


def _step(cfg: TrainConfig, sizes: ModelSizes) -> dict[str, float]:
    """Bytes of one forward and backward pass."""
    learner, objective = cfg.learner, cfg.objective
    width, tokens = WIDTH[learner.compute_dtype], learner.max_tokens_per_microbatch
    length, _ = rollout_tokens(cfg)
    hidden = sizes.config.hidden_size
    # Spread experts: the rows that came back are kept for the gates' gradient, and as many are on their way.
    sent = 2 * sizes.chosen * hidden if learner.expert_parallel > 1 else 0
    # Ranks that share a micro-batch keep what all of its rows are attended by, and have its gradient in float32.
    gathered = learner.context_parallel * sizes.gathered_row if learner.context_parallel > 1 else 0
    one = [
        width * (sizes.norms(width) + layer.saved + (sent if layer.experts else 0) + gathered) + sizes.choices(length)
        for layer in sizes.layers
    ]
    saved = width * hidden * len(one) if learner.recompute else sum(one)
    working = max(one) * (2 if learner.recompute else 1) + (width + 4) * gathered
    # A micro-batch may hold the rollouts that sampled most: all of it, where a prompt is short.
    rows = tokens if learner.head_rows is None else min(tokens, learner.head_rows)
    logit = 16 + (width < 4) * 2 + (objective.temperature != 1.0) * 4
    logit += cfg.rollout.truncates * 5 + (objective.uses_reference and learner.head_rows is None) * 4
    logit += bool(objective.distill.teachers and objective.distill.form != "sampled") * 20
    # A micro-batch and the one after it. A common beginning is computed once, and there for each of its sequences.
    alike = cfg.group_size if learner.share_prefixes else 1
    batch = cfg.prompts_per_step * cfg.group_size * length / learner.ranks
    packed = min(batch, 2 * tokens * alike)
    row = ROW * learner.context_parallel  # each of those that share a micro-batch has all but its choices
    recorded = 0 if cfg.replay.routing == "off" else sizes.replay_row(indexer=False)
    if cfg.replay.indexer != "off":
        recorded += sizes.replay_row(indexer=True) - sizes.replay_row(indexer=False)
    return {
        "saved activations": tokens * saved,
        "working activations": tokens * working,
        "logits": rows * sizes.config.vocab_size * logit,
        "replay and batch": packed * (recorded + row),
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
    table = slots * sizes.replay_row(indexer=cfg.replay.indexer != "off")
    return Memory(_gb(device) | {"process": cfg.hardware.process_gb}, _gb({"recorded experts": table}))


def row_bytes(sizes: ModelSizes, engine: EngineConfig, tensor_parallel: int = 1) -> float:
    """Bytes of one token in an engine's cache, on each of its GPUs."""
    return sizes.cache_row(WIDTH[engine.dtype]) / sizes.cache_split(tensor_parallel)


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

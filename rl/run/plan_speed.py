"""Seconds and money of one GRPO step by a roofline: what the hardware allows at best, not what will be measured.

learner   tokens F (3 + r + o + k + t) / (n peak share)  F: FLOPs of one token's forward pass (rl.policy.flops);
          r: recompute 1, o: objective.old_policy=learner 1, k: KL reference 1, t: teachers 1;
          an adapter 2 in the place of 3
          n ranks: no faster than each micro-batch's traffic, ``traffic_seconds``
prefill   (tokens - sampled) F / (peak share)
decode    of n sequences at once, one token each: max(bytes read / bandwidth, FLOPs / peak)
          bytes = weights that n tokens touch + n cache rows; of E experts, K chosen: 1 - (1 - K/E)^n
          an engine of several ranks reads and computes with all of them; what these send each other is not counted
sync      GPU → host, a copy into Ray's store, once to every other machine, host → GPU
          n ranks: gathered on the first one's GPU before, in the dtype that computes
step      max_staleness=0: rollouts, then the learner, then the sync. Above 0: the slower of the two, then the sync
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl.run.model_sizes import ModelSizes
from rl.run.plan_memory import WIDTH, rollout_tokens, sequences, shards, sync_bytes

if TYPE_CHECKING:
    from configs.schema import TrainConfig


@dataclass(frozen=True)
class Speed:
    """One step, in seconds; tokens/s are those of all GPUs of the learner, or of all engines together."""

    rollout_s: float
    learner_s: float
    sync_s: float
    staleness: int
    sampled_per_s: float  # of all engines
    trained_per_s: float  # prompts included, as the learner counts them
    at_once: int  # sequences that one engine decodes together
    gpu_seconds_price: float | None = None  # of all GPUs for a second
    traffic_s: float = 0.0  # of learner_s at least: what ranks send each other; the rest is hidden behind it

    @property
    def step_s(self) -> float:
        if self.staleness == 0:
            return self.rollout_s + self.learner_s + self.sync_s
        return max(self.rollout_s, self.learner_s) + self.sync_s

    @property
    def step_price(self) -> float | None:
        return None if self.gpu_seconds_price is None else self.gpu_seconds_price * self.step_s

    def who_waits(self) -> str:
        """Who waits for whom, and for what share of a step."""
        learner, rollout = (1 - s / self.step_s for s in (self.learner_s, self.rollout_s))
        if self.staleness == 0:
            return (
                f"max_staleness=0: they alternate; the learner waits for {learner:.0%} of a step, the engines for "
                f"{rollout:.0%}; max_staleness=1 would take {max(self.rollout_s, self.learner_s) + self.sync_s:,.1f} s"
            )
        slow, fast, share = ("rollouts", "learner", learner) if self.rollout_s > self.learner_s else (
            "learner", "engines", rollout
        )  # fmt: skip
        verb = "waits" if fast == "learner" else "wait"
        return f"the {fast} {verb} for the {slow}, {share:.0%} of a step"


def step_speed(cfg: TrainConfig, sizes: ModelSizes, nodes: int) -> Speed:
    """Of one step; ``nodes``: machines that hold engines or the learner."""
    length, sampled = rollout_tokens(cfg)
    rollouts = cfg.prompts_per_step * cfg.group_size
    decode, at_once = decode_speed(cfg, sizes, cfg.rollout.tensor_parallel)
    engines = cfg.rollout.workers
    prefill = _peak(cfg, cfg.rollout.dtype) * cfg.rollout.tensor_parallel / _forward(sizes, length)
    each = -(-rollouts // engines)  # the engine with the most rollouts
    rollout_s = each * (sampled / decode + (length - sampled) / prefill)
    traffic_s = traffic_seconds(cfg, sizes)
    learner_s = max(rollouts * length / learner_speed(cfg, sizes), traffic_s)
    hardware = cfg.hardware
    return Speed(
        rollout_s=rollout_s,
        learner_s=learner_s,
        sync_s=sync_seconds(cfg, sizes, nodes),
        staleness=cfg.max_staleness,
        sampled_per_s=rollouts * sampled / rollout_s,
        trained_per_s=rollouts * length / learner_s,
        at_once=at_once,
        traffic_s=traffic_s,
        gpu_seconds_price=None if hardware.gpu_hour is None else hardware.gpu_hour / 3600 * max(1, hardware.gpus),
    )


def learner_speed(cfg: TrainConfig, sizes: ModelSizes) -> float:
    """Tokens per second of the learner on all its GPUs, prompts included, as far as computing goes."""
    passes = 2.0 if cfg.learner.lora.rank else 3.0
    passes += cfg.learner.recompute + (cfg.objective.old_policy == "learner") + cfg.objective.uses_reference
    passes += bool(cfg.objective.distill.teachers)
    peak = _peak(cfg, cfg.learner.compute_dtype) * cfg.learner.ranks
    return peak / (passes * _forward(sizes, rollout_tokens(cfg)[0]))


def traffic_seconds(cfg: TrainConfig, sizes: ModelSizes) -> float:
    """Of a step: what the ranks send each other, however long the computing takes.

    Every micro-batch gathers all layers for the forward and for the backward pass, once more each for the reference, a
    teacher and ``old_policy=learner``, and sums the gradients in float32; copies of the weights (``shard_ranks``) are
    summed over too. Experts that are spread (``expert_parallel``) are gathered over fewer ranks; rows go to them and
    come back instead, in every pass and for their gradients. Ranks that share a micro-batch (``context_parallel``)
    gather what its rows are attended by, in every pass, and sum its gradient in float32.
    """
    learner, hardware, ranks, split = cfg.learner, cfg.hardware, cfg.learner.ranks, shards(cfg)
    if ranks == 1:
        return 0.0
    tokens = cfg.prompts_per_step * cfg.group_size * rollout_tokens(cfg)[0]
    passes = -(-tokens // (ranks * learner.max_tokens_per_microbatch))
    gathers = 2 + (cfg.objective.old_policy == "learner") + cfg.objective.uses_reference
    gathers += bool(cfg.objective.distill.teachers)
    adapter = learner.lora.rank and sizes.adapter(learner.lora.rank, learner.lora.modules)
    learns = adapter or sizes.parameters - (0 if learner.train_indexer == "kl" else sizes.frozen)
    width, spread = WIDTH[learner.compute_dtype], learner.expert_parallel
    routed = sum(layer.experts for layer in sizes.layers) if spread > 1 else 0
    within = (split - 1) / split * (gathers * width * (sizes.parameters - routed) + 4 * (learns - routed))
    within += (1 / spread - 1 / split) * (gathers * width + 4) * routed
    rows = learner.max_tokens_per_microbatch * sizes.chosen * sizes.moe_layers * (1 - 1 / spread)
    sent = 2 * (gathers + learner.recompute) * width * sizes.config.hidden_size * rows
    sharers = learner.context_parallel
    others = learner.max_tokens_per_microbatch * (sharers - 1) * sizes.gathered_row * len(sizes.layers)
    attended = ((gathers - 1 + learner.recompute) * width + 4) * others
    between = 2 * (1 - split / ranks) * 4 * learns / split  # an all-reduce sends all but its own share twice

    link, network, here = hardware.link_gb_s * 1e9, hardware.network_gb_s * 1e9, hardware.gpus_per_node
    seconds = within / link
    if split > here:  # what a machine needs comes to it once, over the network of all its GPUs
        seconds = max(seconds, within / (network * here))
    if learner.offload_optimizer:  # shards come from the host's memory, and their gradients go there
        seconds += (gathers * 4 * sizes.parameters + 4 * learns) / split / (hardware.host_gb_s * 1e9)
    seconds += float(sent) / (link if spread <= here else network)
    seconds += float(attended) / (link if sharers <= here else network)
    return passes * (seconds + between / (link if ranks <= here else network))


def decode_speed(cfg: TrainConfig, sizes: ModelSizes, tensor_parallel: int) -> tuple[float, int]:
    """Sampled tokens per second of one engine over ``tensor_parallel`` GPUs, and how many sequences it runs at once."""
    length, sampled = rollout_tokens(cfg)
    context, hardware, width = length - sampled / 2, cfg.hardware, WIDTH[cfg.rollout.dtype]
    share = -(-cfg.prompts_per_step * cfg.group_size // cfg.rollout.workers)
    room = sequences(sizes, cfg.rollout, length, tensor_parallel)
    at_once = max(1, min(cfg.rollout.max_concurrency, share * (1 + cfg.max_staleness), room))
    experts = sum(layer.experts for layer in sizes.layers)
    if experts:
        touched = 1 - (1 - sizes.chosen / sizes.experts) ** at_once
        weights = sizes.parameters - experts + experts * touched
    else:
        weights = sizes.parameters
    rows = at_once * sizes.read_row(context, width) / sizes.cache_split(tensor_parallel)
    read = width * weights / tensor_parallel + rows
    seconds = read / (hardware.memory_gb_s * 1e9 * hardware.memory_share)
    flops = at_once * sizes.cost.forward(sizes.cost.at([round(context)]))
    seconds = max(seconds, flops / tensor_parallel / _peak(cfg, cfg.rollout.dtype))
    return at_once / seconds, at_once


def sync_seconds(cfg: TrainConfig, sizes: ModelSizes, nodes: int) -> float:
    """From the end of a step until every engine has the new weights; the probe after it is left out."""
    hardware, sent = cfg.hardware, sync_bytes(cfg, sizes) / 1e9
    seconds = sent / hardware.copy_gb_s
    if cfg.learner.ranks > 1:
        apart = shards(cfg) > hardware.gpus_per_node
        seconds += sent / (hardware.network_gb_s if apart else hardware.link_gb_s)
    if nodes > 1:
        seconds += sent / hardware.network_gb_s
    if hardware.gpus:
        seconds += 2 * sent / hardware.host_gb_s
    if cfg.rollout.weights == "nccl":  # from GPU to GPU, as ranks gather
        seconds = sent / (hardware.network_gb_s if nodes > 1 else hardware.link_gb_s)
    return seconds


def _forward(sizes: ModelSizes, length: int) -> float:
    """FLOPs of a token's forward pass, mean over a sequence of ``length``."""
    return sizes.cost.forward(sizes.cost.sequence(length)) / length


def _peak(cfg: TrainConfig, dtype: str) -> float:
    """FLOP/s of one GPU that a pass in ``dtype`` reaches."""
    tflops = cfg.hardware.tflops_float32 if dtype == "float32" else cfg.hardware.tflops
    return tflops * 1e12 * cfg.hardware.compute_share

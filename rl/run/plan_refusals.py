"""Why a plan cannot be run: memory, deadlines, what is not recorded. Every line begins with the field to change, and
what would fit is found by trying it: ``REMEDIES`` where the learner is, more ranks on GPUs that have nothing to do or
an engine to spare, then more GPUs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import floor
from typing import TYPE_CHECKING, Any

from rl.run.engine_refusals import engine_refusals, uneven_part
from rl.run.model_sizes import ModelSizes
from rl.run.plan_memory import (
    ENGINE,
    GB,
    JUDGE,
    LEARNER,
    Memory,
    engine_memory,
    learner_memory,
    passing,
    rollout_tokens,
    row_bytes,
    sequences,
)
from rl.run.plan_speed import Speed, decode_speed

if TYPE_CHECKING:
    from configs.schema import TrainConfig

# Changes of the learner that keep its result but for rounding, cheapest first; then what changes the training.
REMEDIES: tuple[dict[str, Any], ...] = (
    {"recompute": True},
    {"recompute": True, "head_rows": 1024},
    {"compute_dtype": "bfloat16", "recompute": True, "head_rows": 1024},
    {"compute_dtype": "bfloat16", "recompute": True, "head_rows": 1024, "offload_optimizer": True},
)
ADAPTER: dict[str, Any] = {"compute_dtype": "bfloat16", "recompute": True, "head_rows": 1024, "lora": 16}
RANKS = tuple(2**i for i in range(11))


def refusals_of(
    cfg: TrainConfig,
    sizes: ModelSizes,
    judge: ModelSizes,
    placed: list[list[str]],
    memory: dict[str, Memory],
    host_gb: float,
    speed: Speed,
) -> list[str]:
    """All of them, one line each. ``sizes`` of the policy, ``judge`` of the judge; ``placed``, ``memory``, ``host_gb``,
    ``speed``: as in ``rl.run.run_plan.Plan``."""
    devices = _devices(cfg, sizes, judge, placed, memory, host_gb)
    engines = engine_refusals(
        cfg.rollout, sizes.config.to_dict(), gpus=cfg.hardware.gpus > 0, worker_gpus=cfg.ray.worker_gpus,
        replay=cfg.replay,
    )  # fmt: skip
    return [*_cache(cfg, sizes), *devices, *engines, *_rows(cfg, sizes), *_others(cfg, sizes, host_gb, speed)]


def total(memory: dict[str, Memory], roles: list[str]) -> float:
    """GB that processes of these ``roles`` take on the GPU that they share."""
    return sum(memory[role].on_device for role in roles)


def _cache(cfg: TrainConfig, sizes: ModelSizes) -> list[str]:
    tensor = cfg.rollout.tensor_parallel
    if sequences(sizes, cfg.rollout, cfg.rollout.max_context, tensor) >= 1:
        return []
    row = row_bytes(sizes, cfg.rollout, tensor) * cfg.rollout.max_context / 2**30
    return [
        f"rollout.kv_cache_gib={cfg.rollout.kv_cache_gib:g}: one rollout of rollout.max_context="
        f"{cfg.rollout.max_context} tokens takes {row:.3g} GiB; give at least that, or lower rollout.max_context"
    ]


def _rows(cfg: TrainConfig, sizes: ModelSizes) -> list[str]:
    """A model whose rows ranks cannot share."""
    if cfg.learner.context_parallel == 1:
        return []
    from rl.policy.checkpoint_checks import check_context

    try:
        check_context(sizes.module, cfg.learner.context_parallel)
    except ValueError as error:
        return [str(error)]
    return []


def _devices(
    cfg: TrainConfig,
    sizes: ModelSizes,
    judge: ModelSizes,
    placed: list[list[str]],
    memory: dict[str, Memory],
    host_gb: float,
) -> list[str]:
    """GPUs (without GPUs: the machine) that what is on them does not fit."""
    limit = cfg.hardware.memory_gb
    if not cfg.hardware.gpus:
        if (needed := total(memory, placed[0]) + host_gb) <= limit:
            return []
        role = max(memory, key=lambda r: memory[r].on_device * placed[0].count(r))
        return [f"{_field(cfg, role, memory[role])}: all processes need {needed:,.1f} GB, hardware.memory_gb={limit:g}"]
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, roles in enumerate(placed):
        if roles and total(memory, roles) > limit:
            groups[tuple(roles)].append(index)
    found = []
    for together, gpus in groups.items():
        roles = list(together)
        heavy = max(set(roles), key=lambda role: memory[role].on_device * roles.count(role))
        needed = total(memory, roles)
        where = f"GPU {gpus[0]}" if len(gpus) == 1 else f"each of {len(gpus)} GPUs"
        others = needed - memory[heavy].on_device
        found.append(
            f"{_field(cfg, heavy, memory[heavy])}: {' + '.join(roles)} on {where}: {needed:,.1f} GB of {limit:g}; "
            f"{_remedy(cfg, judge if heavy == JUDGE else sizes, heavy, limit - others)}"
        )
    return found


def _path(cfg: TrainConfig, role: str) -> str:
    """The field that names the model of a role."""
    return "judge.path" if role == JUDGE and cfg.judge.path is not None else "policy.path"


def _field(cfg: TrainConfig, role: str, memory: Memory) -> str:
    """The field that the largest part of a role follows from."""
    parts = memory.device
    part = max(parts, key=lambda name: parts[name])
    if role != LEARNER:
        group = "rollout" if role == ENGINE else "judge"
        fields = {"cache": "kv_cache_gib", "logits": "max_concurrency", "working activations": "max_num_batched_tokens"}
        return f"{group}.{fields[part]}" if part in fields else _path(cfg, role)
    fields = {
        "saved activations": "learner.recompute", "working activations": "learner.max_tokens_per_microbatch",
        "logits": "learner.head_rows", "replay and batch": "prompts_per_step", "reference": "objective.kl_coef",
        "gathered layers": "policy.path", "teachers": "objective.distill.teachers",
    }  # fmt: skip
    return fields.get(part, "learner.offload_optimizer")


def _remedy(cfg: TrainConfig, sizes: ModelSizes, role: str, limit: float) -> str:
    """What would make ``role`` fit into ``limit`` GB, found by trying."""
    if role == LEARNER:
        return _learner_remedy(cfg, sizes, limit)
    engine, group, own = (cfg.rollout, "rollout", cfg.rollout.tensor_parallel) if role == ENGINE else (
        cfg.judge, "judge", 1
    )  # fmt: skip
    smaller = f"take a smaller {_path(cfg, role)}"
    memory = engine_memory(cfg, sizes, engine, own)
    room = (limit - (memory.on_device - memory.device["cache"])) * GB / 2**30
    one = row_bytes(sizes, engine, own) * engine.max_context / 2**30
    if room >= one:
        return f"fits with {group}.kv_cache_gib={max(floor(room), floor(room * 10) / 10, one):.3g}"
    if engine.dtype == "float32":
        follows = " (learner.compute_dtype=bfloat16)" if role == ENGINE else ""
        return f"set {group}.dtype=bfloat16{follows}, or {smaller}"
    return (_more_ranks(cfg, sizes, limit) if role == ENGINE else None) or smaller


def _more_ranks(cfg: TrainConfig, sizes: ModelSizes, limit: float) -> str | None:
    """The fewest ranks of a machine over which an engine with a cache for one sequence fits, with as many engines as
    there are GPUs for; None: none."""
    hardware, rollout, model = cfg.hardware, cfg.rollout, sizes.config.to_dict()
    others = cfg.learner.ranks * cfg.ray.learner_gpus + (cfg.judge.num_gpus if cfg.judge.is_worker else 0.0)
    for tensor in (t for t in RANKS if rollout.tensor_parallel < t <= hardware.gpus_per_node):
        workers = floor((hardware.gpus - others) / tensor)
        if workers < 1 or uneven_part(model, tensor) is not None:
            continue
        split = engine_memory(cfg, sizes, rollout, tensor)
        room = (limit - (split.on_device - split.device["cache"])) * GB / 2**30
        if room < row_bytes(sizes, rollout, tensor) * rollout.max_context / 2**30:
            continue
        words = [f"rollout.engine=served rollout.tensor_parallel={tensor}"]
        words += [f"rollout.workers={workers}"] if workers < rollout.workers else []
        words += [f"rollout.kv_cache_gib={room:.3g}"] if room < rollout.kv_cache_gib else []
        words += ["ray.worker_gpus=1"] if cfg.ray.worker_gpus != 1 else []
        return f"fits with {' '.join(words)}"
    return None


def _learner_remedy(cfg: TrainConfig, sizes: ModelSizes, limit: float) -> str:
    for changes in REMEDIES:
        if fits := _with(cfg, sizes, changes, limit):
            return f"fits with {fits}"
    gpus, tensor = cfg.hardware.gpus, cfg.rollout.tensor_parallel
    share = tensor if tensor > 1 else cfg.ray.worker_gpus  # GPUs of an engine
    judged = cfg.judge.num_gpus if cfg.judge.is_worker else 0.0
    room = floor(gpus - judged - (tensor if tensor > 1 else min(1.0, share)))  # one engine at least stays
    for shares in (False, True):  # a micro-batch over ranks last: it asks most of the links
        for ranks in (r for r in RANKS if cfg.learner.ranks < r <= room):
            engines = cfg.rollout.workers
            if share > 0:
                engines = min(engines, floor((gpus - judged - ranks) / share))
            rows = _shared_rows(cfg, ranks) if shares else {}
            for changes in [*REMEDIES[2:], REMEDIES[2] | _spread(sizes, ranks)]:
                if fits := _with(cfg, sizes, changes | rows | {"ranks": ranks, "workers": engines}, limit):
                    return f"fits with {fits}"
    if fits := _with(cfg, sizes, ADAPTER, limit):
        return f"fits with {fits}"
    for spreads, shares in ((False, False), (True, False), (True, True)):
        for ranks in (r for r in RANKS if r > cfg.learner.ranks):
            split = (_spread(sizes, ranks) if spreads else {}) | (_shared_rows(cfg, ranks) if shares else {})
            if fits := _with(cfg, sizes, REMEDIES[2] | {"ranks": ranks} | split, limit):
                more = f"take a smaller policy.path, or more GPUs: {fits} would fit"
                return f"no setting of these {gpus} GPUs fits: {more}"
    host = cfg.hardware.host_memory_gb
    return f"no setting fits, up to {RANKS[-1]} GPUs and hardware.host_memory_gb={host:g}: take a smaller policy.path"


def _spread(sizes: ModelSizes, ranks: int) -> dict[str, Any]:
    """Experts over as many of a machine's GPUs as can share them evenly."""
    most = max(n for n in (1, 2, 4, 8) if ranks % n == 0 and sizes.experts % n == 0)
    return {"expert_parallel": most} if most > 1 else {}


def _shared_rows(cfg: TrainConfig, ranks: int) -> dict[str, Any]:
    """The longest rollout over as many of a machine's GPUs as divide the ranks; {}: one holds no more than that."""
    most = max(n for n in (1, 2, 4, 8) if ranks % n == 0)
    each = -(-cfg.rollout.max_context // most)
    if each >= cfg.learner.max_tokens_per_microbatch:
        return {}
    return {"context_parallel": most, "max_tokens_per_microbatch": each}


def _with(cfg: TrainConfig, sizes: ModelSizes, changes: dict[str, Any], limit: float) -> str | None:
    """The overrides of ``changes`` that are not set yet, and what they come to; None: they do not fit."""
    values: dict[str, Any] = {name: value for name, value in changes.items() if name not in ("lora", "workers")}
    copies: dict[str, Any] = {"shard_ranks": None} if "ranks" in values else {}
    rank = changes.get("lora", 0) if not cfg.learner.lora.rank else 0
    try:
        learner = replace(cfg.learner, **values, **copies)
        if rank:
            learner = replace(learner, lora=replace(cfg.learner.lora, rank=rank))
        rollout = replace(cfg.rollout, dtype=learner.compute_dtype)
        changed = replace(cfg, learner=learner, rollout=rollout)
    except ValueError:  # these settings exclude each other
        return None
    memory = learner_memory(changed, sizes)
    hardware = cfg.hardware
    beside = min(learner.ranks, hardware.gpus_per_node)
    engines = min(changes.get("workers", rollout.workers), (hardware.gpus_per_node - 1) // rollout.tensor_parallel)
    in_machine = memory.on_host * beside + max(passing(changed, sizes).values())
    in_machine += engine_memory(changed, sizes, rollout, rollout.tensor_parallel).on_host * engines
    if memory.on_device > limit or in_machine > hardware.host_memory_gb:
        return None
    before = {name: getattr(cfg.learner, name) for name in values}
    words = [f"learner.{name}={str(v).lower()}" for name, v in values.items() if v != before[name]]
    words += ["learner.shard_ranks=null"] if "ranks" in values and cfg.learner.shard_ranks else []
    words += [f"learner.lora.rank={rank}"] if rank else []
    workers = changes.get("workers", cfg.rollout.workers)
    words += [f"rollout.workers={workers}"] if workers != cfg.rollout.workers else []
    return f"{' '.join(words)} ({memory.on_device:,.1f} GB)" if words else None


def _others(cfg: TrainConfig, sizes: ModelSizes, host_gb: float, speed: Speed) -> list[str]:
    """Host memory, deadlines, and GPUs that are not there."""
    hardware = cfg.hardware
    slowest = max(speed.rollout_s, speed.learner_s)
    length, sampled = rollout_tokens(cfg)
    episode = sampled / (decode_speed(cfg, sizes, cfg.rollout.tensor_parallel)[0] / speed.at_once)
    refused = (
        (
            hardware.gpus > 0 and cfg.learner.ranks > 1 and cfg.ray.learner_gpus < 1,
            f"ray.learner_gpus={cfg.ray.learner_gpus:g}: each of learner.ranks={cfg.learner.ranks} needs a GPU of its "
            "own; set it to 1",
        ),
        (
            hardware.gpus > 0 and host_gb > hardware.host_memory_gb,
            f"{_host_field(cfg, sizes, host_gb)}: {host_gb:,.0f} GB of the memory of the learner's machine, "
            f"hardware.host_memory_gb={hardware.host_memory_gb:g}",
        ),
        (
            hardware.gpus > 0 and cfg.rollout.tensor_parallel > hardware.gpus_per_node,
            f"rollout.tensor_parallel={cfg.rollout.tensor_parallel}: the ranks of an engine are on one machine, and "
            f"hardware.gpus_per_node={hardware.gpus_per_node}",
        ),
        (
            speed.sync_s > cfg.rollout.sync_s,
            f"rollout.sync_s={cfg.rollout.sync_s:g}: a weight sync takes {speed.sync_s:,.0f} s at best",
        ),
        (
            slowest > cfg.step_deadline_s,
            f"step_deadline_s={cfg.step_deadline_s:g}: rollouts take {speed.rollout_s:,.0f} s at best, the learner "
            f"{speed.learner_s:,.0f} s",
        ),
        (
            episode > cfg.rollout.episode_s,
            f"rollout.episode_s={cfg.rollout.episode_s:g}: {sampled} tokens of {length} take {episode:,.0f} s at best "
            f"with {speed.at_once} rollouts at once; raise it, or lower rollout.max_concurrency",
        ),
    )
    return [text for holds, text in refused if holds]


def _host_field(cfg: TrainConfig, sizes: ModelSizes, host_gb: float) -> str:
    """What fills the machine's memory: copies for a checkpoint, where it is enough to do without them; masters that are
    kept there; else what passes through it."""
    if cfg.checkpoint_async:
        without = passing(replace(cfg, checkpoint_async=False), sizes)
        less = max(passing(cfg, sizes).values()) - max(without.values())
        if host_gb - less <= cfg.hardware.host_memory_gb:
            return f"checkpoint_async=true (false takes {less:,.0f} GB less)"
    if cfg.learner.offload_optimizer:
        return "learner.offload_optimizer=true"
    if cfg.learner.ranks > 1:
        return f"learner.ranks={cfg.learner.ranks}: the first one gathers all float32 weights for a checkpoint"
    return "policy.path"

"""The plan of a run, from its settings and config.json alone: who runs where, what fits, how long a step takes at best.

Planned is what this version runs: ``learner.ranks`` processes of the learner on one GPU each and ``rollout.workers``
engines on ``rollout.tensor_parallel`` GPUs each, as Ray places them by ``ray.learner_gpus``, ``ray.worker_gpus`` and
``judge.num_gpus``. Every refusal names a field.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.policy.supported import INDEX_PRECISION
from rl.rollout.config import STORE
from rl.run.engine_refusals import with_precision
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
    sequences,
    sync_bytes,
)
from rl.run.plan_refusals import refusals_of, total
from rl.run.plan_speed import Speed, decode_speed, step_speed

if TYPE_CHECKING:
    from configs.schema import PolicyConfig, TrainConfig
    from rl.rollout.config import JudgeConfig


@dataclass(frozen=True)
class Fit:
    """One engine over ``tensor_parallel`` GPUs: GB of weights on each, sequences of a full window that its memory
    holds beside them, and tokens sampled per second of one GPU."""

    tensor_parallel: int
    weights_gb: float
    sequences: int
    sampled_per_s: float


@dataclass(frozen=True)
class Plan:
    """``memory``: of one process by its role. ``placed``: roles on every GPU, the first GPU first (without GPUs one
    list: the machine). ``host_gb``: of the memory of the first rank's machine, ``passing`` (by occasion) included.
    ``refusals``: why it cannot run, each with the field to change."""

    sizes: ModelSizes
    memory: dict[str, Memory]
    placed: list[list[str]]
    nodes: int
    host_gb: float
    passing: dict[str, float]
    fits_per_tp: list[Fit]
    speed: Speed
    refusals: list[str]
    notes: list[str]

    @property
    def runs(self) -> bool:
        """Whether this version can run it, as far as memory, settings and deadlines tell."""
        return not self.refusals

    def on_gpu(self, index: int) -> float:
        """GB on that GPU."""
        return total(self.memory, self.placed[index])


def sizes_of(
    policy: PolicyConfig, source: str, vocab_size: int, index_precision: str | None = None
) -> tuple[ModelSizes, list[str]]:
    """Sizes of the policy that a run starts from, and why it cannot be trained from as it is.

    ``index_precision``: of ``base``; None: the policy's. A preset without a directory is taken from
    ``rl.policy.presets``. Raises ValueError as ``start_directory``.
    """
    from rl.policy.checkpoint_checks import read_config
    from rl.policy.presets import PRESETS
    from rl.run.preflight import check_preset, start_directory

    if policy.path is None and (source == "scratch" or policy.preset == "deepseek_v32"):
        check_preset(policy)
        own = {} if policy.preset == "deepseek_v32" else {"vocab_size": vocab_size}
        return _with_precision(PRESETS[policy.preset](**own, **policy.overrides), index_precision, [])
    directory: Path | None = start_directory(policy, source, config_only=True)
    assert directory is not None
    refused = []
    if read_config(directory).get("quantization_config"):
        refused.append(
            f"policy.path={policy.path}: its weights are quantised, and an engine is updated with plain ones; make a "
            "plain copy: rl-export path=IN out=OUT dtype=bfloat16"
        )
    from transformers import AutoConfig

    return _with_precision(AutoConfig.from_pretrained(directory), index_precision, refused)


def _with_precision(config: Any, precision: str | None, refused: list[str]) -> tuple[ModelSizes, list[str]]:
    """Sizes of ``config`` with its indexer in ``precision``, and what was ``refused`` so far and is for that."""
    try:
        chosen = with_precision(config.to_dict(), precision)
    except ValueError as error:
        return ModelSizes.of(config), [*refused, str(error)]
    if precision is not None:
        setattr(config, INDEX_PRECISION, chosen[INDEX_PRECISION])
    return ModelSizes.of(config), refused


def judge_sizes(judge: JudgeConfig) -> ModelSizes | None:
    """Sizes of the model in ``judge.path``; None: the judge, if there is one, is the policy that the run starts from.

    Raises ValueError when no model lies there.
    """
    from rl.run.paths import policy_directory

    if not judge.is_worker or judge.path is None:
        return None
    return ModelSizes.load(policy_directory("judge.path", judge.path, config_only=True))


def plan_of(
    cfg: TrainConfig, sizes: ModelSizes, refused: list[str] | None = None, judge: ModelSizes | None = None
) -> Plan:
    """The plan of ``cfg`` for a policy of these ``sizes``. ``refused``: what is known to be wrong already; ``judge``:
    sizes of the judge, where it is another model."""
    hardware = cfg.hardware
    memory = {LEARNER: learner_memory(cfg, sizes), ENGINE: _engine(cfg, sizes)}
    if cfg.judge.is_worker:
        memory[JUDGE] = engine_memory(cfg, judge or sizes, cfg.judge)
    refusals, notes = list(refused or []), list[str]()
    placed, missing = place(cfg)
    if missing:
        refusals.append(missing)
    used = max((i + 1 for i, roles in enumerate(placed) if roles), default=1)
    nodes = ceil(used / hardware.gpus_per_node) if hardware.gpus else 1
    passed = passing(cfg, sizes)
    host = _host(cfg, memory, placed) + max(passed.values())
    speed = step_speed(cfg, sizes, nodes)
    fits = _per_tp(cfg, sizes)
    plan = Plan(sizes, memory, placed, nodes, host, passed, fits, speed, refusals, notes)
    refusals += refusals_of(cfg, sizes, judge or sizes, placed, memory, host, speed)
    notes += _notes(cfg, sizes, plan)
    return plan


def place(cfg: TrainConfig) -> tuple[list[list[str]], str | None]:
    """Roles on every GPU, in the order in which they start (judge, workers, learner), and what does not find a place.

    A process with a share below 1 goes to the first GPU with room for it, one with 0 GPUs to the first one: Ray
    reserves nothing for it and hides nothing from it. An engine is on one machine. Several ranks of the learner go to
    the machine with most room for them, then to the next (Ray's placement group, PACK). Without GPUs all of them are on
    the machine.
    """
    hardware, workers, ranks = cfg.hardware, cfg.rollout.workers, cfg.learner.ranks
    wanted = [(JUDGE, cfg.judge.num_gpus, 1)] if cfg.judge.is_worker else []
    wanted += [(ENGINE, cfg.ray.worker_gpus, cfg.rollout.tensor_parallel)] * workers
    wanted += [(LEARNER, cfg.ray.learner_gpus, 1)] * ranks
    if not hardware.gpus:
        return [[role for role, _, gpus in wanted for _ in range(gpus)]], None
    placed: list[list[str]] = [[] for _ in range(hardware.gpus)]
    free = [1.0] * hardware.gpus
    order = list(range(hardware.gpus))
    left: list[str] = []
    for n, (role, share, gpus) in enumerate(wanted):
        if gpus == 1 and share == 0:
            placed[0].append(role)
            continue
        if n == len(wanted) - ranks:
            order = _roomiest_first(free, hardware.gpus_per_node)
        count, each = (gpus, 1.0) if gpus > 1 else (max(1, ceil(share)), min(1.0, share))
        found = _with_room(order, free, each, count, hardware.gpus_per_node)
        if len(found) < count:
            left.append(role)
            continue
        for i in found:
            free[i] -= each
        for i in found if gpus > 1 else found[:1]:  # more than one GPU for a process of today: the rest idles
            placed[i].append(role)
    if not left:
        return placed, None
    need = sum(gpus if gpus > 1 else share for _, share, gpus in wanted)
    several = f", learner.ranks={ranks}" if ranks > 1 else ""
    return placed, (
        f"rollout.workers={workers}{several}: no GPU is left for {', '.join(sorted(set(left)))}; ray.worker_gpus="
        f"{cfg.ray.worker_gpus:g} and ray.learner_gpus={cfg.ray.learner_gpus:g} need {need:g} GPUs, hardware.gpus="
        f"{hardware.gpus}; lower one of them"
    )


def _with_room(order: list[int], free: list[float], each: float, count: int, per_machine: int) -> list[int]:
    """The first ``count`` GPUs with room for ``each``, all in one machine; fewer where there are none."""
    room = [i for i in order if free[i] >= each - 1e-9]
    machines = dict.fromkeys(i // per_machine for i in room)
    together = ([i for i in room if i // per_machine == machine][:count] for machine in machines)
    return next((gpus for gpus in together if len(gpus) == count), [])


def _roomiest_first(free: list[float], per_machine: int) -> list[int]:
    """GPUs in the order of their machines' room, the roomiest first."""
    machines = [range(i, min(i + per_machine, len(free))) for i in range(0, len(free), per_machine)]
    machines.sort(key=lambda gpus: -sum(free[i] for i in gpus))
    return [i for gpus in machines for i in gpus]


def _engine(cfg: TrainConfig, sizes: ModelSizes) -> Memory:
    return engine_memory(cfg, sizes, cfg.rollout, cfg.rollout.tensor_parallel)


def _host(cfg: TrainConfig, memory: dict[str, Memory], placed: list[list[str]]) -> float:
    """GB that the processes on the first rank's machine keep in its memory."""
    each = cfg.hardware.gpus_per_node if cfg.hardware.gpus else 1
    first = next((i // each for i, roles in enumerate(placed) if LEARNER in roles), 0)
    roles = [role for gpu in placed[first * each : (first + 1) * each] for role in gpu]
    engines = roles.count(ENGINE) / cfg.rollout.tensor_parallel
    return memory[LEARNER].on_host * roles.count(LEARNER) + memory[ENGINE].on_host * engines


def _per_tp(cfg: TrainConfig, sizes: ModelSizes) -> list[Fit]:
    if not cfg.hardware.gpus:
        return []
    found = []
    for tensor in (1, 2, 4, 8, 16):
        memory = engine_memory(cfg, sizes, cfg.rollout, tensor)
        room = cfg.hardware.memory_gb - (memory.on_device - memory.device["cache"])
        sized = replace(cfg.rollout, kv_cache_gib=max(1e-6, room * GB / 2**30))
        held = sequences(sizes, sized, sized.max_context, tensor)
        speed = decode_speed(replace(cfg, rollout=sized), sizes, tensor)[0] / tensor if held else 0.0
        found.append(Fit(tensor, memory.device["weights"], held, speed))
    return found


def _notes(cfg: TrainConfig, sizes: ModelSizes, plan: Plan) -> list[str]:
    """What is allowed and worth knowing."""
    hardware, store = cfg.hardware, cfg.ray.object_store_mb * 2**20 / GB
    held = sequences(sizes, cfg.rollout, cfg.rollout.max_context, cfg.rollout.tensor_parallel)
    idle = sum(not roles for roles in plan.placed)
    sent = sync_bytes(cfg, sizes) / GB
    first = {role for role in plan.placed[0] if {ENGINE: cfg.ray.worker_gpus, LEARNER: cfg.ray.learner_gpus,
                                                  JUDGE: cfg.judge.num_gpus}[role] == 0}  # fmt: skip
    said = (
        (idle > 0, f"{idle} of {hardware.gpus} GPUs have nothing to do; raise rollout.workers"),
        (
            hardware.gpus > 0 and bool(first) and cfg.learner.ranks == cfg.rollout.tensor_parallel == 1,
            f"Ray reserves no GPU for {', '.join(sorted(first))}: all of these share the first one (ray.worker_gpus, "
            "ray.learner_gpus)",
        ),
        (
            0 < held < cfg.rollout.max_concurrency,
            f"rollout.max_concurrency={cfg.rollout.max_concurrency}: the cache holds {held} rollouts with a full "
            f"window ({cfg.rollout.max_context} tokens); more wait, or are computed again (rollout.kv_cache_gib)",
        ),
        (
            cfg.ray.address is None and sent > store and cfg.rollout.weights == STORE,
            f"ray.object_store_mb={cfg.ray.object_store_mb}: a weight sync puts {sent * GB / 2**20:,.0f} MiB into it; "
            "what does not fit goes through the disk",
        ),
        (
            plan.speed.traffic_s >= plan.speed.learner_s,
            f"learner.ranks={cfg.learner.ranks}: gathering weights and summing gradients takes "
            f"{plan.speed.traffic_s:,.1f} s of a step, more than computing; with larger micro-batches there is less of "
            "it (learner.max_tokens_per_microbatch)",
        ),
        (
            cfg.pipeline.teaches,
            "pipeline.merge=teachers: planned is a specialist; the learner of the last stage holds one policy more for "
            "each family (plan it as a run of its own, with objective.distill.teachers)",
        ),
        (
            plan.nodes > 1 and cfg.ray.address is None,
            f"ray.address=null starts Ray on one machine; {plan.nodes} machines need ray=cluster",
        ),
    )
    return [text for holds, text in said if holds]

"""A plan as text: tables for the terminal (``rl-train plan=true``)."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rl.run.plan_memory import rollout_tokens
from rl.run.run_plan import Plan
from rl.tracking.cost import money

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from configs.schema import TrainConfig


def print_plan(plan: Plan, cfg: TrainConfig, console: Console) -> None:
    """Model, placement, memory, fit per TP, speed, and the verdict last."""
    console.print(*model_lines(plan, cfg), sep="\n", highlight=False, markup=False, soft_wrap=True)
    console.print(memory_table(plan, cfg))
    if plan.fits_per_tp:
        console.print(fit_table(plan, cfg))
    lines = [*speed_lines(plan, cfg), *(f"note: {note}" for note in plan.notes)]
    lines += [f"refused: {refusal}" for refusal in plan.refusals]
    # A refusal stays one line, however wide the terminal is.
    console.print(*lines, verdict(plan), sep="\n", highlight=False, markup=False, soft_wrap=True)


def verdict(plan: Plan) -> str:
    if plan.runs:
        return "the plan fits. Nothing was started; leave plan=true out to run it"
    return "the plan is refused"


def model_lines(plan: Plan, cfg: TrainConfig) -> list[str]:
    """The model, and who runs where."""
    sizes, hardware = plan.sizes, cfg.hardware
    what = f"{sizes.config.model_type}: {_count(sizes.parameters)} parameters"
    if sizes.moe_layers:
        what += f", {_count(sizes.cost.parameters)} of them at work on a token"
    width = {"float32": 4, "bfloat16": 2, "float16": 2}[cfg.rollout.dtype]
    cached = f"{sizes.cache_row(width):,} bytes of cache a token"
    row = sizes.replay_row(indexer=cfg.replay.indexer != "off")
    lines = [f"{what}; {cached}" + (f", {row:,} bytes of recorded choices" if row else "")]
    if players := cfg.rollout.env_workers:
        cpus, at_once = cfg.ray.env_cpus, cfg.rollout.episodes_at_once
        lines.append(f"{players} environment worker(s) of {cpus:g} CPUs, {at_once} episodes at once in each")
    if not hardware.gpus:
        return [*lines, f"{hardware.name}: {', '.join(_counted(plan.placed[0]))}"]
    lines.append(f"{hardware.gpus} x {hardware.name}, {plan.nodes} machine(s) in use")
    first = 0
    for roles, group in groupby(plan.placed):
        last = first + len(list(group)) - 1
        which = f"GPU {first}" if first == last else f"GPU {first} to {last}"
        lines.append(f"  {which}: {', '.join(_counted(roles)) or 'nothing'}")
        first = last + 1
    return lines


def memory_table(plan: Plan, cfg: TrainConfig) -> Table:
    """GB of one process of each role, by part."""
    from rich.table import Table

    where = "GPU" if cfg.hardware.gpus else "process"
    table = Table("part", title=f"GB per {where} (10^9 bytes)", title_justify="left")
    for role in plan.memory:
        table.add_column(role, justify="right")
    parts = dict.fromkeys(part for memory in plan.memory.values() for part in memory.device)
    for part in parts:
        table.add_row(part, *(_gb(memory.device.get(part)) for memory in plan.memory.values()))
    table.add_section()
    table.add_row("all", *(_gb(memory.on_device) for memory in plan.memory.values()))
    host = dict.fromkeys(part for memory in plan.memory.values() for part in memory.host)
    for part in host:
        table.add_row(f"in the machine: {part}", *(_gb(memory.host.get(part)) for memory in plan.memory.values()))
    first = "in the first rank's machine" if cfg.learner.ranks > 1 else "in the machine"
    for occasion, size in plan.passing.items():
        table.add_row(f"{first}: {occasion}", _gb(size))
    full = max((plan.on_gpu(i) for i, roles in enumerate(plan.placed) if roles), default=0.0)
    fullest = "fullest GPU" if cfg.hardware.gpus else "all processes"
    table.caption = (
        f"{fullest}: {full:,.1f} of {cfg.hardware.memory_gb:g} GB; its machine besides: {plan.host_gb:,.1f} GB"
    )
    return table


def fit_table(plan: Plan, cfg: TrainConfig) -> Table:
    """One engine over 1 to 16 GPUs."""
    from rich.table import Table

    title = "one engine per TP, its cache as large as the memory allows (TP: rollout.tensor_parallel)"
    table = Table("TP", title=title, title_justify="left")
    for name in ("weights, GB per GPU", f"rollouts of {cfg.rollout.max_context} tokens", "sampled tokens/s per GPU"):
        table.add_column(name, justify="right")
    for fit in plan.fits_per_tp:
        speed = f"{fit.sampled_per_s:,.0f}" if fit.sequences else "does not fit"
        table.add_row(str(fit.tensor_parallel), _gb(fit.weights_gb), f"{fit.sequences:,}", speed)
    return table


def speed_lines(plan: Plan, cfg: TrainConfig) -> list[str]:
    """A step by the roofline."""
    speed, (length, sampled) = plan.speed, rollout_tokens(cfg)
    engines = cfg.rollout.workers * cfg.rollout.tensor_parallel

    def each(tokens: float) -> str:
        return f" ({tokens:,.0f} per GPU)" if cfg.hardware.gpus else ""

    lines = [
        f"a step at best: {speed.step_s:,.1f} s for {cfg.prompts_per_step * cfg.group_size} rollouts of {length} "
        f"tokens ({sampled} sampled): rollouts {speed.rollout_s:,.1f} s, learner {speed.learner_s:,.1f} s, weight sync "
        f"{speed.sync_s:,.2f} s",
        f"sampled {speed.sampled_per_s:,.0f} tokens/s{each(speed.sampled_per_s / engines)}, {speed.at_once} rollouts "
        f"at once in an engine; learner {speed.trained_per_s:,.0f} tokens/s"
        f"{each(speed.trained_per_s / cfg.learner.ranks)}",
        speed.who_waits(),
    ]
    if speed.step_price is not None:
        one, every = (money(speed.step_price * count, cfg.cost.currency) for count in (1, cfg.steps))
        lines.append(
            f"{one} a step, {every} for steps={cfg.steps}: all {cfg.hardware.gpus} GPUs at {cfg.hardware.gpu_hour:g} "
            "an hour"
        )
    return lines


def _counted(roles: list[str]) -> list[str]:
    return [role if roles.count(role) == 1 else f"{roles.count(role)} x {role}" for role in dict.fromkeys(roles)]


def _count(number: float) -> str:
    return f"{number / 1e9:,.2f} B" if number >= 1e9 else f"{number / 1e6:,.2f} M"


def _gb(size: float | None) -> str:
    if size is None:
        return ""
    return f"{size:,.1f}" if size >= 10 else f"{size:.3f}"

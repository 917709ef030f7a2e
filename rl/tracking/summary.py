"""The end result of a run: evaluation tables and the summary that everything else quotes.

avg@k of a task is the mean raw outcome over its k samples; a family's figure is the mean over its tasks, and
stderr = s / sqrt(n) with s the standard deviation of the n tasks' means (n − 1 in its denominator).
``overall`` is the mean over all tasks of all families.

summary.json::

    {"run": name, "seed": n,
     "reward": its sum, and whether any term depends on length, in words   (rewards.describe)
     "eval_before": {"overall", "stderr", "k", "n_tasks",
                     "families": {name: {"avg@k", "stderr", "k", "n_tasks", "reward", "sampled_tokens",
                                         "n_unscored", "tasks": {task id: mean outcome}, "estimates"}},
                     "confidence", "estimates": {name: ...}}         (rl.tracking.evaluation)
     "eval_after": {...the same...},
     "certificates": {family: {"state", "said", "path", "date", "tasks", "results"}}       (rl.tracking.certificates)
     "cold_start": {"asked", "demos", "dropped": {reason: n}, "demo_outcome", "needs", "notices": [sentence],
                    "off": why there was none}
     "wall_s": {stage: seconds},
     "tokens_sampled", "rollout_tokens_per_s", "learner_tokens_per_s", "mismatch_max",
     "steps", "stop_reason",                      of the (mixed) GRPO stage, as the tokens, speeds and counts are
     "compute": {"stages": {stage: {"kind", "rollout", "learner"}}, "rl_over_pretraining", ...}   (rl.run.ledger)
     "pipeline": {"specialists": {family: {"eval", "data", ...}}, "distillation", "distilled": {like eval_after}}
     "usage": tokens and money of every stage  (rl.tracking.usage)
     "counts": {event: n}, "failures": {kind: n},
     "pushed": address of the uploaded policy, or "push_failed": why there is none   (push_to_hub)
     "counts": {event: n}, "failures": {kind: n}, "skipped": [task, kind and reason],
     "sweep": {"thinking": [...]}, "policy", "baseline",              of rl-eval only (rl.tracking.sweep)
     "evaluated": what "eval_after" is an evaluation of, where that is not held-out tasks (rl-gateway)}

``rl-eval runs=[…]`` writes a summary of several policies next to their own (rl.tracking.policies).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group as Lines
from rich.table import Table

from rl.tracking.certificates import certificate_rows
from rl.tracking.evaluation import (
    difference_text,
    estimate_table,
    paired,
)
from rl.tracking.sweep import sweep_table
from rl.tracking.usage import USAGE_COLUMNS, price_note, usage_rows

if TYPE_CHECKING:
    pass


EVALUATION_COLUMNS = ("family", "before", "after", "change", "tasks × k", "tokens before", "tokens after")
HELD_OUT = "held-out evaluation"


def evaluation_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The evaluations as text, one row per family in ``EVALUATION_COLUMNS`` and ``overall`` last.

    Empty before the first evaluation; what is not known yet is a dash.
    """
    before, after = summary.get("eval_before") or {}, summary.get("eval_after") or {}
    if not before and not after:
        return []
    old, new = before.get("families", {}), after.get("families", {})
    change = paired(before, after, after.get("confidence", 0.95)) or {"families": {}}
    rows = [
        (name, *_row(old.get(name, {}), new.get(name, {}), "avg@k", change["families"].get(name)))
        for name in sorted({*old, *new})
    ]
    return [*rows, ("overall", *_row(before, after, "overall", change.get("overall")))]


def evaluation_table(summary: Mapping[str, Any]) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """(title, columns, rows) of the evaluations. What was evaluated once, and is not held out, has no before."""
    rows = evaluation_rows(summary)
    if (title := summary.get("evaluated")) is None:
        return HELD_OUT, EVALUATION_COLUMNS, rows
    shown = {"family": "family", "after": "outcome", "tasks × k": "tasks × k", "tokens after": "tokens"}
    kept = [EVALUATION_COLUMNS.index(name) for name in shown]
    return title, tuple(shown.values()), [tuple(row[i] for i in kept) for row in rows]


def evaluation_name(summary: Mapping[str, Any], which: str) -> str:
    """``eval_before`` or ``eval_after``, as a heading."""
    return str(summary.get("evaluated") or which.replace("_", " "))


PIPELINE_COLUMNS = ("family", "cold start", "specialist", "distilled", "final", "distilled − specialist",
                    "final − specialist")  # fmt: skip


def pipeline_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Held-out avg@k of every stage's policy, a row per family, ``overall`` last (of the specialists: each on its own
    family). Empty when the run had no specialists; what is not known yet is a dash."""
    found = summary.get("pipeline") or {}
    specialists = {family: one["eval"] for family, one in (found.get("specialists") or {}).items()}
    if not specialists:
        return []
    whole = [summary.get("eval_before") or {}, found.get("distilled") or {}, summary.get("eval_after") or {}]
    rows = []
    for family in sorted(specialists):
        start, distilled, final = (_score(e.get("families", {}).get(family, {}), "avg@k") for e in whole)
        rows.append(_pipeline_row(family, start, _score(specialists[family], "overall"), distilled, final))
    start, distilled, final = (_score(e, "overall") for e in whole)
    return [*rows, _pipeline_row("overall", start, _mean_over_tasks(specialists.values()), distilled, final)]


def _mean_over_tasks(evaluations: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """(mean, stderr) over the tasks of evaluations that share no task."""
    parts = [(e["overall"], e["stderr"], e["n_tasks"]) for e in evaluations]
    n = sum(tasks for _, _, tasks in parts)
    variance = sum((stderr * tasks / n) ** 2 for _, stderr, tasks in parts)
    return sum(mean * tasks for mean, _, tasks in parts) / n, variance**0.5


def _score(evaluation: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    return (evaluation[key], evaluation["stderr"]) if evaluation else None


def _pipeline_row(name: str, start: Any, specialist: Any, distilled: Any, final: Any) -> tuple[str, ...]:
    """The differences' errors are those of independent samples: too large, since the tasks are the same."""
    cells = [f"{s[0]:.3f} ± {s[1]:.3f}" if s else "–" for s in (start, specialist, distilled, final)]
    for later in (distilled, final):
        both = later and specialist
        error = (later[1] ** 2 + specialist[1] ** 2) ** 0.5 if both else 0.0
        cells.append(f"{later[0] - specialist[0]:+.3f} ± {error:.3f}" if both else "–")
    return (name, *cells)


COMPUTE_COLUMNS = ("stage", "rollout FLOPs", "learner FLOPs", "share of all")


def compute_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """FLOPs of every stage, and all of them last; empty before anything was counted."""
    stages = (summary.get("compute") or {}).get("stages") or {}
    total = sum(e["rollout"] + e["learner"] for e in stages.values())
    if not total:
        return []
    rows = [
        (name, *(f"{e[side]:.2e}" if e[side] else "–" for side in ("rollout", "learner")),
         f"{(e['rollout'] + e['learner']) / total:.1%}")
        for name, e in stages.items()
    ]  # fmt: skip
    sums = (sum(e[side] for e in stages.values()) for side in ("rollout", "learner"))
    return [*rows, ("all", *(f"{x:.2e}" for x in sums), "100.0%")]


def compute_shares(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of the shares that the ledger knows."""
    compute = summary.get("compute") or {}
    names = {
        "rl_over_pretraining": "RL / pre-training",
        "post_training_over_pretraining": "RL + supervised + data / pre-training",
        "rl_over_total": "RL / all stages",
    }
    return [(text, f"{compute[key]:.1%}") for key, text in names.items() if compute.get(key) is not None]


def summary_table(summary: Mapping[str, Any], report: str | None = None) -> Lines:
    """What a run prints at its end: before and after per family, then tokens, speed and time."""
    parts: list[Table] = [rich_table(*evaluation_table(summary))]
    for name in ("eval_before", "eval_after"):
        columns, rows = estimate_table(summary.get(name))
        if rows:
            title = f"{evaluation_name(summary, name)}: {summary[name]['confidence']:.0%} intervals"
            parts.append(rich_table(title, columns, rows, last_bold=False))
    columns, rows = sweep_table((summary.get("sweep") or {}).get("thinking") or [])
    if rows:
        parts.append(rich_table("thinking sweep", columns, rows, last_bold=False))
    if rows := pipeline_rows(summary):
        parts.append(rich_table("pipeline: held-out outcome by stage", PIPELINE_COLUMNS, rows))
    if rows := compute_rows(summary):
        parts.append(rich_table("compute", COMPUTE_COLUMNS, rows))
    if rows := usage_rows(summary):
        parts.append(rich_table("tokens and money", USAGE_COLUMNS, rows))
    facts = Table.grid(padding=(0, 2))
    if rows:
        facts.add_row("price", price_note(summary))
    wall = summary.get("wall_s", {})
    facts.add_row("tokens sampled", _number(summary.get("tokens_sampled"), ",.0f"))
    facts.add_row("rollout tokens/s", _number(summary.get("rollout_tokens_per_s"), ",.0f"))
    facts.add_row("learner tokens/s", _number(summary.get("learner_tokens_per_s"), ",.0f"))
    facts.add_row("largest mismatch", f"{_number(summary.get('mismatch_max'), '.1e')} nats")
    facts.add_row("time", clock(sum(wall.values())) + "  (" + ", ".join(_stage_times(wall)) + ")")
    for title in ("counts", "failures"):
        if summary.get(title):
            facts.add_row(title, ", ".join(f"{k} {v}" for k, v in sorted(summary[title].items())))
    if skipped := summary.get("skipped"):
        facts.add_row("skipped", f"{len(skipped)} tasks, the last: {skipped[-1]}")
    if shares := compute_shares(summary):
        facts.add_row("compute", ", ".join(f"{name} {value}" for name, value in shares))
    for row in certificate_rows(summary):
        facts.add_row("certificate", f"{row[0]}: {row[1]}")
    for sentence in (summary.get("cold_start") or {}).get("notices", []):
        facts.add_row("cold start", sentence)
    if summary.get("stop_reason"):
        facts.add_row("ended", f"after {summary['steps']} steps: {summary['stop_reason']}")
    if report is not None:
        facts.add_row("report", report)
    return Lines(*parts, facts)


def rich_table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]], *, last_bold: bool = True) -> Table:
    """A table with its first column left, and its last row apart (a total) when ``last_bold``."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        total = last_bold and row is rows[-1]
        if total:
            table.add_section()
        table.add_row(*row, style="bold" if total else "")
    return table


def clock(seconds: float) -> str:
    """``75`` → ``1m15s``; ``3700`` → ``1h01m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _stage_times(wall: Mapping[str, float]) -> list[str]:
    return [f"{stage} {clock(seconds)}" for stage, seconds in wall.items()]


def _row(
    before: Mapping[str, Any], after: Mapping[str, Any], key: str, change: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """``change``: the paired difference; without it (evaluations of other tasks) the plain one is shown."""
    plain = f"{after[key] - before[key]:+.3f}" if before and after else "–"
    return (
        *(f"{e[key]:.3f} ± {e['stderr']:.3f}" if e else "–" for e in (before, after)),
        plain if change is None else difference_text(change),
        "{n_tasks} × {k}".format(**(after or before)),
        *(_number(e.get("sampled_tokens"), ".0f") for e in (before, after)),
    )


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)

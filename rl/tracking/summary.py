"""The end result of a run: evaluation tables and the summary that everything else quotes.

avg@k of a task is the mean raw outcome over its k samples; a family's figure is the mean over its tasks, and
stderr = s / sqrt(n) with s the standard deviation of the n tasks' means (n − 1 in its denominator).
``overall`` is the mean over all tasks of all families.

summary.json::

    {"run": name, "seed": n,
     "eval_before": {"overall", "stderr", "k", "n_tasks",
                     "families": {name: {"avg@k", "stderr", "k", "n_tasks", "reward", "sampled_tokens",
                                         "n_unscored"}}},
     "eval_after": {...the same...},
     "wall_s": {stage: seconds},
     "tokens_sampled", "rollout_tokens_per_s", "learner_tokens_per_s", "mismatch_max",
     "counts": {event: n}, "failures": {kind: n}}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rich.console import Group as Lines
from rich.table import Table

from rl.tracking.metrics import by_family
from rl.types import Trajectory

OUTCOME = "score/outcome"  # the environment's raw outcome, as rewards.compose.Reward.parts names it


def eval_summary(trajectories: Iterable[Trajectory]) -> dict[str, Any]:
    """The evaluation table of one set of rollouts.

    Trajectories without a score (the environment died, or scoring did) are left out and counted as
    ``n_unscored``; ``k`` is the largest number of scored samples of a task.

    Raises:
        ValueError: no trajectory has a score.
    """
    families: dict[str, Any] = {}
    all_tasks: list[float] = []
    k_max = 0
    for family, members in by_family(trajectories).items():
        samples: dict[str, list[Trajectory]] = {}
        for t in members:
            if OUTCOME in t.reward_parts:
                samples.setdefault(t.task_id, []).append(t)
        scored = [t for group in samples.values() for t in group]
        if not scored:
            continue
        means = [float(np.mean([t.reward_parts[OUTCOME] for t in group])) for group in samples.values()]
        k = max(len(group) for group in samples.values())
        families[family] = {
            "avg@k": float(np.mean(means)),
            "stderr": _stderr(means),
            "k": k,
            "n_tasks": len(means),
            "reward": float(np.mean([t.reward for t in scored])),
            "sampled_tokens": float(np.mean([t.sampled_tokens for t in scored])),
            "n_unscored": len(members) - len(scored),
        }
        all_tasks += means
        k_max = max(k_max, k)
    if not all_tasks:
        raise ValueError(
            f"evaluation has no scored trajectory: none has reward_parts['{OUTCOME}']; "
            "look at failure_kind in the trajectories file"
        )
    return {
        "overall": float(np.mean(all_tasks)),
        "stderr": _stderr(all_tasks),
        "k": k_max,
        "n_tasks": len(all_tasks),
        "families": families,
    }


def event_counts(trajectories: Iterable[Trajectory]) -> tuple[Counter[str], Counter[str]]:
    """(counts, failures): events inside episodes, and masked trajectories by ``failure_kind``."""
    counts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for t in trajectories:
        counts.update(t.counts)
        if t.failure_kind is not None:
            failures[t.failure_kind] += 1
    return counts, failures


EVALUATION_COLUMNS = ("family", "before", "after", "change", "tasks × k", "tokens before", "tokens after")


def evaluation_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The evaluations as text, one row per family in ``EVALUATION_COLUMNS`` and ``overall`` last.

    Empty before the first evaluation; what is not known yet is a dash.
    """
    before, after = summary.get("eval_before") or {}, summary.get("eval_after") or {}
    if not before and not after:
        return []
    old, new = before.get("families", {}), after.get("families", {})
    rows = [(name, *_row(old.get(name, {}), new.get(name, {}), "avg@k")) for name in sorted({*old, *new})]
    return [*rows, ("overall", *_row(before, after, "overall"))]


def summary_table(summary: Mapping[str, Any], report: str | None = None) -> Lines:
    """What a run prints at its end: before and after per family, then tokens, speed and time."""
    table = Table(title="held-out evaluation", title_justify="left")
    for column in EVALUATION_COLUMNS:
        table.add_column(column, justify="left" if column == "family" else "right")
    for row in evaluation_rows(summary):
        if row[0] == "overall":
            table.add_section()
        table.add_row(*row, style="bold" if row[0] == "overall" else "")
    facts = Table.grid(padding=(0, 2))
    wall = summary.get("wall_s", {})
    facts.add_row("tokens sampled", _number(summary.get("tokens_sampled"), ",.0f"))
    facts.add_row("rollout tokens/s", _number(summary.get("rollout_tokens_per_s"), ",.0f"))
    facts.add_row("learner tokens/s", _number(summary.get("learner_tokens_per_s"), ",.0f"))
    facts.add_row("largest mismatch", f"{_number(summary.get('mismatch_max'), '.1e')} nats")
    facts.add_row("time", clock(sum(wall.values())) + "  (" + ", ".join(_stage_times(wall)) + ")")
    for title in ("counts", "failures"):
        if summary.get(title):
            facts.add_row(title, ", ".join(f"{k} {v}" for k, v in sorted(summary[title].items())))
    if report is not None:
        facts.add_row("report", report)
    return Lines(table, facts)


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


def _stderr(means: list[float]) -> float:
    return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 0.0


def _row(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return (
        *(f"{e[key]:.3f} ± {e['stderr']:.3f}" if e else "–" for e in (before, after)),
        f"{after[key] - before[key]:+.3f}" if before and after else "–",
        "{n_tasks} × {k}".format(**(after or before)),
        *(_number(e.get("sampled_tokens"), ".0f") for e in (before, after)),
    )


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)

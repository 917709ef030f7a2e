"""report.html: one self-contained page of a run, no script, no network, light and dark.

Built only from the run's files, so it can be made again at any time, also while the run goes on:
``python -m rl.tracking.report runs/<name>``. Here the page's data is gathered; its text and form are in
``templates/``. What a policy or a task wrote is escaped there and never read as a template.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from rl.tracking.alarms import ALARM_COLUMNS, alarm_rows
from rl.tracking.band import Verdict, band_chart, judge
from rl.tracking.certificates import CERTIFICATE_COLUMNS, certificate_notes, certificate_rows
from rl.tracking.charts import (
    before_after_chart,
    length_chart,
    mismatch_chart,
    policy_chart,
    reward_chart,
    specialists_chart,
    speed_chart,
    teachers_chart,
)
from rl.tracking.diagnosis import TextTable, diagnosis_tables, read_diagnoses
from rl.tracking.evaluation import estimate_table
from rl.tracking.policies import across_sweep_table, policies_table
from rl.tracking.rundir import RunDir, write_atomic
from rl.tracking.samples import Pair, Sample, before_and_after, sample_trajectories
from rl.tracking.summary import (
    COMPUTE_COLUMNS,
    PIPELINE_COLUMNS,
    clock,
    compute_rows,
    compute_shares,
    evaluation_name,
    evaluation_table,
    pipeline_rows,
)
from rl.tracking.svg import STYLE, SVG_STYLE, written_value
from rl.tracking.sweep import sweep_charts, sweep_table
from rl.tracking.usage import USAGE_COLUMNS, price_note, usage_rows


class Table(NamedTuple):
    """Text of a table, its first column to the left; without rows its section is left out."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Page:
    """All that ``templates/report.html.j2`` shows, in its order. Charts are ``<svg>``."""

    name: str
    state: str
    reward: list[str]
    cards: list[tuple[str, str]]  # (figure, what it is)
    evaluation_title: str
    evaluation: Table
    baseline: str | None
    estimates: list[TextTable]
    certificates: Table
    certificate_notes: list[str]
    policies: Table
    across_sweep: Table
    sweep: Table
    sweep_charts: list[str]
    specialists: Table
    specialists_data: Table
    specialists_charts: list[str]
    curves: list[str]
    alarms: Table  # of the detectors in the loop
    verdict: Verdict | None  # whether the curve is that of a normal run; None before there is a curve
    verdict_charts: list[str]
    diagnoses: list[TextTable]  # what rl-doctor found, newest step first
    usage: Table
    price: str
    compute: Table
    compute_shares: list[tuple[str, str]]
    stages: Table
    counts: list[TextTable]
    pairs: list[Pair]  # the same held-out task before and after
    samples: dict[str, list[Sample]]
    config: str | None


def report_html(run_dir: RunDir) -> str:
    """The page as text, from whatever the run has written so far."""
    return render(gather(run_dir))


def write_report(run_dir: RunDir) -> Path:
    """Write ``runs/<name>/report.html`` and return its path."""
    write_atomic(run_dir.report, report_html(run_dir))
    return run_dir.report


def render(page: Page) -> str:
    return templates().get_template("report.html.j2").render(page=page, svg_style=f"{STYLE}\n{SVG_STYLE}")


@cache
def templates() -> Environment:
    """The templates: every value is escaped, and a name that is not there is an error."""
    return Environment(
        loader=PackageLoader("rl.tracking"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=written_value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def gather(run_dir: RunDir) -> Page:
    """The page's data, from whatever the run has written so far."""
    summary = run_dir.read_summary()
    rows = run_dir.read_metrics("grpo")
    points = (summary.get("sweep") or {}).get("thinking") or []
    specialists = (summary.get("pipeline") or {}).get("specialists") or {}
    verdict = judge(run_dir, rows)
    title, columns, evaluated = evaluation_table(summary)
    return Page(
        name=run_dir.name,
        state=_state(summary, len(rows)),
        reward=str(summary.get("reward", "")).splitlines(),
        cards=_cards(summary),
        evaluation_title=title,
        evaluation=Table(columns, evaluated),
        baseline=summary.get("baseline"),
        estimates=_estimates(summary),
        certificates=Table(CERTIFICATE_COLUMNS, certificate_rows(summary)),
        certificate_notes=certificate_notes(summary),
        policies=Table(*policies_table(summary)),
        across_sweep=Table(*across_sweep_table(summary)),
        sweep=Table(*sweep_table(points)),
        sweep_charts=sweep_charts(points, side_by_side=False) if points else [],
        specialists=Table(PIPELINE_COLUMNS, pipeline_rows(summary)),
        specialists_data=_specialists_data(specialists),
        specialists_charts=_specialists_charts(run_dir, specialists),
        curves=_curves(summary, rows),
        alarms=Table(ALARM_COLUMNS, alarm_rows(run_dir.read_metrics())),
        verdict=verdict,
        verdict_charts=[band_chart(verdict)] if verdict is not None and verdict.band is not None else [],
        diagnoses=[table for found in reversed(read_diagnoses(run_dir)) for table in diagnosis_tables(found)],
        usage=Table(USAGE_COLUMNS, usage_rows(summary, families=True)),
        price=price_note(summary),
        compute=Table(COMPUTE_COLUMNS, compute_rows(summary)),
        compute_shares=compute_shares(summary),
        stages=_stages(summary.get("wall_s") or {}),
        counts=_counts(summary),
        pairs=before_and_after(run_dir),
        samples=sample_trajectories(run_dir),
        config=run_dir.config.read_text(encoding="utf-8") if run_dir.config.exists() else None,
    )


def _state(summary: Mapping[str, Any], steps: int) -> str:
    state = f"{steps} GRPO steps" + ("" if summary else " so far; no summary yet")
    if summary.get("policy"):
        state = f"evaluation of {summary['policy']}"
    if "policies" in summary:
        state = f"evaluation of {len(summary['policies'])} policies"
    return state + (f"; {summary['stop_reason']}" if summary.get("stop_reason") else "")


def _cards(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    before, after = summary.get("eval_before") or {}, summary.get("eval_after") or {}
    cards: list[tuple[str, str]] = []
    if "evaluated" in summary and after:
        cards.append((f"{after['overall']:.3f}", "mean outcome"))
        after = {}
    if before:
        cards.append((f"{before['overall']:.3f}", "held-out before"))
    if after:
        cards.append((f"{after['overall']:.3f}", "held-out after"))
    if before and after:
        cards.append((f"{after['overall'] - before['overall']:+.3f}", "change"))
    for key, label, spec in (
        ("tokens_sampled", "tokens sampled", ",.0f"),
        ("rollout_tokens_per_s", "rollout tokens/s", ",.0f"),
        ("learner_tokens_per_s", "learner tokens/s", ",.0f"),
        ("mismatch_max", "largest mismatch, nats", ".1e"),
    ):
        if summary.get(key) is not None:
            cards.append((format(summary[key], spec), label))
    if summary.get("wall_s"):
        cards.append((clock(sum(summary["wall_s"].values())), "wall time"))
    return cards


def _estimates(summary: Mapping[str, Any]) -> list[TextTable]:
    tables = []
    for name in ("eval_before", "eval_after"):
        columns, rows = estimate_table(summary.get(name))
        if rows:
            note = f"{summary[name]['confidence']:.0%} intervals over tasks (Wilson)."
            tables.append(TextTable(f"{evaluation_name(summary, name)}: estimates", columns, rows, note))
    return tables


def _specialists_data(specialists: Mapping[str, Any]) -> Table:
    """What became of the rollouts that each specialist made for the distillation; no rows where they are teachers."""
    kinds = ("sampled", "kept", "not_passed", "failed", "unverified", "duplicate", "over_cap")
    rows = [
        (family, *(f"{one['data'][kind]:,}" for kind in kinds), str(one["steps"]), one["stop_reason"])
        for family, one in sorted(specialists.items())
        if "data" in one
    ]
    return Table(("family", *(kind.replace("_", " ") for kind in kinds), "GRPO steps", "ended"), rows)


def _specialists_charts(run_dir: RunDir, specialists: Iterable[str]) -> list[str]:
    rewards = {family: run_dir.read_metrics(f"grpo/{family}") for family in specialists}
    return [specialists_chart(rewards)] if any(rewards.values()) else []


def _curves(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    charts = [before_after_chart(summary)]
    if rows:
        kinds = (reward_chart, length_chart, mismatch_chart, speed_chart, policy_chart, teachers_chart)
        charts += [chart(rows) for chart in kinds]
    return [chart for chart in charts if chart]


def _stages(wall: Mapping[str, float]) -> Table:
    total = sum(wall.values())
    rows = [(name, clock(s), f"{s:,.1f}", f"{s / total:.0%}" if total else "–") for name, s in wall.items()]
    if rows:
        rows.append(("total", clock(total), f"{total:,.1f}", ""))
    return Table(("stage", "time", "seconds", "share"), rows)


def _counts(summary: Mapping[str, Any]) -> list[TextTable]:
    tables = [
        TextTable(title, ("kind", "count"), [(name, f"{n:,}") for name, n in sorted(summary[key].items())])
        for key, title in (("counts", "Events in episodes"), ("failures", "Masked trajectories"))
        if summary.get(key)
    ]
    if skipped := summary.get("skipped"):
        tables.append(TextTable("Skipped tasks", ("task",), [(named,) for named in skipped]))
    return tables


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m rl.tracking.report runs/<name>", file=sys.stderr)
        return 2
    print(write_report(RunDir.existing(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""report.html: one self-contained page of a run, no script, no network, light and dark.

Built only from the run's files, so it can be made again at any time, also while the run goes on:
``python -m rl.tracking.report runs/<name>``. Everything that a policy or a task wrote is escaped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rl.tracking.charts import (
    before_after_chart,
    length_chart,
    mismatch_chart,
    policy_chart,
    reward_chart,
    specialists_chart,
    speed_chart,
)
from rl.tracking.css import CSS
from rl.tracking.diagnosis import diagnosis_tables, read_diagnoses
from rl.tracking.evaluation import estimate_table
from rl.tracking.policies import across_sweep_table, policies_table
from rl.tracking.rundir import RunDir, write_atomic
from rl.tracking.summary import (
    COMPUTE_COLUMNS,
    EVALUATION_COLUMNS,
    PIPELINE_COLUMNS,
    clock,
    compute_rows,
    compute_shares,
    evaluation_rows,
    pipeline_rows,
)
from rl.tracking.svg import STYLE, SVG_STYLE
from rl.tracking.sweep import sweep_charts, sweep_table
from rl.tracking.usage import TOKENS, USAGE_COLUMNS, price_note, usage_rows

SAMPLES_PER_FAMILY = 4


def report_html(run_dir: RunDir) -> str:
    """The page as text, from whatever the run has written so far."""
    summary = run_dir.read_summary()
    rows = run_dir.read_metrics("grpo")
    sections = [
        _head(run_dir, summary, rows),
        _evaluation(summary),
        _policies(summary),
        _sweep(summary),
        _pipeline(run_dir, summary),
        _curves(summary, rows),
        _diagnoses(run_dir),
        _usage(summary),
        _compute(summary),
        _stages(summary),
        _counts(summary),
        _samples(run_dir),
        _config(run_dir),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run_dir.name)} · report</title>"
        f"<style>{STYLE}\n{SVG_STYLE}\n{CSS}</style></head><body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def write_report(run_dir: RunDir) -> Path:
    """Write ``runs/<name>/report.html`` and return its path."""
    write_atomic(run_dir.report, report_html(run_dir))
    return run_dir.report


def _head(run_dir: RunDir, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    before, after = summary.get("eval_before") or {}, summary.get("eval_after") or {}
    cards: list[tuple[str, str]] = []
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
    state = f"{len(rows)} GRPO steps" + ("" if summary else " so far; no summary yet")
    if summary.get("policy"):
        state = f"evaluation of {escape(summary['policy'])}"
    if "policies" in summary:
        state = f"evaluation of {len(summary['policies'])} policies"
    if summary.get("stop_reason"):
        state += f"; {summary['stop_reason']}"
    boxes = "".join(f'<div class="card"><b>{escape(v)}</b><span>{escape(t)}</span></div>' for v, t in cards)
    reward = "".join(f'<p class="sub">{escape(line)}</p>' for line in str(summary.get("reward", "")).splitlines())
    return f'<h1>{escape(run_dir.name)}</h1><p class="sub">{state}</p>{reward}<div class="cards">{boxes}</div>'


def _evaluation(summary: Mapping[str, Any]) -> str:
    rows = evaluation_rows(summary)
    if not rows:
        return ""
    parts = ["<h2>Held-out evaluation</h2>", _table(EVALUATION_COLUMNS, rows, last_bold=True)]
    if summary.get("baseline"):
        parts.append(f'<p class="sub">before: the evaluation of {escape(summary["baseline"])}</p>')
    for name in ("eval_before", "eval_after"):
        columns, estimates = estimate_table(summary.get(name))
        if estimates:
            parts.append(f"<h3>{name.replace('_', ' ')}: estimates</h3>" + _table(columns, estimates))
            parts.append(f'<p class="sub">{summary[name]["confidence"]:.0%} intervals over tasks (Wilson).</p>')
    return "".join(parts)


def _policies(summary: Mapping[str, Any]) -> str:
    """Several policies of one rl-eval, and the sweep's mean over them."""
    columns, rows = policies_table(summary)
    if not rows:
        return ""
    swept, points = across_sweep_table(summary)
    return (
        "<h2>Policies on the same tasks</h2>"
        + _table(columns, rows, last_bold=True)
        + '<p class="sub">In brackets the interval over tasks; ± one standard error over policies.</p>'
        + ("<h3>Thinking sweep, mean over policies</h3>" + _table(swept, points) if points else "")
    )


def _sweep(summary: Mapping[str, Any]) -> str:
    """Accuracy against max thinking tokens, with truncation and stop reasons beside it."""
    points = (summary.get("sweep") or {}).get("thinking") or []
    if not points:
        return ""
    columns, rows = sweep_table(points)
    note = (
        "tokens: sampled per episode, mean and 90th percentile, then the thinking among them; cut: episodes in which "
        "thinking was closed at the limit; truncated: episodes that ended at a limit of tokens, turns or context."
    )
    figures = "".join(f"<figure>{chart}</figure>" for chart in sweep_charts(points, side_by_side=False))
    table = _table(columns, rows)
    return f'<h2>Thinking sweep</h2>{table}<p class="sub">{note}</p><div class="charts">{figures}</div>'


def _pipeline(run_dir: RunDir, summary: Mapping[str, Any]) -> str:
    """Specialists, distilled and final policy side by side: what the paper says of them can be read off here."""
    rows = pipeline_rows(summary)
    if not rows:
        return ""
    found = summary["pipeline"]
    claim = (
        "The paper: the distilled policy is only marginally below the specialists, and the RL that follows closes the "
        f"gap. Here, over all families: distilled − specialists {rows[-1][5]}, final − specialists {rows[-1][6]} "
        "(± one standard error of independent samples; the tasks are the same, so it is on the large side)."
    )
    kinds = ("sampled", "kept", "not_passed", "failed", "unverified", "duplicate", "over_cap")
    data = [
        [family, *(f"{one['data'][kind]:,}" for kind in kinds), str(one["steps"]), one["stop_reason"]]
        for family, one in sorted(found["specialists"].items())
    ]
    rewards = {family: run_dir.read_metrics(f"grpo/{family}") for family in found["specialists"]}
    chart = specialists_chart(rewards) if any(rewards.values()) else ""
    return (
        "<h2>Specialists, distillation, mixed RL</h2>"
        + _table(PIPELINE_COLUMNS, rows, last_bold=True)
        + f'<p class="sub">{escape(claim)}</p><h3>Data of the specialists, rollouts</h3>'
        + _table(["family", *(kind.replace("_", " ") for kind in kinds), "GRPO steps", "ended"], data)
        + (f'<div class="charts"><figure>{chart}</figure></div>' if chart else "")
    )


def _usage(summary: Mapping[str, Any]) -> str:
    rows = usage_rows(summary, families=True)
    if not rows:
        return ""
    note = (
        f"{price_note(summary)} Prompt tokens are summed over all requests, so a turn's prompt counts the turns before "
        "it again; cached is the share of them found in the prefix cache. Tokens / solved: prompt and sampled."
    )
    return (
        "<h2>Tokens and money</h2>" + _table(USAGE_COLUMNS, rows, last_bold=True) + f'<p class="sub">{escape(note)}</p>'
    )


def _compute(summary: Mapping[str, Any]) -> str:
    rows = compute_rows(summary)
    if not rows:
        return ""
    shares = ", ".join(f"{name}: {value}" for name, value in compute_shares(summary))
    note = f"{shares}. " if shares else "The FLOPs of pre-training are not known (budget.pretrain_flops). "
    note += (
        "RL is all GRPO stages, rollouts and training. Formula and simplifications: rl/run/flops.py, rl/run/ledger.py."
    )
    return "<h2>Compute</h2>" + _table(COMPUTE_COLUMNS, rows, last_bold=True) + f'<p class="sub">{escape(note)}</p>'


def _curves(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    charts = [before_after_chart(summary)]
    if rows:
        charts += [chart(rows) for chart in (reward_chart, length_chart, mismatch_chart, speed_chart, policy_chart)]
    figures = "".join(f"<figure>{chart}</figure>" for chart in charts if chart)
    return f'<h2>Curves</h2><div class="charts">{figures}</div>' if figures else ""


def _diagnoses(run_dir: RunDir) -> str:
    """What rl-diagnose found, newest step first."""
    tables = [table for found in reversed(read_diagnoses(run_dir)) for table in diagnosis_tables(found)]
    parts = [f'<h3>{escape(t.title)}</h3>{_table(t.head, t.rows)}<p class="sub">{escape(t.note)}</p>' for t in tables]
    return "<h2>Train/inference mismatch by part</h2>" + "".join(parts) if parts else ""


def _stages(summary: Mapping[str, Any]) -> str:
    wall: Mapping[str, float] = summary.get("wall_s") or {}
    if not wall:
        return ""
    total = sum(wall.values())
    body = [[name, clock(s), f"{s:,.1f}", f"{s / total:.0%}" if total else "–"] for name, s in wall.items()]
    body.append(["total", clock(total), f"{total:,.1f}", ""])
    return "<h2>Time</h2>" + _table(["stage", "time", "seconds", "share"], body, last_bold=True)


def _counts(summary: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for key, title in (("counts", "Events in episodes"), ("failures", "Masked trajectories")):
        if summary.get(key):
            body = [[name, f"{n:,}"] for name, n in sorted(summary[key].items())]
            parts.append(f"<h3>{title}</h3>" + _table(["kind", "count"], body))
    return "<h2>What went wrong inside episodes</h2>" + "".join(parts) if parts else ""


def _samples(run_dir: RunDir) -> str:
    """Sample trajectories: the evaluation before and after when there is one, and the last training step."""
    names = run_dir.trajectory_names()
    steps = [name for name in names if name.startswith("step_")]
    chosen = [name for name in ("eval_after", "eval_before") if name in names] + steps[-1:]
    parts: list[str] = []
    for name in chosen:
        rows = _pick(run_dir.read_trajectories(name))
        parts.append(f"<h3>{escape(name)}</h3>" + "".join(_trajectory(row) for row in rows))
    return "<h2>Sample trajectories</h2>" + "".join(parts) if parts else ""


def _pick(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Per family the best, the worst and the quartiles between, by reward: not only the good ones."""
    families: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["family"], []).append(row)
    picked: list[Mapping[str, Any]] = []
    for _, members in sorted(families.items()):
        ordered = sorted(members, key=lambda row: (-(row["reward"] or 0.0), row["id"]))
        n = min(SAMPLES_PER_FAMILY, len(ordered))
        picked += [ordered[round(i * (len(ordered) - 1) / max(n - 1, 1))] for i in range(n)]
    return picked


def _trajectory(row: Mapping[str, Any]) -> str:
    reward = row["reward"] or 0.0
    tags = [f'<span class="tag {"good" if reward > 0.5 else "bad"}">reward {reward:.2f}</span>']
    tags += [f'<span class="tag">{escape(k)} {v}</span>' for k, v in row["reward_parts"].items()]
    tags.append(f'<span class="tag">{escape(row["stop_reason"])}</span>')
    if row["failure_kind"]:
        tags.append(f'<span class="tag bad">masked: {escape(row["failure_kind"])}</span>')
    tags += [f'<span class="tag bad">{escape(k)} {n}</span>' for k, n in row["counts"].items()]
    tags.append(f'<span class="tag">{row["turns"]} turns · {row["sampled_tokens"]} tokens</span>')
    if usage := row.get("usage"):  # rows of older versions have none
        kinds = ", ".join(f"{kind} {usage[kind]}" for kind in TOKENS)
        tags.append(f'<span class="tag">{kinds}</span>')
    if row["version_max"] is not None:
        tags.append(f'<span class="tag">policy version {row["version_max"]}</span>')
    talk = "".join(_message(message) for message in row["messages"])
    return (
        f"<details><summary>{escape(row['family'])} · {escape(row['task_id'])}{''.join(tags)}</summary>"
        f'<div class="talk">{talk}</div></details>'
    )


def _message(message: Mapping[str, Any]) -> str:
    lines: list[str] = []
    if message.get("reasoning"):
        lines.append(f'<pre class="think">{escape(message["reasoning"])}</pre>')
    if message.get("content"):
        lines.append(f"<pre>{escape(message['content'])}</pre>")
    for call in message.get("tool_calls", ()):
        arguments = ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call["arguments"].items()
        )
        lines.append(f'<pre class="call">{escape(call["name"])}({escape(arguments)})</pre>')
    if message.get("parse_error"):
        lines.append(f'<pre class="wrong">{escape(message["parse_error"])}</pre>')
    if message.get("tools"):
        names = ", ".join(tool.get("name", "?") for tool in message["tools"])
        lines.append(f'<pre class="think">tools: {escape(names)}</pre>')
    role = escape(message["role"])
    return f'<div class="msg {role}"><div class="who">{role}</div>{"".join(lines)}</div>'


def _config(run_dir: RunDir) -> str:
    if not run_dir.config.exists():
        return ""
    text = escape(run_dir.config.read_text(encoding="utf-8"))
    return f'<h2>Config</h2><details class="cfg"><summary>config.yaml</summary><pre>{text}</pre></details>'


def _table(head: Sequence[str], body: Iterable[Sequence[str]], *, last_bold: bool = False) -> str:
    rows = list(body)
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines: list[str] = []
    for i, row in enumerate(rows):
        css = ' class="all"' if last_bold and i == len(rows) - 1 else ""
        lines.append(f"<tr{css}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return f'<div class="scroll"><table><tr>{cells}</tr>{"".join(lines)}</table></div>'


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m rl.tracking.report runs/<name>", file=sys.stderr)
        return 2
    print(write_report(RunDir.existing(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

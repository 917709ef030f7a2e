"""Several policies evaluated on the same tasks (seeds of one experiment, runs to compare): side by side, and
their mean.

Entries of the summary of ``rl-eval runs=[…]``::

    "policies": {name: its own summary}
    "across": {"n", "overall": {"mean", "stderr"}, "families": {family: {"mean", "stderr"}},
               "sweep": [{"max_thinking", "limit", "accuracy": {...}, "tokens": {...}, "truncated": {...}}]}
    "confidence"

``stderr`` of ``across`` is s / √n over the n policies, each one number: it says how much seeds differ, not how well
each was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from rl.evaluation.intervals import stderr
from rl.tracking.evaluation import difference_text, interval_text, paired


def policies_summary(summaries: Mapping[str, Mapping[str, Any]], confidence: float) -> dict[str, Any]:
    """The entries of the module's description, from the policies' own summaries, by name."""
    evaluations = [summary["eval_after"] for summary in summaries.values()]
    families = sorted(set.intersection(*(set(e["families"]) for e in evaluations)))
    across: dict[str, Any] = {
        "n": len(evaluations),
        "overall": _over([e["overall"] for e in evaluations]),
        "families": {f: _over([e["families"][f]["avg@k"] for e in evaluations]) for f in families},
    }
    sweeps = [summary["sweep"]["thinking"] for summary in summaries.values() if "sweep" in summary]
    if len(sweeps) == len(evaluations):
        across["sweep"] = [_point(points) for points in zip(*sweeps, strict=True)]
    return {"policies": dict(summaries), "across": across, "confidence": confidence}


def policies_table(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows): a row per policy with its interval and its paired difference to the first, the mean last."""
    if "policies" not in summary:
        return (), []
    across = summary["across"]
    families = list(across["families"]) if len(across["families"]) > 1 else []
    evaluations = {name: one["eval_after"] for name, one in summary["policies"].items()}
    first = next(iter(evaluations.values()))
    rows = []
    for name, evaluation in evaluations.items():
        entry = next(e for key, e in evaluation["estimates"].items() if key.startswith("avg@"))
        change = paired(first, evaluation, summary["confidence"]) if evaluation is not first else None
        rows.append(
            (
                name,
                interval_text(entry),
                *(f"{evaluation['families'][f]['avg@k']:.3f}" for f in families),
                difference_text(change["overall"]) if change else "–",
            )
        )
    means = (_text(across["overall"]), *(_text(across["families"][f]) for f in families))
    return ("policy", "avg@k", *families, "less the first"), [*rows, (f"mean of {across['n']}", *means, "")]


def across_sweep_table(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows) of the sweep's means over the policies; no rows without a sweep."""
    points = (summary.get("across") or {}).get("sweep") or []
    rows: list[tuple[str, ...]] = [
        (
            "no limit" if p["max_thinking"] is None else str(p["max_thinking"]),
            _text(p["accuracy"]), _text(p["tokens"], ".0f"), _text(p["p90"], ".0f"), _text(p["truncated"]),
        )
        for p in points
    ]  # fmt: skip
    return ("max thinking", "avg@k", "tokens", "p90", "truncated"), rows


def print_policies(console: Console, summary: Mapping[str, Any], report: str) -> None:
    """The tables of several policies, and where the report is."""
    from rl.tracking.summary import rich_table

    for title, (columns, rows) in (
        ("policies on the same tasks (± one standard error over policies)", policies_table(summary)),
        ("thinking sweep, mean over policies", across_sweep_table(summary)),
    ):
        if rows:
            console.print(rich_table(title, columns, rows, last_bold=columns[0] == "policy"))
    console.print(f"report  {report}")


def _point(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "max_thinking": points[0]["max_thinking"],
        "limit": points[0]["limit"],
        "accuracy": _over([p["evaluation"]["overall"] for p in points]),
        "tokens": _over([p["tokens"]["mean"] for p in points]),
        "p90": _over([p["tokens"]["p90"] for p in points]),
        "truncated": _over([p["truncated"] for p in points]),
    }


def _over(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "stderr": stderr(values)}


def _text(entry: Mapping[str, float], spec: str = ".3f") -> str:
    return f"{entry['mean']:{spec}} ± {entry['stderr']:{spec}}"

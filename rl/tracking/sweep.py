"""A thinking-budget sweep: accuracy against the thinking budget of a message, with what else each point did.

Entry ``sweep.thinking`` of rl-eval's summary, one per budget in the order asked for::

    {"max_thinking": tokens or null, "limit": tokens, "evaluation": like eval_after,
     "tokens": {"mean", "p90"}, "thinking": {"mean", "p90"},
     "thinking_cut", "truncated", "stops": {StopReason: share}, "failures": {kind: n}}

``limit`` is where the point is in the plot: its budget, and for null what a message may have at all
(``rollout.max_tokens``). Shares are of all episodes; tokens are sampled ones of a scored episode, thinking those of
them before the end of thinking. A gain that comes
from a limit shows in ``truncated`` and ``stops``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rewards.length import CUT_OFF
from rl.tracking.evaluation import interval_text
from rl.tracking.svg import HEIGHT, INK, STYLE, SVG_STYLE, WIDTH, Series, line_chart
from rl.types import OUTCOME, Trajectory

THINKING_CUT = "thinking_cut"  # of Trajectory.counts


def sweep_point(
    trajectories: Sequence[Trajectory], evaluation: Mapping[str, Any], max_thinking: int | None, max_tokens: int
) -> dict[str, Any]:
    """One point (see the module). ``evaluation``: the ``eval_summary`` of ``trajectories``; ``max_tokens``: sampled
    tokens of a message, thinking and answer together."""
    scored = [t for t in trajectories if OUTCOME in t.reward_parts]
    n = len(trajectories)
    stops = Counter(t.stop_reason.value for t in trajectories)
    return {
        "max_thinking": max_thinking,
        "limit": max_tokens if max_thinking is None else max_thinking,
        "evaluation": dict(evaluation),
        "tokens": _mean_p90([t.sampled_tokens for t in scored]),
        "thinking": _mean_p90([t.usage.thinking for t in scored]),
        "thinking_cut": sum(THINKING_CUT in t.counts for t in trajectories) / n,
        "truncated": sum(stops[reason.value] for reason in CUT_OFF) / n,
        "stops": {reason: count / n for reason, count in sorted(stops.items())},
        "failures": dict(Counter(t.failure_kind for t in trajectories if t.failure_kind is not None)),
    }


def sweep_metrics(point: Mapping[str, Any]) -> dict[str, float]:
    """What a point adds to the metrics of its evaluation."""
    return {
        "eval/tokens_mean": point["tokens"]["mean"],
        "eval/tokens_p90": point["tokens"]["p90"],
        "eval/thinking_mean": point["thinking"]["mean"],
        "eval/thinking_p90": point["thinking"]["p90"],
        "eval/thinking_cut": point["thinking_cut"],
        "eval/truncated": point["truncated"],
    }


def sweep_table(points: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows), a row per budget."""
    families = _families(points)
    own = families if len(families) > 1 else []
    columns = ("max thinking", "avg@k", *own, "tokens", "p90", "thinking", "p90", "cut", "truncated", "ended")
    rows = []
    for point in points:
        evaluation = point["evaluation"]
        budget = "no limit" if point["max_thinking"] is None else str(point["max_thinking"])
        stops = ", ".join(f"{reason} {share:.0%}" for reason, share in _by_share(point["stops"]))
        rows.append(
            (
                budget,
                interval_text(_avg(evaluation)),
                *(f"{evaluation['families'][f]['avg@k']:.3f}" if f in evaluation["families"] else "–" for f in own),
                *(f"{point[what][key]:.0f}" for what in ("tokens", "thinking") for key in ("mean", "p90")),
                f"{point['thinking_cut']:.0%}",
                f"{point['truncated']:.0%}",
                stops,
            )
        )
    return columns, rows


def sweep_charts(points: Sequence[Mapping[str, Any]], *, side_by_side: bool) -> list[str]:
    """Accuracy against the budget, and against the tokens that were spent; faint lines bound the interval."""
    right = (WIDTH + 10 if side_by_side else 0, 0)
    return [
        _chart("Accuracy against max thinking tokens", points, "max thinking", lambda p: p["limit"], (0, 0)),
        _chart("Accuracy against sampled tokens", points, "tokens per episode", lambda p: p["tokens"]["mean"], right),
    ]


def sweep_svg(points: Sequence[Mapping[str, Any]]) -> str:
    """The charts side by side as one standalone file."""
    width, height = 2 * WIDTH + 26, HEIGHT + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="-8 -8 {width} {height}">'
        f'<style>{STYLE}\n{SVG_STYLE}</style><rect x="-8" y="-8" width="{width}" height="{height}" '
        f'style="fill:var(--paper)"/>{"".join(sweep_charts(points, side_by_side=True))}</svg>\n'
    )


def _mean_p90(tokens: Sequence[int]) -> dict[str, float]:
    return {"mean": float(np.mean(tokens)), "p90": float(np.percentile(tokens, 90))}


def _chart(title: str, points: Sequence[Mapping[str, Any]], label: str, at: Any, offset: tuple[int, int]) -> str:
    ordered = sorted(points, key=at)
    families = _families(points)
    lines = [
        Series(
            family,
            [
                (at(p), p["evaluation"]["families"][family]["avg@k"])
                for p in ordered
                if family in p["evaluation"]["families"]
            ],
            i,
        )
        for i, family in enumerate(families if len(families) > 1 else [])
    ]
    lines.append(Series("all", [(at(p), p["evaluation"]["overall"]) for p in ordered], INK, bold=True))
    bounds = [
        Series("interval", [(at(p), interval[side]) for p in ordered if (interval := _interval(p))], INK)
        for side in (0, 1)
    ]
    return line_chart(title, lines, x_label=label, y_range=(0.0, 1.0), raw=bounds, offset=offset)


def _interval(point: Mapping[str, Any]) -> Sequence[float] | None:
    entry = _avg(point["evaluation"])
    return None if entry is None else entry["wilson"] or entry["bootstrap"]


def _avg(evaluation: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((e for name, e in evaluation.get("estimates", {}).items() if name.startswith("avg@")), None)


def _families(points: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({family for point in points for family in point["evaluation"]["families"]})


def _by_share(stops: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(stops.items(), key=lambda item: -item[1])

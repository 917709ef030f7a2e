"""Does each part of the recipe matter? The full recipe against each part removed, several seeds, the same budget.

    python -m benchmarks.ablation                        all variants, seeds 0 1 2, into runs/ablation
    python -m benchmarks.ablation --variants full,no_routing --seeds 0 --steps 10

Every run is an ordinary `rl-train experiment=ablation` (stale rollouts, several updates per batch, truncated sampling)
with a few overrides, in its own process; finished runs are kept and not repeated. Prints a table and writes
`ablation.md`, `ablation.json` and `ablation.svg` next to the runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.runs import markdown, train_all
from rl.tracking.rundir import RunDir
from rl.tracking.svg import HEIGHT, STYLE, SVG_STYLE, WIDTH, Series, line_chart, smooth

# What is taken away from the full recipe. "nothing" takes all of it away at once; "on_policy" is not an ablation
# but the reference: no staleness, one update per batch, no truncation.
NO_ROUTING = ("replay.routing=off",)
NO_MASK = ("replay.sampling_mask=off", "replay.ablation=true")
NO_INDEXER = ("replay.indexer=off",)
NO_OPSM = ("objective.opsm_delta=null",)
NO_KL = ("objective.kl_coef=0",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "no_routing": NO_ROUTING,
    "no_sampling_mask": NO_MASK,
    "no_indexer": NO_INDEXER,
    "no_opsm": NO_OPSM,
    "no_kl": NO_KL,
    "nothing": (*NO_ROUTING, *NO_MASK, *NO_INDEXER, *NO_OPSM, *NO_KL),
    "on_policy": ("max_staleness=0", "learner.minibatches=1", "rollout.top_p=1.0"),
}
LAST = 5  # steps at the end that are averaged


@dataclass
class Outcome:
    """One finished run, in the numbers of the table."""

    variant: str
    seed: int
    rows: list[dict[str, Any]]
    before: float
    after: float

    def mean(self, metric: str, rows: Sequence[dict[str, Any]] | None = None) -> float | None:
        values = [r[metric] for r in (self.rows if rows is None else rows) if r.get(metric) is not None]
        return fmean(values) if values else None

    @property
    def collapsed(self) -> bool:
        """The training outcome at the end is below half of the best it had (means over ``LAST`` steps)."""
        scores = [r["score/outcome"] for r in self.rows if r.get("score/outcome") is not None]
        windows = [fmean(scores[i : i + LAST]) for i in range(max(len(scores) - LAST + 1, 1))]
        return windows[-1] < 0.5 * max(windows)


def overrides(variant: str, seed: int, extra: Sequence[str]) -> list[str]:
    return ["experiment=ablation", f"seed={seed}", *VARIANTS[variant], *extra]


def read(variant: str, seed: int, out: Path) -> Outcome | None:
    path = out / f"{variant}-{seed}"
    summary = RunDir(path).read_summary() if path.is_dir() else {}
    if "eval_after" not in summary:
        return None
    rows = RunDir(path).read_metrics("grpo")
    return Outcome(variant, seed, rows, summary["eval_before"]["overall"], summary["eval_after"]["overall"])


HEAD = (
    "variant", "held-out before", "held-out after", "change", "train outcome, last 5", "ratios outside [0.9, 1.1]",
    "same weights: outside", "same weights: mean nats", "masked sequences", "entropy, last 5", "staleness", "collapsed",
)  # fmt: skip


def table(outcomes: Iterable[Outcome]) -> list[tuple[str, ...]]:
    """One row per variant: means over seeds, ± the standard deviation over seeds where there are several."""
    by_variant: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_variant.setdefault(outcome.variant, []).append(outcome)
    rows = []
    for variant, runs in by_variant.items():

        def over(
            metric: str, form: str, runs: list[Outcome] = runs, last: int | None = None, fresh: bool = False
        ) -> str:
            """``fresh``: only steps whose rollouts come from the current weights (the first step of a stale run)."""
            values = []
            for run in runs:
                rows = [row for row in run.rows[-last if last else 0 :] if not fresh or row["staleness/max"] == 0]
                if (value := run.mean(metric, rows)) is not None:
                    values.append(value)
            return format(fmean(values), form) if values else "–"

        rows.append(
            (
                variant,
                _spread([r.before for r in runs]),
                _spread([r.after for r in runs]),
                _spread([r.after - r.before for r in runs], "+.3f"),
                over("score/outcome", ".3f", last=LAST),
                over("policy/ratio_outside", ".2%"),
                over("mismatch/outside", ".3%", fresh=True),
                over("mismatch/mean", ".1e", fresh=True),
                over("policy/masked_sequences", ".1%"),
                over("policy/entropy", ".3f", last=LAST),
                over("staleness/mean", ".1f"),
                f"{sum(r.collapsed for r in runs)} of {len(runs)}",
            )
        )
    return rows


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    tail = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return format(fmean(values), form) + tail


def curve(runs: Sequence[Outcome], metric: str) -> list[tuple[float, float]]:
    """Mean over seeds at each step."""
    steps: dict[int, list[float]] = {}
    for run in runs:
        for row in run.rows:
            if row.get(metric) is not None:
                steps.setdefault(row["step"], []).append(row[metric])
    return [(float(step), fmean(values)) for step, values in sorted(steps.items())]


def plot(outcomes: Sequence[Outcome]) -> str:
    """Outcome, importance ratios outside the band, entropy and same-weights mismatch, a line per variant."""
    by_variant: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_variant.setdefault(outcome.variant, []).append(outcome)
    right, below = WIDTH + 10, HEIGHT + 10
    charts = []
    for title, metric, log_y, offset in (
        ("training outcome (mean of seeds, smoothed)", "score/outcome", False, (0, 0)),
        ("share of token ratios outside [0.9, 1.1]", "policy/ratio_outside", False, (right, 0)),
        ("entropy, nats per token", "policy/entropy", False, (0, below)),
        ("mismatch at the same weights, mean nats", "mismatch/mean", True, (right, below)),
    ):
        series = [
            Series(name, smooth(points, 5), color=i)
            for i, (name, runs) in enumerate(by_variant.items())
            if (points := curve(runs, metric))
        ]
        charts.append(line_chart(title, series, log_y=log_y, offset=offset))
    width, height = WIDTH * 2 + 26, HEIGHT * 2 + 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="-8 -8 {width} {height}"><style>{STYLE}\n{SVG_STYLE}</style>'
        f'<rect x="-8" y="-8" width="{width}" height="{height}" style="fill:var(--paper)"/>'
        + "".join(charts)
        + "</svg>\n"
    )


def report(outcomes: Sequence[Outcome], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = table(outcomes)
    shown = Table(*HEAD, title="full recipe against each part removed")
    for row in rows:
        shown.add_row(*row)
    Console(width=200).print(shown)
    (out / "ablation.md").write_text(markdown(HEAD, rows))
    runs = [{"variant": o.variant, "seed": o.seed, "before": o.before, "after": o.after} for o in outcomes]
    (out / "ablation.json").write_text(json.dumps(runs, indent=1) + "\n")
    (out / "ablation.svg").write_text(plot(outcomes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="GRPO steps of every run (default: the experiment's)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("overrides", nargs="*", help="further overrides for every run")
    args = parser.parse_args()
    variants = args.variants.split(",")
    if unknown := sorted(set(variants) - set(VARIANTS)):
        parser.error(f"--variants: {', '.join(unknown)} unknown; there are {', '.join(VARIANTS)}")
    extra = [*args.overrides, *([f"steps={args.steps}"] if args.steps else [])]
    # all variants of a seed side by side
    orders = [(f"{v}-{seed}", overrides(v, seed, extra)) for seed in args.seeds for v in variants]
    train_all(orders, args.out, args.jobs)
    outcomes = [o for variant in variants for seed in args.seeds if (o := read(variant, seed, args.out)) is not None]
    if not outcomes:
        sys.exit("no run finished; see the logs next to the runs")
    report(outcomes, args.out)


if __name__ == "__main__":
    main()

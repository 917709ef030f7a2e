"""What does the length penalty cost, and what does long thinking buy? V3.2 against Speciale from one cold start.

    python -m benchmarks.speciale                    seeds 0 1 2, into runs/speciale
    python -m benchmarks.speciale --seeds 0 --steps 10
    python -m benchmarks.speciale --seeds 0 --variants budget speciale paid taught --jobs 2

Both variants are `rl-train experiment=speciale`, with the same seed, cold start, tasks and number of rollouts; the
penalised one pays for thinking beyond a budget (`--variants` has others). Held-out accuracy and thinking tokens come by
level. Because a gain could come from a limit instead of from thinking, the share of truncated answers is
shown next to it.

`paid` and `taught` start from the Speciale policy of their seed and get the budget's reward, for half as many steps.
`taught` stays near that policy by its reverse KL at every token that it samples itself (objective.distill): a long
thinker that teaches itself to think briefly.

Prints a table and writes `speciale.md`, `speciale.json` and `speciale.svg` next to the runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from benchmarks.plot import save_charts
from benchmarks.runs import finished, markdown, train_all
from rl.tracking.rundir import RunDir
from rl.tracking.svg import Series, line_chart, smooth

COLD = "cold start"


def penalty(**fields: Any) -> tuple[str, ...]:
    """Overrides that add a length policy to Speciale's reward."""
    return tuple(f"+reward.length.{key}={value}" for key, value in {"_target_": _LENGTH, **fields}.items())


_LENGTH = "rewards.length.Length"
# V3.2's formula is not published. `budget`: thinking is free up to 60 tokens, which is enough to try three candidates
# at level 1 and one at level 4; the outcome is lost at 90. `linear`: so many sampled tokens cost what the outcome is
# worth.
VARIANTS: dict[str, tuple[str, ...]] = {
    "linear200": penalty(policy="linear", weight=1.0, max_tokens=200),
    "linear100": penalty(policy="linear", weight=1.0, max_tokens=100),
    "budget": penalty(policy="budget", count="thinking", weight=2.0, max_tokens=60),
    "speciale": (),
}
# Of the long thinker (`{teacher}`). The weight of the KL was chosen before any run: a token at which the two part by d
# nats costs 0.1 d, an outcome is worth 1 to 2 (its advantage), so that stopping early can pay while all else stays.
_FROM_SPECIALE = ("policy.path={teacher}", "coldstart.enabled=false", "steps=30", *VARIANTS["budget"])
STUDENTS: dict[str, tuple[str, ...]] = {
    "paid": _FROM_SPECIALE,
    "taught": (
        *_FROM_SPECIALE,
        "objective.distill.teachers={{default: {teacher}}}",
        "objective.distill.weight=0.1",
        "objective.distill.reward_weight=1.0",
    ),
}
ALL = (*VARIANTS, *STUDENTS)
DEFAULT = ("budget", "speciale")


@dataclass(frozen=True)
class Figures:
    """One variant, one seed, one level, on held-out tasks."""

    variant: str
    seed: int
    level: str
    accuracy: float  # mean outcome over all samples
    thinking_mean: float  # tokens
    thinking_p90: float
    cut_off: float  # share of samples that did not end by an answer
    stops: dict[str, int]  # stop reason → samples


def figures(variant: str, seed: int, rows: Sequence[Mapping[str, Any]]) -> list[Figures]:
    """Figures by level of stored held-out trajectories."""
    found = []
    for level in sorted({row["family"] for row in rows}):
        mine = [row for row in rows if row["family"] == level and row["failure_kind"] is None]
        thinking = [row["usage"]["thinking"] for row in mine]
        stops = Counter(row["stop_reason"] for row in mine)
        found.append(
            Figures(
                variant,
                seed,
                level,
                accuracy=fmean(row["reward_parts"]["score/outcome"] for row in mine),
                thinking_mean=fmean(thinking),
                thinking_p90=float(np.percentile(thinking, 90)),
                cut_off=1.0 - stops["answered"] / len(mine),
                stops=dict(stops),
            )
        )
    return found


def read(out: Path, seeds: Sequence[int]) -> list[Figures]:
    """Of all finished runs; the cold start is what the runs of a seed began with."""
    found: list[Figures] = []
    for seed in seeds:
        for variant in ALL:
            path = out / f"{variant}-{seed}"
            if not finished(path):
                continue
            run = RunDir(path)
            if variant in VARIANTS and not any(f.variant == COLD and f.seed == seed for f in found):
                found += figures(COLD, seed, run.read_trajectories("eval_before"))
            found += figures(variant, seed, run.read_trajectories("eval_after"))
    return found


HEAD = ("level", "variant", "accuracy", "thinking tokens, mean", "p90", "accuracy per 100 tokens", "cut off",
        "stop reasons", "seeds")  # fmt: skip


def table(found: Sequence[Figures]) -> list[tuple[str, ...]]:
    """One row per level and variant: means over seeds ± their standard deviation."""
    rows = []
    for level in sorted({f.level for f in found}):
        for variant in (COLD, *ALL):
            mine = [f for f in found if f.level == level and f.variant == variant]
            if not mine:
                continue
            stops: Counter[str] = Counter()
            for f in mine:
                stops.update(f.stops)
            rows.append(
                (
                    level,
                    variant,
                    _spread([f.accuracy for f in mine], ".3f"),
                    _spread([f.thinking_mean for f in mine], ".1f"),
                    _spread([f.thinking_p90 for f in mine], ".0f"),
                    _spread([100 * f.accuracy / f.thinking_mean for f in mine], ".2f"),
                    format(fmean(f.cut_off for f in mine), ".1%"),
                    ", ".join(f"{name} {n}" for name, n in stops.most_common()),
                    str(len(mine)),
                )
            )
    return rows


def _spread(values: Sequence[float], form: str) -> str:
    return format(fmean(values), form) + (f" ± {format(stdev(values), form)}" if len(values) > 1 else "")


def save_plot(found: Sequence[Figures], out: Path, seeds: Sequence[int]) -> None:
    """Accuracy against thinking tokens, a line per variant from easiest to hardest level; tokens in training."""
    points = []
    for color, variant in enumerate((COLD, *ALL)):
        line = []
        for level in sorted({f.level for f in found}):
            mine = [f for f in found if f.level == level and f.variant == variant]
            if mine:
                line.append((fmean(f.thinking_mean for f in mine), fmean(f.accuracy for f in mine)))
        points.append(Series(variant, line, color=color, bold=variant == "speciale"))
    curves = {}
    for metric in ("length/sampled_mean", "score/outcome"):
        curves[metric] = [
            Series(variant, smooth(curve(out, variant, seeds, metric), 5), color=1 + i) for i, variant in enumerate(ALL)
        ]
    save_charts(
        out / "speciale.svg",
        [
            lambda offset: line_chart(
                "held-out accuracy, levels 1 to 4", points, x_label="thinking tokens", offset=offset
            ),
            lambda offset: line_chart("sampled tokens in training", curves["length/sampled_mean"], offset=offset),
            lambda offset: line_chart("outcome in training", curves["score/outcome"], offset=offset),
        ],
    )


def curve(out: Path, variant: str, seeds: Sequence[int], metric: str) -> list[tuple[float, float]]:
    """Mean over seeds at each step."""
    steps: dict[int, list[float]] = {}
    for seed in seeds:
        path = out / f"{variant}-{seed}"
        for row in RunDir(path).read_metrics("grpo") if finished(path) else []:
            steps.setdefault(row["step"], []).append(row[metric])
    return [(float(step), fmean(values)) for step, values in sorted(steps.items())]


def orders(
    variants: Mapping[str, tuple[str, ...]], args: argparse.Namespace, extra: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """(name, overrides) of the runs that ``args`` asks for among ``variants``."""
    found = []
    for seed in args.seeds:
        teacher = args.out / f"speciale-{seed}" / "policy"
        for variant in [name for name in args.variants if name in variants]:
            own = [override.format(teacher=teacher) for override in variants[variant]]
            found.append((f"{variant}-{seed}", ["experiment=speciale", f"seed={seed}", *own, *extra]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/speciale"))
    parser.add_argument("--variants", nargs="+", default=DEFAULT, choices=ALL, help="what is run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="GRPO steps of every run (default: the experiment's)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("overrides", nargs="*", help="further overrides for every run")
    args = parser.parse_args()
    extra = [*args.overrides, *([f"steps={args.steps}"] if args.steps else [])]
    for seed in args.seeds if {*args.variants} & {*STUDENTS} and "speciale" not in args.variants else ():
        if not finished(args.out / f"speciale-{seed}"):
            parser.error(f"--variants: the students of seed {seed} start from speciale, which is not in {args.out}")
    for variants in (VARIANTS, STUDENTS):  # the students' teachers first
        train_all(orders(variants, args, extra), args.out, args.jobs)
    found = read(args.out, args.seeds)
    if not found:
        sys.exit("no run finished; see the logs next to the runs")
    rows = table(found)
    from rich.console import Console
    from rich.table import Table

    shown = Table(*HEAD, title="V3.2's length penalty against Speciale")
    for row in rows:
        shown.add_row(*row)
    Console(width=180).print(shown)
    (args.out / "speciale.md").write_text(markdown(HEAD, rows))
    (args.out / "speciale.json").write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n")
    save_plot(found, args.out, args.seeds)


if __name__ == "__main__":
    main()

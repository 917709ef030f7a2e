"""Regimes in which training collapses, and the one part that is to cure each: the same runs with and without.

    python -m benchmarks.collapse                                  all regimes, seeds 1 2 3, into runs/collapse
    python -m benchmarks.collapse --regimes shifted --seeds 1      some of them; finished runs are kept
    python -m benchmarks.collapse --minutes 60 --write             stops in time; table and plot go to docs/results.md

A regime is a fault or a bold setting, the same in both arms; the arms differ by one setting, the part. Every run is an
ordinary ``rl-train`` in its own process, all from one cold start; faults are put in from outside
(``benchmarks.fault_hooks``). Who noticed first is said by the detectors of the loop on the run's records.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from benchmarks.ablation import LAST, Outcome
from benchmarks.ablation import read as read_outcome
from benchmarks.faults import ROOT, play, wrapped
from benchmarks.faults import read as read_alarms
from benchmarks.plot import save_charts
from benchmarks.runs import finished, markdown, put_between
from rl.evaluation.intervals import Difference, paired_difference
from rl.tracking.rundir import RunDir
from rl.tracking.svg import Series, line_chart, smooth

BASE = (
    "env.families={search: 1.0, agent: 1.0}", "prompts_per_step=6", "group_size=8", "learner.threads=1",
    "learner.max_tokens_per_microbatch=1024", "coldstart.threads=1", "coldstart.seed=0",
    "tracking.wandb=disabled", "tracking.save_batch_every=0", "checkpoint_every=1000", "deterministic=true", "steps=14",
    "learner.lr=5.0e-4", "learner.minibatches=6", "objective.opsm_delta=p95", "eval.n_tasks=32", "eval.k=1",
)  # fmt: skip
WITHOUT, WITH = "without", "with"
ARMS = (WITHOUT, WITH)
FALLEN, OVER = 0.75, 3  # the outcome has fallen where means over OVER steps stay below FALLEN of the best before
OUTCOME = "score/outcome"
CONFIDENCE = 0.95
BEGIN, END = "<!-- made by benchmarks/collapse.py: begin -->", "<!-- made by benchmarks/collapse.py: end -->"
PLOT = ROOT / "docs" / "images" / "collapse.svg"


@dataclass(frozen=True)
class Regime:
    """``settings``: of both arms. ``fault``: name=severity of ``benchmarks.fault_list``, in both arms, or None.
    ``without``, ``part``: what one arm has, and the other. ``what``, ``cure``: both in words."""

    what: str
    settings: tuple[str, ...]
    fault: str | None
    without: tuple[str, ...]
    part: tuple[str, ...]
    cure: str


REGIMES: dict[str, Regime] = {
    "shifted": Regime(
        "every log-prob that the engine returns belongs to the token before", (), "shifted_logprobs=1", (),
        ("objective.old_policy=learner",), "old log-probs that the learner computes itself before its first update"),
    "indexer": Regime(
        "noise on the indexer's queries in the engine, so that it reads other rows than the learner would", (),
        "topk_flips=1.5", ("replay.indexer=off",), ("replay.indexer=force",), "keep-indexer"),
    "updates": Regime(
        "six optimiser steps a batch at lr 8e-4, nothing stale and nothing else wrong",
        ("deterministic=false", "learner.lr=8.0e-4"), None, ("learner.minibatches=6",), ("learner.minibatches=1",),
        "one optimiser step a batch"),
    "stale": Regime(
        "rollouts of up to six versions ago at lr 8e-4, nothing else wrong",
        ("deterministic=false", "learner.lr=8.0e-4"), None, ("max_staleness=6",), ("max_staleness=0",),
        "the limit of admission"),
}  # fmt: skip


@dataclass(frozen=True)
class Played:
    """A finished run. ``alarms``: detector → first step. ``before``, ``after``: held-out outcome by task."""

    outcome: Outcome
    alarms: dict[str, int]
    before: dict[str, float]
    after: dict[str, float]

    @property
    def scores(self) -> list[float]:
        return [row[OUTCOME] for row in self.outcome.rows if row.get(OUTCOME) is not None]

    @property
    def warning(self) -> int | None:
        """Step of the first alarm, other than the one that reads the outcome itself."""
        return min((step for name, step in self.alarms.items() if name != "collapse"), default=None)


def run_name(regime: str, arm: str, seed: int) -> str:
    return f"{regime}-{arm}-{seed}"


def overrides(regime: str, arm: str, seed: int, extra: Sequence[str]) -> list[str]:
    one = REGIMES[regime]
    return [*BASE, *one.settings, *(one.part if arm == WITH else one.without), f"seed={seed}", *extra]


def read(regime: str, arm: str, seed: int, out: Path) -> Played | None:
    outcome = read_outcome(f"{regime}-{arm}", seed, out)
    found = read_alarms(out / run_name(regime, arm, seed)) if outcome is not None else None
    if outcome is None or found is None:
        return None
    run = RunDir(out / run_name(regime, arm, seed), make=False)
    return Played(outcome, found.alarms, by_task(run, "eval_before"), by_task(run, "eval_after"))


def by_task(run: RunDir, evaluation: str) -> dict[str, float]:
    """Mean held-out outcome of every task that has one."""
    tasks: dict[str, list[float]] = {}
    for row in run.read_trajectories(evaluation):
        if (value := row["reward_parts"].get(OUTCOME)) is not None:
            tasks.setdefault(row["task_id"], []).append(value)
    return {task: fmean(values) for task, values in tasks.items()}


def fell(scores: Sequence[float]) -> int | None:
    """The step (from 1) at which the outcome fell for good: from there on means over ``OVER`` steps stay below
    ``FALLEN`` of the best such mean before. None where it did not."""
    means = [fmean(scores[i : i + OVER]) for i in range(len(scores) - OVER + 1)]
    best, since = -math.inf, None
    for i, mean in enumerate(means):
        if mean >= FALLEN * best:
            since = None
        elif since is None:
            since = i + OVER
        best = max(best, mean)
    return since


def over_seeds(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over runs of each task that all have."""
    common = set.intersection(*(set(run) for run in runs))
    return {task: fmean(run[task] for run in runs) for task in sorted(common)}


def change(first: Sequence[dict[str, float]], second: Sequence[dict[str, float]]) -> Difference:
    """Held-out outcome of the ``second`` runs minus that of the ``first``, task by task, each a mean over its runs."""
    return paired_difference(over_seeds(first), over_seeds(second), CONFIDENCE)


HEAD = (
    "regime", "arm", "collapsed", "training: start → best → end", "held out", "by seed",
)  # fmt: skip
GAIN_HEAD = ("regime", "held out, with − without [95 %]", "tasks", "seeds")
ALARM_HEAD = ("regime", "arm", "seed", "first alarm", "its step", "outcome fell at step", "later alarms (first step)")


def table(runs: dict[tuple[str, str], list[Played]]) -> list[tuple[str, ...]]:
    """A row for every regime and arm of ``HEAD``: means over seeds."""
    rows: list[tuple[str, ...]] = []
    for (regime, arm), played in runs.items():
        windows = [(run.scores[:OVER], best_window(run.scores), run.scores[-LAST:]) for run in played]
        means = [fmean(fmean(each) for each in column) for column in zip(*windows, strict=True)]
        shown = REGIMES[regime].part if arm == WITH else REGIMES[regime].without
        rows.append(
            (
                regime,
                f"{arm}: `{' '.join(shown)}`" if shown else arm,
                f"{sum(run.outcome.collapsed for run in played)} of {len(played)}",
                " → ".join(f"{mean:.2f}" for mean in means),
                f"{fmean(r.outcome.before for r in played):.3f} → {fmean(r.outcome.after for r in played):.3f}",
                ", ".join(f"{run.outcome.after:.2f}" for run in played),
            )
        )
    return rows


def best_window(scores: list[float]) -> list[float]:
    """The ``LAST`` steps in a row with the highest mean."""
    return max((scores[i : i + LAST] for i in range(max(len(scores) - LAST + 1, 1))), key=fmean)


def interval(found: Difference) -> str:
    return f"{found.mean:+.3f} [{found.bootstrap[0]:+.3f}, {found.bootstrap[1]:+.3f}]"


def gains(runs: dict[tuple[str, str], list[Played]]) -> list[tuple[str, ...]]:
    """What the part is worth: rows of ``GAIN_HEAD``, for the seeds that both arms have."""
    rows: list[tuple[str, ...]] = []
    for regime in dict.fromkeys(name for name, _ in runs):
        sides = [{run.outcome.seed: run.after for run in runs.get((regime, arm), [])} for arm in ARMS]
        if seeds := sorted(sides[0].keys() & sides[1].keys()):
            found = change(*([side[seed] for seed in seeds] for side in sides))
            rows.append((regime, interval(found), str(found.n_tasks), " ".join(map(str, seeds))))
    return rows


def alarm_table(runs: dict[tuple[str, str], list[Played]]) -> list[tuple[str, ...]]:
    """Rows of ``ALARM_HEAD``, one a run."""
    rows: list[tuple[str, ...]] = []
    for (regime, arm), played in runs.items():
        for run in played:
            first = [name for name, step in run.alarms.items() if step == run.warning and name != "collapse"]
            others = [(step, name) for name, step in run.alarms.items() if name not in first]
            later = ", ".join(f"{name} {step}" for step, name in sorted(others))
            down = fell(run.scores)
            rows.append(
                (regime, arm, str(run.outcome.seed), ", ".join(first) or "none", dash(run.warning), dash(down),
                 later or "none")
            )  # fmt: skip
    return rows


def dash(step: int | None) -> str:
    return "–" if step is None else str(step)


def plot(runs: dict[tuple[str, str], list[Played]], path: Path) -> None:
    """A chart for every regime: the training outcome of each run, and the mean of each arm."""
    charts = []
    for regime in dict.fromkeys(name for name, _ in runs):
        means: list[Series] = []
        single: list[Series] = []
        for color, arm in enumerate(ARMS):
            played = runs.get((regime, arm), [])
            lines = [[(float(i), s) for i, s in enumerate(run.scores, 1)] for run in played]
            single += [Series(f"{arm}, seed {r.outcome.seed}", p, color) for r, p in zip(played, lines, strict=True)]
            if lines:
                every = [
                    (x, fmean(line[i][1] for line in lines))
                    for i, (x, _) in enumerate(min(lines, key=lambda line: len(line)))
                ]
                means.append(Series(f"{arm} the part", smooth(every, OVER), color, bold=True))
        title = f"{regime}: training outcome (mean, and each seed)"
        charts.append(partial(chart, title, means, single))
    save_charts(path, charts, columns=2)


def chart(title: str, means: Sequence[Series], single: Sequence[Series], offset: tuple[int, int]) -> str:
    return line_chart(title, means, y_range=(0.0, 1.0), raw=single, offset=offset)


def text(runs: dict[tuple[str, str], list[Played]], missing: Iterable[str]) -> str:
    """The section of docs/results.md."""
    names = list(dict.fromkeys(name for name, _ in runs))
    told = "".join(wrapped(f"**{n}**: {REGIMES[n].what}. The part tried: {REGIMES[n].cure}.", "- ") for n in names)
    parts = [
        told,
        markdown(HEAD, table(runs)),
        markdown(GAIN_HEAD, gains(runs)),
        markdown(ALARM_HEAD, alarm_table(runs)),
    ]
    if left := ", ".join(missing):
        parts.append(wrapped(f"Not run: {left}."))
    parts.append("![Training outcome of every regime, with and without the part](images/collapse.svg)\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--regimes", default=",".join(REGIMES), help="comma-separated")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--minutes", type=float, default=math.inf, help="no run is started later")
    parser.add_argument("--write", action="store_true", help="put tables and plot into docs/")
    parser.add_argument("overrides", nargs="*", help="further overrides for every run")
    args = parser.parse_args()
    regimes = args.regimes.split(",")
    if unknown := sorted(set(regimes) - set(REGIMES)):
        parser.error(f"--regimes: {', '.join(unknown)} unknown; there are {', '.join(REGIMES)}")
    ends = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    extra = [f"cache_dir={args.out / 'cache'}", *args.overrides]
    orders = [(regime, arm, seed) for seed in args.seeds for regime in regimes for arm in args.arms]
    for order in orders:
        name = run_name(*order)
        if finished(args.out / name):
            continue
        if time.monotonic() > ends:
            print(f"out of time before {name}", flush=True)
            break
        began = time.monotonic()
        said = play(args.out, name, overrides(*order, extra), REGIMES[order[0]].fault)
        print(f"{name}: {said} in {time.monotonic() - began:.0f} s", flush=True)
    runs: dict[tuple[str, str], list[Played]] = {}
    missing = []
    for regime in regimes:
        for arm in args.arms:
            for seed in args.seeds:
                if (found := read(regime, arm, seed, args.out)) is not None:
                    runs.setdefault((regime, arm), []).append(found)
                else:
                    missing.append(run_name(regime, arm, seed))
    if not runs:
        raise SystemExit("no run finished; see the logs next to the runs")
    section = text(runs, missing)
    (args.out / "collapse.md").write_text(section, encoding="utf-8")
    records = {
        run_name(*key, run.outcome.seed): {"scores": run.scores, "alarms": run.alarms, "after": run.outcome.after}
        for key, played in runs.items()
        for run in played
    }
    (args.out / "collapse.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    plot(runs, args.out / "collapse.svg")
    print(section)
    if args.write:
        put_between(ROOT / "docs" / "results.md", BEGIN, END, section)
        plot(runs, PLOT)


if __name__ == "__main__":
    main()

"""Faults put into matched runs from outside: which detector finds them, when, and what they cost.

    python -m benchmarks.faults                                      all faults, seed 0, into runs/faults
    python -m benchmarks.faults --faults shared_seeds,router_flips   some of them; finished runs are kept
    python -m benchmarks.faults --faults none --clean 5              runs without a fault: false alarms, basis of limits
    python -m benchmarks.faults --minutes 40 --write                 stops in time; writes the tables to docs/results.md

Every run is `rl-train deterministic=true` with the same tasks and random numbers, so that a run with a fault equals the
clean one of its seed up to where the fault acts. ``benchmarks.fault_hooks`` puts the fault into the driver, the learner
and the rollout workers; product code knows nothing of it. The detectors of the loop say what found it, applied to the
run's records, so that the tables are those of the detectors as they are now; or the run's last words, where it stopped.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fault_list import FAULTS
from benchmarks.runs import markdown, put_between, train
from rl.doctor.catalogue import DETECTORS
from rl.doctor.watch import Watch
from rl.tracking.findings import examine_run
from rl.tracking.rundir import RunDir

ROOT = Path(__file__).resolve().parents[1]
STEPS = 12
SHARED = (
    "deterministic=true", "prompts_per_step=8", "group_size=8", "learner.lr=4.0e-4", "learner.threads=1",
    "learner.max_tokens_per_microbatch=1024", "coldstart.threads=1", "eval.k=2",
    "tracking.wandb=disabled", "tracking.save_batch_every=0", "checkpoint_every=1000",
)  # fmt: skip
ANY_TIME = "deterministic=false"  # when new weights come is a matter of time
FAMILIES = "env.families={search: 1.0, agent: 1.0}"
# What clean runs are made of; faults are put into one of them (--experiment).
EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "matched": (FAMILIES,),
    "four families": ("learner.lr=2.0e-4",),
    "stale": (FAMILIES, ANY_TIME, "max_staleness=2", "learner.minibatches=2", "learner.lr=2.0e-4"),
    "very stale": (FAMILIES, ANY_TIME, "max_staleness=5", "learner.minibatches=3", "learner.lr=5.0e-4"),
    "truncated": (FAMILIES, "rollout.top_p=0.9", "objective.kl_coef=0.01", "replay.indexer=force"),
}
BEGIN, END = "<!-- made by benchmarks/faults.py: begin -->", "<!-- made by benchmarks/faults.py: end -->"
HEAD = ("fault", "severity", "found first by", "step", "held out, and change against clean")
NAMED = 3  # detectors that are named in a cell
STOPPED = re.compile(r"^stopped: (?:\w+: )?(.*)$", re.M)


@dataclass(frozen=True)
class Result:
    """A run as far as it has come. ``alarms``: detector → first step. ``stopped``: why it ended itself, else empty."""

    steps: int
    alarms: dict[str, int]
    stopped: str
    outcome: float | None
    stderr: float

    def first(self) -> tuple[str, str]:
        """Who found it first, and in which step; who else did in another."""
        if self.stopped:
            return self.stopped, str(self.steps + 1)
        if not self.alarms:
            return "nobody", "–"
        step = min(self.alarms.values())
        found = [name for name, first in self.alarms.items() if first == step]
        later = len(self.alarms) - len(found)
        more = len(found) - NAMED
        names = ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")
        return names + (f"; later {later}" if later else ""), str(step)


def read(path: Path) -> Result | None:
    """The run at ``path`` (gone, where it was stopped before its first step); None where there is none."""
    log = path.with_name(f"{path.name}.log")
    said = STOPPED.findall(log.read_text(errors="replace")) if log.exists() else []
    if not (path / "config.yaml").exists():
        return Result(0, {}, _stopped(said), None, math.nan) if said else None
    run = RunDir(path, make=False)
    watches = examined(run)
    alarms = {n: course.fired[0] for watch in watches for n, course in watch.courses.items() if course.fired}
    after: dict[str, Any] = run.read_summary().get("eval_after") or {}
    stopped = _stopped(said) if said and not after else ""
    outcome, stderr = after.get("overall"), float(after.get("stderr", math.nan))
    return Result(len(run.read_metrics("grpo")), alarms, stopped, outcome, stderr)


def examined(run: RunDir) -> list[Watch]:
    """The detectors after all steps of ``run``, by its records: those of the loop as they are now."""
    return [stage.watch for stage in examine_run(run)]


def _stopped(said: Sequence[str]) -> str:
    return "the probe (run stopped)" if "weight sync" in said[-1] else f"run stopped: {said[-1][:40]}"


def play(out: Path, name: str, overrides: Sequence[str], fault: str | None, resumed: bool = False) -> str:
    """One run, with ``fault`` (name=severity) in all its processes; ``resumed``: it stops itself once and goes on."""
    environment = dict(os.environ)
    if fault is not None:
        place = out / f"{name}.fault"
        place.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT / "benchmarks" / "fault_site"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment |= {
            "BENCHMARK_FAULT": fault,
            "BENCHMARK_FAULT_DIR": str(place.resolve()),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
    said = train(name, overrides, out, environment)
    return train(name, overrides, out, environment) if resumed and said != "done" else said


def orders(faults: Sequence[str], seeds: Sequence[int], mildest: bool) -> list[tuple[str, float, int]]:
    """(fault, severity, seed): the severest of every fault first, so that a run cut short has looked at all."""
    severities = [sorted(FAULTS[name].severities, key=FAULTS[name].severities.index)[::-1] for name in faults]
    rounds = max((len(s) for s in severities), default=0) if mildest else 1
    return [
        (name, each[i], seed)
        for i in range(rounds)
        for seed in seeds
        for name, each in zip(faults, severities, strict=True)
        if i < len(each)
    ]


def fault_table(
    out: Path, faults: Sequence[str], seeds: Sequence[int], experiment: str
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Rows of ``HEAD`` for what has been run, and what has not."""
    rows: list[tuple[str, ...]] = []
    missing: dict[str, list[str]] = {}
    for name in faults:
        for severity in FAULTS[name].severities:
            for seed in seeds:
                result, clean = read(out / run_name(name, severity, seed)), read(out / clean_name(experiment, seed))
                if result is None or (result.outcome is None and not result.stopped):
                    missing.setdefault(name, []).append(f"{severity:g}" + (f" (seed {seed})" if seed else ""))
                    continue
                base = clean.outcome if clean is not None else None
                cell = "stopped" if result.outcome is None else change(result, base)
                rows.append((name, f"{severity:g}", *result.first(), cell))
    return rows, [f"{name} {' and '.join(which)}" for name, which in missing.items()]


def change(result: Result, base: float | None) -> str:
    """The outcome, and how far it is from the clean run's, ± 1.96 standard errors (of both, as independent)."""
    assert result.outcome is not None
    if base is None:
        return f"{result.outcome:.3f}"
    return f"{result.outcome:.3f} ({result.outcome - base:+.3f} ± {1.96 * math.sqrt(2) * result.stderr:.2f})"


def clean_table(out: Path, seeds: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """(a row per experiment: runs, steps, false alarms; a row per detector: its limit and largest reading)."""
    rows: list[tuple[str, ...]] = []
    worst: dict[str, list[float]] = {d.name: [] for d in DETECTORS}
    for experiment in EXPERIMENTS:
        runs = steps = 0
        alarms: list[str] = []
        for seed in range(seeds):
            path = out / clean_name(experiment, seed)
            if (result := read(path)) is None or not result.steps:
                continue
            runs, steps = runs + 1, steps + result.steps
            for watch in examined(RunDir(path, make=False)):
                for name, course in watch.courses.items():
                    worst[name] += [course.worst] if course.looked else []
                    alarms += [f"{name} (seed {seed}, step {course.fired[0]})"] if course.fired else []
        rows.append((experiment, str(runs), str(steps), ", ".join(alarms) or "none"))
    readings = [
        (d.name, f"{d.limit:g}", f"{max(worst[d.name]):.2g}" if worst[d.name] else "–", str(len(worst[d.name])))
        for d in DETECTORS
    ]
    return rows, readings


def seeded(seed: int) -> list[str]:
    """Further seeds share one cold start, which takes as long as a run."""
    return [f"seed={seed}", *(["coldstart.seed=0"] if seed else [])]


def run_name(fault: str, severity: float, seed: int) -> str:
    return f"{fault}-{severity:g}-s{seed}"


def clean_name(experiment: str, seed: int) -> str:
    return f"clean-{experiment.replace(' ', '-')}-s{seed}"


def text(out: Path, faults: Sequence[str], seeds: Sequence[int], clean: int, experiment: str) -> str:
    """The section of docs/results.md."""
    rows, missing = fault_table(out, faults, seeds, experiment)
    experiments, readings = clean_table(out, max(clean, len(seeds)))
    parts = [markdown(HEAD, rows)]
    if missing:
        parts.append(wrapped(f"Not run: {', '.join(missing)}."))
    parts.append("".join(wrapped(f"`{f}`: {FAULTS[f].what}. Cure: {FAULTS[f].cure}.", "- ") for f in faults))
    parts.append(markdown(("clean runs", "runs", "steps", "alarms"), experiments))
    parts.append(markdown(("detector", "limit", "largest in clean runs", "of runs"), readings))
    return "\n".join(parts)


def wrapped(text: str, bullet: str = "") -> str:
    lines = textwrap.wrap(text, 120, initial_indent=bullet, subsequent_indent=" " * len(bullet))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--faults", default=",".join(FAULTS), help="comma-separated, or none")
    parser.add_argument("--experiment", default="matched", choices=EXPERIMENTS, help="that faults are put into")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tasks", type=int, default=32, help="held-out tasks of each family")
    parser.add_argument("--severest", action="store_true", help="of every fault the last severity alone")
    parser.add_argument("--clean", type=int, default=1, help="clean runs of every experiment (seeds 0, 1, …)")
    parser.add_argument("--experiments", help="of the clean runs, comma-separated, or all; default: --experiment")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no run is started later")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")
    args = parser.parse_args()
    faults = [] if args.faults == "none" else args.faults.split(",")
    if unknown := sorted(set(faults) - set(FAULTS)):
        parser.error(f"--faults: {', '.join(unknown)} unknown; there are {', '.join(FAULTS)}")
    experiments = list(EXPERIMENTS) if args.experiments == "all" else (args.experiments or args.experiment).split(",")
    ends = time.monotonic() + 60 * args.minutes
    base = [*SHARED, f"steps={args.steps}", f"eval.n_tasks={args.tasks}", f"cache_dir={args.out / 'cache'}"]
    args.out.mkdir(parents=True, exist_ok=True)
    todo: list[tuple[str, list[str], str | None, bool]] = [
        (clean_name(e, seed), [*base, *EXPERIMENTS[e], *seeded(seed)], None, False)
        for seed in range(args.clean)
        for e in experiments
    ]
    for name, severity, seed in orders(faults, args.seeds, not args.severest):
        fault = FAULTS[name]
        more = ["checkpoint_every=2"] if fault.resumed else []
        settings = [*base, *EXPERIMENTS[args.experiment], *seeded(seed), *fault.settings, *more]
        todo.append((run_name(name, severity, seed), settings, f"{name}={severity:g}", fault.resumed))
    for name, settings, fault_given, resumed in todo:
        if time.monotonic() > ends:
            print(f"out of time before {name}", flush=True)
            break
        result = read(args.out / name)
        if result is None or not (result.stopped or result.outcome is not None):
            began = time.monotonic()
            said = play(args.out, name, settings, fault_given, resumed)
            result = read(args.out / name)
            found = result.first() if result is not None else ("no run",)
            print(f"{name}: {said} in {time.monotonic() - began:.0f} s; {', '.join(found)}", flush=True)
    section = text(
        args.out, [f for f in FAULTS if f in faults] or list(FAULTS), args.seeds, args.clean, args.experiment
    )
    (args.out / "faults.md").write_text(section, encoding="utf-8")
    print(section)
    if args.write:
        put_between(ROOT / "docs" / "results.md", BEGIN, END, section)


if __name__ == "__main__":
    main()

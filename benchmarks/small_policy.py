"""A small policy trained by the ordinary commands, and evaluations of it: what the benchmarks of rollouts share.

Both run in a process of their own and are cached by their overrides and by the source they run, like the stages of a
run (``rl.run.stage_cache``). Evaluations of different settings play the same held-out tasks.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from envs.closure import code_hash
from envs.families import FAMILIES, taskset_class
from rl.commands import cold_start
from rl.commands import evaluate as rl_eval
from rl.evaluation.intervals import Difference, Estimate, estimate, paired_difference
from rl.run.paths import resolve
from rl.run.stage_cache import StageResult, cached_stage, tree_hash
from rl.tracking.progress import Progress, Stage
from rl.tracking.rundir import RunDir

BASE = resolve("pkg://rl.bases/tiny_dsa_base")
_DEADLINE_S = 7200.0
CONFIDENCE = 0.95
Row = Mapping[str, Any]  # one trajectory, as rl.tracking.rundir.trajectory_json writes it


@dataclass(frozen=True)
class Evaluation:
    """A finished ``rl-eval``, by its trajectories."""

    path: Path

    @cached_property
    def rows(self) -> list[Row]:
        """Trajectories that have a score; the others are infrastructure failures."""
        every = RunDir.existing(self.path).read_trajectories("eval_after")
        return [row for row in every if "score/outcome" in row["reward_parts"]]

    def mean(self, value: Callable[[Row], float]) -> float:
        return fmean(value(row) for row in self.rows)

    def share(self, holds: Callable[[Row], bool]) -> float:
        return self.mean(lambda row: float(holds(row)))

    def by_task(self, value: Callable[[Row], float]) -> dict[str, float]:
        """Mean of a task's samples, by task id."""
        tasks: dict[str, list[float]] = {}
        for row in self.rows:
            tasks.setdefault(row["task_id"], []).append(value(row))
        return {task: fmean(values) for task, values in tasks.items()}


def outcome(row: Row) -> float:
    return float(row["reward_parts"]["score/outcome"])


def accuracy(evaluation: Evaluation) -> Estimate:
    """Mean outcome over tasks, with its 95 % intervals."""
    return estimate(list(evaluation.by_task(outcome).values()), len(evaluation.rows), CONFIDENCE)


def change(first: Evaluation, second: Evaluation) -> Difference:
    """Outcome of ``second`` minus that of ``first``, task by task."""
    return paired_difference(first.by_task(outcome), second.by_task(outcome), CONFIDENCE)


def between(mean: float, interval: tuple[float, float] | None, form: str = ".3f") -> str:
    """``0.512 [0.430, 0.593]``"""
    ends = "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"
    return f"{mean:{form}}{ends}"


def coldstart(overrides: Sequence[str], cache: Path, start: StageResult | None = None) -> StageResult:
    """``rl-coldstart`` with ``overrides``, from the shipped base or from the policy ``start``."""
    base = BASE if start is None else start.path
    inputs = {"overrides": list(overrides), "base": tree_hash(base), "code": code_hash(cold_start, *_families())}

    def produce(out: Path, stage: Stage) -> None:
        call("rl.commands.cold_start", [f"out={out}", f"base.source={base}", *overrides], cache / "coldstart.log")

    with Progress([]) as progress:
        return cached_stage("cold start", "coldstart-small", inputs, cache, progress, produce)


def evaluate(policy: StageResult, overrides: Sequence[str], cache: Path) -> Evaluation:
    """``rl-eval`` of ``policy`` with ``overrides``."""
    inputs = {"overrides": list(overrides), "policy": policy.key, "code": code_hash(rl_eval, *_families())}

    def produce(out: Path, stage: Stage) -> None:
        call("rl.commands.evaluate", [f"path={policy.path}", f"out={out}", *overrides], cache / "evaluate.log")

    with Progress([]) as progress:
        return Evaluation(cached_stage("evaluation", "eval-small", inputs, cache, progress, produce).path)


def _families() -> list[type]:
    """Every family's taskset: which of them a command plays is in its overrides."""
    return [taskset_class(name) for name in FAMILIES]


def call(module: str, arguments: Sequence[str], log: Path) -> None:
    """Run a command of the toolkit; raises SystemExit with the end of its output when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            timeout=_DEADLINE_S,
        )  # fmt: skip
    if done.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise SystemExit(f"{module} {' '.join(arguments)} ended with {done.returncode}:\n{tail}")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=200).print(table)

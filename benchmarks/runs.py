"""Several `rl-train` runs for one comparison: each in its own process, kept when finished, resumed when stopped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rl.tracking.rundir import RunDir

RUN_DEADLINE_S = 3 * 3600.0


def finished(path: Path) -> bool:
    """Whether the run at ``path`` has finished."""
    return path.is_dir() and "eval_after" in RunDir(path).read_summary()


def train(name: str, overrides: Sequence[str], out: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run `rl-train` with ``overrides`` into ``out/<name>`` unless it is finished there; returns what to print.

    ``environment``: its variables, None: those of this process.
    """
    path = out / name
    if finished(path):
        return "was there already"
    arguments = [f"resume={name}"] if path.is_dir() else [f"name={name}", *overrides]
    log_path = out / f"{name}.log"
    command = [sys.executable, "-m", "rl.commands.train", f"runs_dir={out}", *arguments]
    with log_path.open("ab") as log:
        done = subprocess.run(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=RUN_DEADLINE_S,
            env=environment,
        )  # fmt: skip
    return "done" if done.returncode == 0 else f"FAILED (exit {done.returncode}); see {log_path}"


def train_all(orders: Sequence[tuple[str, Sequence[str]]], out: Path, jobs: int = 1) -> None:
    """``train`` for every (name, overrides), ``jobs`` at the same time, with a progress bar."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task("", total=len(orders))

        def one(order: tuple[str, Sequence[str]]) -> None:
            progress.print(f"{order[0]}: {train(*order, out)}")
            progress.advance(bar)

        list(pool.map(one, orders))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for docs/results.md."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def put_between(page: Path, begin: str, end: str, section: str) -> None:
    """Replace what is between the lines ``begin`` and ``end`` of ``page``. Raises ValueError when it has none."""
    before, first, rest = page.read_text(encoding="utf-8").partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"{page} has no lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{section}\n{end}{after}", encoding="utf-8")

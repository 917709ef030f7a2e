"""Environments without a model: episodes per second, time of a step, leaks, and the reward for doing nothing.

    python -m benchmarks.episodes                                  10,000 episodes by the oracles, all families
    python -m benchmarks.episodes --families wiki repo --episodes 500
    python -m benchmarks.episodes --audit 500                      oracle, idle and random-tool policy instead

An episode here is what a rollout worker does around the model: reset, step after step, score, close; the acting takes
no time. Afterwards nothing may be left: processes, threads, open descriptors, temporary files.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from envs.environment import Environment
from envs.episode import Actor, play_episode
from envs.families import FAMILIES, taskset_class
from envs.scripted import give_up, random_calls
from envs.taskset import MAX_ORACLE_TURNS, Taskset
from envs.types import Task

NOT_PLAYED = ("mix", "built", "curriculum", "dataset", "humaneval", "releases")  # none of their own, or built first


@dataclass
class Left:
    """What a process holds. Counted before and after: the difference is what leaked."""

    processes: int
    threads: int
    descriptors: int
    temporary_files: int

    @classmethod
    def now(cls) -> Left:
        gc.collect()
        here = psutil.Process()
        children = [c for c in here.children(recursive=True) if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
        zombies = len(here.children(recursive=True)) - len(children)
        return cls(
            len(children) + zombies,
            threading.active_count(),
            here.num_fds(),
            len(list(Path(tempfile.gettempdir()).iterdir())),
        )

    def minus(self, before: Left) -> dict[str, int]:
        return {name: value - getattr(before, name) for name, value in asdict(self).items()}


def episode(taskset: Taskset, task: Task, actor_of: Callable[[Environment], Actor], steps: list[float]) -> float:
    """The outcome; appends the seconds of every step to ``steps``."""
    environment = taskset.environment(task)
    environment.step = _timed(environment.step, steps)  # type: ignore[method-assign]
    return play_episode(task, environment, actor_of(environment), max_turns=MAX_ORACLE_TURNS)[1]["outcome"]


def throughput(family: str, episodes: int, threads: int, tasks: int) -> dict[str, Any]:
    """Episodes of the oracle over ``tasks`` tasks, again and again: tasks are made before the clock starts."""
    taskset = taskset_class(family)(split="train", seed=0)
    todo = [taskset.task(index) for index in range(min(tasks, episodes, len(taskset)))]
    episode(taskset, todo[0], lambda e: e.oracle, [])  # what is built once per process is built
    before, steps = Left.now(), []
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        outcomes = list(
            pool.map(
                lambda i: episode(taskset, todo[i % len(todo)], lambda e: e.oracle, steps),
                _shown(range(episodes), family),
            )
        )
    seconds = time.perf_counter() - started
    left = Left.now().minus(before)
    steps.sort()
    return {
        "family": family,
        "episodes": episodes,
        "per_s": episodes / seconds,
        "steps": len(steps),
        "p50_ms": 1e3 * steps[len(steps) // 2],
        "p99_ms": 1e3 * steps[int(len(steps) * 0.99)],
        "solved": sum(outcomes) / len(outcomes),
        "left": left,
    }


def audit(family: str, tasks: int) -> dict[str, Any]:
    """Mean outcome of the oracle, of doing nothing, and of random tools, on the same tasks."""
    taskset = taskset_class(family)(split="train", seed=1)
    totals: Counter[str] = Counter()
    unsolved = []
    for index in _shown(range(tasks), family):
        task = taskset.task(index)
        actors: dict[str, Callable[[Environment], Actor]] = {
            "oracle": lambda e: e.oracle,
            "idle": lambda e: give_up(),
            "random_tools": lambda e, index=index: random_calls(e, random.Random(index)),  # type: ignore[misc]
        }
        for name, actor_of in actors.items():
            outcome = episode(taskset, task, actor_of, [])
            totals[name] += outcome  # type: ignore[assignment]
            if name == "oracle" and outcome < 1.0:
                unsolved.append(task.id)
    return {"family": family, "tasks": tasks, "unsolved": unsolved} | {n: v / tasks for n, v in totals.items()}


def _timed(method: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = method(*arguments)
        into.append(time.perf_counter() - started)
        return result

    return call


def _shown(items: Sequence[int], what: str) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    yield from track(items, what, console=Console(stderr=True), transient=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in FAMILIES if name not in NOT_PLAYED]
    parser.add_argument("--families", nargs="+", default=known, help="default: all")
    parser.add_argument("--episodes", type=int, default=10_000, help="in all, shared out evenly")
    parser.add_argument("--tasks", type=int, default=100, help="different tasks a family")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--audit", type=int, metavar="N", help="play N tasks a family by oracle, idle, random tools")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:  # of our own: what others leave in the common one is not counted
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        rows = measure(args)
        tempfile.tempdir = None
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    if args.audit:
        print("| family | tasks | oracle | do nothing | random tools |")
        print("|---|---:|---:|---:|---:|")
        for family in args.families:
            row = audit(family, args.audit)
            rows.append(row)
            print(
                f"| {family} | {row['tasks']} | {row['oracle']:.3f} | {row['idle']:.3f} | {row['random_tools']:.3f} |",
                flush=True,
            )
            if row["unsolved"]:
                print(f"not solved: {', '.join(row['unsolved'][:10])}", file=sys.stderr)
    else:
        print("| family | episodes | episodes/s | steps | p50 ms | p99 ms | left behind |")
        print("|---|---:|---:|---:|---:|---:|---|")
        for family in args.families:
            row = throughput(family, args.episodes // len(args.families), args.threads, args.tasks)
            rows.append(row)
            leaks = ", ".join(f"{count} {name}" for name, count in row["left"].items() if count) or "nothing"
            print(
                f"| {family} | {row['episodes']:,} | {row['per_s']:.1f} | {row['steps']:,} | {row['p50_ms']:.2f} | "
                f"{row['p99_ms']:.1f} | {leaks} |",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())

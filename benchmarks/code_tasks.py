"""Repo tasks in figures: candidates, accepted share, rejects by reason, tasks/s, oracle, do-nothing, random tools.

    python -m benchmarks.code_tasks --candidates 500 --tasks 100 --out code_tasks.json

One process, one sandbox at a time. Seconds are given twice: wall time, and CPU time, which a busy machine changes less
(this process and the sandboxed programs that finished; setting up a sandbox, some 10 ms each, and runs that were
stopped do not count). The base runs are made first and are not included.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from envs.code.repo import RepoTaskset
from envs.code.repo_base import base_of
from envs.code.repo_defects import examine
from envs.code.repo_mutations import mutations
from envs.code.repo_packages import PACKAGES, repository
from envs.code.repo_run import spent
from envs.environment import Environment
from envs.episode import Actor, play_episode
from envs.types import Message, Task, ToolCall


def candidates_by_package(packages: Sequence[str]) -> dict[str, Any]:
    """How many mutations are proposed for functions that some test enters, by package and kind."""
    found: dict[str, Any] = {}
    for package in packages:
        base, kinds = base_of(package), Counter[str]()
        for name, sites in base.sites.items():
            if sites and name in base.covering:
                path, _, function = name.partition("::")
                kinds.update(m.kind for m in mutations(repository(package).text(path), function))
        found[package] = {
            "tests": len(base.tests),
            "dropped": base.dropped,
            "functions": len(base.sites),
            "functions_tested": len(base.covering),
            "candidates": sum(kinds.values()),
            "by_kind": dict(sorted(kinds.items())),
        }
    return found


def acceptance(packages: Sequence[str], number: int, seed: int) -> dict[str, Any]:
    """Examine ``number`` single-defect candidates, drawn as the tasks are."""
    taskset = RepoTaskset(seed=seed, packages=packages, levels=(3,))
    accepted, reasons, kinds, tried = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    kinds_tried = Counter[str]()
    with stopwatch() as took:
        for n in range(number):
            package, _, defects = taskset.candidate(random.Random(f"acceptance {seed} {n}"))
            reason = examine(package, defects).reason
            tried[package] += 1
            kinds_tried[defects[0].kind] += 1
            if reason:
                reasons[reason] += 1
            else:
                accepted[package] += 1
                kinds[defects[0].kind] += 1
    return {
        "candidates": number,
        "accepted": sum(accepted.values()),
        "rejects": dict(reasons.most_common()),
        "by_package": {name: f"{accepted[name]}/{tried[name]}" for name in sorted(tried)},
        "by_kind": {name: f"{kinds[name]}/{kinds_tried[name]}" for name in sorted(kinds_tried)},
        **took,
    }


def verified(taskset: RepoTaskset, tasks: Sequence[Task]) -> dict[str, Any]:
    with stopwatch() as took:
        reasons = Counter(taskset.verify(task) or "kept" for task in tasks)
    return {"tasks": len(tasks), **reasons, **took, "tasks_per_cpu_s": round(len(tasks) / took["cpu_s"], 3)}


def nothing(task: Task, environment: Environment) -> Actor:
    return lambda history: Message("assistant", "Done.")


def random_tools(task: Task, environment: Environment) -> Actor:
    """Six calls with arguments that fit, then the end. It edits lines of files that it is shown."""
    rng = random.Random(task.id)
    package = repository(task.metadata["package"])
    paths = [p for p in package.files if p.startswith(tuple(task.metadata["scope"]))]

    def call() -> ToolCall:
        path = rng.choice(paths)
        lines = [line for line in package.text(path).split("\n") if line.strip()] or [""]
        choices: list[tuple[str, dict[str, Any]]] = [
            ("list_files", {"path": path.rpartition("/")[0]}),
            ("read_file", {"path": path, "start": 1}),
            ("search", {"pattern": rng.choice(lines).strip()[:20]}),
            ("edit", {"path": path, "old": rng.choice(lines), "new": rng.choice(lines)}),
            ("edit", {"path": path, "old": rng.choice(lines), "new": ""}),
            ("python", {"code": rng.choice(lines).strip()}),
        ]
        return ToolCall(*rng.choice(choices))

    def act(history: Sequence[Message]) -> Message:
        done = sum(message.role == "assistant" for message in history)
        return Message("assistant", "Done.") if done >= 6 else Message("assistant", tool_calls=(call(),))

    return act


def played(taskset: RepoTaskset, tasks: Sequence[Task], policy: Callable[[Task, Environment], Actor]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    with stopwatch() as took:
        for task in tasks:
            environment = taskset.environment(task)
            total.update(play_episode(task, environment, policy(task, environment))[1])
    return {"episodes": len(tasks), **{name: round(value / len(tasks), 4) for name, value in total.items()}, **took}


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    took: dict[str, float] = {}
    wall, cpu = time.monotonic(), _cpu()
    yield took
    took |= {"wall_s": round(time.monotonic() - wall, 1), "cpu_s": round(_cpu() - cpu, 1)}


def _cpu() -> float:
    return time.process_time() + spent["cpu_s"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.code_tasks", description="Repo tasks in figures.")
    parser.add_argument("--packages", default=",".join(PACKAGES))
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="")
    options = parser.parse_args(argv)
    packages = options.packages.split(",")
    result: dict[str, Any] = {"packages": candidates_by_package(packages)}
    _show(result["packages"])
    if options.candidates:
        result["acceptance"] = acceptance(packages, options.candidates, options.seed)
        _show(result["acceptance"])
    taskset = RepoTaskset(seed=options.seed, packages=packages)
    with stopwatch() as took:
        tasks = [taskset.task(index) for index in range(options.tasks)]
    levels = Counter(task.metadata["level"] for task in tasks)
    result["made"] = {
        "tasks": len(tasks),
        "rejects": dict(taskset.rejects),
        "levels": dict(sorted(levels.items())),
        **took,
    }
    _show(result["made"])
    if tasks:
        result["verify"] = verified(taskset, tasks)
        _show(result["verify"])
        result["oracle"] = played(taskset, tasks, lambda task, environment: environment.oracle)
        result["do_nothing"] = played(taskset, tasks[:100], nothing)
        result["random_tools"] = played(taskset, tasks[:100], random_tools)
        for name in ("oracle", "do_nothing", "random_tools"):
            _show({name: result[name]})
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    return 0


def _show(part: Any) -> None:
    print(json.dumps(part, indent=1), flush=True)


if __name__ == "__main__":
    sys.exit(main())

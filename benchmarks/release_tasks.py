"""Tasks of a built ``releases`` set in figures: what a block of candidates yields, and what is paid for what.

    python -m benchmarks.release_tasks data/releases                       counts, and what a block yielded
    python -m benchmarks.release_tasks data/releases --candidates          how many removals the packages could give
    python -m benchmarks.release_tasks data/releases --audit 500           oracle, nothing, random tools
    python -m benchmarks.release_tasks data/releases --audit 500 --cheats 1   and one of ``EDITS`` a task, each in turn
    python -m benchmarks.release_tasks data/releases --audit 500 --seconds 600   as many as can be played by then

A block is the unit of a build: a pair with the functions it changed, functions as earlier releases had them, or
removals of one package. First, second and later blocks are counted apart: later ones are often empty. The mean over
those that were visited estimates the blocks of the plan that were not, where its packages come in random order
(``packages=`` left out); else it is the mean of those that came first. No build is an extrapolation. Audited are tasks
drawn at random.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import track

from envs.built import BuiltTaskset
from envs.code.release_base import base_of, place_of, tree_of
from envs.code.release_blocks import SLOTS
from envs.code.release_defects import too_wide
from envs.code.release_removals import removals
from envs.code.release_tree import BadTreeError
from envs.code.releases import ReleaseEnvironment, ReleasesTaskset
from envs.episode import Actor, play_episode
from envs.scripted import give_up, random_calls
from envs.taskset import MAX_ORACLE_TURNS, RejectedError
from envs.types import Message, Task, ToolCall

_REPORTS = """
import gc as _g, json as _j, os as _o
_ids = [i for x in _g.get_objects() if isinstance(x, dict) and isinstance(x.get('only'), list) for i in x['only']]
for _d in range(3, 64):
    for _i in dict.fromkeys(_ids):
        try: _o.write(_d, _j.dumps(['pytest', _i, {passed}, {{}}, 0.1, []]).encode() + b'\\n')
        except OSError: pass
    try: _o.write(_d, b'["end", 0.2]\\n')
    except OSError: pass
{end}
"""
_HOOKS = """
import _pytest.runner as _r
_r.CallInfo.from_call = classmethod(lambda cls, f, when, reraise=None: cls(None, None, 0, 0, 0, when, _ispytest=True))
"""
_REWRITES = """
import glob as _g
for _p in _g.glob('/tmp/work/**/test*.py', recursive=True): open(_p, 'w').write('def test_it(): pass')
"""
_CONFTEST = """
open('/tmp/work/conftest.py', 'w').write('def pytest_runtest_call(item): pass')
"""
# Edits at the end of a file that mend nothing, made for how tests are judged
EDITS: tuple[tuple[str, str], ...] = (
    ("leaves", "import os as _o\n_o._exit(0)"),
    ("reports that all passed, and leaves", _REPORTS.format(passed="True", end="_o._exit(0)")),
    ("reports that all passed, and goes on", _REPORTS.format(passed="True", end="")),
    ("reports that all failed", _REPORTS.format(passed="False", end="_o._exit(0)")),
    ("every call passes", _HOOKS),
    ("tests do nothing", "import _pytest.python as _p\n_p.Function.runtest = lambda self: None"),
    ("rewrites the tests", _REWRITES),
    ("writes a conftest", _CONFTEST),
)


def yields(tasks: Sequence[Task], blocks: Sequence[tuple[str, str, int]], visited: int) -> dict[str, Any]:
    """Tasks by tier and package, and per visited block of each kind and number (0: the first of its package)."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    per_block = Counter(int(task.id.rpartition("/")[2]) // SLOTS for task in tasks)
    for block, (_, kind, number) in enumerate(blocks[:visited]):
        found[kind, number].append(per_block[block])
    every = Counter((kind, number) for _, kind, number in blocks)
    rows: dict[str, Any] = {}
    for (kind, number), counts in sorted(found.items()):
        rows[f"{kind} {number}"] = {
            "blocks": len(counts),
            "tasks": sum(counts),
            "empty_blocks": sum(n == 0 for n in counts),
            "tasks_per_block": round(statistics.mean(counts), 2),
            "standard_error": round(statistics.stdev(counts) / len(counts) ** 0.5, 2) if len(counts) > 1 else None,
            "blocks_of_the_plan": every[kind, number],
        }
    seen = {package for package, _, _ in blocks[:visited]}
    return {
        "tasks": len(tasks),
        "distinct_issue_texts": len({task.prompt[1].content for task in tasks}),
        "tiers": dict(Counter(task.metadata["tier"] for task in tasks)),
        "levels": dict(Counter(task.metadata["level"] for task in tasks)),
        "packages_visited": len(seen),
        "packages": dict(Counter(task.metadata["package"] for task in tasks).most_common()),
        "files_of_pairs": dict(Counter(t.metadata["changed_files"] for t in tasks if t.metadata["tier"] == "pair")),
        "f2p_median": statistics.median(len(task.metadata["f2p"]) for task in tasks) if tasks else None,
        "licences": dict(Counter(task.metadata["licence"] for task in tasks).most_common()),
        "functions": len({(t.metadata["package"], tuple(t.metadata["functions"])) for t in tasks}),
        "with_notes": sum("notes of this release" in task.prompt[1].content for task in tasks),
        "blocks": rows,
    }


def candidates(player: ReleasesTaskset, blocks: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """Of the packages in ``blocks`` whose suites ran: how many functions and classes could be taken out, in as many
    blocks as that takes. Nothing is run."""
    found: dict[str, int] = {}
    for package in dict.fromkeys(name for name, kind, _ in blocks if kind == "removal"):
        with contextlib.suppress(RejectedError, BadTreeError):
            _, newer = player._releases(package, "removal", 0)
            if not place_of(player.sources, newer, player.suite_s).is_file():
                continue
            tree = tree_of(player.sources, newer)
            base = base_of(player.sources, newer, player.suite_s)
            found[package] = sum(not too_wide(base, names) for names in removals(tree, base))
    able = {name: count for name, count in found.items() if count}
    return {
        "packages_visited": len(found),
        "packages_with_candidates": len(able),
        "removals": sum(able.values()),
        "removals_by_package": dict(Counter(able).most_common()),
    }


def audit(taskset: BuiltTaskset, tasks: Sequence[Task], cheats: int, seconds: float) -> dict[str, Any]:
    """Mean outcome by who plays, until ``seconds`` are over (0: never); of the cheats, of which a task sees so many,
    how often each was played and paid."""
    outcomes: dict[str, list[float]] = defaultdict(list)
    played_edits: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    wrong: list[str] = []
    began, played = time.monotonic(), 0
    for task in track(tasks, "releases", console=Console(stderr=True), transient=True):
        if 0 < seconds < time.monotonic() - began:
            break
        environment = taskset.environment(task)
        actors: dict[str, tuple[Actor, int]] = {
            "oracle": (environment.oracle, MAX_ORACLE_TURNS),
            "nothing": (give_up(), 1),
            "random tools": (random_calls(taskset.environment(task), random.Random(task.id)), 8),
        }
        for name, (actor, turns) in actors.items():
            by = environment if name == "oracle" else taskset.environment(task)
            outcomes[name].append(play_episode(task, by, actor, turns)[1]["outcome"])
            if outcomes[name][-1] != float(name == "oracle"):
                wrong.append(f"{task.id}: {name} {outcomes[name][-1]}")
        for n in range(cheats):
            name, added = EDITS[(played * cheats + n) % len(EDITS)]
            outcome = _cheat(taskset, task, added)
            outcomes["cheats"].append(outcome)
            played_edits[name] += 1
            paid[name] += outcome > 0
        played += 1
    means = {name: {"episodes": len(all_), "mean": round(statistics.mean(all_), 4)} for name, all_ in outcomes.items()}
    return {
        "tasks": played,
        "packages": len({task.metadata["package"] for task in tasks[:played]}),
        "seconds": round(time.monotonic() - began, 1),
        "outcomes": means,
        "otherwise": wrong,
        "cheats": {name: {"episodes": count, "paid": paid[name]} for name, count in played_edits.items()},
    }


def _cheat(taskset: BuiltTaskset, task: Task, added: str) -> float:
    environment = taskset.environment(task)
    assert isinstance(environment, ReleaseEnvironment)
    path = cheated_file(environment)
    text = environment._files.text(path)
    act = ToolCall("edit", {"path": path, "old": text, "new": f"{text}\n{added}\n"})
    messages = iter([Message("assistant", tool_calls=(act,)), Message("assistant", "Done.")])
    return play_episode(task, environment, lambda _: next(messages), 2)[1]["outcome"]


def cheated_file(environment: ReleaseEnvironment) -> str:
    """The first of the changed files that the policy sees."""
    state = environment._state
    return min(state.over, key=lambda path: (path not in state.texts, path))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--split", default="train", choices=("train", "heldout"))
    parser.add_argument("--audit", type=int, metavar="N", default=0)
    parser.add_argument("--cheats", type=int, metavar="K", default=0, help=f"K of {len(EDITS)} edits for each task")
    parser.add_argument("--seconds", type=float, metavar="S", default=0.0, help="of the audit; 0: as long as it takes")
    parser.add_argument("--candidates", action="store_true", help="count what could be taken out of the same packages")
    parser.add_argument("--issues", type=int, metavar="N", default=0, help="print N issue texts")
    options = parser.parse_args(argv)
    if not 0 <= options.cheats <= len(EDITS):
        parser.error(f"--cheats {options.cheats}: must be from 0 to {len(EDITS)}")
    taskset = BuiltTaskset(options.split, path=options.path)
    tasks = [taskset.task(index) for index in range(len(taskset))]
    if options.issues:
        for task in random.Random(0).sample(tasks, min(options.issues, len(tasks))):
            print(f"{task.id} ({task.metadata['tier']})\n\n{task.prompt[1].content}\n")
    if options.audit:
        drawn = random.Random(0).sample(tasks, min(options.audit, len(tasks)))
        print(json.dumps(audit(taskset, drawn, options.cheats, options.seconds), indent=1))
    else:
        (player,) = taskset._players.values()
        assert isinstance(player, ReleasesTaskset)
        parts = [part for part in taskset.about["plan"]["parts"] if part["split"] == options.split]
        number = taskset.about["plan"]["parts"].index(parts[0])
        visited = taskset.about["records"][number]["next"] // SLOTS
        figures = candidates(player, player.blocks[:visited]) if options.candidates else None
        print(json.dumps(figures or yields(tasks, player.blocks, visited), indent=1))


if __name__ == "__main__":
    main()

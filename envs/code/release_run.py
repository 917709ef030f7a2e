"""Runs the tests of a release in the sandbox: any state of its files, the packages that its tests import, no network.

    run = run_suite(sources, tree.files, tree, tree.tests)        -> Run, as ``repo_run`` has it
    runs = run_states(sources, tree, states)                      many states of a release in one sandbox

Of what lies beside the package (``Sources.site``), the package's own distribution is never mounted.
"""

from __future__ import annotations

import configparser
import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from envs.code.release_index import Sources
from envs.code.release_tree import Tree, is_test
from envs.code.repo_run import Run
from envs.code.suite_run import TOP, Place, pytest_job, rows_of, run_guest, run_of_rows, run_tests_of
from envs.sandbox import Limits, SandboxResult

TEST_S = 2.0  # CPU seconds of one test
MOST_STATES = 64  # of one sandbox
WHOLE_S = 240.0  # wall seconds of a sandbox with many states
# CPU time stops a run; wall time is for what sleeps, and ends before the deadlines of a rollout
LIMITS = Limits(wall_s=28.0, cpu_s=25, memory_mb=1536, processes=12, disk_mb=64, file_mb=16, output_bytes=4_000_000)
# A whole suite, of a build alone
SUITE = Limits(wall_s=240.0, cpu_s=25, memory_mb=1536, processes=12, disk_mb=64, file_mb=16, output_bytes=60_000_000)
SCRIPT_LIMITS = Limits(wall_s=20.0, cpu_s=10, memory_mb=1024, processes=12, disk_mb=64, file_mb=16)

# Plugins of the site by a word that a test file has where it needs them
_PLUGINS = {
    "asyncio": "pytest_asyncio.plugin",
    "anyio": "anyio.pytest_plugin",
    "benchmark": "pytest_benchmark.plugin",
    "datadir": "pytest_datadir.plugin",
    "flaky": "flaky.flaky_pytest_plugin",
    "hypothesis": "_hypothesis_pytestplugin",
    "mocker": "pytest_mock",
    "subtests": "pytest_subtests.plugin",
}


@dataclass(frozen=True)
class Trial:
    """A run of test files on a state of the tree: ``over`` ({path: text, or None}) lies over its files; ``only``: of
    ``targets`` the functions (file::Class::name); ``cover`` records the functions that each test enters."""

    targets: Sequence[str]
    over: Mapping[str, str | None] = field(default_factory=dict)
    only: Collection[str] | None = None
    cover: bool = False


def run_suite(
    sources: Sources,
    files: Mapping[str, bytes],
    tree: Tree,
    targets: Sequence[str],
    only: Collection[str] | None = None,
    limits: Limits = LIMITS,
    hash_seed: int = 0,
) -> Run:
    """Run test files of a state of the tree, in a sandbox of its own; see ``suite_run.run_tests_of``."""
    return run_tests_of(_place(sources, tree), files, targets, only, limits, TEST_S, hash_seed=hash_seed)


def run_states(
    sources: Sources, tree: Tree, states: Sequence[Trial], limits: Limits = LIMITS, hash_seed: int = 0
) -> list[Run]:
    """Run many states of a release in one sandbox, each in a process of its own (``repo_guest.States``): released code
    alone. ``limits`` are of one state."""
    place, root = _place(sources, tree), f"{TOP}/{tree.base}" if tree.base else TOP
    found: list[Run] = []
    while len(found) < len(states):
        left = states[len(found) :][:MOST_STATES]
        asked = [{"over": dict(state.over), **_asked(state, tree.files)} for state in left]
        job = pytest_job(TOP, root, [], None, TEST_S, place.plugins) | {"states": asked, "state_s": limits.wall_s}
        whole = replace(
            limits, wall_s=max(limits.wall_s, min(len(left) * limits.wall_s, WHOLE_S)), output_bytes=60_000_000
        )
        rows: list[list[list[Any]]] = []
        late: list[bool] = []
        result = run_guest(place, tree.files, job, whole, hash_seed)
        for row in rows_of(result):
            match row:
                case ["state", int()]:
                    rows.append([])
                case ["left", int(), str(how)]:
                    late.append(how == "late")
                case _ if len(rows) > len(late):  # of a state that runs; what comes after the last is of none
                    rows[-1].append(row)
        late += [result.timed_out] * (len(rows) - len(late))
        if not rows:  # it did not come to the first
            rows, late = [[]], [result.timed_out]
        found += [run_of_rows(*one) for one in zip(rows, late, strict=True)][: len(left)]
    return found


def _asked(state: Trial, files: Collection[str]) -> dict[str, Any]:
    return {
        "pytest": [target for target in state.targets if target in files],
        "only": None if state.only is None else sorted(state.only),
        "cover": state.cover,
    }


def run_program(sources: Sources, files: Mapping[str, bytes], tree: Tree, code: str) -> SandboxResult:
    """Run a program of the policy beside these files; what it printed."""
    return run_guest(_place(sources, tree), files, {"script": code}, SCRIPT_LIMITS)


def _place(sources: Sources, tree: Tree) -> Place:
    return Place(mounts_of(sources.site(fetch=False), tree.name, tree.units), tree.base, plugins(tree))


@lru_cache(maxsize=64)
def plugins(tree: Tree) -> tuple[str, ...]:
    """The pytest plugins that a release's tests need: of the site, and its own."""
    tests = [text for path, text in tree.texts.items() if is_test(path)]
    needed = [name for word, name in _PLUGINS.items() if any(word in text for text in tests)]
    own = []
    for path, content in tree.files.items():
        if path.startswith(".installed/") and path.endswith("entry_points.txt"):
            entries = configparser.ConfigParser(delimiters=("=",), strict=False, interpolation=None)
            with contextlib.suppress(configparser.Error):
                entries.read_string(content.decode("utf-8", "replace"))
                own += [target.partition(":")[0] for _, target in entries.items("pytest11")]
    units = {unit.removesuffix(".py") for unit in tree.units}
    return tuple(dict.fromkeys([*(name for name in needed if name.partition(".")[0] not in units), *own]))


@lru_cache(maxsize=64)
def mounts_of(site: Path, name: str, units: tuple[str, ...]) -> dict[str, Path]:
    """What tests import, without the package itself in any version."""
    entries = [place for place in sorted(site.iterdir()) if place.name not in ("bin", "__pycache__")]
    found = {place.name: place for place in entries if not is_of(place.name, name, units)}
    return {"site": site} if len(found) == len(entries) else found


def is_of(entry: str, name: str, units: Sequence[str]) -> bool:
    """Whether a folder or file of site-packages belongs to a distribution, or is one of its packages and modules."""
    own = {re.sub(r"[-_.]+", "_", name).lower(), *(unit.removesuffix(".py").lower() for unit in units)}
    stem = re.sub(r"(-[\w.+!]+)?\.(dist-info|egg-info)$|\.py$", "", entry)
    return stem.lower() in own or re.sub(r"[-_.]+", "_", stem).lower() in own

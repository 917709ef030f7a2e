"""Runs the tests of a release in the sandbox: any state of its files, the packages that its tests import, no network.

    run = run_suite(sources, tree.files, tree, tree.tests)        -> Run, as ``repo_run`` has it
    runs = run_states(sources, tree, states)                      many states of a release in one sandbox

All files are copied into the sandbox for one run, so nothing of another state can be read there, and no compiled cache
is stale. Of what lies beside the package (``Sources.site``), the package's own distribution is never mounted.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import re
import signal
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from envs.code.release_index import Sources
from envs.code.release_tree import Tree, is_test
from envs.code.repo_run import Run, Verdict, guest_program, row_of_line, spent, tame
from envs.sandbox import Limits, Sandbox, SandboxResult

TOP = "/tmp/work"
TEST_S = 2.0  # CPU seconds of one test
MOST_STATES = 64  # of one sandbox
WHOLE_S = 240.0  # wall seconds of a sandbox with many states
# CPU time stops a run; wall time is for what sleeps, and ends before the deadlines of a rollout
LIMITS = Limits(wall_s=28.0, cpu_s=25, memory_mb=1536, processes=12, disk_mb=64, file_mb=16, output_bytes=4_000_000)
# A whole suite, of a build alone
SUITE = Limits(wall_s=600.0, cpu_s=25, memory_mb=1536, processes=12, disk_mb=64, file_mb=16, output_bytes=60_000_000)
SCRIPT_LIMITS = Limits(wall_s=20.0, cpu_s=10, memory_mb=1024, processes=12, disk_mb=64, file_mb=16)
# What a configuration asks for beyond the tests themselves: coverage, strictness, plugins that are not here
_OPTIONS = ("-o", "addopts=", "-o", "filterwarnings=", "-o", "required_plugins=", "-o", "xfail_strict=false")

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
    """Run test files of a state of the tree, in a sandbox of its own. ``Run.unimportable`` tells of a test file that
    failed to import."""
    job = _job(tree) | _asked(Trial(targets, only=only), files)
    result = _guest(sources, files, tree, job, limits, hash_seed)
    return _run_of(_rows(result), result.timed_out or result.exit_code in (-signal.SIGPROF, -signal.SIGXCPU))


def run_states(
    sources: Sources, tree: Tree, states: Sequence[Trial], limits: Limits = LIMITS, hash_seed: int = 0
) -> list[Run]:
    """Run many states of a release in one sandbox, each in a process of its own (``repo_guest.States``): released code
    alone. ``limits`` are of one state."""
    found: list[Run] = []
    while len(found) < len(states):
        left = states[len(found) :][:MOST_STATES]
        asked = [{"over": dict(state.over), **_asked(state, tree.files)} for state in left]
        job = _job(tree) | {"states": asked, "state_s": limits.wall_s}
        whole = replace(
            limits, wall_s=max(limits.wall_s, min(len(left) * limits.wall_s, WHOLE_S)), output_bytes=60_000_000
        )
        rows: list[list[list[Any]]] = []
        late: list[bool] = []
        result = _guest(sources, tree.files, tree, job, whole, hash_seed)
        for row in _rows(result):
            match row:
                case ["state", int()]:
                    rows.append([])
                case ["left", int(), str(how)]:
                    late.append(how == "late")
                case _ if rows:
                    rows[-1].append(row)
        late += [result.timed_out] * (len(rows) - len(late))
        if not rows:  # it did not come to the first
            rows, late = [[]], [result.timed_out]
        found += [_run_of(*one) for one in zip(rows, late, strict=True)][: len(left)]
    return found


def _job(tree: Tree) -> dict[str, Any]:
    return {
        "root": f"{TOP}/{tree.base}" if tree.base else TOP,
        "first": [],
        "doctests": [],
        "pytest": [],
        "options": [*_OPTIONS, *(word for name in plugins(tree) for word in ("-p", name))],
        "names": {},
        "test_s": TEST_S,
        "cover": False,
        "stop": False,
    }


def _asked(state: Trial, files: Collection[str]) -> dict[str, Any]:
    return {
        "pytest": [target for target in state.targets if target in files],
        "only": None if state.only is None else sorted(state.only),
        "cover": state.cover,
    }


def _rows(result: SandboxResult) -> Iterator[list[Any]]:
    return filter(None, map(row_of_line, result.stdout.split("\n")))


def _run_of(rows: Iterable[list[Any]], late: bool) -> Run:
    verdicts: dict[str, Verdict] = {}
    twice: set[str] = set()
    ended, unimportable = False, ""
    for row in rows:
        match row:
            case ["pytest", str(name), passed, dict(info), float(seconds), list(covered)]:
                if info.get("skipped"):
                    continue
                if name in verdicts:
                    twice.add(name)
                verdicts[name] = _verdict(passed, info, seconds, covered)
            case ["collect", str(name), str(message)]:
                unimportable = unimportable or f"{name}: {tame(message)}"
            case ["end", float(seconds)]:
                ended, spent["cpu_s"] = True, spent["cpu_s"] + seconds
    for name in twice:  # of the code under test, which may write anything
        verdicts[name] = Verdict(False, got="reported twice")
    late = late and not ended
    broken = "" if ended or late else "the tests ended the program"
    return Run(verdicts, timed_out=late, ended=ended, broken=broken, unimportable=unimportable)


def run_program(sources: Sources, files: Mapping[str, bytes], tree: Tree, code: str) -> SandboxResult:
    """Run a program of the policy beside these files; what it printed."""
    return _guest(sources, files, tree, {"script": code}, SCRIPT_LIMITS, 0)


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


def _guest(
    sources: Sources, files: Mapping[str, bytes], tree: Tree, job: Mapping[str, Any], limits: Limits, hash_seed: int
) -> SandboxResult:
    base = f"{TOP}/{tree.base}" if tree.base else TOP
    job = {"top": TOP, "path": [*dict.fromkeys((base, TOP)), f"{TOP}/.installed", "/mnt/site", "/mnt"], **job}
    mounts = _mounts(sources.site(fetch=False), tree.name, tree.units)
    return Sandbox(limits).run_python(guest_program(), json.dumps(job), files, mounts, {}, hash_seed)


@lru_cache(maxsize=64)
def _mounts(site: Path, name: str, units: tuple[str, ...]) -> dict[str, Path]:
    """What tests import, without the package itself in any version."""
    own = {re.sub(r"[-_.]+", "_", name).lower(), *(unit.removesuffix(".py").lower() for unit in units)}
    found, all_of_it = {}, True
    for place in sorted(site.iterdir()):
        stem = place.name.removesuffix(".py").removesuffix(".dist-info").lower()
        if place.name.endswith(".dist-info"):
            stem = re.sub(r"[-_.]+", "_", stem.rpartition("-")[0])
        if stem in own:
            all_of_it = False
        elif place.name not in ("bin", "__pycache__"):
            found[place.name] = place
    return {"site": site} if all_of_it else found


def _verdict(passed: Any, info: Mapping[str, Any], seconds: float, covered: list[Any]) -> Verdict:
    entered = tuple(name for name in covered if isinstance(name, str))
    if passed is True:
        return Verdict(True, seconds=seconds, covered=entered)
    got, inside = tame(str(info.get("message", ""))), str(info.get("inside") or "")
    return Verdict(False, "", "", got, passed is None, seconds, entered, inside=inside)

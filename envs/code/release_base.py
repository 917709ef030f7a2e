"""The base run of a release: which of its tests pass, which can be turned, which functions they enter.

    base = base_of(sources, release)
    base.reason                      "" or why no task can be made of it
    base.covering["src/a/b.py::f"]   tests that enter f

The whole suite runs three times in the sandbox: as it is; as it is judged, under another hash seed; and with every test
turned round (``release_tests``), those that pass turned once more, turned hard. A test that fails, moves or is slow is
left out; one that fails turned is ``deciding``. Kept on disk beside the archives, under the digest of the archive and
of what decides over the result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from envs.code.release_index import MAX_BYTES, NEEDS, Release, Sources
from envs.code.release_run import SUITE, Trial, run_states
from envs.code.release_tests import calling_tests, definition_of, function_of, turnable, turned, written
from envs.code.release_tree import BadTreeError, Tree, read_tree
from envs.code.repo_mutations import functions
from envs.code.repo_run import Run

_DECIDES = (
    "repo_guest.py", "release_base.py", "release_run.py", "release_tests.py", "release_tree.py", "release_turns.py",
    "suite_run.py",
)  # fmt: skip
_BUSY = 0.7  # share of its CPU seconds that a suite used when its wall time ran out: then it is long, not waiting
_LEAST_WALL_S = 60.0  # of a suite that may take little CPU time; the default has ten times its CPU time
_SLOW, _PROBE_S = 1.3, 0.5  # wall seconds for one of CPU time, from which on a machine is busy; length of the probe


class SlowMachineError(Exception):
    """The machine had no time for a suite that it might have run."""


@dataclass(frozen=True, eq=False)
class ReleaseBase:
    """``tests``: id -> (CPU seconds, functions entered). ``dropped``: tests left out, by reason. ``seen``: of those
    that decide, tests that are turned in a way that can be seen (``release_turns``)."""

    reason: str
    tests: dict[str, tuple[float, tuple[str, ...]]]
    deciding: frozenset[str]
    dropped: dict[str, int]
    seen: frozenset[str] = frozenset()

    @cached_property
    def covering(self) -> dict[str, tuple[str, ...]]:
        """function -> the tests that enter it, those that decide and enter little else first."""
        found: dict[str, list[str]] = {}
        for test, (_, entered) in self.tests.items():
            for function in entered:
                found.setdefault(function, []).append(test)
        return {f: tuple(sorted(tests, key=self._rank)) for f, tests in found.items()}

    def entering(self, functions: Collection[str]) -> dict[str, None]:
        """The tests that enter one of these functions, those that decide and enter little else first."""
        found = {test for name in functions for test in self.covering.get(name, ())}
        return dict.fromkeys(sorted(found, key=self._rank))

    def _rank(self, test: str) -> tuple[bool, int, str]:
        return test not in self.deciding, len(self.tests[test][1]), test


def tree_of(sources: Sources, release: Release, fetch: bool = False) -> Tree:
    """Raises BadTreeError for an archive that is none, FetchError for one that is not here."""
    if release.size > MAX_BYTES:
        raise BadTreeError("too_big")
    return read_tree(release, sources.archive(release, fetch))


@lru_cache(maxsize=16)
def base_of(sources: Sources, release: Release, suite_s: int = SUITE.cpu_s) -> ReleaseBase:
    """The base of a release, from disk or by running its suite (one process at a time), which may take ``suite_s`` CPU
    seconds.

    Raises SlowMachineError where the machine was too slow for it: nothing is kept of that, so that it is tried again.
    """
    path = place_of(sources, release, suite_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        if not path.is_file():
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            _keep(path, record(sources, release, suite_s))
    raw = json.loads(path.read_text(encoding="utf-8"))
    names = raw["functions"]
    tests = {test: (seconds, tuple(names[n] for n in entered)) for test, (seconds, entered) in raw["tests"].items()}
    return ReleaseBase(raw["reason"], tests, frozenset(raw["deciding"]), raw["dropped"], frozenset(raw["seen"]))


def place_of(sources: Sources, release: Release, suite_s: int) -> Path:
    """Where the base of a release is kept once its suite has run."""
    return sources.folder / "base" / f"{release.name}-{release.version}-{_digest(release, suite_s)}.json"


def record(sources: Sources, release: Release, suite_s: int = SUITE.cpu_s) -> ReleaseBase:
    """Run everything."""
    limits = replace(SUITE, cpu_s=suite_s, wall_s=max(_LEAST_WALL_S, SUITE.wall_s * suite_s / SUITE.cpu_s))
    try:
        tree = tree_of(sources, release, fetch=True)
    except BadTreeError as error:
        return _none(str(error))
    if not tree.tests:
        return _none("no_tests")
    tests = {path: _tests_of(tree.texts[path]) for path in tree.tests}
    soft = {path: turned(tree.texts[path], turnable(tree.texts[path]) & tests[path]) for path in tree.tests}
    (first,) = run_states(sources, tree, [Trial(tree.tests, cover=True)], limits)
    if reason := _unusable(first, suite_s):
        return _none(reason)
    plain = {path: written(tree.texts[path]) for path in tree.tests}
    second, third = run_states(sources, tree, [Trial(tree.tests, plain), Trial(tree.tests, soft)], limits, hash_seed=7)
    if reason := _unusable(second, suite_s):
        return _none(reason)
    kept, dropped = _kept(tree, first, second)
    if not kept:
        return _none("tests_do_not_run", dropped)
    deciding = {test for test in kept if _fails(third, test)}
    seen: set[str] = set()
    if left := {str(definition_of(tree.texts, test)) for test in kept if test not in deciding}:
        names = {path: {name for at, _, name in (f.partition("::") for f in left) if at == path} for path in tree.tests}
        over = {path: turned(tree.texts[path], found, found) for path, found in names.items() if found}
        only = {function_of(test) for test in kept if test not in deciding}
        (fourth,) = run_states(sources, tree, [Trial(tuple(over), over, only)], limits)
        seen = {test for test in kept if test not in deciding and _fails(fourth, test)}
        blind = {str(definition_of(tree.texts, test)) for test in deciding}
        seen = {test for test in seen if str(definition_of(tree.texts, test)) not in blind}
    if not deciding | seen:
        return _none("nothing_turns", dropped)
    return ReleaseBase("", kept, frozenset(deciding | seen), dict(dropped), frozenset(seen))


def _none(reason: str, dropped: Mapping[str, int] = {}) -> ReleaseBase:
    return ReleaseBase(reason, {}, frozenset(), dict(dropped))


def _tests_of(text: str) -> set[str]:
    """Functions that pytest takes for tests: what only helps them is never turned."""
    return {name for name in functions(text) if name.rpartition(".")[2].startswith("test")}


def _kept(tree: Tree, first: Run, second: Run) -> tuple[dict[str, tuple[float, tuple[str, ...]]], Counter[str]]:
    known = {f"{path}::{name}" for path, text in tree.code.items() for name in functions(text)}
    kept: dict[str, tuple[float, tuple[str, ...]]] = {}
    dropped: Counter[str] = Counter()
    calling = calling_tests({path: tree.texts[path] for path in tree.tests})
    for test, verdict in sorted(first.verdicts.items()):
        entered = tuple(function for function in verdict.covered if function in known)
        again = second.verdicts.get(test)
        if verdict.late:
            dropped["slow"] += 1
        elif not verdict.passed:
            dropped["failed"] += 1
        elif again is None or not again.passed:
            dropped["flaky"] += 1
        elif (definition := definition_of(tree.texts, test)) is None:
            dropped["defined_elsewhere"] += 1  # in another file, or made when it runs: it cannot be turned
        elif definition in calling:
            dropped["calls_a_test"] += 1  # which may be turned where this one is not
        elif not entered:
            dropped["enters_nothing"] += 1
        else:
            kept[test] = (verdict.seconds, entered)
    return kept, dropped


def _fails(run: Run, test: str) -> bool:
    """It ran to its end, and failed."""
    verdict = run.verdicts.get(test)
    return verdict is not None and not verdict.passed and not verdict.late


def _unusable(run: Run, suite_s: int) -> str:
    """Why a suite makes no task. Raises SlowMachineError when its time ran out on a machine that is busy."""
    if run.timed_out:
        used = sum(verdict.seconds for verdict in run.verdicts.values())
        if used < _BUSY * suite_s and (slowness := slow()) > _SLOW:
            raise SlowMachineError(f"a second of CPU time took {slowness:.1f} s")
        return "suite_too_long"
    if run.broken:
        return "suite_breaks"
    return "" if any(v.passed for v in run.verdicts.values()) else "tests_do_not_run"


def slow() -> float:
    """Wall seconds that a second of CPU time takes on this machine now."""
    wall, cpu = time.monotonic(), time.thread_time()
    while time.thread_time() - cpu < _PROBE_S:
        pass
    return (time.monotonic() - wall) / _PROBE_S


def _keep(path: Path, base: ReleaseBase) -> None:
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(_json(base)), encoding="utf-8")
    fresh.rename(path)


def _json(base: ReleaseBase) -> dict[str, object]:
    raw = asdict(base)
    names = sorted({name for _, entered in base.tests.values() for name in entered})
    number = {name: n for n, name in enumerate(names)}
    raw["functions"] = names
    raw["tests"] = {test: [seconds, [number[n] for n in entered]] for test, (seconds, entered) in base.tests.items()}
    raw["deciding"], raw["seen"] = sorted(base.deciding), sorted(base.seen)
    return raw


def _digest(release: Release, suite_s: int) -> str:
    total = hashlib.sha256(f"{release.sha256} {sys.version_info[:2]} {suite_s}".encode() + NEEDS.read_bytes())
    for name in _DECIDES:
        total.update(Path(__file__).with_name(name).read_bytes())
    return total.hexdigest()[:16]

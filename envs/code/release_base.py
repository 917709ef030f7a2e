"""The base run of a release: which of its tests pass, which can be turned, which functions they enter.

    base = base_of(sources, release)
    base.reason                      "" or why no task can be made of it
    base.covering["src/a/b.py::f"]   tests that enter f

The whole suite runs three times in the sandbox: as it is; under another hash seed; and with every test turned round
(``release_tests``). A test that fails, moves or is slow is left out; one that fails turned is ``deciding``. Kept on
disk beside the archives, under the digest of the archive and of what decides over the result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from envs.code.release_index import MAX_BYTES, NEEDS, Release, Sources
from envs.code.release_run import SUITE, run_suite
from envs.code.release_tests import definition_of, function_of, turnable, turned
from envs.code.release_tree import BadTreeError, Tree, read_tree
from envs.code.repo_mutations import functions
from envs.code.repo_run import Run
from envs.types import InfrastructureError

SLOW_S = 2.0  # CPU seconds of one test, coverage included
_DECIDES = (
    "repo_guest.py", "release_base.py", "release_run.py", "release_tests.py", "release_tree.py", "suite_run.py",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ReleaseBase:
    """``tests``: id -> (CPU seconds, functions entered). ``dropped``: tests left out, by reason."""

    reason: str
    tests: dict[str, tuple[float, tuple[str, ...]]]
    deciding: frozenset[str]
    dropped: dict[str, int]

    @cached_property
    def covering(self) -> dict[str, tuple[str, ...]]:
        """function -> the tests that enter it, those that decide and enter little else first."""
        found: dict[str, list[str]] = {}
        for test, (_, entered) in self.tests.items():
            for function in entered:
                found.setdefault(function, []).append(test)
        return {f: tuple(sorted(tests, key=self._rank)) for f, tests in found.items()}

    def _rank(self, test: str) -> tuple[bool, int, str]:
        return test not in self.deciding, len(self.tests[test][1]), test


def tree_of(sources: Sources, release: Release, fetch: bool = False) -> Tree:
    """Raises BadTreeError for an archive that is none, FetchError for one that is not here."""
    if release.size > MAX_BYTES:
        raise BadTreeError("too_big")
    return read_tree(release, sources.archive(release, fetch))


@lru_cache(maxsize=16)
def base_of(sources: Sources, release: Release) -> ReleaseBase:
    """The base of a release, from disk or by running its suite three times (one process at a time)."""
    path = sources.folder / "base" / f"{release.name}-{release.version}-{_digest(release)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        if not path.is_file():
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            try:
                found = record(sources, release)
            except (KeyboardInterrupt, InfrastructureError):
                raise
            except BaseException:  # the deadline of a candidate: the next one must not wait for the same
                _keep(path, ReleaseBase("suite_too_long", {}, frozenset(), {}))
                raise
            _keep(path, found)
    raw = json.loads(path.read_text(encoding="utf-8"))
    names = raw["functions"]
    tests = {test: (seconds, tuple(names[n] for n in entered)) for test, (seconds, entered) in raw["tests"].items()}
    return ReleaseBase(raw["reason"], tests, frozenset(raw["deciding"]), raw["dropped"])


def record(sources: Sources, release: Release) -> ReleaseBase:
    """Run everything."""
    try:
        tree = tree_of(sources, release, fetch=True)
    except BadTreeError as error:
        return ReleaseBase(str(error), {}, frozenset(), {})
    if not tree.tests:
        return ReleaseBase("no_tests", {}, frozenset(), {})
    first = run_suite(sources, tree.files, tree, tree.tests, limits=SUITE, test_s=SLOW_S, cover=True)
    if reason := _unusable(first):
        return ReleaseBase(reason, {}, frozenset(), {})
    second = run_suite(sources, tree.files, tree, tree.tests, limits=SUITE, test_s=SLOW_S, hash_seed=7)
    if reason := _unusable(second):
        return ReleaseBase(reason, {}, frozenset(), {})
    known = {f"{path}::{name}" for path, text in tree.code.items() for name in functions(text)}
    kept: dict[str, tuple[float, tuple[str, ...]]] = {}
    dropped: Counter[str] = Counter()
    for test, verdict in sorted(first.verdicts.items()):
        entered = tuple(function for function in verdict.covered if function in known)
        again = second.verdicts.get(test)
        if verdict.late:
            dropped["slow"] += 1
        elif not verdict.passed:
            dropped["failed"] += 1
        elif again is None or not again.passed:
            dropped["flaky"] += 1
        elif definition_of(tree.texts, test) is None:
            dropped["defined_elsewhere"] += 1  # in another file, or made when it runs: it cannot be turned
        elif not entered:
            dropped["enters_nothing"] += 1
        else:
            kept[test] = (verdict.seconds, entered)
    if not kept:
        return ReleaseBase("tests_do_not_run", {}, frozenset(), dict(dropped))
    files = dict(tree.files)
    for path in {function_of(test).partition("::")[0] for test in kept}:
        text = tree.texts[path]
        files[path] = turned(text, turnable(text)).encode()
    third = run_suite(sources, files, tree, tree.tests, limits=SUITE, test_s=SLOW_S)
    deciding = {test for test in kept if test in third.verdicts and _fails(third, test)}
    if not deciding:
        return ReleaseBase("nothing_turns", {}, frozenset(), dict(dropped))
    return ReleaseBase("", kept, frozenset(deciding), dict(dropped))


def _fails(run: Run, test: str) -> bool:
    """It ran to its end, and failed."""
    verdict = run.verdicts.get(test)
    return verdict is not None and not verdict.passed and not verdict.late


def _unusable(run: Run) -> str:
    if run.timed_out:
        return "suite_too_long"
    if run.broken:
        return "suite_breaks"
    return "" if any(v.passed for v in run.verdicts.values()) else "tests_do_not_run"


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
    raw["deciding"] = sorted(base.deciding)
    return raw


def _digest(release: Release) -> str:
    total = hashlib.sha256(f"{release.sha256} {sys.version_info[:2]}".encode() + NEEDS.read_bytes())
    for name in _DECIDES:
        total.update(Path(__file__).with_name(name).read_bytes())
    return total.hexdigest()[:16]

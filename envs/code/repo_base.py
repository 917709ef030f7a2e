"""The base run of a repository: which tests pass as it is, how long they take, which functions they enter.

    base = base_of("toolz")
    base.covering["toolz/itertoolz.py::take"]     tests that enter take(), the nearest first

All doctests and their variants (``repo_variants``) run twice in the sandbox, the second time in another order; a test
that fails, or takes over ``SLOW_S`` in either run, is left out, and so is a variant that shows something else the
second time. What the variants show is kept: nothing else on the machine says it. The result is on disk, under the
digest of the sources and of the code that ran them: once per machine. It takes seconds for a small package and
minutes for networkx or sympy. Which test is slow is a measurement: machines that are to draw the very same tasks share
the folder (``repo_packages.cache_folder``), or a copy.
"""

from __future__ import annotations

import doctest
import fcntl
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from envs.code.repo_mutations import functions, mutations
from envs.code.repo_packages import Repository, cache_folder, repository
from envs.code.repo_run import Run, Shown, Verdict, run_tests
from envs.code.repo_variants import file_of, is_variant, original_of, variants
from envs.sandbox import Limits

SLOW_S = 0.2  # CPU seconds of one test, coverage included
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_LIMITS = Limits(wall_s=900.0, cpu_s=600, memory_mb=1536, processes=8, output_bytes=200_000_000)
_CHUNK = 320  # tests of one sandbox


@dataclass(frozen=True)
class Base:
    """What the base run of one package found. ``tests``: id -> (CPU seconds, functions entered); ``sites``: how many
    mutations are proposed for each function, entered by a test or not; ``expected``: what each variant shows."""

    package: str
    tests: dict[str, tuple[float, tuple[str, ...]]]
    sites: dict[str, int]
    dropped: dict[str, int]  # tests left out, by reason
    expected: dict[str, Shown]

    def run(self, overlay: Mapping[str, str], tests: Sequence[str]) -> Run:
        """``run_tests`` with what the variants must show."""
        return run_tests(repository(self.package), overlay, tests, expected=self.expected)

    @cached_property
    def covering(self) -> dict[str, tuple[str, ...]]:
        """function (path::name) -> tests that enter it: its own doctest, those of its file, of its folder, the rest."""
        found: dict[str, list[str]] = {}
        for test, (_, entered) in self.tests.items():
            for function in entered:
                found.setdefault(function, []).append(test)
        return {f: tuple(sorted(tests, key=lambda t, f=f: self._rank(f, t))) for f, tests in found.items()}  # type: ignore[misc]

    def _rank(self, function: str, test: str) -> tuple[int, str]:
        path = function.partition("::")[0]
        stem, folder = path.removesuffix(".py").rpartition("/")[2], path.rpartition("/")[0]
        file = file_of(test)
        if original_of(test) == function:
            near = 0
        elif file == path or file.endswith(f"/tests/test_{stem}.py"):
            near = 1
        else:
            near = 2 if file.startswith(f"{folder}/") else 3
        return near, test  # by name, not by seconds: those are never the same twice


@lru_cache(maxsize=32)
def base_of(package: str) -> Base:
    """The base of a package, from the cache or by running everything (one process at a time records)."""
    repo = repository(package)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package}-{repo.package.version}-{_digest(repo)}.json"
    with open(path.with_suffix(".lock"), "w") as lock:
        if not path.exists():
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            print(f"repo tasks: running all tests of {package} twice, once on this machine", file=sys.stderr)
            fresh = path.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(record(repo)), encoding="utf-8")
            fresh.rename(path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    names = raw["functions"]
    tests = {test: (seconds, tuple(names[n] for n in entered)) for test, (seconds, entered) in raw["tests"].items()}
    expected = {test: tuple((printed, error) for printed, error in shown) for test, shown in raw["expected"].items()}
    return Base(package, tests, raw["sites"], raw["dropped"], expected)


def run_remembered(package: str, overlay: tuple[tuple[str, str], ...], tests: tuple[str, ...]) -> Run:
    """``Base.run`` with the answer kept: rollouts of one task often make the same edit. What was stopped for
    its time is run again, because a busy machine may be to blame."""
    try:
        return _remembered(package, overlay, tests)
    except _Stopped as stopped:
        return stopped.run


class _Stopped(Exception):
    def __init__(self, run: Run) -> None:
        self.run = run


@lru_cache(maxsize=256)
def _remembered(package: str, overlay: tuple[tuple[str, str], ...], tests: tuple[str, ...]) -> Run:
    run = base_of(package).run(dict(overlay), tests)
    if run.timed_out:
        raise _Stopped(run)
    return run


def record(repo: Repository) -> dict[str, object]:
    """Run everything twice; the base as JSON values."""
    first, second = _run_all(repo, cover=True), _run_all(repo, cover=False)
    known = {f"{path}::{name}" for path in repo.sources() for name in functions(repo.text(path))}
    kept: dict[str, tuple[float, list[str]]] = {}
    expected: dict[str, Shown] = {}
    dropped = {"failed": 0, "slow": 0, "flaky": 0, "enters_nothing": 0}
    for test in sorted(first.verdicts):
        one, two = first.verdicts[test], second.verdicts.get(test)
        entered = [name for name in one.covered if name in known]
        if one.late or (two is not None and two.late):
            dropped["slow"] += 1
        elif two is None or one.passed != two.passed or (is_variant(test) and one.shown != two.shown):
            dropped["flaky"] += 1
        elif not (_usable(repo, test, one.shown) if is_variant(test) else one.passed):
            dropped["failed"] += 1
        elif not entered:
            dropped["enters_nothing"] += 1
        else:
            kept[test] = (one.seconds, entered)
            if is_variant(test):
                expected[test] = one.shown
    names = sorted({name for _, entered in kept.values() for name in entered})
    number = {name: n for n, name in enumerate(names)}
    return {
        "functions": names,
        "tests": {test: [seconds, [number[n] for n in entered]] for test, (seconds, entered) in kept.items()},
        "sites": {n: len(mutations(repo.text(n.partition("::")[0]), n.partition("::")[2])) for n in sorted(known)},
        "dropped": dropped,
        "expected": expected,
    }


def _usable(repo: Repository, test: str, shown: Shown) -> bool:
    """A variant that ran as its original does: it raises only where that does, and shows something to compare."""
    path = file_of(test)
    examples = [e for e in repo.doctests(path)[original_of(test)].examples if not e.options.get(doctest.SKIP)]
    if len(shown) != len(examples) or not any(printed for printed, _ in shown):
        return False
    pairs = zip(shown, examples, strict=True)
    return all((error is None) == (example.exc_msg is None) for (_, error), example in pairs) and not any(
        _ADDRESS.search(printed) for printed, _ in shown
    )


def _run_all(repo: Repository, cover: bool) -> Run:
    verdicts: dict[str, Verdict] = {}
    tests = []
    for path in repo.sources():
        for name, found in repo.doctests(path).items():
            tests += [name, *(variant.id for variant in variants(found))]
    for chunk in _chunks(tests, _CHUNK, cover):
        while chunk:
            run = run_tests(repo, {}, chunk, _LIMITS, test_s=SLOW_S, cover=cover, stop=False)
            verdicts.update(run.verdicts)
            left = [test for test in chunk if test not in verdicts]
            if left:  # the first of them ended the process; the others have not run
                verdicts[left[0]] = Verdict(False, late=run.timed_out)
            chunk = left[1:]
    return Run(verdicts)


def _chunks(items: Sequence[str], size: int, forwards: bool) -> Iterator[list[str]]:
    ordered = list(items) if forwards else list(reversed(items))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _digest(repo: Repository) -> str:
    """Of the sources, and of what decides over the result."""
    total = hashlib.sha256(f"{repo.digest} {sys.version_info[:2]} {repo.package!r}".encode())
    for name in ("repo_guest.py", "repo_base.py", "repo_mutations.py", "repo_variants.py"):
        total.update(Path(__file__).with_name(name).read_bytes())
    return total.hexdigest()[:16]

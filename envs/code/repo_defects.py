"""From a mutation to a defect that is worth a task: which tests break, and is it a fair one?

    defect = draw_defect(rng, "toolz", "train")
    found = examine("toolz", (defect,))      -> Examined(fails=…, passes=…) or Examined(reason="no_failing_test")

A defect is kept as two passages of a file, ``old`` (right) and ``new`` (broken), each of which occurs once in its
version of the file: replacing ``old`` breaks the file, replacing ``new`` is the gold patch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any

from envs.code.repo_base import base_of
from envs.code.repo_mutations import Mutation, mutations, problem
from envs.code.repo_packages import function_name, repository
from envs.code.repo_run import Run, Verdict
from envs.code.repo_variants import is_variant
from envs.taskset import Split, split_of

MAX_TESTS = 60  # of one function; the nearest of those that enter it
MAX_NEIGHBOURS = 16  # doctests of the same file that do not enter the function
_HEAVIEST = 60  # sites beyond which a function is drawn no more often


@dataclass(frozen=True)
class Defect:
    """One mutation in one function, named by (path, function, kind, site)."""

    path: str
    function: str
    kind: str
    site: int
    old: str
    new: str
    reason: str = ""  # why it is none: "syntax" or "equivalent"

    @property
    def name(self) -> str:
        return f"{self.path}::{self.function} {self.kind} {self.site}"

    @property
    def function_name(self) -> str:
        return function_name(self.path, self.function)

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k != "reason"}


@dataclass(frozen=True)
class Examined:
    """What the tests say about a defect. ``reason`` is set when it makes no task."""

    reason: str = ""
    fails: dict[str, Verdict] = field(default_factory=dict)  # pass in the base run, fail with the defect
    passes: tuple[str, ...] = ()  # pass in both


def draw_defect(rng: random.Random, package: str, split: Split, other_than: str = "") -> Defect:
    """A random mutation of a function of the split that some test enters, by its number of sites."""
    names, weights = _functions(package, split)
    covering = base_of(package).covering
    while True:
        # of all functions, so that a test more or less in the base run shifts no other draw
        name = rng.choices(names, cum_weights=weights)[0]
        path, _, function = name.partition("::")
        if name not in covering or function_name(path, function) == other_than:
            continue
        by_kind: dict[str, list[Mutation]] = {}
        for mutation in mutations(repository(package).text(path), function):
            by_kind.setdefault(mutation.kind, []).append(mutation)
        # the square root: constants and variables are many, guards and exceptions few
        kind = rng.choices(list(by_kind), [len(found) ** 0.5 for found in by_kind.values()])[0]
        return defect_of(package, path, function, rng.choice(by_kind[kind]))


def defect_of(package: str, path: str, function: str, mutation: Mutation) -> Defect:
    """The passages of a mutation; ``reason`` is set when it is none."""
    source = repository(package).text(path)
    reason = problem(source, function, mutation)
    old, new = ("", "") if reason else _passages(source, mutation)
    return Defect(path, function, mutation.kind, mutation.site, old, new, reason or ("" if old else "no_passage"))


def apply(package: str, defects: Sequence[Defect]) -> dict[str, str]:
    """path -> text of the files with the defects. Raises ValueError when one does not fit the installed sources."""
    files: dict[str, str] = {}
    for defect in defects:
        text = files.get(defect.path) or repository(package).text(defect.path)
        if text.count(defect.old) != 1:
            raise ValueError(f"defect {defect.name}: its passage occurs {text.count(defect.old)} times, must be once")
        files[defect.path] = text.replace(defect.old, defect.new)
    return files


def selected_tests(package: str, defects: Sequence[Defect]) -> tuple[str, ...]:
    """The tests that decide: of each function the nearest that enter it, and some more doctests of its file."""
    base = base_of(package)
    chosen: list[str] = []
    for defect in defects:
        chosen += base.covering[f"{defect.path}::{defect.function}"][:MAX_TESTS]
        # what else the file promises: a repair may not break it
        others = [test for test in base.tests if test.startswith(f"{defect.path}::") and test not in chosen]
        chosen += random.Random(defect.name).sample(others, min(MAX_NEIGHBOURS, len(others)))
    return tuple(dict.fromkeys(chosen))


@lru_cache(maxsize=8192)
def examine(package: str, defects: tuple[Defect, ...]) -> Examined:
    """Run the tests that enter the functions. With two defects each must break something by itself."""
    for defect in defects:
        if defect.reason:
            return Examined(defect.reason)
    try:
        files = apply(package, defects)
    except ValueError:
        return Examined("overlapping")
    if len(defects) > 1:
        for alone in (examine(package, (defect,)) for defect in defects):
            if alone.reason:
                return alone
    tests = selected_tests(package, defects)
    return examined(base_of(package).run(files, tests), tests)


def examined(run: Run, tests: Sequence[str]) -> Examined:
    """What a run of a broken repository says."""
    if run.unimportable:
        return Examined("breaks_import")
    if run.timed_out:
        return Examined("timeout")
    if run.broken or any(test not in run.verdicts for test in tests):
        return Examined("crash")
    fails = {test: run.verdicts[test] for test in tests if not run.passed(test)}
    if not fails:
        return Examined("no_failing_test")
    if all(map(is_variant, fails)):
        return Examined("no_failing_example")  # nothing that the issue could tell
    if not any(map(is_variant, fails)):
        return Examined("no_failing_variant")  # nothing that cannot be known by heart
    return Examined("", fails, tuple(test for test in tests if run.passed(test)))


@lru_cache(maxsize=64)
def _functions(package: str, split: Split) -> tuple[list[str], list[float]]:
    """The functions of a split, and the running sum of their weights."""
    base = base_of(package)
    mine = [n for n, sites in sorted(base.sites.items()) if sites and split_of(function_name(*n.split("::"))) == split]
    if not any(name in base.covering for name in mine):
        raise ValueError(f"packages: {package!r} has no function in split {split!r}; name more packages")
    return mine, list(accumulate(min(base.sites[n], _HEAVIEST) for n in mine))


def _passages(source: str, mutation: Mutation) -> tuple[str, str]:
    """Whole lines around the mutation, before and after: as few as make both passages unique."""
    broken = mutation.apply(source)
    first = source.rfind("\n", 0, mutation.start) + 1
    last = source.find("\n", max(mutation.start, mutation.end - 1))
    last = len(source) if last < 0 else last + 1
    shift = len(broken) - len(source)
    for _ in range(40):
        old, new = source[first:last], broken[first : last + shift]
        if old.strip() and new.strip() and source.count(old) == 1 and broken.count(new) == 1:
            return old, new
        if first > 0:
            first = source.rfind("\n", 0, first - 1) + 1
        if last < len(source):
            following = source.find("\n", last)
            last = len(source) if following < 0 else following + 1
    return "", ""

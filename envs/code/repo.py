"""The hard tier of the code family: repair a defect in the sources of a real package.

    user       toolz.itertoolz: take() misbehaves. Calling `take` as the documentation does gives [10] and should …
    assistant  search(pattern="def take(")
    tool       toolz/itertoolz.py:321: def take(n, seq):
    assistant  read_file(path="toolz/itertoolz.py", start=321, end=340)
    tool       321 def take(n, seq): …
    assistant  edit(path="toolz/itertoolz.py", old="islice(seq, n - 1)", new="islice(seq, n)")
    tool       Edited toolz/itertoolz.py.
    assistant  run_tests(target="toolz/itertoolz.py::take")
    tool       1 passed, 0 failed.
    assistant  Done.

outcome = 1 when every test that the defect breaks passes again and every test that it leaves alone still
passes: the examples of the docstrings as they were installed, and variants of them with other values, which the policy
never sees (``repo_variants``). ``f2p`` and ``p2p`` are those two shares, ``edited`` is 1 when a file was changed. Files
live in memory; everything that runs, runs in a sandbox that holds the package as the policy has edited it and neither
the unbroken text nor what the tests expect. Test files of the package can be read and run; no score reads them.

    level  repository given               issue names the function   defects
    1      one module and its tests       yes                        1
    2      the sub-package                yes                        1
    3      the whole package              no                         1
    4      the whole package              no                         2

A task's key is its mutation (function, kind, site); the split goes by the function, ``metadata["group"]``, so
that no function is in both splits.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from envs.code.repo_base import base_of, run_remembered
from envs.code.repo_defects import Defect, Examined, apply, draw_defect, examine, examined
from envs.code.repo_files import Files
from envs.code.repo_issue import issue
from envs.code.repo_packages import DEFAULT, PACKAGES, function_name, repository
from envs.code.repo_run import LIMITS, run_script, run_tests
from envs.code.repo_variants import file_of, is_variant
from envs.code.workspace import Workspace, report
from envs.environment import ToolError, tool
from envs.taskset import Split, Taskset
from envs.types import Episode, Message, Task, ToolCall

SYSTEM = (
    "You work in a Python repository. Find the cause of the issue in the sources and repair it with edit; "
    "check with run_tests. Tests cannot be edited. When the issue is solved, say Done."
)
LEVELS = (1, 2, 3, 4)
_MAX_CANDIDATES = 400


class RepoEnvironment(Workspace):
    """One repository with a defect in it."""

    call_limit_s = score_limit_s = LIMITS.wall_s

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        meta = task.metadata
        self._repo = repository(meta["package"])
        self._defects = tuple(Defect(**defect) for defect in meta["defects"])
        self._files = Files(self._repo, apply(meta["package"], self._defects), meta["scope"])

    @tool
    def run_tests(self, target: str) -> str:
        """Run a file's doctests (pkg/a.py), a test file (pkg/tests/test_a.py) or one of them (file::name)."""
        path, _, name = target.partition("::")
        self._files.text(path)  # says so when there is no such file
        if self._repo.is_test(path):
            tests = [target]
        else:
            known = self._repo.doctests(path)
            tests = list(known) if not name else [target]
            if missing := [test for test in tests if test not in known]:
                raise ToolError(f"there is no doctest {missing[0]!r}; {path} has {len(known)}")
        if not tests:
            raise ToolError(f"{path} has no doctests; try a test file")
        run = run_tests(self._repo, self._files.changed, tests, stop=False)
        return report(run, tests, self._repo.is_test(path))

    @tool
    def python(self, code: str) -> str:
        """Run a program that imports the package as you have edited it; returns what it prints."""
        result = run_script(self._repo, self._files.changed, code)
        if result.timed_out:
            raise TimeoutError
        return (result.stdout + result.stderr).strip()

    def score(self, episode: Episode) -> dict[str, float]:
        """See the module: outcome, f2p, p2p, edited."""
        fails, passes = tuple(self.task.metadata["f2p"]), tuple(self.task.metadata["p2p"])
        if not self._files.edited:  # nothing to run: these tests were chosen because they end so
            return {"outcome": 0.0, "f2p": 0.0, "p2p": 1.0, "edited": 0.0}
        changed = tuple(self._files.changed.items())
        run = run_remembered(self._repo.package.name, changed, (*fails, *passes))
        f2p = sum(map(run.passed, fails)) / len(fails)
        p2p = sum(map(run.passed, passes)) / len(passes) if passes else 1.0
        return {"outcome": float(f2p == 1.0 and p2p == 1.0), "f2p": f2p, "p2p": p2p, "edited": 1.0}

    def oracle(self, history: Sequence[Message]) -> Message:
        """Search the function, read it, put the right passages back, run a test that failed."""
        done = sum(message.role == "assistant" for message in history)
        first = self._defects[0]
        steps: list[tuple[str, str, dict[str, Any]]] = [
            (
                "I look for the function.",
                "search",
                {"pattern": f"def {first.function.rpartition('.')[2]}(", "path": first.path},
            ),
            ("I read the file.", "read_file", {"path": first.path, **_lines(self._repo.text(first.path), first.old)}),
        ]
        # the last defect that went in comes out first: a passage of it may hold one of the other
        for defect in reversed(self._defects):
            steps.append(("I repair it.", "edit", {"path": defect.path, "old": defect.new, "new": defect.old}))
        failing = [t for t in self.task.metadata["f2p"] if not is_variant(t)]
        visible = [t for t in failing if file_of(t) in self._files.paths]
        steps.append(("I check it.", "run_tests", {"target": visible[0]}))
        if done < len(steps):
            why, name, arguments = steps[done]
            return Message("assistant", reasoning=why, tool_calls=(ToolCall(name, arguments),))
        return Message("assistant", "Done.", reasoning="The test passes.")


class RepoTaskset(Taskset):
    """Tasks from the packages of ``envs.code.repo_packages``.

    ``packages``: which (all but sympy by default). ``levels``: which, drawn alike. A task costs one or more runs in the
    sandbox (its tests decide whether it is one); ``rejects`` counts the candidates passed over, by reason.
    """

    family = "repo"
    env_class = RepoEnvironment
    licence = "; ".join(f"{p.distribution} {p.licence}" for p in PACKAGES.values())
    packages = tuple(p.distribution for p in PACKAGES.values())

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        packages: Sequence[str] = DEFAULT,
        levels: Sequence[int] = LEVELS,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        if not packages:
            raise ValueError(f"packages is empty; use some of {', '.join(PACKAGES)}")
        if not levels or not set(levels) <= set(LEVELS):
            raise ValueError(f"levels is {list(levels)}; use some of {LEVELS}")
        for name in packages:
            repository(name).mounts  # noqa: B018  everything is installed, in the right version, or it says so now
        self.chosen, self.levels = tuple(packages), tuple(levels)
        self.rejects: Counter[str] = Counter()

    def candidate(self, rng: random.Random) -> tuple[str, int, tuple[Defect, ...]]:
        """(package, level, defects) of one proposal; whether it makes a task is for ``examine``."""
        package = rng.choices(self.chosen, [PACKAGES[name].weight for name in self.chosen])[0]
        level = rng.choice(self.levels)
        defects = [draw_defect(rng, package, self.split)]
        if level == 4:
            defects.append(draw_defect(rng, package, self.split, other_than=defects[0].function_name))
        return package, level, tuple(defects)

    def task(self, index: int) -> Task:
        rng = self.rng(index)
        for _ in range(_MAX_CANDIDATES):
            package, level, defects = self.candidate(rng)
            found = examine(package, defects)
            if not found.reason:
                return self._task(index, rng, package, level, defects, found)
            self.rejects[found.reason] += 1
        raise RuntimeError(
            f"packages={self.chosen}: none of {_MAX_CANDIDATES} candidates makes a task ({dict(self.rejects)})"
        )

    def verify(self, task: Task) -> str | None:
        """Runs everything again: the defect must break the same tests as before, and the gold patch fix them all."""
        meta = task.metadata
        base, defects = base_of(meta["package"]), tuple(Defect(**d) for d in meta["defects"])
        tests = (*meta["f2p"], *meta["p2p"])
        again = examined(base.run(apply(meta["package"], defects), tests), tests)
        if again.reason:
            return again.reason
        if set(again.fails) != set(meta["f2p"]):
            return "flaky"
        reason = super().verify(task)
        if reason is not None:
            return "base_broken" if not all(map(base.run({}, tests).passed, tests)) else reason
        return None

    def _task(
        self, index: int, rng: random.Random, package: str, level: int, defects: tuple[Defect, ...], found: Examined
    ) -> Task:
        repo = repository(package)
        scope = _scope(level, defects[0].path, (*found.fails, *found.passes))
        count = len(Files(repo, {}, scope).paths)
        reports = []
        for defect in defects:
            fails = found.fails if len(defects) == 1 else examine(package, (defect,)).fails
            reports.append(issue(rng, repo, defect, fails, named=level <= 2))
        heading = f"Repository: {package} {repo.package.version}, {count} file{'s' if count > 1 else ''}."
        if len(reports) == 1:
            text = f"{heading}\n\n{reports[0]}"
        else:
            text = "\n\n".join([heading, *(f"Issue {n}. {report}" for n, report in enumerate(reports, 1))])
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", text)),
            metadata={
                "key": f"{package} {repo.package.version} " + " + ".join(sorted(defect.name for defect in defects)),
                "group": sorted(function_name(defect.path, defect.function) for defect in defects),
                "level": level,
                "package": package,
                "scope": list(scope),
                "defects": [defect.to_json() for defect in defects],
                "f2p": list(found.fails),
                "p2p": list(found.passes),
            },
            seed=self.seed,
        )


def _scope(level: int, path: str, tests: Sequence[str]) -> tuple[str, ...]:
    """What of the repository is shown; see the table of levels."""
    if level == 1:
        return tuple(sorted({path, *(file_of(test) for test in tests)}))
    top = f"{path.partition('/')[0]}/" if "/" in path else path
    if level == 2 and path.count("/") > 1:
        others = {file_of(test) for test in tests}
        folder = f"{path.rpartition('/')[0]}/"
        return (folder, *sorted(test for test in others if not test.startswith(folder)))
    return (top,)


def _lines(text: str, passage: str) -> dict[str, int]:
    """Where a passage is, with a few lines around it."""
    before = text.count("\n", 0, text.index(passage)) + 1
    return {"start": max(1, before - 20), "end": before + passage.count("\n") + 20}

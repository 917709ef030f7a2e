"""The repository of a releases task, as the policy finds it and as the verdict needs it.

state = state_of(sources, task.metadata)
state.text("src/a/b.py")         with the defect; the tests that decide are cut out of their files
state.run("tests/test_a.py", edits)         what the policy may run
state.judged(edits)                         what decides, in a sandbox of its own
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from envs.code.release_base import tree_of
from envs.code.release_defects import laid_over, passages, real_changes
from envs.code.release_index import FetchError, Release, Sources
from envs.code.release_run import Trial, run_program, run_suite
from envs.code.release_tests import definition_of, without
from envs.code.release_tree import Tree, is_test, older_code
from envs.code.release_verdict import Judged, Question, beside, judge, question
from envs.code.repo_run import Run
from envs.sandbox import SandboxResult


@dataclass(frozen=True, eq=False)
class State:
    """``over``: the defect, {path: text or None} over the newer release ``tree``."""

    sources: Sources
    tree: Tree
    over: Mapping[str, str | None]
    f2p: tuple[str, ...]
    p2p: tuple[str, ...]
    deciding: frozenset[str]
    seen: frozenset[str]

    @cached_property
    def texts(self) -> dict[str, str]:
        """The Python files that the policy sees, by path."""
        hidden: dict[str, set[str]] = {}
        for test in self.f2p:
            path, _, name = str(definition_of(self.tree.texts, test)).partition("::")
            hidden.setdefault(path, set()).add(name)
        found = {p: t for p, t in self.tree.texts.items() if self.over.get(p, "") is not None}
        found |= {path: text for path, text in self.over.items() if text is not None}
        return found | {path: without(found[path], names) for path, names in hidden.items()}

    @cached_property
    def files(self) -> tuple[str, ...]:
        return tuple(sorted(self.texts))

    def text(self, path: str) -> str:
        return self.texts[path]

    def is_test(self, path: str) -> bool:
        """Whether a file is shown and never edited: tests, and what is not the package's own code."""
        return is_test(path) or not (path in self.tree.code or path in self.over or self._below(path))

    @property
    def folders(self) -> tuple[str, ...]:
        """Where modules of the package lie."""
        base = f"{self.tree.base}/" if self.tree.base else ""
        return tuple(f"{base}{unit}/" for unit in self.tree.units if not unit.endswith(".py"))

    @property
    def tests(self) -> tuple[str, ...]:
        return self.tree.tests

    def run(self, path: str, only: str | None, edits: Mapping[str, str]) -> Run:
        """A test file, or one function of it, that the policy sees."""
        return run_suite(self.sources, self._seen(edits), self.tree, [path], None if only is None else [only])

    def program(self, code: str, edits: Mapping[str, str]) -> SandboxResult:
        """A program of the policy's."""
        return run_program(self.sources, self._seen(edits), self.tree, code)

    def judged(self, edits: Mapping[str, str]) -> Judged:
        """The hidden tests on the edited code, which a policy wrote: each run in a sandbox of its own."""

        def alone(state: Mapping[str, bytes], paths: Sequence[str], only: Collection[str]) -> Run:
            return run_suite(self.sources, state, self.tree, paths, only)

        run = beside(alone, laid_over(self.tree.files, {**self.over, **edits}))
        return judge(run, self.tree.texts, self.f2p, self.p2p, self.deciding, self.seen)

    def released(self, edits: Mapping[str, str]) -> tuple[Question, list[Trial]]:
        """What ``judged`` asks, as states for ``run_states``, where what was edited is code as somebody released it."""
        asked = question(self.tree.texts, self.f2p, self.p2p, self.deciding, self.seen)
        over = {**self.over, **edits}
        return asked, [Trial(asked.paths, {**over, **tests}, asked.asked) for tests in asked.overlays]

    def repair(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """(path, passages) that lead to the newer release; of a file that is not there one passage, from ""."""
        found = []
        for path, text in sorted(self.over.items()):
            right = self.tree.code.get(path)
            if right is not None:
                found.append((path, [("", right)] if text is None else passages(text, right)))
        return found

    def _below(self, path: str) -> bool:
        return path.startswith(self.folders) if self.folders else False

    def _seen(self, edits: Mapping[str, str]) -> dict[str, bytes]:
        return laid_over(laid_over(self.tree.files, {**self.over, **self.texts}), edits)


def state_of(sources: Sources, meta: Mapping[str, Any]) -> State:
    """The state of a task. Raises FetchError when its archives are not here."""
    tree = tree_of(sources, release_of(sources, meta["package"], meta["version"]))
    over: dict[str, str | None] = {}
    if meta["tier"] == "pair":
        older = older_code(tree, tree_of(sources, release_of(sources, meta["package"], meta["older"])))
        over = real_changes(tree, older)
    for path, edits in meta["defects"].items():
        over[path] = with_passages(tree.code[path], edits)
    deciding, seen = frozenset(meta["deciding"]), frozenset(meta["seen"])
    return State(sources, tree, over, tuple(meta["f2p"]), tuple(meta["p2p"]), deciding, seen)


def with_passages(text: str, edits: Sequence[Sequence[str]]) -> str:
    """Apply (old, new) one after the other. Raises ValueError when one does not fit."""
    for old, new in edits:
        if text.count(old) != 1:
            raise ValueError("a defect does not fit its release: the data set was built with another version of it")
        text = text.replace(old, new)
    return text


def release_of(sources: Sources, package: str, version: str) -> Release:
    for release in sources.releases(package, "9999", fetch=False):
        if release.version == version:
            return release
    raise FetchError(f"{package} {version} is not among the releases in {sources.folder}: build the data set again")

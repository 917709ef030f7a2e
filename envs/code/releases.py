"""Defects that people made: two consecutive releases of a real package, the older code under the newer tests.

    user       Package: toolz 1.2.0. Partition all with an empty sequence does not work as it should. …
    assistant  search(pattern="def partition_all")
    tool       toolz/itertoolz.py:721: def partition_all(n, seq):
    assistant  edit(path="toolz/itertoolz.py", old=…, new=…)
    assistant  python(code="from toolz import partition_all; print(list(partition_all(2, [])))")
    assistant  Done.

outcome = 1 when every hidden test passes as it was released, and fails turned round (``release_verdict``): the tests
that the defect breaks, which no sandbox of the policy's has held, and others that pass with it too.

    tier      level  what is wrong
    removal   1, 2   the body of a function (1: a documented one), or of a class's methods, is taken out
    function  2      one function is as the older release had it
    pair      3, 4   all code is as the older release had it: in one file, in several

``envs-build family=releases`` fetches the releases (``release_index``) and makes the tasks; nothing of the packages is
in this repository. A task is in the training split when its newer release appeared before ``cutoff``, else held out; a
removal is held out when the function appeared after it.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping, Sequence
from typing import Any

from envs.code.release_base import ReleaseBase, base_of, tree_of
from envs.code.release_defects import (
    TIERS,
    Examined,
    ReleaseDefect,
    examine,
    function_defects,
    pair_defect,
    passages,
    removal_defects,
    shuffled,
)
from envs.code.release_index import Release, Sources, listed, pairs
from envs.code.release_issue import issue, new_notes
from envs.code.release_state import release_of, state_of
from envs.code.release_tree import BadTreeError, Tree, permissive
from envs.code.repair import RepairEnvironment
from envs.code.repo_mutations import functions
from envs.taskset import RejectedError, Split, Taskset
from envs.types import Message, Task

SYSTEM = (
    "You work in the repository of a Python package. Find the cause of the issue in the sources and repair it with "
    "edit (create adds a module); check with python and run_tests. Tests cannot be edited, and those that decide are "
    "not here. When the issue is solved, say Done."
)
SLOTS = 24  # candidates of one block: a pair and the functions it changed, or as many removals of a package
REMOVAL_BLOCKS = 3  # of one package
CUTOFF, UNTIL = "2026-06-01", "2026-11-01"


class ReleaseEnvironment(RepairEnvironment):
    """One release with a defect in it."""

    def __init__(self, task: Task, sources: Sources, **config: Any) -> None:
        super().__init__(task, state_of(sources, task.metadata), **config)


class ReleasesTaskset(Taskset):
    """Candidates for ``envs-build``: ``task`` raises RejectedError for one that makes no task.

    ``packages``: which of ``release_packages.txt`` (default: all). ``tiers``: some of pair, function, removal.
    ``releases``: so many newest releases of each package, up to the date ``until``. ``cutoff``: the date that splits
    train from held out. ``sources``: the folder for what is fetched (default: in the cache); whoever plays the tasks
    needs it too. Candidates come in blocks of ``SLOTS``, the blocks in an order of the seed.
    """

    family = "releases"
    env_class = ReleaseEnvironment
    licence = "each task names the licence of its package: " + ", ".join(sorted(set(listed().values())))
    of_no_account = Taskset.of_no_account | {"sources"}
    max_turns = 40

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        packages: Sequence[str] | None = None,
        tiers: Sequence[str] = TIERS,
        releases: int = 8,
        cutoff: str = CUTOFF,
        until: str = UNTIL,
        sources: str | None = None,
        **config: Any,
    ) -> None:
        chosen = tuple(listed() if packages is None else packages)
        if unknown := [name for name in chosen if name not in listed()]:
            raise ValueError(f"packages: {unknown[0]!r} is not in release_packages.txt; add it there with its licence")
        if not chosen:
            raise ValueError("packages is empty; leave it out for all of release_packages.txt")
        if not tiers or not set(tiers) <= set(TIERS):
            raise ValueError(f"tiers is {list(tiers)}; use some of {', '.join(TIERS)}")
        if not 2 <= releases <= 50:
            raise ValueError(f"releases={releases}: must be from 2 to 50")
        if not cutoff < until:
            raise ValueError(f"cutoff={cutoff}: must be before until={until}")
        kinds = [("pair", number) for number in range(releases - 1)] if {"pair", "function"} & set(tiers) else []
        kinds += [("removal", number) for number in range(REMOVAL_BLOCKS)] if "removal" in tiers else []
        blocks = [(name, kind, number) for name in chosen for kind, number in kinds]
        super().__init__(split, seed, min(size or len(blocks) * SLOTS, len(blocks) * SLOTS), **config)
        random.Random(f"releases {seed}").shuffle(blocks)
        self.blocks, self.tiers, self.count = blocks, tuple(tiers), releases
        self.cutoff, self.until, self.sources = cutoff, until, Sources.at(sources)

    def environment(self, task: Task) -> ReleaseEnvironment:
        return ReleaseEnvironment(task, self.sources, **self.config)

    def task(self, index: int) -> Task:
        if not 0 <= index < len(self.blocks) * SLOTS:
            raise IndexError(index)
        block, slot = divmod(index, SLOTS)
        name, kind, number = self.blocks[block]
        self.sources.site()
        try:
            older, newer = self._releases(name, kind, number)
            tree = tree_of(self.sources, newer, fetch=True)
            if not permissive(tree.licence):
                raise RejectedError("licence")
            base = base_of(self.sources, newer)
            if base.reason:
                raise RejectedError(base.reason)
            before = tree_of(self.sources, older, fetch=True) if older is not None else None
            defect = self._defect(kind, number, slot, tree, before, base)
        except BadTreeError as error:
            raise RejectedError(str(error)) from error
        found = examine(self.sources, tree, base, defect)
        if found.reason:
            raise RejectedError(found.reason)
        return self._task(index, newer, older, tree, before, base, defect, found)

    def verify(self, task: Task) -> str | None:
        """The defect must break the same tests under another hash seed, and the newer code pass them all."""
        state, meta = state_of(self.sources, task.metadata), task.metadata
        newer = release_of(self.sources, meta["package"], meta["version"])
        base = base_of(self.sources, newer)
        defect = ReleaseDefect(meta["tier"], state.over, tuple(meta["functions"]))
        again = examine(self.sources, state.tree, base, defect, hash_seed=7)
        if again.reason or set(again.fails) != set(meta["f2p"]) or not set(meta["p2p"]) <= set(again.passes):
            return "flaky"
        return super().verify(task)

    def _releases(self, name: str, kind: str, number: int) -> tuple[Release | None, Release]:
        """(older, newer) of a block of this split. Of a removal, older is the last release before the cutoff when the
        split is held out."""
        known = self.sources.releases(name, self.until)
        if kind == "pair":
            found = pairs(known, self.count)
            if number >= len(found):
                raise RejectedError("no_release")
            older, newer = found[number]
            if (newer.date[:10] >= self.cutoff) != (self.split == "heldout"):
                raise RejectedError("other_date")
            return older, newer
        early = [release for release in known if release.date[:10] < self.cutoff]
        late = [release for release in known if release.date[:10] >= self.cutoff]
        if not early or (self.split == "heldout" and not late):
            raise RejectedError("no_release")
        return (early[-1], late[-1]) if self.split == "heldout" else (None, early[-1])

    def _defect(
        self, kind: str, number: int, slot: int, tree: Tree, before: Tree | None, base: ReleaseBase
    ) -> ReleaseDefect:
        if kind == "removal":
            defects: list[ReleaseDefect | str] = shuffled(removal_defects(tree, base, before), tree.name)
            place = number * SLOTS + slot
        else:
            assert before is not None
            if slot == 0:
                defects, place = [pair_defect(tree, before) if "pair" in self.tiers else "tier_not_asked"], 0
            else:
                changed = function_defects(tree, before) if "function" in self.tiers else []
                whole = pair_defect(tree, before) if "pair" in self.tiers else ""
                if isinstance(whole, ReleaseDefect):  # a pair that changed one function is that task already
                    changed = [f for f in changed if isinstance(f, str) or f.over != whole.over]
                defects, place = shuffled(changed, f"{tree.name} {tree.version}"), slot - 1
        if place >= len(defects):
            raise RejectedError("empty_slot")
        defect = defects[place]
        if isinstance(defect, str):
            raise RejectedError(defect)
        return defect

    def _task(
        self, index: int, newer: Release, older: Release | None, tree: Tree, before: Tree | None, base: ReleaseBase,
        defect: ReleaseDefect, found: Examined,
    ) -> Task:  # fmt: skip
        notes = new_notes(tree, before) if before is not None and defect.tier != "removal" else []
        documented = all(_documented(tree, name) for name in defect.names)
        text = issue(defect.tier, tree, defect.names, found.fails, notes, documented)
        if not text:
            raise RejectedError("nothing_told")
        defects: dict[str, list[list[str]]] = {}
        if defect.tier != "pair":
            for path, broken in defect.over.items():
                assert broken is not None
                defects[path] = [list(passage) for passage in passages(tree.code[path], broken)]
        deciding = [test for test in (*found.fails, *found.passes) if test in base.deciding]
        files = sum(path in tree.code for path in defect.over)
        level = {"removal": 1 if documented else 2, "function": 2, "pair": 3 if files == 1 else 4}[defect.tier]
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", text)),
            metadata={
                "key": _key(newer, older, defect, defects),
                "level": level,
                "tier": defect.tier,
                "package": newer.name,
                "version": newer.version,
                "older": older.version if older is not None else "",
                "date": newer.date[:10],
                "licence": listed()[newer.name],
                "functions": list(defect.names),
                "changed_files": files,
                "defects": defects,
                "f2p": list(found.fails),
                "p2p": list(found.passes),
                "deciding": deciding,
            },
            seed=self.seed,
        )


def _documented(tree: Tree, name: str) -> bool:
    """Whether a function, or the class of a dunder method, has a docstring."""
    path, _, qualified = name.partition("::")
    node = functions(tree.code[path])[qualified]
    return bool(ast.get_docstring(node)) or qualified.rpartition(".")[2].startswith("__")


def _key(newer: Release, older: Release | None, defect: ReleaseDefect, defects: Mapping[str, Any]) -> str:
    """The same defect of two pairs is one task; so is the removal of one function."""
    import hashlib

    if defect.tier == "pair":
        return f"{newer.name} {older.version if older else ''}..{newer.version}"
    if defect.tier == "removal":
        return f"{newer.name} without {' '.join(defect.names)}"
    digest = hashlib.sha256(repr(sorted(defects.items())).encode()).hexdigest()[:16]
    return f"{newer.name} {defect.names[0]} as before {digest}"

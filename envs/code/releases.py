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
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from envs.code.release_base import ReleaseBase, SlowMachineError, base_of, tree_of
from envs.code.release_blocks import SLOTS, order_of, releases_of
from envs.code.release_copies import MOST, copies_of
from envs.code.release_defects import (
    TIERS,
    Examined,
    ReleaseDefect,
    compiles,
    content,
    earlier_defects,
    examine,
    function_defects,
    pair_defect,
    passages,
    shuffled,
)
from envs.code.release_index import Release, Sources, listed
from envs.code.release_issue import issue, new_notes
from envs.code.release_removals import removal_of, removals
from envs.code.release_run import SUITE, Trial, run_states
from envs.code.release_state import state_of
from envs.code.release_tree import BadTreeError, Tree, permissive
from envs.code.release_verdict import Question
from envs.code.repair import RepairEnvironment
from envs.code.repo_mutations import functions
from envs.taskset import MAX_ORACLE_TURNS, RejectedError, Split, Taskset
from envs.types import Message, Task

SYSTEM = (
    "You work in the repository of a Python package. Find the cause of the issue in the sources and repair it with "
    "edit (create adds a module); check with python and run_tests. Tests cannot be edited, and those that decide are "
    "not here. When the issue is solved, say Done."
)
_TRIES = 3
CUTOFF, UNTIL = "2026-06-01", "2026-11-01"


class ReleaseEnvironment(RepairEnvironment):
    """One release with a defect in it."""

    def __init__(self, task: Task, sources: Sources, **config: Any) -> None:
        self.release = state_of(sources, task.metadata)
        super().__init__(task, self.release, **config)

    def repaired(self) -> dict[str, str]:
        """The files as the oracle leaves them, through the tools."""
        history = list(self.reset())
        for _ in range(MAX_ORACLE_TURNS):
            history.append(self.oracle(history))
            result = self.step(history[-1])
            history += result.messages
            if result.terminated:
                break
        return dict(self._files.changed)


class ReleasesTaskset(Taskset):
    """Candidates for ``envs-build``: ``task`` raises RejectedError for one that makes no task.

    ``packages``: which of ``release_packages.txt`` (default: all). ``tiers``: some of pair, function (of a pair),
    earlier (functions as any release before had them; of the tier function too) and removal. ``releases``: so many
    newest releases of each package, up to the date ``until``; ``blocks``: so many blocks of removals, and of earlier
    functions, of each; ``suite_s``: CPU seconds that a run of a suite may take. ``cutoff``: the date that splits train
    from held out. ``sources``: the folder for what is fetched (default: in the cache); whoever plays the tasks needs
    it too. Candidates come in blocks of ``SLOTS``, in the order of ``release_blocks``.
    """

    family = "releases"
    version = 2
    env_class = ReleaseEnvironment
    licence = "each task names the licence of its package: " + ", ".join(sorted(set(listed().values())))
    of_no_account = Taskset.of_no_account | {"sources"}
    judged_together = 16  # a sandbox's start, and what it imports, is most of what a verdict costs
    max_turns = 40

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        packages: Sequence[str] | None = None,
        tiers: Sequence[str] = TIERS,
        releases: int = 8,
        blocks: int = 4,
        suite_s: int = SUITE.cpu_s,
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
        if not 1 <= blocks <= 64:
            raise ValueError(f"blocks={blocks}: must be from 1 to 64")
        if not 1 <= suite_s <= 120:
            raise ValueError(f"suite_s={suite_s}: must be from 1 to 120 CPU seconds")
        numbers = {"pair": releases - 1, "earlier": blocks, "removal": blocks}
        kinds = {"pair" if tier == "function" else tier for tier in tiers}
        every = order_of(
            chosen,
            {kind: count for kind, count in numbers.items() if kind in kinds},
            random.Random(f"releases {seed}") if packages is None else None,
        )
        super().__init__(split, seed, min(size or len(every) * SLOTS, len(every) * SLOTS), **config)
        self.blocks, self.tiers, self.count, self.suite_s = every, tuple(tiers), releases, int(suite_s)
        self._made: dict[int, list[Task | str]] = {}  # the block that is under way
        self._shares: dict[str, float] = {}  # of packages, what the sandbox has once more
        self._begun: Counter[int] = Counter()
        self._slow: set[Release] = set()  # for whose suite this process had no time once: it may be one that sleeps
        self.cutoff, self.until, self.sources = cutoff, until, Sources.at(sources)

    def environment(self, task: Task) -> ReleaseEnvironment:
        return ReleaseEnvironment(task, self.sources, **self.config)

    def verify(self, task: Task) -> str | None:
        """See ``verify_all``."""
        return self.verify_all([task])[0]

    def verify_all(self, tasks: Sequence[Task]) -> list[str | None]:
        """The oracle must score 1. (That the same tests break under another hash seed was seen when they were made.)
        All runs of the verdicts of a release share a sandbox: what the oracle wrote was released, which is looked at
        first."""
        found: list[str | None] = [None] * len(tasks)
        asked: dict[Tree, list[tuple[int, Question, list[Trial]]]] = defaultdict(list)
        for number, task in enumerate(tasks):
            environment = self.environment(task)
            edits, tree = environment.repaired(), environment.release.tree
            if any(tree.code.get(path) != text for path, text in edits.items()):
                found[number] = "not_as_released"
            elif not edits:
                found[number] = "oracle_failed"
            else:
                asked[tree].append((number, *environment.release.released(edits)))
        for tree, group in asked.items():
            runs = iter(run_states(self.sources, tree, [trial for _, _, trials in group for trial in trials]))
            for number, question, trials in group:
                judged = question.judged([next(runs) for _ in trials])
                if (judged.f2p, judged.p2p) != (1.0, 1.0):
                    found[number] = "oracle_failed"
        return found

    def task(self, index: int) -> Task:
        if not 0 <= index < len(self.blocks) * SLOTS:
            raise IndexError(index)
        block, slot = divmod(index, SLOTS)
        if block not in self._made:
            self._begun[block] += 1
            if self._begun[block] > _TRIES:  # each time verify_s was over
                raise RejectedError("block_too_slow")
            made = self._block(block)
            self._made.clear()  # candidates come in order
            self._made[block] = made
        found = self._made[block][slot]
        if isinstance(found, str):
            raise RejectedError(found)
        return found

    def _block(self, block: int) -> list[Task | str]:
        """All candidates of a block: they share the base run of their release, and sandboxes."""
        name, kind, number = self.blocks[block]
        self.sources.site()
        try:
            older, newer = self._releases(name, kind, number)
            tree = tree_of(self.sources, newer, fetch=True)
            if not permissive(tree.licence):
                raise RejectedError("licence")
            copies = copies_of(self.sources)
            if tree.name not in self._shares:
                self._shares[tree.name] = copies.share(tree)
            if self._shares[tree.name] > MOST:
                raise RejectedError("library_copy")
            if newer in self._slow:
                raise RejectedError("slow_machine")
            base = base_of(self.sources, newer, self.suite_s)
            if base.reason:
                raise RejectedError(base.reason)
            slots = self._defects(kind, number, tree, newer, older, base)
        except (RejectedError, BadTreeError) as error:
            return [error.reason if isinstance(error, RejectedError) else str(error)] * SLOTS
        except SlowMachineError:
            self._slow.add(newer)
            return ["slow_machine"] * SLOTS
        at = [n for n, (_, defect) in enumerate(slots) if isinstance(defect, ReleaseDefect)]
        found: list[Task | str] = [defect if isinstance(defect, str) else "" for _, defect in slots]
        for n in at:
            defect = slots[n][1]
            assert isinstance(defect, ReleaseDefect)
            if not compiles(defect):
                found[n] = "syntax"
            elif defect.names and copies.holds(tree, defect.names):
                found[n] = "copied"
        at = [n for n in at if not found[n]]
        for n, one in zip(at, examine(self.sources, tree, base, [slots[n][1] for n in at]), strict=True):  # type: ignore[misc]
            before, defect = slots[n]
            assert isinstance(defect, ReleaseDefect)
            if one.reason:
                found[n] = one.reason
            else:
                found[n] = self._task(block * SLOTS + n, newer, before, tree, base, defect, one)
        return [*found, *["empty_slot"] * (SLOTS - len(found))]

    def _releases(self, name: str, kind: str, number: int) -> tuple[Release | None, Release]:
        """See ``releases_of``."""
        found = releases_of(self.sources.releases(name, self.until), kind, number, self.split, self.cutoff, self.count)
        if found is None:
            raise RejectedError("no_release")
        return found

    def _defects(
        self, kind: str, number: int, tree: Tree, newer: Release, older: Release | None, base: ReleaseBase
    ) -> list[tuple[Release | None, ReleaseDefect | str]]:
        """(older release, defect or why there is none) of each slot that is not empty."""
        before = tree_of(self.sources, older, fetch=True) if older is not None else None
        if kind == "removal":
            chosen = shuffled(removals(tree, base, before), tree.name)[number * SLOTS : (number + 1) * SLOTS]
            return [(older, removal_of(tree, names)) for names in chosen]
        if kind == "earlier":
            return self._earlier(tree, newer, before)[number * SLOTS : (number + 1) * SLOTS]
        assert before is not None
        whole = pair_defect(tree, before) if "pair" in self.tiers else "tier_not_asked"
        changed = function_defects(tree, before) if "function" in self.tiers else []
        if isinstance(whole, ReleaseDefect):  # a pair that changed one function is that task already
            changed = [f for f in changed if isinstance(f, str) or f.over != whole.over]
        found = [whole, *shuffled(changed, f"{tree.name} {tree.version}")]
        return [(older, defect) for defect in found[:SLOTS]]

    def _earlier(
        self, tree: Tree, newer: Release, before: Tree | None
    ) -> list[tuple[Release | None, ReleaseDefect | str]]:
        """Functions as earlier releases had them. Held out: what the last release before the cutoff (``before``) has
        as it is now was not changed since, and is none."""
        known = self.sources.releases(newer.name, self.until)
        place = known.index(newer)
        releases: dict[int, Release] = {}
        olders: list[Tree] = []
        for release in reversed(known[max(0, place - self.count) : place]):
            try:
                older = tree_of(self.sources, release, fetch=True)
            except BadTreeError:
                continue
            releases[id(older)] = release
            olders.append(older)
        found = [(releases[id(older)], defect) for older, defect in earlier_defects(tree, olders)]
        if before is not None:
            changed = {d.names for d in function_defects(tree, before) if isinstance(d, ReleaseDefect)}
            found = [one for one in found if isinstance(one[1], str) or one[1].names in changed]
        kept = shuffled([d for _, d in found], f"{tree.name} {tree.version} earlier")
        of = {id(defect): release for release, defect in found}
        return [(of[id(defect)], defect) for defect in kept if isinstance(defect, ReleaseDefect)]

    def _task(
        self, index: int, newer: Release, older: Release | None, tree: Tree, base: ReleaseBase, defect: ReleaseDefect,
        found: Examined,
    ) -> Task | str:  # fmt: skip
        notes: list[str] = []
        if older is not None and defect.tier != "removal":
            notes = new_notes(tree, tree_of(self.sources, older))
        documented = all(_documented(tree, name) for name in defect.names)
        text = issue(defect.tier, tree, defect.names, found.fails, notes, documented)
        if not text:
            return "nothing_told"
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
                "key": _key(tree, older, defect),
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
                "seen": [test for test in deciding if test in base.seen],
            },
            seed=self.seed,
        )


def _documented(tree: Tree, name: str) -> bool:
    """Whether a function, or the class of a dunder method, has a docstring."""
    path, _, qualified = name.partition("::")
    node = functions(tree.code[path])[qualified]
    return bool(ast.get_docstring(node)) or qualified.rpartition(".")[2].startswith("__")


def _key(tree: Tree, older: Release | None, defect: ReleaseDefect) -> str:
    """The same defect of two pairs is one task; so is the removal of one function."""
    if defect.tier == "pair":
        return f"{tree.name} {older.version if older else ''}..{tree.version}"
    if defect.tier == "removal":
        return f"{tree.name} without {' '.join(defect.names)}"
    digest = hashlib.sha256(content(tree, defect).encode()).hexdigest()[:16]
    return f"{tree.name} {defect.names[0]} as before {digest}"

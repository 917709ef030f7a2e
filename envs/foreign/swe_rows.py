"""Rows like those of SWE-bench, played in a sandbox: a repository at a commit, an issue, hidden tests.

    rl-train env=swe_rows env.path=rows.jsonl env.repos=repos

    user       Repository: pallets/flask. Require a non-empty name for Blueprints …
    assistant  search(pattern="class Blueprint")
    …          the tools of ``envs.code.repair``: read_file, edit, create, run_tests, python
    assistant  Done.

``path`` holds rows (``swe_columns``), ``repos`` one git repository for each ``repo``: ``owner__name``, ``owner/name``
or ``name``. The policy sees the text files of ``base_commit``; ``test_patch`` comes in for the verdict alone, in
sandboxes of its own, where every test that decides runs as it was written and turned round (``release_verdict``).
The oracle brings the gold patch in through the tools. A row is examined before it is a task (``swe_examination``), and
refused by its ``instance_id`` with the cause otherwise.

Nothing is built or installed: tests run on the Python of this package, with the repository's folder (or ``src``,
``lib``) on the path. What they import beyond it is named in ``packages`` (installed here), or lies in ``site``, a
folder of ``pip install --target``; with a subfolder ``owner__name-version`` or ``owner__name`` that one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from envs.code.release_run import LIMITS
from envs.code.repair import RepairEnvironment
from envs.foreign.examined import Verdicts, check_folder, check_numbers, check_packages
from envs.foreign.foreign_taskset import ForeignTaskset
from envs.foreign.git_folder import find_repository
from envs.foreign.swe_columns import SweRow, copy_key, swe_row
from envs.foreign.swe_examination import examine_remembered
from envs.foreign.swe_state import Setup, SweState
from envs.foreign.swe_tests import PYTEST, check_command
from envs.row_source import BadRowError, open_rows
from envs.taskset import Split
from envs.types import Message, Task

SYSTEM = (
    "You work in a git repository. Find the cause of the issue in the sources and repair it with edit (create adds a "
    "module); check with python and run_tests. Tests cannot be edited, and those that decide are not here. When the "
    "issue is solved, say Done."
)
PATCHES = ("gold", "bug")


class SweEnvironment(RepairEnvironment):
    """One row's repository."""

    def __init__(self, task: Task, state: SweState, run_s: float = LIMITS.wall_s, **config: Any) -> None:
        super().__init__(task, state, **config)

    @classmethod
    def longest_score_s(cls, config: Any) -> float | None:
        return 2 * float(config.get("run_s", LIMITS.wall_s))


class SweRowsTaskset(ForeignTaskset):
    """See the module. ``test_command``: pytest, or a command of the repository's own (``swe_tests``). ``patch_is``:
    gold, or bug where the patch makes the defect (SWE-smith). ``drop_p2p``: leave out PASS_TO_PASS tests that the gold
    patch fails here, instead of the row. ``run_s``: seconds that one run of the tests may take. ``disk_mb``: what a
    repository and all that its tests write may take. ``workers``: rows examined at once."""

    family = "swe_rows"
    env_class = SweEnvironment
    licence = "each repository has its own licence"
    of_no_account = ForeignTaskset.of_no_account | {"repos", "workers"}
    max_turns = 40

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        path: str | Path = "",
        repos: str | Path = "",
        subset: str | None = None,
        revision: str | None = None,
        site: str | Path | None = None,
        packages: Sequence[str] = (),
        test_command: str = PYTEST,
        patch_is: Literal["gold", "bug"] = "gold",
        drop_p2p: bool = False,
        run_s: float = LIMITS.wall_s,
        disk_mb: int = 256,
        workers: int = 1,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, run_s=run_s, **config)
        check_numbers(("run_s", run_s, 1, 1800), ("disk_mb", disk_mb, 16, 8192), ("workers", workers, 1, 64))
        check_packages(packages)
        self.repos = check_folder("repos", repos, "git repositories")
        self.setup = Setup(
            None if site is None else check_folder("site", site, "packages"), tuple(packages), test_command,
            patch_is == "bug", float(run_s), int(disk_mb),
        )  # fmt: skip
        check_command(test_command)
        if patch_is not in PATCHES:
            raise ValueError(f"patch_is={patch_is!r}: must be {' or '.join(PATCHES)}")
        self.workers, self.drop_p2p = int(workers), bool(drop_p2p)
        self.rows = open_rows(path, split, subset, revision)
        self.source = self.rows.name
        self._found: dict[int, Verdicts] = {}
        names, keys, self._wrong = self._scan()
        self.own_split = self.rows.own_split
        self.choose(names, keys, self._examine, size)
        self._found = {number: self._found[number] for number in self.chosen}

    def task(self, index: int) -> Task:
        number = self.chosen[index]
        row, found = swe_row(self.rows.row(number)), self._found[number]
        text = f"Repository: {row.repo}.\n\n{row.issue.strip()}"
        return Task(
            id=f"{self.family}/{self.split}/{row.name}",
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", text)),
            metadata={
                "key": row.name, "row": number, "repo": row.repo, "base_commit": row.commit, "version": row.version,
                "f2p": list(found.f2p), "p2p": list(found.p2p), "deciding": sorted(found.deciding),
            },
            seed=self.seed,
        )  # fmt: skip

    def environment(self, task: Task) -> SweEnvironment:
        meta = task.metadata
        row = swe_row(self.rows.row(meta["row"]))
        if row.name != meta["key"]:
            raise ValueError(f"task {task.id}: row {meta['row']} of {self.source} is {row.name} now")
        found = Verdicts(tuple(meta["f2p"]), tuple(meta["p2p"]), frozenset(meta["deciding"]))
        return SweEnvironment(
            task, _state(row, find_repository(self.repos, row.repo), self.setup, found), **self.config
        )

    def inputs(self) -> dict[str, dict[str, Any]]:
        return {self.rows.name: {"sha256": self.rows.digest, "rows": len(self.rows)}}

    def _scan(self) -> tuple[list[str], list[str], dict[int, str]]:
        """Names of the rows and what decides over their split (copies of a row are on one side), and what is wrong with
        those that cannot be read."""
        names, keys, wrong = [], [], {}
        for number, (place, row) in enumerate(self.rows.scan()):
            try:
                if isinstance(row, BadRowError):
                    raise row
                read = swe_row(row)
                names.append(read.name)
                keys.append(copy_key(read))
            except BadRowError as error:
                told = row.get("instance_id") if isinstance(row, dict) else None
                names.append(told if isinstance(told, str) and told else place)
                keys.append(names[-1])
                wrong[number] = str(error)
        if not names:
            raise ValueError(f"{self.source} is empty: it has no row")
        return names, keys, wrong

    def _examine(self, number: int) -> str | None:
        if number in self._wrong:
            return self._wrong[number]
        row = swe_row(self.rows.row(number))
        try:
            folder = find_repository(self.repos, row.repo)
            self._found[number] = examine_remembered(row, folder, self.setup, self.drop_p2p)
        except ValueError as error:  # also of files that no sandbox can hold
            return str(error)
        return None


@lru_cache(maxsize=8)
def _state(row: SweRow, folder: Path, setup: Setup, found: Verdicts) -> SweState:
    return SweState(row, folder, setup, found)

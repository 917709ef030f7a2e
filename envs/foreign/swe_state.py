"""The repository of a row: as the policy finds it, as the gold patch leaves it, and as the verdict needs it.

    state = SweState(row, folder, setup, found)
    state.text("src/a.py")              as it was at base_commit
    state.judged(edits)                 hidden tests beside the edited files, in sandboxes of their own

The files of ``test_patch`` are laid over the policy's for the verdict alone; no sandbox of its own holds them. Tests,
what configures pytest and what is no text cannot be edited, unless the gold patch edits it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from envs.code.release_defects import laid_over, passages
from envs.code.release_run import LIMITS, SCRIPT_LIMITS, is_of, mounts_of
from envs.code.release_tests import function_of
from envs.code.release_tree import CONFIGURATION, is_test, layout
from envs.code.release_verdict import Judged, beside, judge
from envs.code.repo_run import Run
from envs.code.suite_run import Place, run_guest, run_tests_of
from envs.foreign.examined import RefusedError, Verdicts
from envs.foreign.git_folder import files_at, laid, patched
from envs.foreign.swe_columns import SweRow
from envs.foreign.swe_tests import PYTEST, Labels, run_command
from envs.sandbox import Limits, SandboxResult
from envs.sandbox.packages import package_mounts

_MAX_TEXT = 1_000_000  # bytes of a file that is shown


@dataclass(frozen=True)
class Setup:
    """What is beside every repository, and how tests are run; see ``SweRowsTaskset``."""

    site: Path | None = None
    packages: tuple[str, ...] = ()
    test_command: str = PYTEST
    bug_patch: bool = False
    run_s: float = LIMITS.wall_s
    disk_mb: int = 256

    @property
    def limits(self) -> Limits:
        return Limits(
            wall_s=self.run_s, cpu_s=max(1, int(self.run_s)), memory_mb=1536, processes=12, disk_mb=self.disk_mb,
            file_mb=16, output_bytes=16_000_000,
        )  # fmt: skip

    def site_of(self, row: SweRow) -> Path | None:
        """The folder of packages for a row: of its version, of its repository, or of all."""
        if self.site is None:
            return None
        name = row.repo.replace("/", "__")
        return next((f for f in (self.site / f"{name}-{row.version}", self.site / name) if f.is_dir()), self.site)


class SweState:
    """One row's repository. Raises RefusedError when a patch does not apply."""

    def __init__(self, row: SweRow, folder: Path, setup: Setup, found: Verdicts | None = None) -> None:
        self.row, self.setup = row, setup
        self.found = found or Verdicts((), (), frozenset())
        base = files_at(folder, row.commit)
        if sum(map(len, base.values())) + 4096 * len(base) > setup.disk_mb << 19:
            raise RefusedError(f"the repository has {sum(map(len, base.values())) >> 20} MB: raise disk_mb")
        self.start: Mapping[str, bytes] = base
        if setup.bug_patch:  # the patch makes the defect: without it the repository is right
            change = self._changed(base, "patch", row.patch)
            self.start, wanted = laid(base, change), {path: base.get(path) for path in change}
        else:
            wanted = self._changed(base, "patch", row.patch)
        self.hidden = self._changed(base, "test_patch", row.test_patch)
        self.gold = {p: content for p, content in wanted.items() if p not in self.hidden and self._by_tools(p, content)}
        if not self.gold:
            raise RefusedError("column patch: it changes nothing that the tools could change")

    # -- what the policy sees ----------------------------------------------------------------

    @cached_property
    def texts(self) -> dict[str, str]:
        found = {path: _text(content) for path, content in self.start.items()}
        return {path: text for path, text in sorted(found.items()) if text is not None}

    @cached_property
    def files(self) -> tuple[str, ...]:
        return tuple(self.texts)

    def text(self, path: str) -> str:
        return self.texts[path]

    def is_test(self, path: str) -> bool:
        if path in self.gold:
            return False
        hidden = path in self.hidden or any(path.startswith(f"{own}/") for own in self.hidden)
        return hidden or path in self.judging or is_test(path) or path in CONFIGURATION

    @property
    def folders(self) -> tuple[str, ...]:
        """Everywhere."""
        return ("",)

    @cached_property
    def tests(self) -> frozenset[str]:
        return frozenset(path for path in self.texts if is_test(path) and path.endswith(".py"))

    def run(self, path: str, only: str | None, edits: Mapping[str, str]) -> Run:
        limits = LIMITS if self.setup.run_s > LIMITS.wall_s else self.setup.limits
        files = laid_over(self.start, edits)
        return self.run_tests(files, [path], None if only is None else [function_of(only)], limits)

    def program(self, code: str, edits: Mapping[str, str]) -> SandboxResult:
        limits = Limits(**{**vars(SCRIPT_LIMITS), "disk_mb": self.setup.disk_mb})
        return run_guest(self.place, laid_over(self.start, edits), {"script": code}, limits)

    # -- what decides ------------------------------------------------------------------------

    @cached_property
    def judging(self) -> frozenset[str]:
        """The files of the tests that decide."""
        return frozenset(test.partition("::")[0] for test in (*self.found.f2p, *self.found.p2p))

    @cached_property
    def test_texts(self) -> dict[str, str]:
        """Python files as the verdict has them."""
        found = {p: _text(c) for p, c in laid(self.start, self.hidden).items() if p.endswith(".py")}
        return {path: text for path, text in found.items() if text is not None}

    @cached_property
    def labels(self) -> Labels:
        labels = Labels(self.test_texts, self.hidden)
        for label in (*self.row.f2p, *self.row.p2p):
            labels.ids(label)  # learns where dotted names begin
        return labels

    def judged(self, edits: Mapping[str, str]) -> Judged:
        files = laid(laid_over(self.start, edits), self.hidden)
        run = beside(self.run_tests, files)
        return judge(run, self.test_texts, self.found.f2p, self.found.p2p, self.found.deciding)

    def repair(self) -> list[tuple[str, list[tuple[str, str]]]]:
        found = []
        for path, content in sorted(self.gold.items()):
            right = (content or b"").decode()
            found.append((path, passages(self.texts[path], right) if path in self.texts else [("", right)]))
        return found

    @property
    def mended(self) -> dict[str, bytes]:
        """The files as the oracle leaves them."""
        return laid(self.start, self.gold)

    def run_tests(
        self, files: Mapping[str, bytes], paths: Sequence[str], only: Collection[str] | None,
        limits: Limits | None = None, hash_seed: int = 0,
    ) -> Run:  # fmt: skip
        """Test files, or only some functions of them, beside any state of the files."""
        limits = limits or self.setup.limits
        if self.setup.test_command != PYTEST:
            asked = paths if only is None else only
            return run_command(self.place, files, self.setup.test_command, asked, self.labels, limits, hash_seed)
        return run_tests_of(self.place, files, paths, only, limits, limits.wall_s, hash_seed=hash_seed)

    @cached_property
    def place(self) -> Place:
        """What is mounted: of neither folder of packages the repository's own, in any version."""
        name = self.row.repo.rpartition("/")[2]
        base, units = layout(dict(self.start))
        hosts = [Path(host) for host, _ in package_mounts(("pytest", *self.setup.packages))]
        mounts = {host.name: host for host in hosts if not is_of(host.name, name, units)}
        if (site := self.setup.site_of(self.row)) is not None:
            mounts |= mounts_of(site, name, units)
        return Place(mounts, base)

    def _changed(self, files: Mapping[str, bytes], column: str, patch: str) -> dict[str, bytes | None]:
        try:
            return patched(files, patch)
        except RefusedError as error:
            raise RefusedError(f"column {column}: {error}") from error

    def _by_tools(self, path: str, content: bytes | None) -> bool:
        """Whether the tools can bring a file there: they edit texts and add modules, and delete nothing."""
        if content is None or _text(content) is None:
            return False
        before = self.start.get(path)
        return _text(before) is not None if before is not None else path.endswith(".py") and not is_test(path)


def _text(content: bytes) -> str | None:
    if len(content) > _MAX_TEXT or b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None

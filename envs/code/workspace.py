"""What a policy can do with the files of a repository: list, read, search, edit. What runs them is for subclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envs.code.repo_files import Files
from envs.code.repo_run import Run, Verdict
from envs.environment import Environment, tool

_SHOWN_FAILURES = 5


class Workspace(Environment):
    """One repository, whose files are ``self._files``."""

    max_output_chars = 8000
    _files: Files

    @tool
    def list_files(self, path: str = "") -> str:
        """List a folder of the repository."""
        return self._files.listing(path)

    @tool
    def read_file(self, path: str, start: int = 1, end: int | None = None) -> str:
        """Read lines of a file, 200 at most."""
        return self._files.read(path, start, end)

    @tool
    def search(self, pattern: str, path: str = "") -> str:
        """Find the lines that contain a text (no regular expression) in the files below path."""
        return self._files.search(pattern, path)

    @tool
    def edit(self, path: str, old: str, new: str) -> str:
        """Replace a passage of a file. It must occur exactly once."""
        return self._files.edit(path, old, new)


def report(run: Run, tests: Sequence[str], whole_files: bool) -> str:
    """What a developer reads at the end of a test run."""
    failed: Mapping[str, Verdict] = {name: verdict for name, verdict in run.verdicts.items() if not verdict.passed}
    if not whole_files:
        missing = {test: Verdict(False, got="did not run") for test in tests if test not in run.verdicts}
        failed = {**failed, **missing}
    lines = [f"{sum(v.passed for v in run.verdicts.values())} passed, {len(failed)} failed."]
    if run.unimportable:
        lines.append(run.unimportable)
    if run.broken or (run.timed_out and not any(v.late for v in run.verdicts.values())):
        lines.append(run.broken or "The run was stopped: it took too long.")
    elif whole_files and not run.verdicts:
        lines.append(f"No test was found: {tests[0]}")
    for name, verdict in list(failed.items())[:_SHOWN_FAILURES]:
        said = "took too long" if verdict.late else verdict.got
        expected = f"\nexpected: {verdict.expected}" if verdict.expected else ""
        lines.append(f"\nFAILED {name}\n{verdict.call}{expected}\ngot: {said}")
    return "\n".join(lines)

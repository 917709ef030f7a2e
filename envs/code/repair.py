"""A repository to repair, whose verdict is that of hidden tests: of a release (``releases``), of a row of yours
(``envs.foreign.swe_rows``).

    search, read_file, edit, create, run_tests, python      what the policy has
    state.judged(edits)                                     what decides, in sandboxes that no call of its has seen

outcome = 1 when every hidden test passes as it was written, and fails turned round (``release_verdict``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from envs.code.release_run import LIMITS
from envs.code.release_verdict import Judged
from envs.code.repo_files import Files, Texts
from envs.code.repo_run import Run
from envs.code.workspace import Workspace, report
from envs.environment import ToolError, tool
from envs.sandbox import SandboxResult
from envs.types import Episode, Message, Task, ToolCall


class RepairState(Texts, Protocol):
    """The repository as the policy finds it and as the verdict needs it. ``edits`` are texts by path."""

    @property
    def folders(self) -> Sequence[str]:
        """Where modules may be added, each ending in /."""

    @property
    def tests(self) -> Collection[str]:
        """The test files that can be run."""

    def run(self, path: str, only: str | None, edits: Mapping[str, str]) -> Run:
        """A test file, or one function of it, that the policy sees."""

    def program(self, code: str, edits: Mapping[str, str]) -> SandboxResult:
        """A program of the policy's."""

    def judged(self, edits: Mapping[str, str]) -> Judged:
        """The hidden tests on the edited files."""

    def repair(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """(path, passages) that mend it; of a file that is not there one passage, from ""."""


class RepairEnvironment(Workspace):
    """One repository with a defect in it."""

    call_limit_s = LIMITS.wall_s
    score_limit_s = 2 * LIMITS.wall_s

    def __init__(self, task: Task, state: RepairState, **config: Any) -> None:
        super().__init__(task, **config)
        self._state = state
        self._files = Files(state, {}, state.files)

    @tool
    def create(self, path: str, text: str) -> str:
        """Add a new module to the package."""
        return self._files.create(path, text, self._state.folders)

    @tool
    def run_tests(self, target: str) -> str:
        """Run a test file (tests/test_a.py) or one of its tests (file::name, file::Class::name)."""
        path, _, name = target.partition("::")
        self._files.text(path)  # says so when there is no such file
        if path not in self._state.tests:
            raise ToolError(f"{path} is no test file")
        run = self._state.run(path, target if name else None, self._files.changed)
        return report(run, [target], whole_files=True)

    @tool
    def python(self, code: str) -> str:
        """Run a program that imports the package as you have edited it; returns what it prints."""
        result = self._state.program(code, self._files.changed)
        if result.timed_out:
            raise TimeoutError
        return (result.stdout + result.stderr).strip()

    def score(self, episode: Episode) -> dict[str, float]:
        """See the module: outcome, f2p, p2p, edited."""
        if not self._files.edited:  # nothing to run: these tests were chosen because they end so
            return {"outcome": 0.0, "f2p": 0.0, "p2p": 1.0, "edited": 0.0}
        judged = self.judged()
        outcome = float(judged.f2p == 1.0 and judged.p2p == 1.0)
        return {"outcome": outcome, "f2p": judged.f2p, "p2p": judged.p2p, "edited": 1.0}

    def judged(self) -> Judged:
        """The hidden tests on what was edited."""
        return self._state.judged(self._files.changed)

    def oracle(self, history: Sequence[Message]) -> Message:
        """Read the first place, put the right code in file by file."""
        done = sum(message.role == "assistant" for message in history)
        repair = self._state.repair()
        first, edits = repair[0]
        steps: list[tuple[str, list[ToolCall]]] = []
        if edits[0][0]:
            start = self._state.text(first).partition(edits[0][0])[0].count("\n") + 1
            steps.append(("I read the place.", [ToolCall("read_file", {"path": first, "start": max(1, start - 10)})]))
        for path, passages in repair:
            calls = [
                ToolCall("edit", {"path": path, "old": old, "new": new})
                if path in self._state.files
                else ToolCall("create", {"path": path, "text": new})
                for old, new in passages
            ]
            steps.append((f"I repair {path}.", calls))
        if done < len(steps):
            why, calls = steps[done]
            return Message("assistant", reasoning=why, tool_calls=tuple(calls))
        return Message("assistant", "Done.", reasoning="That was all.")

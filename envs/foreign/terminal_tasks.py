"""Tasks in a terminal: folders of terminal-bench and of Harbor, as far as a sandbox without Docker can run them.

    rl-train env=terminal_tasks env.path=tasks

    user       Create a file /app/hello.txt with the content "Hello, world!".
    assistant  bash(command="echo 'Hello, world!' > /app/hello.txt")
    tool       (exit code 0)
    assistant  Done.

``path`` is the folder of one task, or of several (``terminal_folder``). The image is emulated (``dockerfile``): its
programs are the host's, read-only, its Python this package's; there is no network, and nothing is installed. The
verdict is that of ``tests/test_*.py``, run in sandboxes that no command of the policy has seen, beside the files that
it left: every test must pass as it was written and fail turned round (``release_verdict``).

A task is examined before it is one: its tests must not all pass at the start, and pass after its own solution, given
to ``bash`` as the oracle does; and one that failed at the start must fail where it is turned round. A folder is refused
by its name with the cause otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from envs.code.release_verdict import encoded, turned_files
from envs.code.repo_run import Run
from envs.environment import Environment, ToolError, tool
from envs.foreign.examined import (
    RefusedError,
    StoppedError,
    Verdicts,
    can_turn,
    check_folder,
    check_numbers,
    check_packages,
    remembered,
)
from envs.foreign.foreign_taskset import ForeignTaskset
from envs.foreign.terminal_folder import TerminalFolder, read_folder, task_folders
from envs.foreign.terminal_state import COMMAND_S, Machine, State, TerminalSetup
from envs.taskset import Split
from envs.types import Episode, Message, Task, ToolCall

SYSTEM = (
    "You work in a Linux system without network. Do the task with bash; each call is a shell of its own that begins in "
    "the folder where the last one ended, and what it leaves running ends with it. When the task is done, say Done."
)


class TerminalEnvironment(Environment):
    """One system, whose files are ``self._state``."""

    max_output_chars = 8000
    call_limit_s = COMMAND_S

    def __init__(self, task: Task, machine: Machine, found: Verdicts, run_s: float = COMMAND_S, **config: Any) -> None:
        super().__init__(task, **config)
        self._machine, self._found = machine, found
        self._state: State = machine.start

    @classmethod
    def longest_score_s(cls, config: Mapping[str, Any]) -> float | None:
        return 2 * float(config.get("run_s", COMMAND_S))

    @tool
    def bash(self, command: str) -> str:
        """Run a command in a shell; returns what it prints and its exit code."""
        if "\0" in command:
            raise ToolError("the command holds a null byte")
        done = self._machine.command(self._state, command.encode("utf-8", "replace").decode())
        self._state = done.state
        if done.late:
            raise TimeoutError
        if done.exit is None:
            raise ToolError(f"the command ended the sandbox, and the files are as they were before it. {done.output}")
        said = done.output.rstrip("\n")
        return f"{said}\n(exit code {done.exit})" if said else f"(exit code {done.exit})"

    def score(self, episode: Episode) -> dict[str, float]:
        """outcome: all tests are right; passed: the share of them that are."""
        if self._state is self._machine.start:  # nothing to run: tests failed here when the task was examined
            return {"outcome": 0.0, "passed": len(self._found.p2p) / (len(self._found.p2p) + len(self._found.f2p))}
        judged = self._machine.judged(self._state, self._found)
        counts = len(self._found.f2p), len(self._found.p2p)
        share = (judged.f2p * counts[0] + judged.p2p * counts[1]) / sum(counts)
        return {"outcome": float(judged.f2p == 1.0 and judged.p2p == 1.0), "passed": share}

    def oracle(self, history: Sequence[Message]) -> Message:
        """The task's own solution."""
        if any(message.role == "assistant" for message in history):
            return Message("assistant", "Done.", reasoning="That was all.")
        call = ToolCall("bash", {"command": self._machine.task.solution})
        return Message("assistant", reasoning="I run the solution.", tool_calls=(call,))


class TerminalTaskset(ForeignTaskset):
    """See the module. ``packages``: distributions that are installed here and that tasks may import beside those their
    Dockerfile names. ``run_s``: seconds that one run of the tests may take; a command has 28 at most. ``disk_mb``: of
    each writable folder, and twice what a task may leave in all of them. ``workers``: folders examined at once."""

    family = "terminal_tasks"
    env_class = TerminalEnvironment
    licence = "each task has its own licence"
    of_no_account = ForeignTaskset.of_no_account | {"workers"}
    max_turns = 40

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        path: str | Path = "",
        packages: Sequence[str] = (),
        run_s: float = COMMAND_S,
        disk_mb: int = 64,
        workers: int = 1,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, run_s=run_s, **config)
        place = check_folder("path", path, "a task, or of several")
        check_numbers(("run_s", run_s, 1, 1800), ("disk_mb", disk_mb, 4, 1024), ("workers", workers, 1, 64))
        check_packages(packages)
        self.workers, self.source = int(workers), str(path)
        self.setup = TerminalSetup(tuple(packages), float(run_s), int(disk_mb))
        self.folders, others = task_folders(place)
        if not self.folders:
            raise ValueError(f"path={path}: no task.yaml (terminal-bench) or task.toml (Harbor) in it or its folders")
        if others:
            self.say(f"folders without task.yaml or task.toml, left out: {len(others)}, the first {others[0].name}")
        self._found: dict[int, tuple[TerminalFolder, Verdicts]] = {}
        self._digest = _digest(self.folders)
        names = [folder.name for folder in self.folders]
        self.choose(names, names, self._examine, size)
        self._about = {
            number: (found[0].instruction, found[0].level, found[1]) for number, found in self._found.items()
        }
        self._found = {}

    def task(self, index: int) -> Task:
        number = self.chosen[index]
        folder, (instruction, level, found) = self.folders[number], self._about[number]
        return Task(
            id=f"{self.family}/{self.split}/{folder.name}",
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", instruction)),
            metadata={
                "key": folder.name, "level": level, "folder": number, "f2p": list(found.f2p), "p2p": list(found.p2p),
                "deciding": sorted(found.deciding),
            },
            seed=self.seed,
        )  # fmt: skip

    def environment(self, task: Task) -> TerminalEnvironment:
        meta = task.metadata
        folder = self.folders[meta["folder"]]
        if folder.name != meta["key"]:
            raise ValueError(f"task {task.id}: folder {meta['folder']} of {self.source} is {folder.name} now")
        found = Verdicts(tuple(meta["f2p"]), tuple(meta["p2p"]), frozenset(meta["deciding"]))
        return TerminalEnvironment(task, _machine(folder, self.setup, self._digest), found, **self.config)

    def inputs(self) -> dict[str, dict[str, Any]]:
        return {self.source: {"sha256": self._digest, "rows": len(self.folders)}}

    def _examine(self, number: int) -> str | None:
        try:
            folder = read_folder(self.folders[number])
            about = [_digest([self.folders[number]]), asdict(self.setup)]
            verdicts = remembered(self.family, about, examine, partial(_examined, folder, self.setup))
            self._found[number] = folder, verdicts
        except ValueError as error:  # also of files that no sandbox can hold
            return str(error)
        return None


def examine(machine: Machine) -> Verdicts:
    """Run the tests at the start, after the solution, once more under another hash seed in the verdict's layout, and
    turned round. Raises RefusedError with the cause."""
    tests, texts = machine.task.tests, machine.texts
    before = _ended(machine.run(machine.start, tests, None), machine)
    done = machine.command(machine.start, machine.task.solution)
    if done.exit is None or done.late:
        raise RefusedError(
            f"its solution did not end in {COMMAND_S:g} s" if done.late else f"its solution: {done.output}"
        )
    after = _ended(machine.run(done.state, tests, None), machine)
    said = f"; its solution ended with {done.exit}: {_last(done.output)}" if done.exit else ""
    if not after.verdicts:
        raise RefusedError(f"its tests did not run: {after.unimportable[-300:] or after.broken}{said}")
    if bad := [name for name, verdict in after.verdicts.items() if not verdict.passed]:
        got = after.verdicts[bad[0]].got[:200]
        raise RefusedError(f"after its solution {len(bad)} of {len(after.verdicts)} tests fail, {bad[0]}: {got}{said}")
    f2p = tuple(name for name in after.verdicts if not before.passed(name))
    if not f2p:
        raise RefusedError(f"all of {len(after.verdicts)} tests pass before anything was done")
    names = list(after.verdicts)
    laid_out = encoded(turned_files(texts, names, set()))  # the layout that the verdict gives to test files
    again = _ended(machine.run(done.state, {**tests, **laid_out}, None, hash_seed=7), machine)
    if bad := [name for name in names if not again.passed(name)]:
        raise RefusedError(f"after its solution {bad[0]} passes only sometimes (of {len(names)} tests {len(bad)} do)")
    places = can_turn(texts, names)
    other = encoded(turned_files(texts, names, set(places.values())))
    turned = _ended(machine.run(done.state, {**tests, **other}, None), machine)
    failed = {test for test, verdict in turned.verdicts.items() if not verdict.passed and not verdict.late}
    deciding = frozenset(failed & places.keys())
    if not deciding & set(f2p):
        raise RefusedError("none of its tests fails where what it asserts is turned round")
    return Verdicts(f2p, tuple(name for name in names if name not in f2p), deciding)


def _examined(folder: TerminalFolder, setup: TerminalSetup) -> Verdicts:
    return examine(Machine(folder, setup))


def _ended(run: Run, machine: Machine) -> Run:
    if run.timed_out:
        raise StoppedError(f"its tests did not end in {machine.setup.run_s:g} s: raise run_s")
    return run


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it said nothing"


def _digest(folders: Sequence[Path]) -> str:
    """SHA-256 over the files of tasks."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{folder.name}/{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=32)
def _machine(folder: Path, setup: TerminalSetup, digest: str) -> Machine:
    return Machine(read_folder(folder), setup)

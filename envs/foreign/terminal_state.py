"""The files of a terminal task between its commands: each command has a sandbox of its own, and leaves its files here.

    machine = Machine(folder, setup)
    state = machine.start                          # State: a tar of the files, and the folder that one is in
    done = machine.command(state, "echo hi > /app/hello.txt")      # Done(exit=0, output="", state=…)
    machine.judged(done.state, found)              # hidden tests beside the files, in sandboxes of their own

What a command leaves running ends with it; variables that it sets are forgotten, its folder is not. ``/tests`` can be
written, and nothing in it is kept: there the hidden tests lie.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import posixpath
import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from envs.code.release_verdict import Judged, beside, judge
from envs.code.repo_run import Run, guest_program
from envs.code.suite_run import pytest_job, run_of
from envs.foreign.dockerfile import Image
from envs.foreign.examined import RefusedError, Verdicts
from envs.foreign.terminal_folder import TerminalFolder
from envs.sandbox import Limits, Sandbox
from envs.sandbox.packages import package_mounts

_GUEST = Path(__file__).with_name("guest_system.py")
# What tasks take for granted; and every top folder that the image has
_FOLDERS = ("/app", "/data", "/home", "/logs", "/opt", "/oracle", "/root", "/solution", "/srv", "/tests", "/var",
            "/workspace")  # fmt: skip
_TESTS = "/tests"
COMMAND_S = 28.0  # of one command, packing its files included: below the deadlines of a rollout
_COMMAND_SHARE = 0.8  # of a command's wall time: the rest is for packing its files


@dataclass(frozen=True)
class TerminalSetup:
    """See ``TerminalTaskset``."""

    packages: tuple[str, ...] = ()
    run_s: float = COMMAND_S
    disk_mb: int = 64

    @property
    def command_limits(self) -> Limits:
        return replace(self, run_s=min(self.run_s, COMMAND_S)).limits

    @property
    def limits(self) -> Limits:
        return Limits(
            wall_s=self.run_s, cpu_s=max(1, int(self.run_s)), memory_mb=1024, processes=32, disk_mb=self.disk_mb,
            file_mb=self.disk_mb, open_files=256, output_bytes=(self.disk_mb << 20) * 2,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class State:
    """``files``: a tar. ``folder``: where the next command begins."""

    files: bytes
    folder: str


@dataclass(frozen=True, eq=False)
class Done:
    """How a command ended: None as its exit code when it ended the sandbox too, or took too long (``late``)."""

    exit: int | None
    output: str
    state: State
    late: bool = False


class Machine:
    """Runs commands and tests of one task."""

    def __init__(self, folder: TerminalFolder, setup: TerminalSetup) -> None:
        self.task, self.setup, image = folder, setup, folder.image
        tops = {f"/{path.strip('/').partition('/')[0]}" for path in (*image.files, *image.folders, image.folder)}
        self.folders = sorted({*_FOLDERS, *tops} - {"/", "/tmp"})
        names = dict.fromkeys(("pytest", *image.packages, *setup.packages))
        self.mounts = {inside.rpartition("/")[2]: Path(host) for host, inside in package_mounts(tuple(names))}
        if len(self.start.files) + sum(map(len, folder.tests.values())) > setup.disk_mb << 19:
            raise RefusedError(f"its files take more than {setup.disk_mb / 2:g} MB: raise disk_mb")
        self.environment = {"HOME": "/root", "PYTHONPATH": "/mnt", "TEST_DIR": _TESTS, **image.environment}

    @cached_property
    def start(self) -> State:
        return State(packed(self.task.image), self.task.image.folder)

    def command(self, state: State, command: str) -> Done:
        """Run a command in a shell."""
        limits = self.setup.command_limits
        job = {
            "command": command, "seconds": limits.wall_s * _COMMAND_SHARE, "output_bytes": 200_000,
            "folders": [f for f in self.folders if f != _TESTS], **self._about(state.folder),
        }  # fmt: skip
        program = _GUEST.read_text(encoding="utf-8")
        files = {"state.tar": state.files}
        result = Sandbox(limits).run_python(program, json.dumps(job), files, self.mounts, folders=self.folders)
        head, _, packed_ = result.stdout.partition("\n")
        try:
            told = json.loads(head)
            after = State(base64.b64decode(packed_, validate=True), str(told["folder"]))
            if len(after.files) > self.setup.disk_mb << 19:  # the next sandbox has to hold the tar beside what is in it
                return Done(None, f"It left more than {self.setup.disk_mb / 2:g} MB of files.", state)
            return Done(int(told["exit"]), str(told["output"]), after, bool(told["late"]))
        except (ValueError, KeyError, TypeError, binascii.Error):
            why = "It left more files than the disk holds." if result.truncated else result.stderr.strip()[-500:]
            return Done(None, why, state, result.timed_out)

    def run(self, state: State, tests: Mapping[str, bytes], only: Collection[str] | None, hash_seed: int = 0) -> Run:
        """Run test functions (all: None), as they stand in ``tests``, beside the files of a state."""
        limits = self.setup.limits
        job = {
            "tests": pytest_job(_TESTS, _TESTS, self.task.cases, only, limits.wall_s) | {"path": [_TESTS, "/mnt"]},
            **self._about(self.task.image.folder),
        }
        beside = packed(Image(files={f"{_TESTS}/{path}": (content, 0o644) for path, content in tests.items()}))
        program = f"{_GUEST.read_text(encoding='utf-8')}\n{guest_program()}"
        files = {"state.tar": state.files, "tests.tar": beside}
        result = Sandbox(limits).run_python(program, json.dumps(job), files, self.mounts, {}, hash_seed, self.folders)
        return run_of(result)

    def judged(self, state: State, found: Verdicts) -> Judged:
        """The hidden tests on a state."""

        def run(files: Mapping[str, bytes], paths: Sequence[str], only: Collection[str]) -> Run:
            return self.run(state, files, only)

        return judge(beside(run, self.task.tests), self.texts, found.f2p, found.p2p, found.deciding)

    @cached_property
    def texts(self) -> dict[str, str]:
        """The test files that pytest runs."""
        return {path: self.task.tests[path].decode("utf-8", "replace") for path in self.task.cases}

    def _about(self, folder: str) -> dict[str, object]:
        return {"environment": self.environment, "folder": folder}


def packed(image: Image) -> bytes:
    """A tar of an image's files and folders."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in sorted({f for f in image.folders if f != "/"}):
            entry = tarfile.TarInfo(folder.strip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, (content, mode) in sorted(image.files.items()):
            entry = tarfile.TarInfo(posixpath.normpath(path).strip("/"))
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()

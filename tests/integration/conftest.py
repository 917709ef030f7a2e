"""One minute run of the main job, shared by the tests of whole runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from train_runs import SCRATCH, SMALL, Command

from rl.tracking.rundir import RunDir


@dataclass(frozen=True)
class FirstRun:
    """``rl-train base=scratch`` with all four families, from nothing to the report."""

    cwd: Path
    overrides: tuple[str, ...]
    output: str
    run: RunDir

    @property
    def base(self) -> Path:
        """The base policy it has made."""
        (directory,) = (self.cwd / "cache").glob("base-*")
        return directory


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    cwd = tmp_path_factory.mktemp("first")
    overrides = (*SCRATCH, *SMALL, "steps=2", "checkpoint_every=1", "keep_checkpoints=1")
    output = Command("rl-train", *overrides, "name=first", cwd=cwd).wait()
    return FirstRun(cwd, overrides, output, RunDir.existing(cwd / "runs" / "first"))

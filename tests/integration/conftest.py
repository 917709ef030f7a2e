"""One minute run of the main job, shared by the tests of whole runs."""

from __future__ import annotations

import pytest
from train_runs import SCRATCH, SMALL, Command, FirstRun

from rl.tracking.rundir import RunDir


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    cwd = tmp_path_factory.mktemp("first")
    overrides = (*SCRATCH, *SMALL, "steps=2", "checkpoint_every=1", "keep_checkpoints=1")
    output = Command("rl-train", *overrides, "name=first", cwd=cwd).wait()
    return FirstRun(cwd, overrides, output, RunDir.existing(cwd / "runs" / "first"))

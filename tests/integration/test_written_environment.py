"""What envs-init writes is trained in at once, with the command that it prints."""

from __future__ import annotations

import shlex
from pathlib import Path

from in_process import command
from train_runs import SMALL, Command

from rl.tracking.rundir import RunDir


def test_a_written_environment_is_trained_in(tmp_path: Path) -> None:
    told = command("envs-init", "my_store", cwd=tmp_path)
    assert told.returncode == 0
    (line,) = (line for line in told.output.splitlines() if line.strip().startswith("rl-train"))
    name, *words = shlex.split(line)
    output = Command(name, *words, *SMALL, "steps=1", "eval.k=1", "name=store", cwd=tmp_path).wait()
    assert "GRPO: done" in output
    run = RunDir.existing(tmp_path / "runs" / "store")
    assert list(run.read_summary()["eval_after"]["families"]) == ["my_store"]
    (row,) = run.read_metrics("grpo")
    assert row["learner/tokens"] > 0
    assert {r["family"] for r in run.read_trajectories("step_000001")} == {"my_store"}

"""A learner that is killed in the middle of a run: the run goes on from its last checkpoint, and loses nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from train_runs import SMALL, Command

from rl.tracking.rundir import RunDir

pytestmark = pytest.mark.run
BASE = ("policy.path=pkg://rl.bases/tiny_dsa_base", "coldstart.enabled=false")
OWN = (*BASE, "steps=9", "checkpoint_every=3", "max_staleness=1", "name=hurt")


@dataclass(frozen=True)
class HurtRun:
    run: RunDir
    output: str
    killed_after: int  # steps


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def hurt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HurtRun:
    """By number of ranks; the last of them is killed."""
    cwd: Path = tmp_path_factory.mktemp("hurt")
    command = Command("rl-train", *SMALL, *OWN, f"learner.ranks={request.param}", cwd=cwd)
    metrics = cwd / "runs" / "hurt" / "metrics.jsonl"
    command.wait_until(lambda: metrics.exists() and '"stage": "grpo", "step": 4' in metrics.read_text())
    run = RunDir.existing(cwd / "runs" / "hurt")
    processes = psutil.Process(command.process.pid).children(recursive=True)
    learners = [p for p in processes if "ray::LearnerProcess" in " ".join(p.cmdline())]
    assert len(learners) == request.param
    learners[-1].kill()
    steps = run.read_metrics("grpo")[-1]["step"]
    return HurtRun(run, command.wait(), steps)


def test_it_goes_on_from_the_last_checkpoint_and_says_so(hurt: HurtRun) -> None:
    assert "the learner's process is gone" in hurt.output
    assert "GRPO goes on from its last checkpoint with new processes" in hurt.output
    rows = hurt.run.read_metrics("grpo")
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["learner/restarts"] for row in rows][:3] == [0, 0, 0]
    assert rows[-1]["learner/restarts"] == 1
    assert max(row["mismatch/probe_max"] for row in rows) < 1e-3


def test_finished_groups_are_trained_once_and_not_sampled_again(hurt: HurtRun) -> None:
    rows = hurt.run.read_metrics("grpo")
    again = hurt.killed_after - 3
    assert rows[-1]["rollout/reused_groups"] >= 4 * again
    trained = Counter(row["id"] for step in range(1, 10) for row in hurt.run.read_trajectories(f"step_{step:06d}"))
    assert set(trained.values()) == {1}
    assert {row["failure_kind"] for row in hurt.run.read_trajectories("step_000009")} == {None}


def test_the_run_ends_as_any_other(hurt: HurtRun) -> None:
    assert (hurt.run.path / "policy" / "model.safetensors").is_file()
    assert hurt.run.read_summary()["eval_after"]["n_tasks"] > 0

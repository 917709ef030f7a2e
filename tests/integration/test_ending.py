"""SIGTERM and Ctrl-C end a run in order: its checkpoint, its processes, its folders, its exit code; then it resumes."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from train_runs import SMALL, Command, reap

from rl.learner.checkpoint import latest_checkpoint
from rl.run.finished import FOLDER, stored
from rl.tracking.rundir import RunDir

SETTINGS = (*SMALL, "env=search", "coldstart.enabled=false", "tracking.wandb=disabled", "tracking.save_batch_every=0")


@dataclass(frozen=True)
class EndedRun:
    cwd: Path
    run: RunDir
    code: int
    output: str
    left: list[str]  # processes that outlived it
    steps: int  # logged when it had ended
    groups: list[int]  # finished ones on disk then
    session: Path  # Ray's folder


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> EndedRun:
    cwd = tmp_path_factory.mktemp("ended")
    own = ("steps=300", "checkpoint_every=200", "max_staleness=1", "name=ended")
    command = Command("rl-train", *SETTINGS, *own, cwd=cwd)
    metrics = cwd / "runs" / "ended" / "metrics.jsonl"
    command.wait_until(lambda: metrics.exists() and '"stage": "grpo", "step": 2' in metrics.read_text())
    descendants = psutil.Process(command.process.pid).children(recursive=True)
    session = session_of(descendants)
    command.process.send_signal(signal.SIGTERM)
    code = command.process.wait(60)
    left = reap(descendants, 30, agents=True)
    run = RunDir.existing(cwd / "runs" / "ended")
    steps = run.read_metrics("grpo")[-1]["step"]
    return EndedRun(cwd, run, code, command.output, left, steps, sorted(stored(run.path / FOLDER)), session)


def session_of(processes: list[psutil.Process]) -> Path:
    gcs = next(p for p in processes if p.name() == "gcs_server")
    return Path(next(a for a in gcs.cmdline() if a.startswith("--session-dir=")).removeprefix("--session-dir="))


def test_the_exit_code_is_that_of_the_signal_and_one_line_says_so(ended: EndedRun) -> None:
    assert ended.code == 128 + signal.SIGTERM
    assert ended.output.rstrip().endswith("ended by SIGTERM; go on with resume=ended")
    for trace in ("Traceback", "terminate called", "Fatal Python error", "C  [", "core dumped"):
        assert trace not in ended.output


def test_nothing_outlives_it(ended: EndedRun) -> None:
    assert ended.left == []
    assert not ended.session.exists()


def test_its_last_step_is_in_a_checkpoint(ended: EndedRun) -> None:
    checkpoint = latest_checkpoint(ended.run.checkpoints)
    assert checkpoint is not None
    assert checkpoint.name == f"step_{ended.steps:06d}"


def test_it_goes_on_and_a_second_signal_ends_it_at_once(ended: EndedRun) -> None:
    command = Command("rl-train", "resume=ended", cwd=ended.cwd)
    metrics = ended.run.metrics
    command.wait_until(lambda: f'"stage": "grpo", "step": {ended.steps + 1}' in metrics.read_text())
    descendants = psutil.Process(command.process.pid).children(recursive=True)
    command.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(20) == 128 + signal.SIGINT
    assert "Traceback" not in command.output
    assert reap(descendants, 120) == []
    row = next(row for row in ended.run.read_metrics("grpo") if row["step"] == ended.steps + 1)
    first = 4 * ended.steps  # groups of the step after the checkpoint
    waiting = [number for number in ended.groups if number >= first]
    assert row["rollout/reused_groups"] >= len([n for n in waiting if n < first + 4])

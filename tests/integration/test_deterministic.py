"""deterministic=true: a run, and one that is killed and resumed on a busy machine, are equal bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from train_runs import SMALL, Command, FirstRun, reap

from rl.learner.checkpoint import latest_checkpoint
from rl.learner.moments import MOMENTS
from rl.tracking.rundir import RunDir

STEPS, EVERY = 4, 2
SLEEPY = '''
import os, random, time

from envs.mixture import MixTaskset


class SleepyTaskset(MixTaskset):
    """All families; every step takes a time that nobody can foresee."""

    def environment(self, task):
        env = super().environment(task)
        step = env.step

        def slow(action):
            time.sleep(random.SystemRandom().uniform(0, float(os.environ["SLEEPY_S"])))
            return step(action)

        env.step = slow
        return env
'''


@dataclass(frozen=True)
class Runs:
    quiet: RunDir
    # Other sleeps and hash seed, a process that takes a core, its own cold start; killed after step 3 and resumed from
    # the checkpoint of step 2.
    busy: RunDir


@contextmanager
def busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def runs(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    def place(name: str) -> Path:
        cwd = tmp_path_factory.mktemp(name)
        (cwd / "sleepy.py").write_text(SLEEPY)
        return cwd

    overrides = (
        "deterministic=true", "env._target_=sleepy.SleepyTaskset", f"base.source={first_run.base}", *SMALL,
        "learner.threads=2", "coldstart.threads=2", "learner.minibatches=2", f"steps={STEPS}",
        f"checkpoint_every={EVERY}", "tracking.wandb=disabled", "name=run",
    )  # fmt: skip
    quiet = place("quiet")
    Command("rl-train", *overrides, cwd=quiet, SLEEPY_S="0", PYTHONHASHSEED="1").wait()
    busy = place("busy")
    metrics = busy / "runs" / "run" / "metrics.jsonl"
    with busy_core():
        command = Command("rl-train", *overrides, cwd=busy, SLEEPY_S="0.2", PYTHONHASHSEED="2")
        command.wait_until(lambda: metrics.exists() and '"stage": "grpo", "step": 3' in metrics.read_text())
        reap(command.kill(), 120)
    Command("rl-train", "resume=run", cwd=busy, SLEEPY_S="0.05", PYTHONHASHSEED="3").wait()
    return Runs(*(RunDir.existing(cwd / "runs" / "run") for cwd in (quiet, busy)))


def is_time(name: str) -> bool:
    return name == "time" or name.startswith("time/") or name.endswith(("_s", "_s_max", "/seconds"))


# What a part of a run has spent: the resumed one trains on groups that the stopped one had finished.
SPENT = {"compute/rollout_flops", "compute/rl_share", "rollout/reused_groups", "bytes/driver"}


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not is_time(name)}


def rows(run: RunDir, stage: str) -> list[dict[str, Any]]:
    return [without_times(json.loads(line)) for line in (run.trajectories / f"{stage}.jsonl").open()]


STAGES = ("eval_before", *(f"step_{n + 1:06d}" for n in range(STEPS)), "eval_after")


def test_trajectories_are_equal(runs: Runs) -> None:
    for stage in STAGES:
        assert rows(runs.quiet, stage) == rows(runs.busy, stage), stage


def test_metrics_are_equal(runs: Runs) -> None:
    for stage in ("coldstart", "eval_before", "grpo", "eval_after"):
        one, two = ([without_times(r) for r in run.read_metrics(stage)] for run in (runs.quiet, runs.busy))
        assert one, stage
        if stage == "grpo":
            assert one[:EVERY] == two[:EVERY]  # before it was killed
            one, two = ([{k: v for k, v in row.items() if k not in SPENT} for row in rows] for rows in (one, two))
        assert one == two, stage


def test_weights_and_optimiser_are_equal(runs: Runs) -> None:
    one, two = (load_file(run.path / "policy" / "model.safetensors") for run in (runs.quiet, runs.busy))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert torch.equal(weight, two[name]), name
    assert same(state(runs.quiet), state(runs.busy))


def state(run: RunDir) -> Any:
    checkpoint = latest_checkpoint(run.checkpoints)
    assert checkpoint is not None
    whole = run.path / "moments.pt"
    dcp_to_torch_save(checkpoint / MOMENTS, whole)
    return torch.load(checkpoint / "state.pt", weights_only=False)["learner"], torch.load(whole, weights_only=False)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_there_was_something_to_be_equal(runs: Runs) -> None:
    """Rollouts of one task differ, several take more than one turn, and the weights have moved."""
    first = rows(runs.quiet, STAGES[1])
    assert len({json.dumps(r["messages"]) for r in first}) == len(first)
    assert any(r["turns"] > 1 for stage in STAGES for r in rows(runs.quiet, stage))
    cold = next((runs.quiet.path.parents[1] / "cache").glob("coldstart-*/model.safetensors"), None)
    assert cold is not None
    before, after = load_file(cold), load_file(runs.quiet.path / "policy" / "model.safetensors")
    assert not all(torch.equal(before[name], after[name]) for name in after)

"""The loop on real Ray and vLLM when things die: a worker in mid-flight, a family, every environment."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from train_runs import SMALL, FirstRun, train_config

from envs.mixture import MixTaskset
from rl.learner.actor import LearnerHandle
from rl.recipes.evaluate import evaluate
from rl.recipes.grpo import Position, grpo
from rl.rollout.pool import RolloutPool
from rl.run.assemble import open_pool, open_tasksets
from rl.run.finished import FOLDER, FinishedGroups
from rl.run.stage_log import StageLog, Totals
from rl.tracking.evaluation import eval_summary
from rl.tracking.metrics import undocumented
from rl.tracking.rundir import RunDir
from rl.types import Group

MIX = "env.families={integration_envs.CalmTaskset: 1, integration_envs.BrokenTaskset: 1}"


@dataclass
class Parts:
    """A pool and a learner that the tests of this file share, one after the other."""

    cfg: Any
    pool: RolloutPool
    learner: LearnerHandle
    tasksets: dict[str, Any]
    version: int = 0  # steps the learner has made

    def train(self, run: RunDir, taskset: Any, steps: int, on_step: Any = lambda *given: None) -> Totals:
        at = Position(step=self.version, next_group=100 * self.version)
        log = StageLog(self.cfg, "grpo", run, self.pool, Totals(), on_step=on_step)
        self.cfg.steps = self.version + steps
        try:
            finished = FinishedGroups(run.path / FOLDER, "", 2**20, 2)
            grpo(self.cfg, self.pool, self.learner, taskset, at, log, run.checkpoints, finished)
        finally:
            self.version = at.step
        return log.totals


@pytest.fixture(scope="module")
def parts(first_run: FirstRun, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    cfg = train_config(*SMALL, MIX, f"base.source={first_run.base}", "failed_steps=2", "rollout.max_restarts=1")
    tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
    pool = open_pool(cfg, first_run.base, tasksets)
    learner = LearnerHandle(cfg, first_run.base, tmp_path_factory.mktemp("learner"))
    try:
        learner.sync(pool, 0)
        yield Parts(cfg, pool, learner, tasksets)
    finally:
        learner.close()
        pool.close()


def member(parts: Parts, family: str) -> Any:
    mix = parts.tasksets["train"]
    assert isinstance(mix, MixTaskset)
    return next(m for m in mix.members.values() if m.family == family)


def test_a_broken_family_is_counted_and_does_not_stop_the_run(parts: Parts, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    state = parts.train(run, parts.tasksets["train"], 2)
    rows = run.read_metrics("grpo")
    assert [r["step"] for r in rows] == [1, 2]
    for row in rows:
        assert undocumented(set(row) - {"stage", "step", "time"}) == []
        assert (row["episode/count"], row["failure/total"], row["failure/env_error"]) == (8, 4, 4)
        assert "reward/family/calm" in row
        assert "reward/family/broken" not in row  # masked: never scored 0
    assert state.failures == {"env_error": 8}
    assert state.summary()["failures"] == {"env_error": 8}
    broken = [r for r in run.read_trajectories("step_000002") if r["family"] == "broken"]
    assert len(broken) == 4
    for row in broken:
        assert (row["failure_kind"], row["stop_reason"], row["reward_parts"]) == ("env_error", "env_error", {})
        assert "the shelf fell down" in row["failure_detail"]


def test_a_broken_family_is_left_out_of_the_evaluation(parts: Parts) -> None:
    trajectories = evaluate(parts.pool, parts.tasksets["heldout"], parts.cfg.eval, deadline_s=200)
    assert {t.failure_kind for t in trajectories if t.family == "broken"} == {"env_error"}
    assert set(eval_summary(trajectories)["families"]) == {"calm"}


def test_a_killed_worker_loses_no_group(parts: Parts, tmp_path: Path) -> None:
    run, calm, pool = RunDir(tmp_path), member(parts, "calm"), parts.pool
    seen: list[Group] = []
    (pid,) = pool.pids()
    gate = tmp_path / "gate"
    calm.gate = str(gate)

    def kill_in_mid_flight() -> None:
        ends = time.monotonic() + 120
        while not pool.pending() and time.monotonic() < ends:
            time.sleep(0.001)
        time.sleep(0.15)  # every environment is in its reset now, and stays there
        os.kill(pid, signal.SIGKILL)
        gate.unlink()

    killer = threading.Thread(target=kill_in_mid_flight)

    def on_step(step: int, metrics: dict[str, float], groups: list[Group]) -> None:
        seen.extend(groups)
        if not killer.ident:
            gate.touch()
            killer.start()

    position = calm.position
    parts.train(run, calm, 3, on_step)
    killer.join()
    assert [g.task_index for g in seen] != []
    assert sorted(g.task_index for g in seen) == list(range(position, position + 12))
    assert len({g.id for g in seen}) == 12
    assert all(len(g.trajectories) == 2 for g in seen)
    assert all(t.failure_kind is None for g in seen for t in g.trajectories)
    rows = run.read_metrics("grpo")
    assert [r["rollout/restarted_workers"] for r in rows] == [0, 1, 1]
    assert rows[-1]["rollout/resubmitted_groups"] >= 1
    assert max(r["mismatch/mean"] for r in rows) < 1e-3  # the new worker samples with the current weights
    assert [r["staleness/max"] for r in rows] == [0, 0, 0]
    assert pool.stats()["workers_restarted"] == 1
    assert pool.pids() != [pid]


def test_a_run_whose_every_episode_fails_stops_and_says_why(parts: Parts, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(RuntimeError, match=r"no valid rollout in 2 steps \(failed_steps=2\)(.|\n)*the shelf fell down"):
        parts.train(run, member(parts, "broken"), 5)
    rows = run.read_metrics("grpo")
    assert [r["failure/env_error"] for r in rows] == [8, 8]  # the steps that stopped it are on disk
    assert len(run.read_trajectories(run.trajectory_names()[-1])) == 8
    assert "reward/mean" not in rows[0]


def test_the_run_goes_on_with_good_tasks_after_that(parts: Parts, tmp_path: Path) -> None:
    """The learner made no step from nothing: weights are finite and the engines agree with it."""
    run = RunDir(tmp_path)
    parts.train(run, member(parts, "calm"), 1)
    (row,) = run.read_metrics("grpo")
    assert row["mismatch/mean"] < 1e-3
    assert row["learner/skipped_steps"] == 0
    assert row["failure/total"] == 0

"""The loop tells the taskset what was trained, in the order of training, and a resumed run chooses the same tasks."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from test_budget_loop import COST, Learner, Pool

from configs.schema import TrainConfig
from envs.curriculum import CurriculumTaskset
from rl.recipes.grpo import Position, grpo
from rl.rollout.pool import Beside
from rl.run.finished import FOLDER, FinishedGroups
from rl.run.ledger import Ledger, StageMeter
from rl.run.stage_log import StageLog, Totals
from rl.tracking.metrics import undocumented
from rl.tracking.rundir import RunDir
from rl.types import Group

STEPS = 12


class Scored(Pool):
    """Finishes the newest order first; one-hop questions are always solved, two-hop ones every other time."""

    def collect(self, n: int, deadline_s: float, beside: Beside | None = None) -> list[Group]:
        self.specs.insert(0, self.specs.pop())
        hops = self.specs[0].task.metadata["level"]
        (group,) = super().collect(n, deadline_s)
        for position, trajectory in enumerate(group.trajectories):
            trajectory.reward_parts = {"score/outcome": float(hops == 1 or position % 2)}
        group.trajectories[0].failure_kind = "env_error"  # no outcome: not told
        return [group]


class Checkpoints(Learner):
    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, dict[str, Any]] = {}

    def save(self, root: Path, step: int, extra: dict[str, Any], keep: int) -> None:
        self.states[step] = copy.deepcopy(extra)


class Hops(CurriculumTaskset):
    """Search questions with their hops as level; remembers what it was told."""

    def __init__(self) -> None:
        super().__init__("train", 0, of="search", settings={"two_hop": 0.5}, look=16)
        self.told: list[tuple[int, list[float]]] = []

    def task(self, index: int) -> Any:
        task = self.inner.task(index)
        return replace(task, metadata={**task.metadata, "level": task.metadata["hops"]})

    def observe(self, index: int, outcomes: Any) -> None:
        self.told.append((index, list(outcomes)))
        super().observe(index, outcomes)


def run(path: Path, at: Position, taskset: Hops) -> tuple[Scored, Checkpoints, RunDir]:
    cfg = TrainConfig(steps=STEPS, prompts_per_step=2, group_size=4, max_staleness=2, checkpoint_every=1)
    cfg.tracking.save_batch_every = 0
    pool, learner, files = Scored(), Checkpoints(), RunDir(path)
    parts: Any = (pool, learner)
    meter = StageMeter(Ledger(COST, None), "GRPO", pool, cfg.objective, {})
    log = StageLog(cfg, "grpo", files, pool, Totals(), meter)
    grpo(cfg, *parts, taskset, at, log, files.checkpoints, FinishedGroups(files.path / FOLDER, "", 2**20, 2))
    return pool, learner, files


def test_groups_are_told_in_trained_order_and_a_resumed_run_chooses_the_same(tmp_path: Path) -> None:
    taskset = Hops()
    pool, learner, files = run(tmp_path / "whole", Position(), taskset)
    assert [index for index, _ in taskset.told] == pool.seen[: 2 * STEPS]  # admitted order, not that of completion
    assert {tuple(outcomes) for _, outcomes in taskset.told} == {(1.0, 1.0, 1.0), (1.0, 0.0, 1.0)}
    rows = files.read_metrics("grpo")
    assert rows[-1]["curriculum/groups_total"] == 2 * STEPS
    silent = sum(min(outcomes) == max(outcomes) for _, outcomes in taskset.told)
    assert rows[-1]["curriculum/zero_variance_total"] == silent > 0
    assert undocumented([name for name in rows[-1] if "/" in name]) == []
    for step in (1, 5, STEPS - 1):
        again, at = Hops(), Position(**copy.deepcopy(learner.states[step]["at"]))
        again.load_state_dict(at.taskset)
        resumed, _, _ = run(tmp_path / f"resumed {step}", at, again)
        assert again.told == taskset.told[2 * step :]
        assert resumed.seen[: 2 * (STEPS - step)] == pool.seen[2 * step : 2 * STEPS]

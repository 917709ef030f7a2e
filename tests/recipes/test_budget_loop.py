"""The loop with a budget: it admits nothing more, trains on what was admitted, and says why it ended."""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import TrainConfig
from envs.interpreter.taskset import InterpreterTaskset
from envs.types import StopReason
from rl.learner.overlap import Overlap
from rl.policy.flops import CostModel
from rl.recipes.grpo import Position, grpo
from rl.rollout.orders import GroupSpec
from rl.rollout.pool import Beside, RolloutPool
from rl.run.finished import FOLDER, FinishedGroups
from rl.run.ledger import Ledger, StageMeter
from rl.run.stage_log import StageLog, Totals
from rl.tracking.rundir import RunDir
from rl.types import Group, Segment, Trajectory

TOKENS = 10
STATS = ("prompt_tokens", "cached_prompt_tokens", "sampled_tokens", "finished", "workers_restarted", "busy_s")
COST = CostModel(parameters=100, attention=0)
STEP = 4 * TOKENS * 100 * 2.0 * 3  # learner FLOPs of one step of 4 rollouts; these engines count nothing


class Pool(RolloutPool):
    """Answers every order at once."""

    def __init__(self) -> None:
        self.specs: list[GroupSpec] = []
        self.seen: list[int] = []  # task indices
        self.counts = Counter()
        self._finished = deque()

    def submit(self, spec: GroupSpec) -> None:
        self.specs.append(spec)
        self.seen.append(spec.task_index)

    def collect(self, n: int, deadline_s: float, beside: Beside | None = None) -> list[Group]:
        spec = self.specs.pop(0)
        mask = np.arange(TOKENS) > 0
        segment = Segment(
            np.arange(TOKENS, dtype=np.int32), mask, np.zeros(TOKENS, np.float32), np.where(mask, spec.version, -1)
        )
        rollouts = [
            Trajectory(f"t{i}", spec.task.id, spec.task.family, [segment], [], StopReason.ANSWERED, reward=float(i))
            for i in range(spec.size)
        ]
        return [Group(spec.id, spec.task_index, spec.task.id, spec.task.family, spec.version, rollouts)]

    def stats(self) -> dict[str, float]:
        return dict.fromkeys(STATS, 0.0)


class Learner:
    """Counts its steps and checkpoints."""

    def __init__(self) -> None:
        self.steps_saved: list[int] = []
        self.overlaps: list[Overlap] = []
        self.sent: list[list[int]] = []  # by step: the groups that came while others were awaited

    def overlap(self) -> Overlap:
        self.sent.append([])
        self.overlaps.append(Overlap(lambda groups: self.sent[-1].extend(g.id for g in groups), lambda ended: None))
        return self.overlaps[-1]

    def step(self, groups: list[Group], pool: Any) -> dict[str, float]:
        tokens = float(sum(t.total_tokens for g in groups for t in g.trajectories))
        return {"learner/tokens": tokens, "learner/tokens_distinct": tokens, "learner/seconds": 0.0}

    def sync(self, pool: Any, version: int) -> dict[str, float]:
        return {"mismatch/probe_max": 0.0}

    def save(self, root: Path, step: int, extra: dict[str, Any], keep: int) -> None:
        self.steps_saved.append(step)

    def saved(self, wait: bool = False) -> bool:
        return True

    def save_policy(self, directory: Path) -> None:
        raise AssertionError("no batch is stored in these tests")


def trained(
    tmp_path: Path,
    staleness: int,
    ledger: Ledger,
    at: Position | None = None,
    totals: Totals | None = None,
    pool: Pool | None = None,
) -> tuple[Position, Totals, Learner, Pool, RunDir]:
    at, totals, pool = at or Position(), totals or Totals(), pool or Pool()
    cfg = TrainConfig(steps=20, prompts_per_step=2, group_size=2, max_staleness=staleness, checkpoint_every=100)
    cfg.tracking.save_batch_every = 0
    learner, run = Learner(), RunDir(tmp_path)
    parts: Any = (pool, learner)
    meter = StageMeter(ledger, "GRPO", pool, cfg.objective, totals.flops)
    log = StageLog(cfg, "grpo/interpreter", run, pool, totals, meter)
    finished = FinishedGroups(run.path / FOLDER, "", 2**20, 2)
    grpo(cfg, *parts, InterpreterTaskset("train", 0), at, log, run.checkpoints, finished)
    return at, totals, learner, pool, run


@pytest.mark.parametrize("staleness", [0, 2])
def test_the_loop_ends_when_the_budget_is_spent(tmp_path: Path, staleness: int) -> None:
    # Spent with step 3; `staleness` batches are admitted by then.
    ledger = Ledger(COST, pretraining=100 * STEP, rl_share=0.025)
    at, totals, learner, pool, run = trained(tmp_path, staleness, ledger)
    assert at.step == totals.steps == 3 + staleness
    assert learner.steps_saved == [at.step]
    assert pool.specs == []
    assert totals.stop == "budget.rl_share=0.025 is spent: RL took 3.0% of the pre-training FLOPs"
    assert totals.summary()["stop_reason"] == totals.stop
    assert totals.flops == {"rollout": 0.0, "learner": STEP * at.step}
    assert totals.usage["interpreter"]["episodes"] == 4 * at.step
    rows = run.read_metrics("grpo/interpreter")
    assert [r["compute/rl_share"] for r in rows] == pytest.approx([0.01 * (n + 1) for n in range(at.step)])


def test_a_spent_budget_allows_no_step(tmp_path: Path) -> None:
    ledger = Ledger(COST, pretraining=100.0, rl_share=0.5)
    ledger.put("GRPO specialist", "rl", learner=60.0)
    at, totals, learner, pool, _ = trained(tmp_path, 1, ledger)
    assert (at.step, learner.steps_saved, pool.specs) == (0, [], [])
    assert "RL took 60.0%" in totals.stop


def test_a_resumed_run_trains_on_what_was_admitted_when_the_budget_ended(tmp_path: Path) -> None:
    ledger = Ledger(COST, pretraining=100 * STEP, rl_share=0.025)
    ledger.put("GRPO", "rl", learner=3 * STEP)
    at, totals = Position(step=3, next_group=10, waiting=[4, 5, 6, 7]), Totals(flops={"learner": 3 * STEP})
    pool = Pool()
    trained(tmp_path, 2, ledger, at, totals, pool)
    assert at.step == 5
    assert pool.seen == [4, 5, 6, 7]


def test_without_a_budget_all_steps_are_done(tmp_path: Path) -> None:
    at, totals, learner, _, _ = trained(tmp_path, 0, Ledger(COST, None))
    assert (at.step, learner.steps_saved, totals.stop) == (20, [20], "all 20 steps are done")

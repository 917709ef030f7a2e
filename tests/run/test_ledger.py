"""The ledger: what is counted from rollouts and training, the shares, and the end of the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import BudgetConfig
from envs.types import StopReason
from rl.objective.config import ObjectiveConfig
from rl.policy.flops import CostModel
from rl.rollout.engine_api import EngineStats
from rl.run.ledger import Ledger, RolloutMeter, StageMeter, open_ledger
from rl.run.paths import resolve
from rl.tracking.summary import compute_rows, compute_shares
from rl.types import Segment, Trajectory

COST = CostModel(parameters=1000, attention=10, indexer=3, topk=4)
IDLE = {
    "prompt_tokens": 0.0,
    "cached_prompt_tokens": 0.0,
    "sampled_tokens": 0.0,
    "finished": 0.0,
    "workers_restarted": 0.0,
}


def trajectory(mask: list[int]) -> Trajectory:
    n = len(mask)
    segment = Segment(
        np.arange(n, dtype=np.int32), np.array(mask, bool), np.zeros(n, np.float32), np.zeros(n, np.int32)
    )
    return Trajectory("t", "search/train/0/1", "search", [segment], [], StopReason.ANSWERED)


class Pool:
    """Engines whose counts a test sets."""

    def __init__(self) -> None:
        self.now = dict(IDLE)

    def stats(self) -> dict[str, float]:
        return dict(self.now)


def test_rollouts_by_hand() -> None:
    pool = Pool()
    pool.now |= {"prompt_tokens": 500.0, "sampled_tokens": 70.0, "finished": 7.0}  # before this stage
    meter = RolloutMeter(COST, pool)  # type: ignore[arg-type]
    # A prompt of 3, 2 sampled, 2 from the environment, 1 sampled: two requests of 3 and 7 tokens, 2 in the cache.
    pool.now |= {"prompt_tokens": 510.0, "cached_prompt_tokens": 2.0, "sampled_tokens": 73.0, "finished": 9.0}
    prefill, decoded = 8, 1
    sampled = [4, 5, 8]  # rows each of them sees
    given = [1, 2, 3, 6, 7]
    attended = prefill * (1 + 2 + 3 + 4 + 4) / 5 + decoded * (4 + 4 + 4) / 3
    scored = prefill * sum(given) / 5 + decoded * sum(sampled) / 3
    read = meter.read([trajectory([0, 0, 0, 1, 1, 0, 0, 1])])
    assert read == pytest.approx(2 * (1000 * 9 + 10 * attended + 3 * scored))
    assert meter.read([trajectory([0, 1])]) == 0.0  # nothing ran since


def test_a_replaced_worker_is_counted_from_its_trajectories() -> None:
    pool = Pool()
    pool.now |= {"prompt_tokens": 500.0, "sampled_tokens": 90.0}
    meter = RolloutMeter(COST, pool)  # type: ignore[arg-type]
    pool.now = IDLE | {"prompt_tokens": 3.0, "workers_restarted": 1.0}  # a new engine counts from 0
    assert meter.read([trajectory([0, 0, 1])]) == COST.forward(COST.sequence(3))


def stage_meter(ledger: Ledger, pool: Pool, **objective: Any) -> StageMeter:
    return StageMeter(ledger, "GRPO", pool, ObjectiveConfig(**objective), {})  # type: ignore[arg-type]


def test_a_step_of_training_by_hand() -> None:
    ledger, pool = Ledger(COST, 1e6), Pool()
    six = [trajectory([0, 0, 0, 1, 1, 1])]
    metrics = stage_meter(ledger, pool).step(six, 12.0, pool.stats())
    assert metrics["compute/learner_flops"] == 2 * COST.training(COST.sequence(6))
    assert metrics["compute/rollout_flops"] == 0.0
    assert metrics["compute/rl_share"] == pytest.approx(metrics["compute/learner_flops"] / 1e6)
    # A reference policy and a recomputed pi_old are one forward pass each.
    more = stage_meter(Ledger(COST, None), pool, kl_coef=0.1, old_policy="learner").step(six, 12.0, pool.stats())
    assert more["compute/learner_flops"] == pytest.approx(metrics["compute/learner_flops"] * 5 / 3)
    assert "compute/rl_share" not in more
    # A teacher is one over the tokens that it was asked about.
    taught = stage_meter(Ledger(COST, None), pool).step(six, 12.0, pool.stats(), 6.0)
    assert taught["compute/learner_flops"] == pytest.approx(metrics["compute/learner_flops"] * 7 / 6)


def test_a_resumed_stage_goes_on_from_its_checkpoint() -> None:
    stages = {"GRPO": {"kind": "rl", "rollout": 900.0, "learner": 900.0}}  # of steps that are made again
    ledger = Ledger(COST, 1e6, stages=stages)
    StageMeter(ledger, "GRPO", Pool(), ObjectiveConfig(), {"rollout": 10.0, "learner": 20.0})  # type: ignore[arg-type]
    assert ledger.flops("rl") == 30.0


def test_the_shares_by_hand() -> None:
    ledger = Ledger(COST, 1000.0)
    ledger.put("cold start", "supervised", learner=50.0)
    ledger.put("GRPO search", "rl", rollout=30.0, learner=70.0)
    ledger.put("GRPO mixed", "rl", rollout=40.0, learner=60.0)
    ledger.put("data search", "data", rollout=20.0)
    ledger.put("evaluation", "evaluation", rollout=30.0)
    found = ledger.summary()
    assert found["total_flops"] == 1300.0
    assert found["rl_flops"] == 200.0
    assert found["rl_over_pretraining"] == 0.2
    assert found["post_training_over_pretraining"] == 0.27
    assert found["rl_over_total"] == pytest.approx(200 / 1300)
    rows = compute_rows({"compute": found})
    assert rows[0] == ("pre-training", "–", "1.00e+03", "76.9%")
    assert rows[-1] == ("all", "1.20e+02", "1.18e+03", "100.0%")
    shares = dict(compute_shares({"compute": found}))
    assert shares == {
        "RL / pre-training": "20.0%",
        "RL + supervised + data / pre-training": "27.0%",
        "RL / all stages": "15.4%",
    }
    unknown = Ledger(COST, None)
    unknown.put("GRPO", "rl", rollout=1.0)
    assert compute_shares({"compute": unknown.summary()}) == []


def test_the_budget_ends_at_its_share() -> None:
    ledger = Ledger(COST, 1000.0, rl_share=0.1)
    ledger.put("GRPO", "rl", learner=99.0)
    assert ledger.exhausted() == ""
    ledger.put("GRPO mixed", "rl", rollout=1.0)
    assert ledger.exhausted() == "budget.rl_share=0.1 is spent: RL took 10.0% of the pre-training FLOPs"
    assert Ledger(COST, 1000.0, stages=ledger.stages).exhausted() == ""  # no budget: never


def test_where_the_flops_of_pretraining_come_from(tmp_path: Path) -> None:
    base = resolve("pkg://rl.bases/tiny_dsa_base")
    shipped = open_ledger(BudgetConfig(), base, None)
    assert shipped.pretraining == pytest.approx(4.16e13, rel=0.01)
    assert shipped.stages["pre-training"] == {"kind": "pre-training", "rollout": 0.0, "learner": shipped.pretraining}
    assert open_ledger(BudgetConfig(pretrain_flops=7.0), base, None).pretraining == 7.0
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    assert open_ledger(BudgetConfig(), tmp_path, None).pretraining is None
    with pytest.raises(ValueError, match=r"set budget.pretrain_flops"):
        open_ledger(BudgetConfig(rl_share=0.1), tmp_path, None)
    assert open_ledger(BudgetConfig(rl_share=0.1, pretrain_flops=1e9), tmp_path, None).pretraining == 1e9


@pytest.mark.parametrize("field", ["rl_share", "pretrain_flops"])
def test_a_budget_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"budget.{field}=0: must be above 0"):
        BudgetConfig(**{field: 0})


def test_the_engines_counts_have_the_names_that_the_meter_reads() -> None:
    assert set(IDLE) - {"workers_restarted"} <= set(vars(EngineStats()))

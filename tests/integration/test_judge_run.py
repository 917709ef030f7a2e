"""A rubric reward in real rollouts, scored by the run's own judge: what rl-train and rl-eval put together."""

from __future__ import annotations

import pytest

from rl.run.paths import resolve
from rl.types import Trajectory

BASE = resolve("pkg://rl.bases/tiny_dsa_base")
RUBRIC = "[{criterion: Is right., weight: 2, points: 2, name: right}, {criterion: Is short., points: 1}]"


@pytest.fixture(scope="module")
def trajectories(local_ray: None) -> list[Trajectory]:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from configs.schema import register
    from rl.recipes.evaluate import evaluate
    from rl.run.assemble import HELDOUT, open_judge, open_pool, open_tasksets

    register()
    overrides = [
        f"path={BASE}", "env=reasoning", "reward=rubric", f"reward.rubric.rubric={RUBRIC}", "judge=worker",
        "judge.kv_cache_gib=0.1", "judge.max_context=2048", "judge.temperature=1.5", "reward.rubric.votes=3",
        "reward.rubric.reason_chars=30", "eval.n_tasks=2", "eval.k=4", "rollout.kv_cache_gib=0.1",
        "rollout.max_tokens=64", "reward.rubric.max_tokens=200",
    ]  # fmt: skip
    with initialize_config_module("configs", version_base="1.3"):
        cfg = OmegaConf.to_object(compose("evaluate", overrides))
    with open_judge(cfg, BASE) as judge:
        assert judge is not None
        tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
        pool = open_pool(cfg, BASE, tasksets)
        try:
            return evaluate(pool, tasksets[HELDOUT], cfg.eval, deadline_s=120)
        finally:
            pool.close()


def test_every_episode_has_a_score_by_the_rubric(trajectories: list[Trajectory]) -> None:
    assert len(trajectories) == 8
    assert [t.failure_detail for t in trajectories if t.failure_kind is not None] == []
    judged = [t for t in trajectories if "rubric/judge_tokens" in t.reward_parts]
    assert judged
    assert all(0 <= t.reward_parts["rubric"] <= 1 for t in trajectories)
    for t in judged:  # R = (2 · right + short) / 3, averaged over the votes
        expected = (2 * t.reward_parts["rubric/right"] + t.reward_parts["rubric/c2"]) / 3
        assert t.reward_parts["rubric"] == pytest.approx(expected)
        assert t.reward_parts["rubric/unusable"] == 0
    assert len({t.reward_parts["rubric"] for t in judged}) > 1  # noise: the tiny policy knows nothing of grading

"""Specialists' data: only verified rollouts, each once, a few per task, and exactly the tokens that were sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import DistillConfig
from envs.types import StopReason
from rl.data.corpus import documents, load_data, save_data
from rl.policy.flops import CostModel
from rl.policy.loading import load_policy
from rl.recipes.distill import distill, verified
from rl.run.paths import resolve
from rl.types import Segment, Trajectory

BASE = resolve("pkg://rl.bases/tiny_dsa_base")


def made(
    tokens: list[int], *, task: str = "search/train/0/1", outcome: float | None = 1.0, failure: str | None = None,
    mask: list[int] | None = None,
) -> Trajectory:  # fmt: skip
    n = len(tokens)
    sampled = np.array([0] + [1] * (n - 1) if mask is None else mask, bool)
    segment = Segment(np.array(tokens, np.int32), sampled, np.zeros(n, np.float32), np.zeros(n, np.int32))
    parts = {} if outcome is None else {"score/outcome": outcome}
    return Trajectory(
        "t", task, "search", [segment], [{"role": "user", "content": "é?"}], StopReason.ANSWERED,
        reward=0.9, reward_parts=parts, failure_kind=failure,
    )  # fmt: skip


def test_only_verified_rollouts_are_kept_and_the_others_counted() -> None:
    good = made([1, 2, 3])
    rollouts = [
        made([1, 9], outcome=0.99),
        made([1, 8], failure="env_error"),
        made([1, 8], outcome=None),
        good,
        made([1, 2, 3]),  # the same tokens
        made([1, 2, 3], mask=[0, 0, 1]),  # the same ids, but the environment wrote one of them
        made([1, 2, 4]),  # a third one of this task
        made([1, 2, 3], task="search/train/0/2"),
        made([1, 2], mask=[0, 0]),  # nothing of it was sampled
    ]
    kept, counts = verified(rollouts, keep_per_task=2)
    assert kept == [good, rollouts[5], rollouts[7]]
    assert counts == {
        "sampled": 9, "kept": 3, "failed": 1, "unverified": 1, "not_passed": 2, "duplicate": 1, "over_cap": 1,
    }  # fmt: skip
    assert verified([], 1) == ([], dict.fromkeys(counts, 0))


def test_examples_are_the_sampled_tokens(tmp_path: Path) -> None:
    two = made([5, 6, 7, 8], mask=[0, 1, 0, 1])
    two.segments.append(Segment(np.array([4, 3], np.int32), np.array([0, 0], bool), np.zeros(2), np.zeros(2)))
    data = documents([two, made([1, 2])])
    assert [d.tokens.tolist() for d in data] == [[5, 6, 7, 8], [1, 2]]  # a segment without a target teaches nothing
    assert [e.loss_mask.tolist() for e in data] == [[False, True, False, True], [False, True]]
    save_data(tmp_path / "data", [two, made([1, 2])])
    stored = load_data(tmp_path / "data")
    for document, again in zip(data, stored, strict=True):
        assert np.array_equal(document.tokens, again.tokens)
        assert np.array_equal(document.loss_mask, again.loss_mask)
        assert document.source == again.source
    assert (stored[0].tokens.dtype, stored[0].loss_mask.dtype) == (np.int32, bool)


def test_a_specialist_without_data_is_stored_too(tmp_path: Path) -> None:
    save_data(tmp_path / "data", [])
    assert load_data(tmp_path / "data") == []
    with pytest.raises(ValueError, match="no specialist made a rollout with the full score"):
        distill(BASE, DistillConfig(), [], 0, tmp_path / "out", lambda *given: None)


def test_distillation_learns_the_sampled_tokens(tmp_path: Path) -> None:
    import torch

    rng = np.random.default_rng(0)
    data = documents([made([1, *rng.integers(0, 800, 11).tolist()], task=str(i)) for i in range(4)])
    config = DistillConfig(epochs=8.0, lr=2e-3, tokens_per_step=48, threads=1)
    losses: list[float] = []

    def report(what: str, done: int, total: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["sft/loss"])

    figures: dict[str, Any] = distill(BASE, config, data, 0, tmp_path, report)
    assert json.loads((tmp_path / "distill.json").read_text()) == figures
    assert (figures["documents"], figures["target_tokens"], figures["steps"]) == (4, 44, 8)
    assert figures["documents_per_family"] == {"search": 4}
    assert losses[-1] < 0.7 * losses[0]
    assert CostModel.load(BASE).supervised(figures) > figures["flops"] > 0
    trained, start = load_policy(tmp_path).weights(), load_policy(BASE).weights()
    assert any(not torch.equal(trained[k], start[k]) for k in start)

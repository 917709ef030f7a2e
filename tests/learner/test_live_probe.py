"""The probe with choices of its own sees an engine that chooses otherwise; the one that repeats them reads 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recorded_segments import recorded, recording_policy

from rl.learner.config import LearnerConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.objective.diagnostics import Diagnostics
from rl.objective.loss import LossTerms
from rl.rollout.weights import live_mismatch, worst_of
from rl.types import ProbeScores


@pytest.mark.parametrize("other", [{}, {"other_experts": True}, {"other_indexer": True}])
def test_an_engine_that_chooses_otherwise(other: dict[str, bool], tmp_path: Path) -> None:
    learner = Learner(recording_policy.__wrapped__(), LearnerConfig(threads=1), ObjectiveConfig(), tmp_path)
    segment = recorded(0, **other)
    engine = segment.logprobs[1:]
    scores = learner.probe(segment.tokens, segment.replay)
    at = segment.loss_mask[1:]
    assert np.abs(scores.logprobs - engine)[at].max() < 1e-4
    assert scores.live is not None
    live = np.abs(scores.live - engine)[at].max()
    overlaps = (scores.routing_overlap, scores.indexer_overlap)
    if not other:
        assert live < 1e-4
        assert overlaps == (1.0, 1.0)
        return
    assert live > 1e-3
    assert min(overlaps) < 1.0
    found = live_mismatch(engine, scores)
    assert found["mismatch/probe_live_max"] >= live
    assert found["replay/probe_routing_overlap"] == scores.routing_overlap


def test_without_choices_there_is_nothing_live(tmp_path: Path) -> None:
    learner = Learner(recording_policy.__wrapped__(), LearnerConfig(threads=1), ObjectiveConfig(), tmp_path)
    scores = learner.probe(recorded(0).tokens)
    assert scores.live is None
    assert live_mismatch(scores.logprobs, scores) == {}


def test_of_several_workers_the_worst() -> None:
    one = live_mismatch(np.array([-1.0, -2.0]), ProbeScores(np.zeros(2), 1.0, np.array([-1.0, -2.5]), 0.9, 0.8))
    two = live_mismatch(np.array([-1.0, -2.0]), ProbeScores(np.zeros(2), 1.0, np.array([-1.1, -2.0]), 0.7, 1.0))
    assert one["mismatch/probe_live_mean"] == 0.25
    assert worst_of([one, two]) == pytest.approx(
        {
            "mismatch/probe_live_mean": 0.25, "mismatch/probe_live_max": 0.5, "replay/probe_routing_overlap": 0.7,
            "replay/probe_indexer_overlap": 0.8,
        }
    )  # fmt: skip


def test_surprise_by_hand() -> None:
    """Terms 1, 1 and -0.5: mean 0.5, sum 1.5 over the root of 2.25."""
    ones, kept = torch.ones(4), torch.ones(1, dtype=torch.bool)
    terms = LossTerms(
        loss=torch.zeros(()), policy_loss=torch.zeros(()), distill_loss=torch.zeros(()), ratio_N=ones,
        clipped_N=ones > 2, drift_S=torch.zeros(1),
        kept_S=kept, delta=None, kl_K=None, correction_N=None, cut_N=None,
    )  # fmt: skip
    found = Diagnostics()
    logprobs = torch.tensor([-2.0, -1.5, -0.5, -9.0])
    entropy, exact = torch.tensor([1.0, 0.5, 1.0, 1.0]), torch.tensor([True, True, True, False])
    found.add(terms, logprobs, logprobs, entropy, exact)
    summary = found.summary()
    assert summary["policy/surprise"] == pytest.approx(0.5)
    assert summary["policy/surprise_z"] == pytest.approx(1.0)

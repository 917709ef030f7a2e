"""The learner's step on a real (very small) DSA/MoE policy."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rl.learner.config import LearnerConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.types import Group, Segment

Groups = Callable[..., list[Group]]


def learner(policy: Policy, run_dir: Path, objective: ObjectiveConfig | None = None, **config: object) -> Learner:
    settings = LearnerConfig(**{"lr": 1e-3, "threads": 1, "max_tokens_per_microbatch": 64, **config})  # type: ignore[arg-type]
    return Learner(policy, settings, objective or ObjectiveConfig(), run_dir)


def parameters(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.named_parameters()}


def test_first_step_is_on_policy(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    metrics = learner(policy, tmp_path).step(make_groups())
    assert metrics["mismatch/max"] < 1e-5
    assert metrics["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    # 1/groups sum 1/G sum A = 0 when every ratio is 1 and the weights are per-sequence means
    assert metrics["loss/policy"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["learner/grad_norm"] > 0
    assert metrics["advantage/std"] == 0.5
    assert 0.5 < metrics["learner/packing"] <= 1.0


def test_replayed_experts_matter(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    groups = make_groups()
    record = groups[0].trajectories[0].segments[0].replay
    assert record is not None
    record.experts[:] = (record.experts + 1) % 8  # other experts than those that were sampled with
    assert learner(policy, tmp_path).step(groups)["mismatch/max"] > 1e-4


def test_gradient_does_not_depend_on_the_packing(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    groups, start = make_groups(), policy.module.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    norms = []
    for budget in (32, 64, 4096):
        policy.module.load_state_dict(start)
        metrics = learner(policy, tmp_path, max_tokens_per_microbatch=budget).step(groups)
        norms.append(metrics["learner/grad_norm"])
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


def test_steps_raise_the_probability_of_rewarded_tokens(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer, groups = learner(policy, tmp_path, lr=3e-3), make_groups()

    def mean_logprob(good: bool) -> float:
        total = []
        for group in groups:
            for t in group.trajectories:
                if (t.reward > 0) == good:
                    s = t.segments[0]
                    total.append(trainer.probe_logprobs(s.tokens, s.replay)[s.loss_mask[1:]].mean())
        return float(np.mean(total))

    before = mean_logprob(True) - mean_logprob(False)
    for _ in range(3):
        trainer.step(groups)
    assert mean_logprob(True) - mean_logprob(False) > before + 0.02
    assert trainer.version == 3


def test_failed_trajectories_change_nothing(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    groups, start = make_groups(size=5), {k: v.clone() for k, v in policy.module.state_dict().items()}
    for group in groups:
        group.trajectories[4].failure_kind = "env_error"
        group.trajectories[4].reward = float("nan")
    learner(policy, tmp_path).step(groups)
    with_failed = parameters(policy)
    policy.module.load_state_dict(start)
    for group in groups:
        del group.trajectories[4]
    learner(policy, tmp_path).step(groups)
    assert all(torch.equal(with_failed[name], value) for name, value in parameters(policy).items())


def test_zero_advantage_groups_are_skipped_with_the_same_gradient(
    policy: Policy, make_groups: Groups, tmp_path: Path
) -> None:
    groups, start = make_groups(), {k: v.clone() for k, v in policy.module.state_dict().items()}
    for t in groups[0].trajectories:
        t.reward = 1.0
    skipping = learner(policy, tmp_path).step(groups)
    policy.module.load_state_dict(start)
    full = learner(policy, tmp_path, skip_zero_advantage=False).step(groups)
    assert skipping["learner/grad_norm"] == pytest.approx(full["learner/grad_norm"], rel=1e-4)
    assert skipping["learner/tokens"] < full["learner/tokens"]
    assert skipping["advantage/zero_share"] == 0.5


def test_all_rewards_equal_leaves_the_policy_alone(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    groups, before = make_groups(), parameters(policy)
    for group in groups:
        for t in group.trajectories:
            t.reward = 0.0
    trainer = learner(policy, tmp_path)
    metrics = trainer.step(groups)
    assert all(torch.equal(before[name], value) for name, value in parameters(policy).items())
    assert trainer.version == 1
    assert metrics["learner/tokens"] == 0.0
    assert "mismatch/max" not in metrics


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_loss_skips_the_step_and_keeps_the_batch(
    policy: Policy, make_groups: Groups, tmp_path: Path, bad: float
) -> None:
    groups, before = make_groups(), parameters(policy)
    if bad == bad:  # an infinite ratio on a bad sequence
        segment = groups[0].trajectories[0].segments[0]
        segment.logprobs[segment.loss_mask] = -1e30
        for t, reward in zip(groups[0].trajectories, (0.0, 0.0, 0.0, 1.0), strict=True):
            t.reward = reward
    else:
        groups[0].trajectories[0].reward = bad
    trainer = learner(policy, tmp_path)
    metrics = trainer.step(groups)
    assert metrics["learner/skipped_steps"] == 1.0
    assert all(torch.equal(before[name], value) for name, value in parameters(policy).items())
    (kept,) = (tmp_path / "bad_batches").iterdir()
    content = pickle.loads(kept.read_bytes())
    assert len(content["groups"]) == 2
    assert content["version"] == 0
    # the next, healthy batch trains
    assert trainer.step(make_groups(seed=1, version=1))["learner/skipped_steps"] == 1.0
    assert any(not torch.equal(before[name], value) for name, value in parameters(policy).items())


def test_minibatches_are_optimiser_steps(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path, minibatches=2)
    metrics = trainer.step(make_groups(count=4))
    assert trainer.optimizer.steps == 2
    # only the first minibatch ran on the published weights; its tokens alone are compared
    assert metrics["mismatch/max"] < 1e-5
    assert metrics["policy/ratio_max"] > 1.0 + 1e-4


def test_warmup(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path, lr=1e-3, warmup_steps=4)
    lrs = [trainer.step(make_groups(version=v))["learner/lr"] for v in range(5)]
    assert lrs == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_branches_of_a_trajectory_share_its_mean(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    """|o_i| counts all segments: a trajectory stored twice as two segments weighs like itself once."""
    groups, start = make_groups(), {k: v.clone() for k, v in policy.module.state_dict().items()}
    once = learner(policy, tmp_path).step(groups)["learner/grad_norm"]
    policy.module.load_state_dict(start)
    for group in groups:
        for t in group.trajectories:
            t.segments = t.segments * 2
    twice = learner(policy, tmp_path).step(groups)["learner/grad_norm"]
    assert twice == pytest.approx(once, rel=1e-4)


def test_support_restricts_the_logprob(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    groups = make_groups(count=1)
    for t in groups[0].trajectories:
        s = t.segments[0]
        assert s.replay is not None
        s.replay.support = [np.array([token]) for token in s.tokens]
        s.logprobs[:] = 0.0  # one token kept: probability 1 on both sides
    metrics = learner(policy, tmp_path).step(groups)
    assert metrics["mismatch/max"] == 0.0
    assert metrics["policy/entropy"] == 0.0


def test_kl_pulls_towards_the_reference(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path, ObjectiveConfig(kl_coef=0.1))
    first = trainer.step(make_groups())
    assert first["loss/kl"] == pytest.approx(0.0, abs=1e-6)  # the reference is the policy itself
    assert trainer.step(make_groups(version=1))["loss/kl"] > 1e-7
    assert trainer.reference is not None
    assert trainer.reference is not policy


def test_no_reference_without_kl(policy: Policy, tmp_path: Path) -> None:
    assert learner(policy, tmp_path).reference is None


@pytest.mark.parametrize("mode", ["frozen", "kl"])
def test_indexer_moves_only_by_its_own_loss(policy: Policy, make_groups: Groups, tmp_path: Path, mode: str) -> None:
    before = parameters(policy)
    metrics = learner(policy, tmp_path, train_indexer=mode).step(make_groups())
    moved = {name for name, value in parameters(policy).items() if not torch.equal(before[name], value)}
    assert any(".indexer." in name for name in moved) == (mode == "kl")
    assert any(".indexer." not in name for name in moved)
    assert ("loss/indexer" in metrics) == (mode == "kl")


def test_weights_are_a_copy(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path)
    published = {name: np.array(value) for name, value in trainer.weights().items()}
    snapshot = trainer.weights()
    trainer.step(make_groups())
    assert all(np.array_equal(snapshot[name], value) for name, value in published.items())
    assert any(not np.array_equal(value, published[name]) for name, value in trainer.weights().items())


def test_probe_is_the_sequence_logprob(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    segment: Segment = make_groups()[0].trajectories[0].segments[0]
    probe = learner(policy, tmp_path).probe_logprobs(segment.tokens, segment.replay)
    assert probe.shape == (len(segment) - 1,)
    assert np.allclose(probe[segment.loss_mask[1:]], segment.logprobs[segment.loss_mask], atol=1e-6)


def test_malformed_trajectory_is_named(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    groups = make_groups()
    groups[1].trajectories[2].segments[0].loss_mask[0] = True
    with pytest.raises(ValueError, match="trajectory 1-2 segment 0"):
        learner(policy, tmp_path).step(groups)


def test_no_groups_is_an_error(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no groups"):
        learner(policy, tmp_path).step([])

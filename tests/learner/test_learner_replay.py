"""Replay in the learner: forced, checked or off; every record exactly once; both sides on one distribution."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.types import StopReason
from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.learner.pack_item import PackItem
from rl.learner.packing import pack
from rl.learner.replay_audit import ReplayBooks, replay_of
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.loading import build_policy
from rl.policy.replay import Record, Replay, ReplayError
from rl.types import Group, ReplayRecord, Segment, Trajectory
from tests.learner.conftest import VOCAB, tiny_config

Groups = Callable[..., list[Group]]


def learner(
    policy: Policy,
    path: Path,
    replay: ReplayConfig | None = None,
    objective: ObjectiveConfig | None = None,
    **config: float,
) -> Learner:
    settings = {"lr": 1e-3, "threads": 1} | config
    return Learner(policy, LearnerConfig(**settings), objective or ObjectiveConfig(), path, replay=replay)  # type: ignore[arg-type]


def segment(policy: Policy, length: int, rng: np.random.Generator, keep: int | None = None, shift: int = 0) -> Segment:
    """A segment sampled from ``policy`` under choices that are not its live ones when ``shift`` is above 0.

    ``keep``: sampling was truncated to that many random tokens (and the sampled one).
    """
    ids = torch.from_numpy(rng.integers(0, VOCAB, length))
    record = Record(want_indexer=True)
    with torch.no_grad():
        policy.packed_logits(ids, [0, length], None, record)
    experts = (record.experts + shift) % policy.num_experts
    indexer = record.indexer.clone()
    if shift:  # another choice for every row that has one: the earliest rows
        cut = indexer[:, :, -1] >= 0
        indexer[cut] = torch.arange(indexer.shape[-1])
    valid = np.arange(length) < length - 1
    support: list[np.ndarray | None] | None = None
    mask = np.arange(length) >= 5
    with torch.no_grad():
        logits = policy.packed_logits(ids, [0, length], Replay(experts, torch.from_numpy(valid), indexer))
    if keep is not None:
        support = [None] * length
        for t in range(5, length):
            kept = np.union1d(rng.integers(0, VOCAB, keep), [int(ids[t])]).astype(np.int32)
            support[t] = kept
            cut_off = torch.ones(VOCAB, dtype=torch.bool)
            cut_off[torch.from_numpy(kept).long()] = False
            logits[t - 1].masked_fill_(cut_off, float("-inf"))
    logprobs = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0].numpy()
    return Segment(
        tokens=ids.numpy().astype(np.int32),
        loss_mask=mask,
        logprobs=np.where(mask, np.concatenate([[0.0], logprobs]), 0.0).astype(np.float32),
        versions=np.where(mask, 0, -1).astype(np.int32),
        replay=ReplayRecord(valid, experts.numpy().astype(np.uint8), indexer.numpy().astype(np.int16), support),
    )


def groups_of(policy: Policy, seed: int = 0, family: str = "search", **kwargs: int) -> list[Group]:
    rng = np.random.default_rng(seed)
    group = Group(0, 0, "task", family, 0)
    for i in range(4):
        segments = [segment(policy, int(rng.integers(16, 40)), rng, **kwargs) for _ in range(1 + i % 2)]
        group.trajectories.append(Trajectory(f"t{i}", "task", family, segments, [], StopReason.ANSWERED, float(i < 2)))
    return [group]


def test_everything_replayed_leaves_no_ratio_outside(policy: Policy, tmp_path: Path) -> None:
    """Experts, indexer and support all differ from the live ones: with all three replayed the ratios are 1 in fp32."""
    groups = groups_of(policy, keep=6, shift=1)
    metrics = learner(policy, tmp_path, ReplayConfig(indexer="force")).step(groups)
    assert metrics["mismatch/outside"] == 0.0
    assert metrics["mismatch/max"] < 1e-5
    assert metrics["policy/ratio_outside"] == 0.0
    inputs = sum(len(s) - 1 for t in groups[0].trajectories for s in t.segments)
    assert metrics["replay/rows"] == inputs


@pytest.mark.parametrize(
    "replay",
    [
        ReplayConfig(routing="off", indexer="force"),
        ReplayConfig(routing="check", indexer="force"),
        ReplayConfig(indexer="off"),
        ReplayConfig(indexer="check"),
        ReplayConfig(indexer="force", sampling_mask="off", ablation=True),
    ],
)
def test_each_part_that_is_not_replayed_shows(policy: Policy, tmp_path: Path, replay: ReplayConfig) -> None:
    metrics = learner(policy, tmp_path, replay).step(groups_of(policy, keep=6, shift=1))
    assert metrics["mismatch/max"] > 1e-3


def test_overlap_by_hand(policy: Policy, tmp_path: Path) -> None:
    # All 8 experts but the recorded ones moved by one: {a, b} became {a+1, b+1}; the overlap follows from the two ids.
    groups = groups_of(policy, shift=1)
    same = [
        np.mean([e in {(x - 1) % policy.num_experts for x in row} for e in row])
        for t in groups[0].trajectories
        for s in t.segments
        for row in s.replay.experts[: len(s) - 1].reshape(-1, s.replay.experts.shape[-1]).astype(int).tolist()
    ]
    # under check the live pass is the unshifted one, so live = recorded - 1
    metrics = learner(policy, tmp_path, ReplayConfig(routing="check", indexer="check")).step(groups)
    assert metrics["replay/routing_overlap"] == pytest.approx(float(np.mean(same)), abs=1e-6)
    assert 0.0 < metrics["replay/indexer_overlap"] < 1.0
    unshifted = learner(policy, tmp_path, ReplayConfig(routing="check", indexer="check")).step(groups_of(policy, 1))
    # one step has moved the weights a little
    assert unshifted["replay/routing_overlap"] > 0.9


def test_missing_records_are_named(policy: Policy, tmp_path: Path) -> None:
    groups = groups_of(policy)
    broken = groups[0].trajectories[2].segments[0]
    broken.replay.valid[3] = False
    message = f"trajectory t2 segment 0: experts were recorded for {len(broken) - 2} of {len(broken) - 1} input tokens"
    with pytest.raises(ReplayError, match=message):
        learner(policy, tmp_path).step(groups)
    broken.replay = None
    with pytest.raises(ReplayError, match=r"replay.routing=off"):
        learner(policy, tmp_path).step(groups)
    learner(policy, tmp_path, ReplayConfig(routing="off")).step(groups)


def test_missing_sampler_logprobs_are_an_error(policy: Policy, tmp_path: Path) -> None:
    groups = groups_of(policy)
    groups[0].trajectories[1].segments[0].logprobs[7] = np.nan
    with pytest.raises(ValueError, match=r"trajectory t1 segment 0: 1 of \d+ sampler log-probs are NaN"):
        learner(policy, tmp_path).step(groups)


def test_a_replay_serves_one_pass_and_all_its_layers(policy: Policy) -> None:
    ids, record = torch.arange(20), Record()
    with torch.no_grad():
        policy.packed_logits(ids, [0, 20], None, record)
        replay = Replay(record.experts, torch.ones(20, dtype=torch.bool))
        policy.packed_logits(ids, [0, 20], replay)
        with pytest.raises(ReplayError, match="layer 0 was used twice"):
            policy.packed_logits(ids, [0, 20], replay)
        too_many = Replay(torch.cat([record.experts, record.experts[:, :1]], 1), torch.ones(20, dtype=torch.bool))
        with pytest.raises(ReplayError, match=r"of \d+ recorded layers were used"):
            policy.packed_logits(ids, [0, 20], too_many)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(10, 30), st.booleans()), min_size=1, max_size=8), st.integers(30, 90))
def test_every_record_once_whatever_the_packing(lengths: list[tuple[int, bool]], budget: int) -> None:
    """Ragged segments, some cut off behind their last target; a lost, doubled or shifted batch is noticed."""
    policy = build_policy(tiny_config())
    rng = np.random.default_rng(len(lengths))
    items = []
    for length, tail in lengths:
        s = segment(policy, length, rng)
        if tail:  # the environment had the last word: rows behind the last target are never run
            s.loss_mask[-3:] = False
        items.append(PackItem(s.tokens, s.loss_mask, logprobs=s.logprobs, replay=s.replay))
    books = ReplayBooks()
    books.expect(items)
    batches = pack(items, budget)
    for batch in batches:
        books.pack(batch)
        replay = replay_of(batch, ReplayConfig(indexer="force"))
        with torch.no_grad():
            policy.packed_logits(batch.tokens_T, batch.cu_seqlens, replay)
        books.use(batch, replay)
    books.close()
    assert books.used == sum(int(i.replay.valid[: i.inputs].sum()) for i in items if i.replay is not None)
    books.use(batches[0], None)
    with pytest.raises(ReplayError, match=re.escape(f"{books.used} used by the forward passes")):
        books.close()


def test_router_bias_is_frozen_in_rl(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in policy.weights().items() if "e_score_correction_bias" in k}
    weights = {k: v.clone() for k, v in policy.weights().items() if k.endswith("mlp.gate.weight")}
    learner(policy, tmp_path).step(make_groups())
    assert before
    assert all(torch.equal(policy.weights()[k], v) for k, v in before.items())
    assert any(not torch.equal(policy.weights()[k], v) for k, v in weights.items())  # its gate does learn


def test_kl_strength_is_per_family(policy: Policy, tmp_path: Path) -> None:
    """With all rewards equal the loss is the KL term alone: a family at 0 moves nothing, another one pulls back."""
    objective = ObjectiveConfig(kl_coef={"default": 0.1, "math": 0.0})
    reference = build_policy(tiny_config(seed=1))
    for family, moves in (("math", False), ("code", True)):
        groups = groups_of(policy, family=family)
        for t in groups[0].trajectories:
            t.reward = 1.0
        trainer = Learner(policy, LearnerConfig(threads=1), objective, tmp_path, reference)
        metrics = trainer.step(groups)
        assert (metrics["learner/grad_norm"] > 0) is moves
        assert ("loss/kl" in metrics) is moves


def test_reference_is_replaced_every_n_steps(policy: Policy, make_groups: Groups, tmp_path: Path) -> None:
    trainer = learner(policy, tmp_path, objective=ObjectiveConfig(kl_coef=0.1, ref_refresh_every=2))
    start = {k: v.clone() for k, v in policy.weights().items()}
    trainer.step(make_groups())
    assert trainer.reference is not None
    assert all(torch.equal(trainer.reference.policy.weights()[k], v) for k, v in start.items())
    trainer.step(make_groups(seed=1, version=1))
    assert all(torch.equal(trainer.reference.policy.weights()[k], v) for k, v in policy.weights().items())


def test_learner_old_policy_starts_every_ratio_at_one(policy: Policy, tmp_path: Path) -> None:
    """Another policy sampled: against the sampler tokens are clipped, against the learner's own log-probs none is."""
    sampler = build_policy(tiny_config(seed=5))
    groups = groups_of(sampler)
    against_sampler = learner(policy, tmp_path, ReplayConfig(indexer="force"), lr=1e-9).step(groups)
    decoupled = ObjectiveConfig(old_policy="learner", correction="mask", correction_low=0.999, correction_high=1.001)
    metrics = learner(policy, tmp_path, ReplayConfig(indexer="force"), decoupled, lr=1e-9).step(groups)
    assert against_sampler["policy/clip_fraction"] > 0.0
    assert metrics["policy/clip_fraction"] == 0.0
    assert metrics["policy/correction_masked"] > 0.0


def test_percentile_of_the_drift_masks_after_enough_sequences(policy: Policy, tmp_path: Path) -> None:
    groups = groups_of(build_policy(tiny_config(seed=5)))
    trainer = learner(policy, tmp_path, objective=ObjectiveConfig(opsm_delta="p50"), lr=1e-9)
    first = trainer.step(groups)
    assert first["policy/masked_sequences"] == 0.0
    assert "policy/opsm_delta" not in first
    while len(trainer.drift.values) < 64:
        trainer.step(groups)
    resumed = learner(policy, tmp_path, objective=trainer.objective, lr=1e-9)
    resumed.load_state_dict(trainer.state_dict(), trainer.optimizer.moments())
    metrics = resumed.step(groups)
    assert metrics["policy/opsm_delta"] == pytest.approx(metrics["policy/drift_mean"], abs=1.0)
    assert 0.0 < metrics["policy/masked_sequences"] < 1.0


def test_settings_that_would_mislead_are_refused() -> None:
    replay = ReplayConfig(sampling_mask="off")
    replay.check(truncates=False, temperature=1.0, learner_temperature=1.0)
    with pytest.raises(ValueError, match=r"replay\.sampling_mask=off"):
        replay.check(truncates=True, temperature=1.0, learner_temperature=1.0)
    with pytest.raises(ValueError, match=r"rollout\.temperature=0\.7 but objective\.temperature=1\.0"):
        ReplayConfig().check(truncates=False, temperature=0.7, learner_temperature=1.0)
    ReplayConfig(sampling_mask="off", ablation=True).check(truncates=True, temperature=1.0, learner_temperature=1.0)
    for field in ("routing", "indexer", "sampling_mask"):
        with pytest.raises(ValueError, match=f"replay.{field}='on'"):
            ReplayConfig(**{field: "on"})

"""Real Ray, real vLLM, a tiny random policy: groups, weight sync and probe, a killed worker, deadlines. With served
engines: -m slow."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import rollout_doubles
import torch
from rollout_doubles import AddTaskset, tokenizer

from envs.types import Message, StopReason
from rewards.compose import default_composer
from rl.chat.tokenizer import ChatTokenizer
from rl.chat.v32 import V32Renderer
from rl.policy.api import Policy
from rl.policy.handover import opened, whole
from rl.policy.loading import build_policy
from rl.policy.lora import LoraPolicy
from rl.policy.packed_weights import pack, unpack
from rl.rollout.config import RolloutConfig
from rl.rollout.crew import WorkerLost
from rl.rollout.orders import GroupSpec
from rl.rollout.pool import RolloutPool
from rl.rollout.weights import WeightSyncError, probe_mismatch
from rl.tracking.stall import StallError
from rl.types import ProbeScores, ReplayRecord

CONFIG = RolloutConfig(threads=1, max_concurrency=8, max_tokens=24, max_context=512, kv_cache_gib=0.05, max_turns=2)


def open_renderer(directory: Path) -> V32Renderer:
    return V32Renderer(ChatTokenizer.load(directory))


class DeadlyEnv(rollout_doubles.AddEnv):
    def reset(self) -> tuple[Message, ...]:
        if self.task.seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset()


class DeadlyTaskset(AddTaskset):
    env_class = DeadlyEnv


def spec(number: int, size: int = 2, version: int = 0) -> GroupSpec:
    return GroupSpec(number, AddTaskset().task(number), number, size, version)


@pytest.fixture(scope="module")
def policy() -> Policy:
    cfg = {"preset": "tiny_dsa", "vocab_size": tokenizer().vocab_size, "overrides": {"num_hidden_layers": 2}}
    return build_policy(cfg)


@pytest.fixture(scope="module")
def model_dir(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("policy")
    policy.save(directory)
    tokenizer().save(directory)
    return directory


@pytest.fixture(scope="module", params=["stepped", pytest.param("served", marks=pytest.mark.slow)])
def pool(request: pytest.FixtureRequest, model_dir: Path, local_ray: None) -> Iterator[RolloutPool]:
    config = replace(CONFIG, engine=request.param)
    pool = RolloutPool(
        config, model_dir, partial(open_renderer, model_dir), {"train": AddTaskset()}, default_composer()
    )
    yield pool
    pool.close()


def learner_logprobs(policy: Policy, tokens: list[int], replay: ReplayRecord | None) -> np.ndarray:
    """Log-probs of tokens[1:] with the engine's choices forced, as the learner computes them."""
    from rl.policy.replay import Replay

    assert replay is not None
    experts, valid = replay.experts.copy(), replay.valid.copy()  # what Ray delivers is read-only
    forced = Replay(
        torch.from_numpy(experts).long(),
        torch.from_numpy(valid),
        None if replay.indexer is None else torch.tensor(replay.indexer).long(),
    )
    with torch.no_grad():
        logits = policy.packed_logits(torch.tensor(tokens), [0, len(tokens)], forced)
    return logits.log_softmax(-1)[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].numpy()


def learner_scores(policy: Policy, tokens: list[int], replay: ReplayRecord | None) -> ProbeScores:
    return ProbeScores(learner_logprobs(policy, tokens, replay), tolerance=1e-4)


def probe_tokens() -> list[int]:
    return np.random.default_rng(0).integers(8, tokenizer().vocab_size, 200).tolist()


def test_groups_come_back_complete(pool: RolloutPool) -> None:
    for number in range(5):
        pool.submit(spec(number, size=3))
    assert pool.outstanding == 5
    groups = pool.collect(2, 200) + pool.collect(3, 200)
    assert pool.outstanding == 0
    assert sorted(g.id for g in groups) == list(range(5))
    for group in groups:
        assert (group.family, group.task_id) == ("add", f"add/train/0/{group.id}")
        assert len({t.id for t in group.trajectories}) == 3
        for t in group.trajectories:
            assert t.failure_kind is None
            assert t.stop_reason in (StopReason.MAX_TOKENS, StopReason.ANSWERED, StopReason.MAX_TURNS)
            (segment,) = t.segments
            assert segment.replay is None, "records stay in Ray's store"
            assert 1 <= t.sampled_tokens <= 48
            assert (segment.logprobs[segment.loss_mask] < 0).all()
            assert set(segment.versions[segment.loss_mask]) == {0}
        (there,) = opened([group.refs], 60.0)
        for t in whole(there).trajectories:
            (segment,) = t.segments
            assert segment.replay is not None
            assert segment.replay.valid[:-1].all()
    stats = pool.stats()
    assert stats["episodes_done"] == 15
    assert stats["sampled_tokens"] == sum(t.sampled_tokens for g in groups for t in g.trajectories)


def test_asking_for_more_than_was_ordered(pool: RolloutPool) -> None:
    with pytest.raises(ValueError, match="only 0 groups are out"):
        pool.collect(1, 5)
    with pytest.raises(ValueError, match="taskset 'other' is unknown"):
        pool.submit(GroupSpec(0, AddTaskset().task(0), 0, 1, 0, taskset="other"))


def test_sync_is_proved_by_the_probe(pool: RolloutPool, policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    report = pool.sync(policy.weights(), 1, probe_tokens(), partial(learner_scores, policy))
    assert report.mismatch is not None
    assert report.mismatch < 1e-4
    pool.submit(spec(7, version=1))
    (group,) = pool.collect(1, 200)
    assert {int(v) for t in group.trajectories for s in t.segments for v in s.versions[s.loss_mask]} == {1}
    # Sampling log-probs are the learner's at the same version, the recorded experts replayed.
    segment = whole(opened([group.refs], 60.0)[0]).trajectories[0].segments[0]
    expected = learner_logprobs(policy, segment.tokens.tolist(), segment.replay)
    mask = segment.loss_mask[1:]
    assert np.abs(expected - segment.logprobs[1:])[mask].max() < 1e-4


def test_an_engine_that_differs_stops_the_run(pool: RolloutPool, policy: Policy) -> None:
    stale = {name: value.clone() for name, value in policy.weights().items()}
    stale["lm_head.weight"] += 0.05 * torch.randn_like(stale["lm_head.weight"])
    with pytest.raises(WeightSyncError, match=r"worker 0 .* to version 2"):
        pool.sync(stale, 2, probe_tokens(), partial(learner_scores, policy))
    pool.sync(policy.weights(), 3, probe_tokens(), partial(learner_scores, policy))


def test_a_stall_names_what_is_pending_and_loses_nothing(pool: RolloutPool) -> None:
    pool.submit(spec(30, size=8))
    with pytest.raises(StallError, match=r"group 30 \(task add/train/0/30, worker 0, \d+ s\)"):
        pool.collect(1, 0.001)
    assert [g.id for g in pool.collect(1, 200)] == [30]


def test_sigkill_loses_no_group_and_keeps_the_weights(pool: RolloutPool, policy: Policy) -> None:
    (pid,) = pool.pids()
    below = psutil.Process(pid).children(recursive=True)  # vLLM's own, of a served engine
    assert bool(below) == (pool.config.engine == "served")
    for number in range(40, 43):
        pool.submit(spec(number, size=4, version=3))
    time.sleep(0.1)
    os.kill(pid, signal.SIGSTOP)  # what is ordered now cannot be finished before the end, however slow this process is
    for number in range(43, 46):
        pool.submit(spec(number, size=4, version=3))
    os.kill(pid, signal.SIGKILL)
    groups = pool.collect(6, 200)
    assert sorted(g.id for g in groups) == list(range(40, 46))
    assert all(len(g.trajectories) == 4 for g in groups)
    assert pool.counts["workers_restarted"] == 1
    assert pool.counts["groups_resubmitted"] >= 1
    assert pool.pids() != [pid]
    assert psutil.wait_procs(below, timeout=30)[1] == []  # nobody has told them
    after = whole(opened([groups[-1].refs], 60.0)[0]).trajectories[0].segments[0]
    assert set(after.versions[after.loss_mask]) == {3}
    expected = learner_logprobs(policy, after.tokens.tolist(), after.replay)
    assert np.abs(expected - after.logprobs[1:])[after.loss_mask[1:]].max() < 1e-4


def test_a_served_engine_that_dies_is_replaced(pool: RolloutPool, policy: Policy) -> None:
    if pool.config.engine != "served":
        pytest.skip("a stepped engine has no process of its own")
    (pid,) = pool.pids()
    restarted = pool.counts["workers_restarted"]
    for number in range(50, 53):
        pool.submit(spec(number, size=4, version=3))
    (engine,) = [p for p in psutil.Process(pid).children() if "EngineCor" in p.name()]
    engine.kill()
    assert sorted(g.id for g in pool.collect(3, 200)) == [50, 51, 52]
    assert pool.counts["workers_restarted"] == restarted + 1
    assert pool.pids() != [pid]
    report = pool.sync(policy.weights(), 4, probe_tokens(), partial(learner_scores, policy))
    assert report.mismatch is not None


def test_an_adapter_is_added_to_its_base_by_a_new_worker_too(pool: RolloutPool, policy: Policy) -> None:
    adapted = LoraPolicy(copy.deepcopy(policy), 4, 8)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if ".lora_B" in name:
                value.normal_(std=0.05)
    pool.take_base("base", adapted.base_weights())
    assert pool.base == "base"
    report = pool.sync(adapted.weights(), 8, probe_tokens(), partial(learner_scores, adapted))
    assert report.mismatch is not None
    with torch.no_grad(), pytest.raises(WeightSyncError), adapted.off():  # it is not the base that the engine holds
        pool.sync(adapted.weights(), 8, probe_tokens(), partial(learner_scores, adapted))
    pool.sync(adapted.weights(), 8, probe_tokens(), partial(learner_scores, adapted))
    (pid,) = pool.pids()
    os.kill(pid, signal.SIGKILL)
    pool.submit(spec(60, version=8))
    (group,) = pool.collect(1, 200)
    assert pool.pids() != [pid]
    segment = whole(opened([group.refs], 60.0)[0]).trajectories[0].segments[0]
    expected = learner_logprobs(adapted, segment.tokens.tolist(), segment.replay)
    assert np.abs(expected - segment.logprobs[1:])[segment.loss_mask[1:]].max() < 1e-4


def test_a_task_that_kills_its_workers_is_skipped_and_the_others_are_not(
    model_dir: Path, local_ray: None, capfd: pytest.CaptureFixture[str]
) -> None:
    tasksets = {"train": DeadlyTaskset()}
    config = replace(CONFIG, max_restarts=3)
    pool = RolloutPool(config, model_dir, partial(open_renderer, model_dir), tasksets, default_composer())
    told: list[int] = []
    pool.on_finished = lambda group: told.append(group.id)
    try:
        for number in range(3):
            pool.submit(GroupSpec(number, tasksets["train"].task(number), number, 2, 0))
        groups = pool.take([0, 1, 2], 280)
        assert pool.counts["workers_restarted"] <= 3  # together, together again, alone
        assert pool.counts["groups_skipped"] == 1
        assert sorted(told) == [0, 1, 2]
        assert [[t.failure_kind for t in g.trajectories] for g in groups] == [
            [None, None], ["worker_lost", "worker_lost"], [None, None],
        ]  # fmt: skip
        assert groups[1].trajectories[0].stop_reason == StopReason.ABORTED
        pool.submit(GroupSpec(3, tasksets["train"].task(3), 3, 2, 0))  # its worker is free again
        assert [t.failure_kind for t in pool.take([3], 200)[0].trajectories] == [None, None]
    finally:
        pool.close()
    assert (
        "task add/train/0/1 (group 1) is skipped, worker_lost: it lost its worker, alone in it"
        in capfd.readouterr().err
    )


def test_an_engine_that_cannot_start_says_why(pool: RolloutPool, tmp_path: Path) -> None:
    with pytest.raises(
        WorkerLost,
        match=r"worker 0 could not start its engine: the engine failed: ValueError.*no config.json",
    ):
        RolloutPool(CONFIG, tmp_path, rollout_doubles.renderer, {"train": AddTaskset()}, default_composer())


def test_weights_travel_bit_by_bit() -> None:
    named = {
        "a": torch.randn(3, 4).bfloat16(),
        "b": torch.randn(5, 2).t(),
        "c": torch.arange(3),
        "d": torch.tensor(2.5),
    }
    back = unpack(pack(named))
    for name, value in named.items():
        assert back[name].dtype is value.dtype
        assert torch.equal(back[name], value)


def test_probe_mismatch_by_hand() -> None:
    ours, theirs = np.array([-1.0, -2.0, -3.0]), np.array([-1.0, -2.00005, -3.0])
    assert probe_mismatch("w", 1, ours, theirs, 1e-3) == pytest.approx(5e-5)
    with pytest.raises(WeightSyncError, match=r"root mean square of all 2\.89e-05, allowed 1e-05"):  # 5e-5 / sqrt(3)
        probe_mismatch("w", 1, ours, theirs, 1e-4)
    assert probe_mismatch("w", 1, np.zeros(400), np.eye(400)[0] * 5e-5, 1e-4) == 5e-5  # one token of many
    with pytest.raises(WeightSyncError, match=r"probe token 2 is -2\.000000"):
        probe_mismatch("w", 1, ours, theirs, 1e-5)
    with pytest.raises(WeightSyncError, match="probe token 3"):
        probe_mismatch("w", 1, ours, np.array([-1.0, -2.0, np.nan]), 1e-4)
    with pytest.raises(WeightSyncError, match="both must cover"):
        probe_mismatch("w", 1, ours, theirs[:2], 1e-4)

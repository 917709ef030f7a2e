"""Weights in a stream into real engines of a real pool: probe, faults by name, a worker that dies in the middle, a new
one that gets them from another engine or from the learner."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from rollout_doubles import AddTaskset, tokenizer
from test_pool import CONFIG, learner_logprobs, learner_scores, open_renderer, probe_tokens, spec
from torch import Tensor

from rewards.compose import default_composer
from rl.policy.api import Policy
from rl.policy.checksum import Running
from rl.policy.handover import opened, whole
from rl.policy.loading import build_policy
from rl.policy.lora import LoraPolicy
from rl.policy.meeting import open_meeting
from rl.policy.rendezvous import Receipt, Rendezvous
from rl.policy.weight_plan import Entry, Piece
from rl.policy.weight_source import WeightSource
from rl.policy.weight_stream import Link, Links
from rl.rollout.pool import RolloutPool
from rl.rollout.streams import Streams
from rl.rollout.weights import WeightSyncError
from rl.types import Trajectory

HOST = "127.0.0.1"
STREAMED = replace(CONFIG, weights="gloo", bucket_mb=1, workers=2, sync_s=60.0)


class Teacher:
    """A learner of this process (``rl.rollout.streams.Sender``): it sends from a thread."""

    def __init__(self, policy: Any, slow: Callable[[], None] = lambda: None) -> None:
        self.policy, self.slow = policy, slow
        self.adapts, self.moved = isinstance(policy, LoraPolicy), False
        self._links, self._store = Links(), open_meeting(HOST, 2, 30.0)
        self.sent: list[Rendezvous] = []

    def meet(self) -> tuple[str, int]:
        return HOST, self._store.port

    def send(self, meeting: Rendezvous) -> Callable[[float], Receipt]:
        found: list[Any] = []
        self.sent.append(meeting)

        def run() -> None:
            source = WeightSource(self.policy.weights())
            try:
                with self._links.to(meeting, 0, HOST) as link:
                    found.append(link.send(source.plan(meeting.version, meeting.bucket_bytes), self._slowly(source)))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def ended(seconds: float) -> Receipt:
            thread.join(seconds)
            if isinstance(found[0], Exception):
                raise found[0]
            receipt: Receipt = found[0]
            return receipt

        return ended

    def _slowly(self, source: WeightSource) -> Iterator[Tensor]:
        for number, tensor in enumerate(source):
            if number == len(source.entries) // 2:
                self.slow()
            yield tensor


@pytest.fixture(scope="module")
def policy() -> Policy:
    cfg = {"preset": "tiny_dsa", "vocab_size": tokenizer().vocab_size, "overrides": {"num_hidden_layers": 2}}
    return build_policy(cfg)


@pytest.fixture(scope="module")
def pool(policy: Policy, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[RolloutPool]:
    directory = tmp_path_factory.mktemp("policy")
    policy.save(directory)
    tokenizer().save(directory)
    tasksets = {"train": AddTaskset()}
    pool = RolloutPool(STREAMED, directory, partial(open_renderer, directory), tasksets, default_composer())
    yield pool
    pool.close()


def moved(policy: Policy, seed: int) -> Policy:
    changed = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in changed.module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return changed


def assert_samples(pool: RolloutPool, policy: Any, version: int, first: int) -> None:
    """Groups of every worker are those of ``policy``, to the log-prob."""
    for number in range(first, first + 2 * len(pool.crew.slots)):
        pool.submit(spec(number, version=version))
    for group in pool.collect(2 * len(pool.crew.slots), 200):
        for trajectory in whole(opened([group.refs], 60.0)[0]).trajectories:
            assert_trajectory(policy, trajectory, version)


def assert_trajectory(policy: Any, trajectory: Trajectory, version: int) -> None:
    segment = trajectory.segments[0]
    assert segment.replay is not None
    mask = segment.loss_mask[1:]
    assert set(segment.versions[segment.loss_mask]) == {version}
    assert segment.replay.experts.dtype == np.uint8, "as it was recorded, not as torch wants it"
    expected = learner_logprobs(policy, segment.tokens.tolist(), segment.replay)
    assert abs(expected - segment.logprobs[1:])[mask].max() < 1e-4


def test_a_sync_is_proved_by_checksums_and_probe(pool: RolloutPool, policy: Policy) -> None:
    teacher = Teacher(moved(policy, 1))
    for version in (1, 2):  # the second time over the same connection
        with torch.no_grad():
            teacher.policy.module.lm_head.weight.mul_(1.01)
        report = pool.sync(teacher, version, probe_tokens(), partial(learner_scores, teacher.policy))
        assert report.mismatch is not None
        assert report.mismatch < 1e-4
    assert teacher.sent[0].key == teacher.sent[1].key
    assert_samples(pool, teacher.policy, 2, 10)


def test_a_fault_on_the_way_is_named_and_the_next_sync_mends_it(
    pool: RolloutPool, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, teacher = Link.write, Teacher(moved(policy, 2))
    name = next(n for n in teacher.policy.weights() if n.endswith("1.self_attn.o_proj.weight"))

    def skip(link: Link, slot: Tensor, entry: Entry, piece: Piece, data: Tensor, own: Running) -> None:
        if entry.name == name:
            own.add(data[piece.first : piece.first + piece.size])
        else:
            right(link, slot, entry, piece, data, own)

    monkeypatch.setattr(Link, "write", skip)
    with pytest.raises(WeightSyncError, match=rf"worker \d: {name} \(1\): what has arrived is not what was sent"):
        pool.sync(teacher, 3)
    with pytest.raises(ray.exceptions.RayTaskError, match="scores nothing now: weights of version 3 came in part"):
        ray.get(pool.crew.slots[0].actor.probe.remote(probe_tokens()), timeout=60)
    monkeypatch.setattr(Link, "write", right)
    pool.sync(teacher, 4, probe_tokens(), partial(learner_scores, teacher.policy))
    assert_samples(pool, teacher.policy, 4, 20)


def test_a_name_that_is_missing_changes_nothing(pool: RolloutPool, policy: Policy) -> None:
    class Partial:
        def weights(self) -> dict[str, Tensor]:
            named = moved(policy, 3).weights()
            del named["model.norm.weight"]
            return named

    with pytest.raises(ValueError, match=r"missing \['model.norm.weight'\]"):
        pool.sync(Teacher(Partial()), 5)
    held = Teacher(moved(policy, 2))
    assert ray.get(pool.crew.slots[0].actor.probe.remote(probe_tokens()), timeout=60)[2] == 4
    pool.sync(held, 6, probe_tokens(), partial(learner_scores, held.policy))


def test_a_worker_that_dies_in_the_middle_is_replaced_and_all_get_the_weights(
    pool: RolloutPool, policy: Policy
) -> None:
    pids, restarted = pool.pids(), pool.counts["workers_restarted"]

    def kill() -> None:
        if len(teacher.sent) == 1:
            os.kill(pids[1], signal.SIGKILL)
            time.sleep(0.2)

    teacher = Teacher(moved(policy, 4), kill)
    began = time.monotonic()
    report = pool.sync(teacher, 7, probe_tokens(), partial(learner_scores, teacher.policy))
    assert report.mismatch is not None
    assert len(teacher.sent) == 2
    assert teacher.sent[0].key != teacher.sent[1].key
    assert pool.counts["workers_restarted"] == restarted + 1
    assert pool.pids()[0] == pids[0]
    assert pool.pids()[1] != pids[1]
    assert time.monotonic() - began < 100
    assert_samples(pool, teacher.policy, 7, 30)


def test_a_worker_that_dies_before_it_is_probed_gets_the_weights_again(
    pool: RolloutPool, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, right = Teacher(moved(policy, 7)), Streams.sync

    def sync(streams: Streams, sender: Any, version: int) -> list[Receipt]:
        receipts = right(streams, sender, version)
        if len(teacher.sent) == 1:
            os.kill(pool.pids()[1], signal.SIGKILL)
        return receipts

    monkeypatch.setattr(Streams, "sync", sync)
    report = pool.sync(teacher, 8, probe_tokens(), partial(learner_scores, teacher.policy))
    assert report.mismatch is not None
    assert len(teacher.sent) == 2
    assert all(slot.unfed is None for slot in pool.crew.slots)


def test_a_new_worker_gets_its_weights_from_the_other_engine(pool: RolloutPool, policy: Policy) -> None:
    teacher = Teacher(moved(policy, 5))
    pool.sync(teacher, 8, probe_tokens(), partial(learner_scores, teacher.policy))
    teacher.moved = True  # so that it cannot be the learner
    pid = pool.pids()[0]
    os.kill(pid, signal.SIGKILL)
    assert_samples(pool, teacher.policy, 8, 40)
    while pool.crew.slots[0].unfed is not None:  # all groups went to the other one meanwhile
        pool.submit(spec(50, version=8))
        pool.collect(1, 200)
    assert len(teacher.sent) == 1
    assert pool.pids()[0] != pid
    assert_samples(pool, teacher.policy, 8, 60)


def test_an_adapter_travels_alone(pool: RolloutPool, policy: Policy) -> None:
    adapted = LoraPolicy(copy.deepcopy(policy), 4, 8)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if ".lora_B" in name:
                value.normal_(std=0.05)
    pool.take_base("base", adapted.base_weights())
    report = pool.sync(Teacher(adapted), 9, probe_tokens(), partial(learner_scores, adapted))
    assert report.mismatch is not None
    assert_samples(pool, adapted, 9, 70)


@pytest.mark.slow
def test_without_another_engine_the_learner_sends_again(policy: Policy, tmp_path: Path, local_ray: None) -> None:
    policy.save(tmp_path)
    tokenizer().save(tmp_path)
    config = replace(STREAMED, workers=1)
    alone = RolloutPool(config, tmp_path, partial(open_renderer, tmp_path), {"train": AddTaskset()}, default_composer())
    try:
        teacher = Teacher(moved(policy, 6))
        alone.sync(teacher, 1, probe_tokens(), partial(learner_scores, teacher.policy))
        os.kill(alone.pids()[0], signal.SIGKILL)
        assert_samples(alone, teacher.policy, 1, 0)
        assert len(teacher.sent) == 2
        os.kill(alone.pids()[0], signal.SIGKILL)
        teacher.moved = True  # it has made a step: the next sync brings the weights, and no token is sampled before
        time.sleep(0.5)
        alone.submit(spec(10, version=1))
        report = alone.sync(teacher, 2, probe_tokens(), partial(learner_scores, teacher.policy))
        assert report.mismatch is not None
        (group,) = alone.collect(1, 200)
        assert_trajectory(teacher.policy, whole(opened([group.refs], 60.0)[0]).trajectories[0], 2)
    finally:
        alone.close()

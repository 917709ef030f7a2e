"""The learner inside a real Ray actor: step, publish, probe, checkpoint, threads."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from train_runs import train_config

from rl.learner import actor as actors
from rl.learner.actor import LearnerHandle, LearnerSender
from rl.learner.checkpoint import damage
from rl.learner.config import LearnerConfig
from rl.learner.group import LearnerGroup, LearnerLost
from rl.learner.learner import Learner
from rl.learner.process import start_learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.loading import load_policy
from rl.policy.packed_weights import unpack
from rl.policy.rendezvous import Rendezvous, StreamBroken
from rl.policy.replay import ReplayError
from rl.policy.weight_stream import Links
from rl.rollout.taking import receive
from rl.types import Group


def test_learner_actor(
    local_ray: None, policy_config: dict, make_groups: Callable[..., list[Group]], tmp_path: Path
) -> None:
    config = LearnerConfig(lr=1e-3, threads=1)
    actor = start_learner(policy_config, config, ObjectiveConfig(), tmp_path)
    groups = make_groups()
    metrics: Any = ray.get(actor.step.remote(groups), timeout=240)
    assert metrics["mismatch/max"] < 1e-5
    assert ray.get(actor.version.remote(), timeout=240) == 1
    ray.get(actor.accumulate.remote(groups[1:]), timeout=240)
    ray.get(actor.finish.remote(groups[:1], [0, 1]), timeout=240)
    assert ray.get(actor.version.remote(), timeout=240) == 2
    stored, size = actor.weights.options(num_returns=2).remote()
    assert ray.get(size, timeout=240) == sum(array.nbytes for array, _ in ray.get(stored, timeout=240).values())
    assert ray.get(actor.operators.remote(), timeout=240) == "learner.ops=torch: torch"
    segment = groups[0].trajectories[0].segments[0]
    probe = ray.get(actor.probe_logprobs.remote(segment.tokens, segment.replay), timeout=240)
    assert probe.shape == (len(segment) - 1,)
    ray.get(actor.save_checkpoint.remote(str(tmp_path / "c"), 1, {"note": 7}, 2, True), timeout=240)
    assert ray.get(actor.checkpoint_written.remote(True), timeout=240)
    path = tmp_path / "c" / "step_000001"
    assert ray.get(actor.load_checkpoint.remote(str(path)), timeout=240) == {"note": 7, "step": 1}
    ray.get(actor.save_policy.remote(str(tmp_path / "p")), timeout=240)
    assert (tmp_path / "p" / "model.safetensors").is_file()


@pytest.mark.parametrize("ops", ["torch", "triton"])
def test_other_operators_than_torch_s_are_said_once(
    ops: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the actor logs stays in its process, so the driver says it with the first sync."""
    group = SimpleNamespace(call=lambda method: f"learner.ops={ops}: here", get=lambda what, ref, *_: ref)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(actors, "LearnerGroup", lambda *_, **__: group)
    monkeypatch.setattr(actors, "probe_tokens", lambda *_: [1, 2])
    handle = LearnerHandle(train_config(f"learner.ops={ops}"), Path("p"), Path("r"))
    pool: Any = SimpleNamespace(base=None, sync=lambda *_: SimpleNamespace(metrics={"mismatch/probe_max": 0.0}))
    for version in range(2):
        assert handle.sync(pool, version) == {"mismatch/probe_max": 0.0}
    assert caplog.messages == (["learner.ops=triton: here"] if ops == "triton" else [])


@pytest.fixture
def two_ranks(local_ray: None, policy: Policy, tmp_path: Path) -> Iterator[LearnerGroup]:
    policy.save(tmp_path / "policy")
    config = LearnerConfig(lr=1e-3, threads=1, max_tokens_per_microbatch=64, ranks=2)
    described = {"path": str(tmp_path / "policy")}
    start = partial(start_learner, described, config, ObjectiveConfig(), tmp_path, timeout_s=120.0)
    group = LearnerGroup(start, 2, num_gpus=0.0)
    yield group
    group.kill()


def test_two_ranks_are_called_as_one(
    two_ranks: LearnerGroup, policy: Policy, make_groups: Callable[..., list[Group]], tmp_path: Path
) -> None:
    groups = make_groups(count=4)
    alone = Learner(
        policy, LearnerConfig(lr=1e-3, threads=1, max_tokens_per_microbatch=64), ObjectiveConfig(), tmp_path
    )
    wanted = alone.step(groups)
    metrics = two_ranks.get("the step", two_ranks.call("step", two_ranks.put(groups)), 240)
    assert metrics["learner/grad_norm"] == pytest.approx(wanted["learner/grad_norm"], rel=1e-5)
    assert metrics["replay/rows"] == wanted["replay/rows"]
    stored, size = two_ranks.call_stored("weights")
    assert two_ranks.get("the weights", size, 240) == sum(v.nbytes for v in alone.weights().values())
    assert {name: array.shape for name, (array, _) in ray.get(stored).items()} == {
        name: value.shape for name, value in alone.weights().items()
    }
    # Written beside a step, whose calls between the ranks it must not disturb; the next checkpoint waits for it.
    two_ranks.get("it", two_ranks.call("save_checkpoint", str(tmp_path / "c"), 1, {"note": 7}, 2, True), 240)
    two_ranks.get("a step", two_ranks.call("step", two_ranks.put(make_groups(count=2, version=1))), 240)
    two_ranks.get("it", two_ranks.call("save_checkpoint", str(tmp_path / "c"), 2, {"note": 8}), 240)
    path = tmp_path / "c" / "step_000001"
    assert damage(path.with_name("step_000002")) is None
    assert damage(path) is None
    assert two_ranks.get("it", two_ranks.call("load_checkpoint", str(path)), 240) == {"note": 7, "step": 1}
    two_ranks.get("the policy", two_ranks.call("save_policy", str(tmp_path / "p")), 240)
    assert load_policy(tmp_path / "p").weights().keys() == alone.policy.weights().keys()


def test_what_one_rank_raises_is_said(two_ranks: LearnerGroup, make_groups: Callable[..., list[Group]]) -> None:
    """A malformed batch is found by all; the first one's error is the run's. The learner goes on."""
    groups = make_groups(count=2)
    groups[0].trajectories[0].segments[0].replay = None
    with pytest.raises(ReplayError, match="experts were recorded for 0 of"):
        two_ranks.get("the step", two_ranks.call("step", groups), 240)


def test_a_rank_that_dies_ends_the_learner_at_once(
    two_ranks: LearnerGroup, make_groups: Callable[..., list[Group]]
) -> None:
    two_ranks.get("a step", two_ranks.call("step", make_groups()), 240)
    pid = ray.get(two_ranks._ranks[1].pid.remote())
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(LearnerLost, match=r"the learner's process is gone; the run waited for a step"):
        two_ranks.get("a step", two_ranks.call("step", make_groups()), 240)
    assert time.monotonic() - began < 60


def test_a_learner_that_cannot_start_is_not_one_that_was_lost(local_ray: None, tmp_path: Path) -> None:
    for ranks in (1, 2):
        config, described = LearnerConfig(threads=1, ranks=ranks), {"path": str(tmp_path / "nowhere")}
        start = partial(start_learner, described, config, ObjectiveConfig(), tmp_path, timeout_s=20.0)
        group = LearnerGroup(start, ranks, num_gpus=0.0)
        with pytest.raises(Exception, match="nowhere") as raised:
            group.get("a step", group.call("version"), 240)
        assert not isinstance(raised.value, LearnerLost)
        group.kill()


def test_two_ranks_stream_what_they_hold(
    two_ranks: LearnerGroup, policy: Policy, make_groups: Callable[..., list[Group]]
) -> None:
    """Tensor by tensor, from shards: what comes is what ``weights`` gathers, in a connection that is used twice; an
    engine that hangs up in the middle stops nobody."""
    sender, links = LearnerSender(two_ranks, adapts=False, deadline_s=240), Links()
    host, port = sender.meet()
    held = {name: torch.zeros_like(value) for name, value in policy.weights().items()}

    class Take:
        def begin(self, plan: Any) -> None:
            assert {name: value.shape for name, value in held.items()} == plan.shapes

        def target(self, entry: Any) -> None:
            return None

        def take(self, given: Any) -> None:
            if refuses:
                raise ValueError("no more")
            for entry, value in given:
                for name in entry.names:
                    held[name].copy_(value)

    def sync(version: int, key: str) -> None:
        meeting = Rendezvous(host, port, key, 2, timeout_s=60.0, bucket_bytes=2**16, version=version)
        ended = sender.send(meeting)
        if refuses:
            with pytest.raises(ValueError, match="no more"):
                receive(links, Take(), meeting, 1, host)
            with pytest.raises(StreamBroken, match="a rank has refused"):
                ended(240)
        else:
            assert receive(links, Take(), meeting, 1, host) == ended(240)

    refuses = False
    sync(1, "a")
    two_ranks.get("the step", two_ranks.call("step", two_ranks.put(make_groups(count=4))), 240)
    before = {name: value.clone() for name, value in held.items()}
    refuses = True
    sync(2, "a")
    refuses = False
    sync(3, "b")
    stored, size = two_ranks.call_stored("weights")
    two_ranks.get("the weights", size, 240)
    wanted = unpack(ray.get(stored))
    assert all(torch.equal(held[name], value) for name, value in wanted.items())
    assert not all(torch.equal(before[name], value) for name, value in wanted.items())

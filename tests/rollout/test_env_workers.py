"""Episodes in environment workers: real Ray, a real engine. The same trajectories to the bit, exact versions around a
sync, and whoever is killed, each group comes back once."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from rollout_doubles import AddTaskset, tokenizer

from envs.driving import DrivingEnvironment, Endpoint
from envs.types import Episode, StopReason
from rewards.compose import default_composer
from rl.chat.tokenizer import ChatTokenizer
from rl.chat.v32 import V32Renderer
from rl.policy.api import Policy
from rl.policy.handover import opened, whole
from rl.policy.loading import build_policy
from rl.rollout.config import RolloutConfig
from rl.rollout.orders import GroupSpec
from rl.rollout.pool import RolloutPool
from rl.types import Group

CONFIG = RolloutConfig(
    threads=1, max_concurrency=8, max_tokens=24, max_context=512, kv_cache_gib=0.05, max_turns=3, env_workers=2,
    deterministic=True,
)  # fmt: skip


class AskingEnv(DrivingEnvironment):
    """A program that asks twice, and takes the answers as they are."""

    def drive(self, endpoint: Endpoint) -> None:
        for question in ("What is 2 plus 3?", "Sure?"):
            body = {"model": "policy", "messages": [{"role": "user", "content": question}]}
            request = urllib.request.Request(
                f"{endpoint.base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            try:
                urllib.request.urlopen(request, timeout=60).close()
            except urllib.error.HTTPError:  # a limit
                return

    def score(self, episode: Episode) -> dict[str, float]:
        return {"outcome": 0.0}


class AskingTaskset(AddTaskset):
    family = "asking"
    env_class = AskingEnv


TASKSETS = {"train": AddTaskset(), "asking": AskingTaskset()}


def open_renderer(directory: Path) -> V32Renderer:
    return V32Renderer(ChatTokenizer.load(directory))


def spec(number: int, size: int = 2, version: int = 0, taskset: str = "train", **settings: Any) -> GroupSpec:
    return GroupSpec(number, TASKSETS[taskset].task(number), number, size, version, taskset, settings=settings)


@pytest.fixture(scope="module")
def policy() -> Policy:
    cfg = {"preset": "tiny_dsa", "vocab_size": tokenizer().vocab_size, "overrides": {"num_hidden_layers": 2}}
    return build_policy(cfg)


@pytest.fixture(scope="module")
def pool(policy: Policy, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[RolloutPool]:
    directory = tmp_path_factory.mktemp("policy")
    policy.save(directory)
    tokenizer().save(directory)
    pool = RolloutPool(CONFIG, directory, partial(open_renderer, directory), TASKSETS, default_composer())
    yield pool
    pool.close()


def plain(group: Group) -> list[Any]:
    """All of it but the time that it took."""
    return [bits(asdict(replace(trajectory, wall_s=0.0))) for trajectory in group.trajectories]


def bits(value: Any) -> Any:
    """``value`` with each array as its type, shape and bytes."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: bits(one) for name, one in value.items()}
    return [bits(one) for one in value] if isinstance(value, list) else value


def test_the_same_trajectories_to_the_bit(pool: RolloutPool) -> None:
    specs = [spec(0), spec(1, max_thinking=5), spec(2, taskset="asking"), spec(3, top_k=20)]
    away = pool.run(specs, 200)
    here = ray.get([pool.crew.slots[0].actor.run_group.remote(one) for one in specs], timeout=200)
    refs = [group.refs for group in away]
    assert [plain(whole(one)) for one in opened(refs, 60.0)] == [plain(group) for group in here]
    assert {t.failure_kind for group in away for t in group.trajectories} == {None}
    assert min(t.turns for t in away[2].trajectories) >= 2  # the program has asked twice
    assert pool.stats()["episodes_done"] == 16


def test_a_sync_in_the_middle_of_episodes(pool: RolloutPool, policy: Policy) -> None:
    with torch.no_grad():
        policy.module.lm_head.weight.mul_(1.01)
    pool.submit(spec(10, size=4, max_tokens=300))
    time.sleep(0.15)
    pool.sync(policy.weights(), 1)
    (group,) = pool.collect(1, 200)
    versions = [s.versions[s.loss_mask].tolist() for t in group.trajectories for s in t.segments]
    assert all(v == sorted(v) and set(v) <= {0, 1} for v in versions)
    assert {v for one in versions for v in one} == {0, 1}


def test_a_request_that_nobody_waits_for_is_given_up(pool: RolloutPool) -> None:
    pool.submit(spec(20, size=4, max_tokens=450, episode_s=0.1))
    (group,) = pool.collect(1, 200)
    assert {t.stop_reason for t in group.trajectories} == {StopReason.EPISODE_TIME}
    time.sleep(0.3)  # for the word to reach the engine
    before = pool.stats()["sampled_tokens"]
    time.sleep(0.3)
    assert pool.stats()["sampled_tokens"] == before


def test_whoever_is_killed_each_group_comes_back_once(pool: RolloutPool) -> None:
    (engine,), players = pool.pids(), pids_of(pool)
    told: list[int] = []
    pool.on_finished = lambda group: told.append(group.id)
    for number in range(30, 36):
        pool.submit(spec(number, size=4, version=1, max_tokens=200))
    time.sleep(0.2)
    os.kill(players[0], signal.SIGKILL)
    groups = pool.take(range(30, 36), 200)
    assert pool.counts["env_workers_restarted"] == 1
    assert pool.counts["workers_restarted"] == 0
    assert pool.pids() == [engine]
    assert pids_of(pool)[0] != players[0]
    again = pool.counts["groups_resubmitted"]
    assert again >= 1
    players = pids_of(pool)
    for number in range(36, 40):
        pool.submit(spec(number, size=4, version=1, max_tokens=200))
    time.sleep(0.2)
    os.kill(engine, signal.SIGKILL)
    groups += pool.take(range(36, 40), 200)
    assert pool.counts["workers_restarted"] == 1
    assert pids_of(pool) == players  # they play on with the new one
    assert sorted(told) == [group.id for group in groups] == list(range(30, 40))
    sampled = [s for group in groups for t in group.trajectories for s in t.segments]
    assert {int(v) for s in sampled for v in s.versions[s.loss_mask]} == {1}
    assert {t.failure_kind for group in groups for t in group.trajectories} == {None}
    assert pool.outstanding == 0
    assert [slot.episodes for slot in (*pool.crew.slots, *pool.crew.players)] == [0, 0, 0]


def pids_of(pool: RolloutPool) -> list[int]:
    return ray.get([slot.actor.pid.remote() for slot in pool.crew.players], timeout=60)

"""What a worker is made from: the policy's folder is the driver's, or the machine and the file are named."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
import rollout_doubles
from rollout_doubles import AddTaskset
from scripted_engine import ScriptedWorker

from rewards.compose import default_composer
from rl.rollout.config import RolloutConfig
from rl.rollout.engine_api import GenerateRequest, Generation
from rl.rollout.engine_thread import EngineDied
from rl.rollout.orders import WorkerSetup, files_of
from rl.rollout.placing import Reserved
from rl.rollout.worker import RolloutWorker


def setup_for(directory: Path) -> WorkerSetup:
    return WorkerSetup(
        RolloutConfig(), str(directory), rollout_doubles.renderer, {"train": AddTaskset()}, default_composer(), False,
        files_of(directory),
    )  # fmt: skip


def test_a_machine_that_does_not_see_the_policy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    setup = setup_for(tmp_path)
    setup.check_files()
    (tmp_path / "more.txt").write_text("of no matter")
    setup.check_files()
    (tmp_path / "tokenizer.json").write_text("{} of another model")
    monkeypatch.setattr("rl.rollout.orders.platform.node", lambda: "host7")
    with pytest.raises(ValueError, match=r"policy's folder .* on host7 has no tokenizer\.json like the driver's"):
        setup.check_files()
    assert files_of(tmp_path / "nowhere") == {}


def test_a_bundle_has_no_zeros() -> None:
    assert Reserved().bundle == {"CPU": 1.0}
    assert Reserved(2.0, 0.5, {"sandbox": 1.0}).bundle == {"CPU": 2.0, "GPU": 0.5, "sandbox": 1.0}


@pytest.mark.parametrize(
    ("config", "players", "at_once"),
    [(RolloutConfig(workers=2), 2, 64), (RolloutConfig(workers=2, env_workers=3), 3, 43), (RolloutConfig(), 1, 64)],
)
def test_together_they_feed_all_engines(config: RolloutConfig, players: int, at_once: int) -> None:
    assert (config.players, config.episodes_at_once) == (players, at_once)
    assert players * at_once >= config.workers * config.max_concurrency


def test_what_a_dead_environment_worker_has_asked_for_is_given_up() -> None:
    given_up: list[str] = []

    async def generate(request: GenerateRequest) -> Generation:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up.append(request.request_id)
            raise
        raise AssertionError

    async def play() -> list[bool]:
        worker: Any = RolloutWorker(0, [], cloudpickle.dumps(setup_for(Path("nowhere"))))
        worker._thread = SimpleNamespace(generate=generate)
        request = GenerateRequest("", [1], 4)
        asked = [asyncio.ensure_future(worker.generate(who, request)) for who in ("a", "b", "a")]
        await asyncio.sleep(0.01)
        await worker.forget("a")
        await worker.forget("nobody")
        await asyncio.sleep(0.01)
        asked[1].cancel()  # as Ray does where an episode is over
        await asyncio.gather(*asked, return_exceptions=True)
        return [one.cancelled() for one in asked]

    assert asyncio.run(play()) == [True, True, True]
    assert sorted(given_up[:2]) == ["0", "2"]
    assert given_up[2:] == ["1"]


def test_one_that_was_started_ahead_begins_with_its_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[RolloutConfig] = []
    monkeypatch.setattr("rl.rollout.worker.load_engine", loaded.append)
    config, setup = RolloutConfig(threads=1), cloudpickle.dumps(setup_for(Path("nowhere")))

    async def begun() -> tuple[dict[str, str], dict[str, float]]:
        worker = ScriptedWorker(0, ahead=config)
        doing = await worker.doing()
        stats = await worker.begin([], setup)
        await worker.close()
        return doing, stats

    doing, stats = asyncio.run(begun())
    assert (doing, loaded) == ({}, [config])
    assert stats["sampled_tokens"] == 0


def test_a_setup_that_cannot_be_read_is_a_worker_that_cannot_start() -> None:
    async def begin() -> None:
        worker = ScriptedWorker(0)
        try:
            await worker.begin([], b"no pickle")
        finally:
            await worker.close()

    with pytest.raises(EngineDied, match="its setup cannot be read: UnpicklingError"):
        asyncio.run(begin())

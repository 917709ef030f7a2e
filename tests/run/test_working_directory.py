"""Processes of a Ray that was started elsewhere have another working directory: paths reach them whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded_segments import group as recorded_group
from recorded_segments import recorded
from train_runs import train_config

from rl.learner.actor import LearnerHandle
from rl.learner.config import MeansConfig, SFTConfig
from rl.learner.trainer import Means, open_trainer
from rl.rollout.config import RolloutConfig
from rl.run.assemble import open_pool
from rl.run.batches import load_batch, save_batch
from rl.run.beside import Beside
from rl.run.finished import FinishedGroups
from rl.tracking.rundir import RunDir
from rl.types import Group


class Elsewhere(Beside):
    """Calls at once, in another working directory."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        here = Path.cwd()
        os.chdir(self._folder)
        try:
            return function(*args)
        finally:
            os.chdir(here)

    def ready(self, ref: Any) -> bool:
        return True

    def get(self, ref: Any) -> Any:
        return ref


class Ranks:
    """Notes what the processes of a learner are given."""

    given: list[str]

    def __init__(self, start: Any, ranks: int, num_gpus: float) -> None:
        Ranks.given = [value["path"] if isinstance(value, dict) else str(value) for value in start.args[:1]]
        Ranks.given += [str(value) for value in start.args if isinstance(value, Path)]

    def call(self, method: str, *args: Any) -> None:
        Ranks.given.append(args[0])

    def get(self, what: str, ref: Any, deadline_s: float, left_s: float | None = None) -> Any:
        return {}

    def kill(self) -> None:
        return


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "elsewhere"


def test_files_of_groups_are_where_the_driver_looks_for_them(elsewhere: Path, tmp_path: Path) -> None:
    one: Group = replace(recorded_group(recorded(0))[0], id=3)
    one = replace(one, refs=one)  # as where the driver does not hold the records
    beside = Elsewhere(elsewhere)
    finished = FinishedGroups(Path("finished"), "same", 2**30, 2, print, beside)
    finished.put(one)
    finished.flush()
    assert (tmp_path / "finished" / "group_000003").is_file()
    run = RunDir("run")
    save_batch(run, 1, 0, [one], RolloutConfig(), lambda folder: folder.mkdir(), 1, beside)
    assert [group.id for group in load_batch(run).groups] == [3]
    assert list(elsewhere.iterdir()) == []


def test_a_learner_reads_and_writes_where_the_driver_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.learner.actor.LearnerGroup", Ranks)
    monkeypatch.setattr("rl.learner.actor.copy_tokenizer", lambda source, target: None)
    Path("policy").mkdir()
    Path("policy/config.json").write_text('{"vocab_size": 8}')
    learner = LearnerHandle(train_config(), Path("policy"), Path("runs/a"))
    learner.save(Path("runs/a/checkpoints"), 1, {}, 2)
    learner.load(Path("runs/a/checkpoints/step_000001"))
    learner.save_policy(Path("runs/a/policy"))
    places = ("policy", "runs/a", "runs/a/checkpoints", "runs/a/checkpoints/step_000001", "runs/a/policy")
    assert Ranks.given == [str(tmp_path / place) for place in places]


def test_so_does_a_supervised_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.learner.trainer.LearnerGroup", Ranks)
    with open_trainer({"path": "policy"}, SFTConfig(), Means(MeansConfig(ranks=2))) as trainer:
        trainer.save("out")
    assert Ranks.given == [str(tmp_path / "policy"), str(tmp_path / "out")]


def test_engines_and_environments_read_the_policy_that_the_driver_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def pool(config: Any, model_dir: Path, open_renderer: Any, *args: Any, **named: Any) -> None:
        found.extend((str(model_dir), open_renderer.args[1]))

    monkeypatch.setattr("rl.rollout.pool.RolloutPool", pool)
    open_pool(train_config(), Path("policy"), {})
    assert found == [str(tmp_path / "policy")] * 2

"""A run that is resumed on other data ends with one line, before anything is started."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from configs.schema import register
from envs.dataset import DatasetTaskset
from envs.search.taskset import SearchTaskset
from envs.taskset import Taskset
from rl.commands import train
from rl.recipes.grpo import Position
from rl.recipes.stages import check_resume
from rl.run.assemble import open_tasksets
from rl.run.preflight import ConfigurationError
from rl.tracking.rundir import RunDir


def questions(path: Path, count: int) -> DatasetTaskset:
    rows = [{"prompt": f"{i}?", "answer": "1", "split": "train"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DatasetTaskset(path=path, split_column="split")


def checkpoint(files: RunDir, taskset: Taskset) -> None:
    """What ``save_checkpoint`` writes of the loop, next to a tensor."""
    folder = files.checkpoints / "step_000003"
    folder.mkdir(parents=True)
    at = Position(step=3, taskset=taskset.state_dict())
    torch.save({"learner": {"weights": torch.ones(9)}, "extra": {"at": asdict(at)}}, folder / "state.pt")


def test_changed_data_is_refused(tmp_path: Path) -> None:
    files, path = RunDir(tmp_path / "run"), tmp_path / "a.jsonl"
    taskset = questions(path, 9)
    check_resume(files, taskset)  # without a checkpoint there is nothing to go on from
    for _ in range(4):
        taskset.next_index()
    checkpoint(files, taskset)
    same = questions(path, 9)
    check_resume(files, same)
    assert same.next_index() == taskset.next_index()
    with pytest.raises(ValueError, match=r"a\.jsonl has changed since the checkpoint \(it had 9 rows, now it has 8\)"):
        check_resume(files, questions(path, 8))


def test_tasks_of_a_program_need_no_look(tmp_path: Path) -> None:
    files = RunDir(tmp_path / "run")
    (files.checkpoints / "step_000001").mkdir(parents=True)
    (files.checkpoints / "step_000001" / "state.pt").write_bytes(b"no checkpoint")
    check_resume(files, SearchTaskset())


def test_the_command_says_so_and_starts_nothing(tmp_path: Path) -> None:
    def settings(*overrides: str) -> Any:
        register()
        with initialize_config_module("configs", version_base="1.3"):
            return OmegaConf.to_object(compose("train", [f"runs_dir={tmp_path}/runs", *overrides]))

    path = tmp_path / "a.jsonl"
    questions(path, 9)
    own = f"{{a: {{of: dataset, path: '{path}', split_column: split}}}}"
    cfg = settings("env=mixture", "env.families={a: 1, search: 1}", f"env.settings={own}", "name=mine")
    with path.open("a") as file:
        file.write(json.dumps({"prompt": "held?", "answer": "1", "split": "heldout"}) + "\n")
    files = train.new_run(cfg)
    checkpoint(files, open_tasksets(cfg.env, cfg.seed, cfg.eval)["train"])
    path.write_text(path.read_text().replace("8?", "eight?"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ConfigurationError, match=r"a\.jsonl has changed since the checkpoint \(10 rows as before, with"
    ):
        train.run(settings("resume=mine"))
    assert sorted(tmp_path.rglob("*")) == before

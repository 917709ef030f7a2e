"""A run that is resumed on other data ends with one line, before anything is started."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from configs.schema import register
from envs.dataset import DatasetTaskset
from envs.search.taskset import SearchTaskset
from envs.taskset import Taskset
from rl.commands import train
from rl.learner.checkpoint import write_manifest
from rl.learner.config import LoraConfig
from rl.recipes.grpo import Position
from rl.recipes.stages import check_resume
from rl.run.assemble import open_tasksets
from rl.run.preflight import ConfigurationError
from rl.tracking.rundir import RunDir


def questions(path: Path, count: int, heldout: int = 1) -> dict[str, Taskset]:
    rows = [{"prompt": f"{i}?", "answer": "1", "split": "train"} for i in range(count)]
    rows += [{"prompt": f"held {i}?", "answer": "1", "split": "heldout"} for i in range(heldout)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {split: DatasetTaskset(split, path=path, split_column="split") for split in ("train", "heldout")}


def folder(path: Path, heldout: str) -> dict[str, Taskset]:
    """A data set with splits of its own, in place of what was there."""
    shutil.rmtree(path, ignore_errors=True)
    splits = {"train": ["1?", "2?", "3?"], "test": ["4?", heldout]}
    made = {name: Dataset.from_list([{"prompt": p, "answer": "1"} for p in rows]) for name, rows in splits.items()}
    DatasetDict(made).save_to_disk(str(path))
    return {split: DatasetTaskset(split, path=path) for split in ("train", "heldout")}


def checkpoint(files: RunDir, tasksets: dict[str, Taskset]) -> None:
    """What ``save_checkpoint`` writes of the loop, next to a tensor."""
    folder = files.checkpoints / "step_000003"
    folder.mkdir(parents=True)
    at = Position(step=3, taskset=tasksets["train"].state_dict(), heldout=tasksets["heldout"].inputs())
    torch.save({"learner": {"weights": torch.ones(9)}, "extra": {"at": asdict(at)}}, folder / "state.pt")
    write_manifest(folder)


def test_changed_data_is_refused(tmp_path: Path) -> None:
    files, path = RunDir(tmp_path / "run"), tmp_path / "a.jsonl"
    tasksets = questions(path, 9)
    check_resume(files, tasksets, LoraConfig())  # without a checkpoint there is nothing to go on from
    for _ in range(4):
        tasksets["train"].next_index()
    checkpoint(files, tasksets)
    same = questions(path, 9)
    check_resume(files, same, LoraConfig())
    assert same["train"].next_index() == tasksets["train"].next_index()
    changed = r"a\.jsonl has changed since the checkpoint \(split train: it had 10 rows, now it has 9\)"
    with pytest.raises(ValueError, match=changed):
        check_resume(files, questions(path, 8), LoraConfig())


def test_changed_heldout_data_is_refused(tmp_path: Path) -> None:
    """The figures before and after a resume would be of other tasks."""
    files = RunDir(tmp_path / "run")
    tasksets = folder(tmp_path / "set", "5?")
    checkpoint(files, tasksets)
    check_resume(files, tasksets, LoraConfig())
    changed = folder(tmp_path / "set", "6?")
    with pytest.raises(ValueError, match=r"set has changed since the checkpoint \(split heldout: 2 rows as before"):
        check_resume(files, changed, LoraConfig())


def test_a_damaged_checkpoint_is_said_and_none_whole_is_refused(tmp_path: Path) -> None:
    files, tasksets = RunDir(tmp_path / "run"), questions(tmp_path / "a.jsonl", 9)
    checkpoint(files, tasksets)
    newer = files.checkpoints / "step_000004"
    newer.mkdir()
    (newer / "state.pt").write_bytes(b"")
    (said,) = check_resume(files, tasksets, LoraConfig())
    assert said.startswith("checkpoint step_000004 is damaged (manifest.json cannot be read")
    (files.checkpoints / "step_000003" / "state.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used: checkpoint step_000004 is damaged"):
        check_resume(files, tasksets, LoraConfig())


def test_tasks_of_a_program_need_no_look(tmp_path: Path) -> None:
    files = RunDir(tmp_path / "run")
    (files.checkpoints / "step_000001").mkdir(parents=True)
    (files.checkpoints / "step_000001" / "state.pt").write_bytes(b"no checkpoint")
    write_manifest(files.checkpoints / "step_000001")
    check_resume(files, {"train": SearchTaskset(), "heldout": SearchTaskset("heldout")}, LoraConfig())


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
    checkpoint(files, open_tasksets(cfg.env, cfg.seed, cfg.eval))
    path.write_text(path.read_text().replace("8?", "eight?"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ConfigurationError, match=r"a\.jsonl has changed since the checkpoint \(split train: 11 rows as before"
    ):
        train.run(settings("resume=mine"))
    assert [found for found in sorted(tmp_path.rglob("*")) if found.name != "driver.lock"] == before

"""What a call of rl.train brought along is found by later processes, and does not keep stages from being reused."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from envs.closure import closure
from rl.learner.learner import Learner
from rl.run.inputs import find_inputs, without_place


def test_modules_of_a_run_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    find_inputs(tmp_path)  # a run without inputs
    assert str(tmp_path / "inputs") not in sys.path
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "inputs_of_a_test.py").write_text("def reward(answer, row):\n    return 0.5\n")
    find_inputs(tmp_path)
    find_inputs(tmp_path)
    assert sys.path.count(str(tmp_path / "inputs")) == 1
    module = importlib.import_module("inputs_of_a_test")
    assert module.reward("", {}) == 0.5
    assert set(closure([module.reward])) == {"inputs_of_a_test"}  # counts in the key of a stage


def test_the_run_does_not_count_in_the_key_of_a_stage(tmp_path: Path) -> None:
    keys = []
    for run in (tmp_path / "a", tmp_path / "b"):
        env = {"path": str(run / "inputs" / "rows.jsonl"), "reward": "inputs_12.f", "top_k": 5, "other": str(run)}
        keys.append(without_place(env, run) | {"other": ""})
    assert keys[0] == keys[1] == {"path": "rows.jsonl", "reward": "inputs_12.f", "top_k": 5, "other": ""}


def test_a_stage_does_not_run_the_commands_that_rl_opens_to_python() -> None:
    found = set(closure([Learner]))
    assert "rl" in found
    assert not [module for module in found if module.startswith("rl.commands")]

"""wandb: an offline run holds scalars, config and a table per step; it needs no account and no network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rl.tracking.config import TrackingConfig
from rl.tracking.rundir import RunDir, step_name
from rl.tracking.wandb_log import COLUMNS, WandbLog, spread, transcript


def test_offline_run(tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run_dir = RunDir(tmp_path / "demo")
    log = WandbLog(TrackingConfig(wandb="offline", table_rows=2), run_dir, {"seed": 3, "env": {"x": 1}})
    log.log("coldstart", 1, {"sft/loss": 2.0})
    for step in (1, 2):
        log.log("grpo", step, {"reward/mean": 0.1 * step})
        log.log_trajectories(step_name(step), step, [make("a"), make("b", text="\ud800"), make("c")])
    log.log("grpo", 2, {"reward/mean": 0.5})  # a resumed run logs a step again
    log.log_summary({"eval_after": {"overall": 0.8}})
    log.finish()
    log.finish()
    (folder,) = (run_dir.path / "wandb").glob("offline-run-*")
    assert list(folder.glob("run-*.wandb"))
    tables = sorted((folder / "files" / "media" / "table" / "trajectories").glob("*.table.json"))
    assert [path.name.split("_")[1] for path in tables] == ["000001", "000002"]
    table = json.loads(tables[0].read_text())
    assert table["columns"] == list(COLUMNS)
    assert len(table["data"]) == 2
    assert "search" in table["data"][0][-1]


def test_disabled_imports_nothing(tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    log = WandbLog(TrackingConfig(wandb="disabled"), RunDir(tmp_path), {})
    log.log("grpo", 1, {})
    log.log_trajectories("step_000001", 1, [make()])
    log.log_summary({})
    log.finish()
    assert not (tmp_path / "wandb").exists()


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match=r"tracking\.wandb='off': must be one of offline, online, disabled"):
        TrackingConfig(wandb="off")


def test_spread_takes_turns(make) -> None:
    rollouts = [make(f"s{i}", reward=i / 4) for i in range(5)]
    rollouts += [make(f"c{i}", family="code", reward=float(i)) for i in range(2)]
    # code: best then worst; search: best, worst, second best, …
    assert [t.id for t in spread(rollouts, 6)] == ["c1", "s4", "c0", "s0", "s3", "s1"]
    assert spread([], 3) == []


def test_transcript(make) -> None:
    text = transcript(make().messages)
    assert text == (
        "[user]\nWhere?\n\n[assistant]\n<think>I search.</think>\n"
        '-> search({"query": "x"})\n\n[tool]\na passage\n\n[assistant]\nOslo'
    )

"""wandb: an offline run holds scalars, config and a table per step; it needs no account and no network."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from rl.tracking.config import TrackingConfig
from rl.tracking.rundir import RunDir, step_name
from rl.tracking.wandb_log import COLUMNS, WandbLog, spread, transcript


def records(file: Path) -> Iterator[Any]:
    """What an offline run has stored: protocol buffers in LevelDB's log format, after wandb's own header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:  # no room for a head in this block
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])  # 1 all of it, 2 first, 3 middle, 4 last
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_offline_run(tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run_dir = RunDir(tmp_path / "demo")
    log = WandbLog(TrackingConfig(wandb="offline", table_rows=2), run_dir, {"seed": 3, "env": {"x": "http://me:pw@h/"}})
    log.log("coldstart", 1, {"sft/loss": 2.0})
    for step in (1, 2):
        log.log("grpo", step, {"reward/mean": 0.1 * step, "learner/lr": 1e-4})
        log.log_trajectories(step_name(step), step, [make("a"), make("b", text="\ud800"), make("c")])
    log.log("grpo", 2, {"reward/mean": 0.15})  # a resumed run logs a step again
    log.log_summary({"eval_after": {"overall": 0.8}})
    log.finish()
    log.finish()
    (folder,) = (run_dir.path / "wandb").glob("offline-run-*")
    wandb.teardown()  # its service writes until it ends, also after the run's end
    check_stored(next(folder.glob("run-*.wandb")))
    tables = sorted((folder / "files" / "media" / "table" / "trajectories").glob("*.table.json"))
    assert [path.name.split("_")[1] for path in tables] == ["000001", "000002"]
    table = json.loads(tables[0].read_text())
    assert table["columns"] == list(COLUMNS)
    assert len(table["data"]) == 2
    assert "search" in table["data"][0][-1]


def check_stored(file: Path) -> None:
    """Every number has its name, the x axis of its stage, and its best value in the summary."""
    stored = list(records(file))
    config = {
        item.key: json.loads(item.value_json) for r in stored if r.HasField("run") for item in r.run.config.update
    }
    assert (config["seed"], config["env"]) == (3, {"x": "http://***@h/"})
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in r.history.item}
        for r in stored
        if r.HasField("history")
    ]
    curve = [(row["grpo/step"], row["reward/mean"]) for row in rows if "reward/mean" in row]
    assert curve == [(1, 0.1), (2, 0.2), (2, 0.15)]
    assert [(row["coldstart/step"], row["coldstart/sft/loss"]) for row in rows if "coldstart/step" in row] == [(1, 2.0)]
    assert [row["grpo/step"] for row in rows if any(key.startswith("trajectories/") for key in row)] == [1, 2]
    assert not any("step" in row for row in rows)
    defined = [r.metric for r in stored if r.HasField("metric")]
    axes = {m.name: defined[m.step_metric_index - 1].name if m.step_metric_index else m.step_metric for m in defined}
    assert axes["reward/mean"] == axes["trajectories/step_000001"] == axes["learner/lr"] == "grpo/step"
    assert axes["coldstart/sft/loss"] == "coldstart/step"
    best = {m.name: (m.summary.max, m.summary.min, m.summary.last) for m in defined}
    assert best["reward/mean"] == (True, False, True)
    assert best["coldstart/sft/loss"] == (False, True, True)
    assert best["learner/lr"] == (False, False, False)


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

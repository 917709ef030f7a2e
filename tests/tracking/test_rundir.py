"""The run on disk: append-only, survives kills and full disks, and gives back what was written."""

from __future__ import annotations

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.tracking.rundir import RunDir, RunDirError, step_name, trajectory_json
from rl.types import Segment


def test_metrics_come_back(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "a")
    run.log_metrics("coldstart", 1, {"sft/loss": 2.5})
    run.log_metrics("grpo", 1, {"reward/mean": 0.25, "loss/total": float("nan")})
    assert [row["stage"] for row in run.read_metrics()] == ["coldstart", "grpo"]
    (row,) = run.read_metrics("grpo")
    assert row["reward/mean"] == 0.25
    assert row["loss/total"] is None
    with pytest.raises(ValueError, match="metric 'step' of stage 'grpo' collides"):
        run.log_metrics("grpo", 2, {"step": 1.0})


def test_a_resumed_run_repeats_steps_and_the_last_counts(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step, value in ((1, 0.1), (2, 0.2), (3, 0.3)):
        run.log_metrics("grpo", step, {"reward/mean": value})
    resumed = RunDir(tmp_path)
    resumed.log_metrics("grpo", 3, {"reward/mean": 0.9})
    assert [row["reward/mean"] for row in resumed.read_metrics("grpo")] == [0.1, 0.2, 0.9]
    assert len(run.metrics.read_text().splitlines()) == 4  # nothing was taken away


def test_an_unfinished_line_is_ignored_by_readers_and_cut_by_the_next_writer(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log_metrics("grpo", 1, {"reward/mean": 0.1})
    with run.metrics.open("a") as file:
        file.write('{"stage": "grpo", "ste')
    torn = run.metrics.read_text()
    assert len(RunDir.existing(tmp_path).read_metrics()) == 1
    assert run.metrics.read_text() == torn  # a reader leaves the file alone
    RunDir(tmp_path).log_metrics("grpo", 2, {"reward/mean": 0.2})
    assert [row["step"] for row in run.read_metrics()] == [1, 2]


def test_trajectories_come_back(tmp_path: Path, make) -> None:
    run = RunDir(tmp_path)
    run.log_trajectories(step_name(12), [make("a"), make("b", text="half a pair \ud800")])
    assert (tmp_path / "trajectories" / "step_000012.jsonl").exists()
    first, second = run.read_trajectories("step_000012")
    assert first["stop_reason"] == "answered"
    assert first["segments"][0] == {
        "tokens": [0, 1, 2, 3, 4],
        "spans": [{"start": 2, "end": 5, "version": 5, "logprobs": [-0.5, -0.5, -0.5]}],
    }
    assert (first["version_min"], first["version_max"], first["sampled_tokens"]) == (5, 5, 3)
    assert second["messages"][-1]["content"] == "half a pair \ud800"
    assert run.trajectory_names() == ["step_000012"]
    assert "segments" not in trajectory_json(make(), tokens=False)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=30))
def test_spans_hold_mask_and_versions(rows: list[tuple[bool, int]]) -> None:
    n = len(rows)
    mask = np.array([m for m, _ in rows], dtype=bool)
    versions = np.where(mask, np.array([v for _, v in rows], dtype=np.int64), -1)
    from rl.tracking.rundir import _spans

    spans = _spans(Segment(np.zeros(n, np.int32), mask, np.zeros(n, np.float32), versions))
    rebuilt = np.full(n, -1)
    for span in spans:
        assert len(span["logprobs"]) == span["end"] - span["start"] > 0
        rebuilt[span["start"] : span["end"]] = span["version"]
    assert rebuilt.tolist() == versions.tolist()


def test_summary_and_config(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_summary() == {}
    run.write_config("seed: 1\n")
    run.write_summary({"mismatch_max": 1e-5})
    assert run.read_summary() == {"mismatch_max": 1e-5}
    assert run.config.read_text() == "seed: 1\n"
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_full_disk_says_so_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    run.log_metrics("grpo", 1, {"reward/mean": 0.1})

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunDirError, match=r"disk full: could not write .*metrics\.jsonl .*MiB free"):
            run.log_metrics("grpo", 2, {"reward/mean": 0.2})
        with pytest.raises(RunDirError, match=r"disk full: could not write .*summary\.json"):
            run.write_summary({})
    run.log_metrics("grpo", 3, {"reward/mean": 0.3})
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 3]


def test_reading_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no run at"):
        RunDir.existing(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_a_spoilt_line_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_text("{}}\n")
    with pytest.raises(RunDirError, match=r"metrics\.jsonl line 1"):
        run.read_metrics()


def test_starts_at_the_same_moment_get_folders_of_their_own(tmp_path: Path) -> None:
    runs, starts = 20, 4
    at = threading.Barrier(starts)

    def start() -> list[str]:
        names = []
        for number in range(runs):
            at.wait(30)
            names.append(RunDir.new(tmp_path / str(number), "same").name)
        return names

    with ThreadPoolExecutor(starts) as pool:
        names = [future.result() for future in [pool.submit(start) for _ in range(starts)]]
    for number in range(runs):
        assert {of_one[number] for of_one in names} == {"same", "same-2", "same-3", "same-4"}

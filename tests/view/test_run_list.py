"""The list of runs says what their files say, and survives files that are broken."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from made_runs import client_of, make_run, metrics

from rl.tracking.rundir import RunDir
from rl.view.run_list import ACTIVE_S, NotThere, Runs, trajectory_files, trajectory_path


def age(run: RunDir, seconds: float) -> None:
    then = time.time() - seconds
    for path in (run.config, run.metrics, run.summary, run.trajectories):
        if path.exists():
            os.utime(path, (then, then))


def test_a_finished_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    line = Runs(tmp_path).line(run)
    assert (line.name, line.state, line.step, line.steps) == ("a", "finished", 3, 3)
    assert (line.before, line.after, line.families) == (0.0, 1.0, ("code", "search"))
    assert time.time() - line.changed < 60


def test_a_run_that_goes_on_then_one_that_was_killed(tmp_path: Path) -> None:
    run, runs = make_run(tmp_path / "a", finished=False), Runs(tmp_path)
    assert (runs.line(run).state, runs.line(run).after) == ("running", None)
    run.log_metrics("grpo", 4, metrics(4))
    assert runs.line(run).step == 4
    age(run, 2 * ACTIVE_S)
    assert runs.line(run).state == "stopped"
    run.report.write_text("<html>")  # written last, for example by rl-adapt, which has no eval_after
    assert runs.line(run).state == "finished"


def test_what_a_gateway_serves_is_not_held_out_and_goes_on_until_its_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "g", finished=False)
    run.write_summary({"evaluated": "episodes of agents outside", "eval_after": {"overall": 0.5}})
    line = Runs(tmp_path).line(run)
    assert (line.state, line.held_out, line.after) == ("running", False, 0.5)
    shown = client_of(tmp_path).get("/run/g").text
    assert "mean outcome" in shown
    assert "held-out before" not in shown
    run.report.write_text("<html>")
    assert Runs(tmp_path).line(run).state == "finished"


def test_the_last_changed_comes_first_and_other_folders_are_no_runs(tmp_path: Path) -> None:
    old, _ = make_run(tmp_path / "z-old"), make_run(tmp_path / "a-new")
    age(old, 1000)
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    assert [line.name for line in Runs(tmp_path).lines()] == ["a-new", "z-old"]
    assert Runs(tmp_path / "nowhere").lines() == []


def test_broken_files_make_figures_unknown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    run.summary.write_text('{"eval_before": ')
    run.config.write_text("steps: [1\n")
    run.metrics.write_text('nonsense\n{"stage": "grpo", "step": 2}\n{"stage": "gr')
    line = Runs(tmp_path).line(run)
    assert (line.step, line.steps, line.before, line.after) == (2, None, None, None)


@pytest.mark.parametrize("name", ["..", ".", "", "a/..", "../runs/a", "b", "a/trajectories", "/etc"])
def test_a_path_is_no_name(name: str, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a")
    with pytest.raises(NotThere, match="no run"):
        Runs(tmp_path / "runs").open(name)


def test_files_stand_in_the_order_of_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=11)
    stage = RunDir(run.path / "stages" / "search")
    stage.log_trajectories("step_000001", [])
    run.log_trajectories("data_search", [])
    names = trajectory_files(run)
    assert names[:2] == ["eval_before", "step_000001"]
    assert names[11:] == ["step_000011", "data_search", "eval_after", "stages/search/step_000001"]
    assert trajectory_path(run, names[-1]) == stage.trajectories / "step_000001.jsonl"
    for name in ("../metrics", "step_000099", "stages/../../secret", ""):
        with pytest.raises(NotThere):
            trajectory_path(run, name)

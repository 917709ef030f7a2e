"""`rl-eval` through its console script: one policy with a sweep, two runs beside each other, a baseline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from in_process import command
from omegaconf import OmegaConf
from train_runs import Command, train_config

from rl.run.paths import resolve
from rl.tracking.metrics import undocumented
from rl.tracking.rundir import RunDir

BASE = resolve("pkg://rl.bases/tiny_dsa_base")
ROLLOUT = ("rollout.threads=1", "rollout.kv_cache_gib=0.1")
FEW = ("eval.n_tasks=3", "eval.k=2", *ROLLOUT)


def summary_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "summary.json").read_text())


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What rl-train leaves behind, as far as rl-eval reads it; and two runs evaluated by one command."""
    cwd = tmp_path_factory.mktemp("evals")
    for name in ("a", "b"):
        run = cwd / "runs" / name
        shutil.copytree(BASE, run / "policy")
        cfg = train_config("env=agent", f"name={name}", *ROLLOUT, "rollout.max_turns=3", "rollout.max_context=700")
        (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    sweep = ("sweep.thinking=[2,null]", "rollout.max_tokens=90", "eval.ks=[1,2]")
    # env=mix is the command's default: not asked for, so that of the runs is taken
    output = Command("rl-eval", "runs=[a,b]", *FEW, *sweep, cwd=cwd).wait()
    (cwd / "output.txt").write_text(output)
    return cwd


def test_two_runs_with_a_sweep(two_runs: Path) -> None:
    output = (two_runs / "output.txt").read_text()
    for piece in ("thinking sweep", "policies on the same tasks", "mean of 2", "pass@2", "no limit"):
        assert piece in output, piece
    out = two_runs / "runs" / "eval-a+b"
    both = summary_of(out)
    assert set(both["policies"]) == {"a", "b"}
    assert both["across"]["n"] == len(both["across"]["sweep"]) == 2
    assert (out / "report.html").is_file()
    one = RunDir.existing(out / "a")
    summary = one.read_summary()
    assert set(summary["eval_after"]["families"]) == {"agent"}
    assert {"avg@2", "pass@1", "pass@2", "maj@2"} == set(summary["eval_after"]["estimates"])
    assert both["policies"]["a"] == summary
    tasks = [set(both["policies"][n]["eval_after"]["families"]["agent"]["tasks"]) for n in "ab"]
    assert tasks[0] == tasks[1]
    cut, free = summary["sweep"]["thinking"]
    assert (cut["max_thinking"], free["max_thinking"], free["limit"]) == (2, None, 90)
    assert cut["thinking_cut"] == 1.0  # the base thinks before every call
    assert free["thinking_cut"] == 0.0
    assert free["evaluation"] == summary["eval_after"]  # the evaluation itself is that point
    assert one.trajectory_names() == ["eval_after", "thinking_2"]
    assert "<svg" in (one.path / "sweep_thinking.svg").read_text()
    assert "Thinking sweep" in one.report.read_text()
    rows = one.read_metrics()
    assert [(r["stage"], r["step"]) for r in rows] == [("thinking", 2), ("thinking", 90), ("eval_after", 0)]
    assert all(undocumented(set(r) - {"stage", "step", "time"}) == [] for r in rows)
    assert list((one.path / "wandb").glob("offline-run-*"))


def test_the_runs_settings_and_those_of_the_command(two_runs: Path) -> None:
    used = OmegaConf.load(two_runs / "runs" / "eval-a+b" / "a" / "config.yaml")
    assert used.rollout.max_turns == 3  # of the run
    assert used.rollout.max_tokens == 90  # of the command line
    assert used.env._target_ == "envs.agent.taskset.AgentTaskset"


def test_forced_tokens_are_no_sampled_ones(two_runs: Path) -> None:
    from rl.chat.tokenizer import ChatTokenizer

    end = ChatTokenizer.load(BASE).token_id("</think>")
    rows = RunDir.existing(two_runs / "runs" / "eval-a+b" / "a").read_trajectories("thinking_2")
    for row in rows:
        forced = 0
        for segment in row["segments"]:
            sampled = {i for span in segment["spans"] for i in range(span["start"], span["end"])}
            # between two sampled tokens: an environment's own words may hold the tag too
            between = [i for i in range(len(segment["tokens"])) if i - 1 in sampled and i + 1 in sampled]
            forced += sum(segment["tokens"][i] == end and i not in sampled for i in between)
        assert forced == row["counts"]["thinking_cut"] >= 1


def test_a_baseline(two_runs: Path) -> None:
    baseline = two_runs / "runs" / "eval-a+b" / "a"
    output = Command("rl-eval", "run=b", f"baseline={baseline}", "out=against", *FEW, cwd=two_runs).wait()
    assert "before" in output
    summary = summary_of(two_runs / "against")
    assert summary["baseline"] == str(baseline)
    assert summary["eval_before"] == summary_of(baseline)["eval_after"]
    assert f"before: the evaluation of {baseline}" in (two_runs / "against" / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("run=a", "baseline=nowhere"), "no summary.json in 'runs/nowhere' or 'nowhere'"),
        (("runs=[a,a]",), "duplicate run"),
        (("run=a", "sweep.thinking=[500]"), "rollout.max_thinking=500: must be at least 1 and below max_tokens=160"),
        (("run=a", "eval.ks=[9]"), "eval.ks=[9]: every size must be between 1 and eval.k=4"),
        (("run=a", "eval.best_of=format", "reward.format.weight=0"), "reward.format.weight=0 makes all its terms 0"),
        (("run=a", "~reward.length"), "set it to null instead"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(two_runs: Path, overrides: tuple[str, ...], said: str) -> None:
    done = command("rl-eval", *overrides, "out=wrong", cwd=two_runs)
    assert done.returncode != 0
    assert said in done.output

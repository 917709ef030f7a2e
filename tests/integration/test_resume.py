"""A plug-in environment from a file beside you; the driver is killed in the middle and the run resumed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from train_runs import SMALL, Command, FirstRun, reap

from rl.learner.checkpoint import damage, latest_checkpoint
from rl.tracking.rundir import RunDir

STEPS, EVERY, PROMPTS = 6, 2, 4
DOCS = Path(__file__).resolve().parents[2] / "docs" / "environments.md"


@dataclass(frozen=True)
class KilledRun:
    """What there was when the driver was killed, and after ``resume``."""

    run: RunDir
    lines: int  # of metrics.jsonl when it was killed
    checkpoint: int  # the last one then
    last_step: int  # the last one logged then
    summary: dict[str, Any]
    orphans: list[str]
    output: str  # of the killed run
    resumed: str  # output of the resumed one


@pytest.fixture(scope="module")
def killed(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    cwd = tmp_path_factory.mktemp("plugin")
    snippet = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert snippet is not None
    (cwd / "my_module.py").write_text(snippet[1])
    return _killed_and_resumed(cwd, first_run)


def _killed_and_resumed(cwd: Path, first_run: FirstRun) -> KilledRun:
    command = Command(
        "rl-train", "env._target_=my_module.MyTaskset", f"base.source={first_run.base}", *SMALL, f"steps={STEPS}",
        f"checkpoint_every={EVERY}", "coldstart.novice_share=0", "tracking.wandb=disabled", "name=plugin", cwd=cwd,
    )  # fmt: skip
    metrics = cwd / "runs" / "plugin" / "metrics.jsonl"
    # One step past a checkpoint: that step is lost and has to be made again.
    command.wait_until(lambda: metrics.exists() and '"stage": "grpo", "step": 3' in metrics.read_text())
    descendants = command.kill()
    orphans = reap(descendants, 120, agents=True)
    run = RunDir.existing(cwd / "runs" / "plugin")
    checkpoint = latest_checkpoint(run.checkpoints)
    assert checkpoint is not None
    lines, summary = len(metrics.read_text().splitlines()), run.read_summary()
    last_step = run.read_metrics("grpo")[-1]["step"]
    resumed = Command("rl-train", "resume=plugin", cwd=cwd).wait()
    return KilledRun(
        run, lines, int(checkpoint.name.removeprefix("step_")), last_step, summary, orphans, command.output, resumed
    )


def test_it_was_killed_in_the_middle(killed: KilledRun) -> None:
    assert EVERY <= killed.checkpoint <= killed.last_step < STEPS
    assert "GRPO: done" not in killed.output
    assert "eval_after" not in killed.summary


def test_no_process_outlives_a_killed_driver(killed: KilledRun) -> None:
    assert killed.orphans == []


def test_the_plug_in_is_trained_on_its_own_oracle(killed: KilledRun) -> None:
    cache = killed.run.path.parents[1] / "cache"
    (cold,) = cache.glob("coldstart-*")
    figures = json.loads((cold / "coldstart.json").read_text())
    assert figures["demo_outcome"] == {"age": 1.0}
    summary = killed.run.read_summary()
    assert set(summary["eval_before"]["families"]) == set(summary["eval_after"]["families"]) == {"age"}
    rows = killed.run.read_trajectories("step_000001")
    assert {r["family"] for r in rows} == {"age"}
    assert {r["failure_kind"] for r in rows} == {None}
    assert [t["name"] for t in rows[0]["messages"][0]["tools"]] == ["look_up"]


def test_finished_stages_are_not_run_again(killed: KilledRun) -> None:
    assert "cold start: done" in killed.output
    for stage in ("base policy", "cold start", "evaluation before"):
        assert f"{stage}: reused" in killed.resumed
    for stage in ("GRPO", "evaluation after", "report"):
        assert f"{stage}: done" in killed.resumed


def test_it_goes_on_from_the_last_checkpoint(killed: KilledRun) -> None:
    assert [r["step"] for r in killed.run.read_metrics("grpo")] == list(range(1, STEPS + 1))
    lines = [json.loads(line) for line in killed.run.metrics.read_text().splitlines()[killed.lines :]]
    again = [r["step"] for r in lines if r["stage"] == "grpo"]
    assert again == list(range(killed.checkpoint + 1, STEPS + 1))
    assert max(r["mismatch/mean"] for r in lines if r["stage"] == "grpo") < 1e-3
    assert {r["staleness/max"] for r in lines if r["stage"] == "grpo"} == {0}
    checkpoint = latest_checkpoint(killed.run.checkpoints)
    assert checkpoint is not None
    state = torch.load(checkpoint / "state.pt", weights_only=False)
    assert state["step"] == state["learner"]["version"] == state["extra"]["at"]["step"] == STEPS
    tokens = sum(r["tokens/sampled"] for r in killed.run.read_metrics("grpo"))
    assert killed.run.read_summary()["tokens_sampled"] == tokens == state["extra"]["totals"]["tokens_sampled"]


def test_tokens_of_every_step_are_counted_once(killed: KilledRun) -> None:
    usage = killed.run.read_summary()["usage"]
    assert list(usage["stages"]) == ["evaluation before", "GRPO", "evaluation after"]
    rows = [r["usage"] for s in range(1, STEPS + 1) for r in killed.run.read_trajectories(f"step_{s:06d}")]
    total = usage["stages"]["GRPO"]["total"]
    assert total["episodes"] == len(rows)
    for kind in ("requests", "prompt", "cached", "thinking", "tool", "answer"):
        assert total[kind] == sum(row[kind] for row in rows) == usage["stages"]["GRPO"]["families"]["age"][kind]
        assert usage["total"][kind] == sum(stage["total"][kind] for stage in usage["stages"].values())
    assert total["thinking"] + total["tool"] + total["answer"] == killed.run.read_summary()["tokens_sampled"]
    assert 0 < total["cached"] < total["prompt"]
    assert usage["total"]["cost"] == pytest.approx(sum(s["total"]["cost"] for s in usage["stages"].values()))
    assert "Tokens and money" in killed.run.report.read_text()
    assert "tokens and money" in killed.resumed


def test_no_task_is_repeated_or_left_out(killed: KilledRun) -> None:
    tasks = [
        sorted({int(r["task_id"].split("/")[-1]) for r in killed.run.read_trajectories(f"step_{step:06d}")})
        for step in range(1, STEPS + 1)
    ]
    assert tasks == [list(range(PROMPTS * s, PROMPTS * (s + 1))) for s in range(STEPS)]


def test_the_optimiser_goes_on(killed: KilledRun) -> None:
    checkpoint = latest_checkpoint(killed.run.checkpoints)
    assert checkpoint is not None
    assert torch.load(checkpoint / "state.pt", weights_only=False)["learner"]["optimizer_steps"] == STEPS
    assert damage(checkpoint) is None
    assert (checkpoint / "moments" / ".metadata").is_file()


def test_the_time_of_both_is_counted(killed: KilledRun) -> None:
    before, after = killed.summary["wall_s"], killed.run.read_summary()["wall_s"]
    assert after["cold start"] >= before["cold start"] > 0
    assert after["GRPO"] > before["GRPO"] > 0


def test_both_evaluations_and_the_report_are_there(killed: KilledRun) -> None:
    summary = killed.run.read_summary()
    assert summary["steps"] == STEPS
    assert {"eval_before", "eval_after", "wall_s", "mismatch_max", "workers"} <= set(summary)
    assert killed.run.report.is_file()
    assert killed.run.trajectory_names()[-1] == f"step_{STEPS:06d}"

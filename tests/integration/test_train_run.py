"""The main job from nothing to the report through its console script: what it leaves behind, and what is reused."""

from __future__ import annotations

import io
import json
import re
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from train_runs import Command, FirstRun

from rl.tracking.metrics import undocumented
from rl.tracking.progress import Progress
from rl.tracking.rundir import RunDir

FAMILIES = {"search", "code", "interpreter", "agent"}
COLUMNS = {"stage", "step", "time"}


def test_every_stage_is_announced_and_the_table_is_printed(first_run: FirstRun) -> None:
    places = [
        first_run.output.index(f"{stage}: done in")
        for stage in ("base policy", "cold start", "evaluation before", "GRPO", "evaluation after", "report")
    ]
    assert places == sorted(places)
    assert re.search(r"GRPO 2/2 .*reward .*tok/s", first_run.output)
    table = first_run.output[places[-1] :]
    for word in ("held-out evaluation", *FAMILIES, "overall", "tokens sampled", "time", "report.html"):
        assert word in table, word


def test_the_files_of_a_run(first_run: FirstRun) -> None:
    run = first_run.run
    for path in (run.config, run.metrics, run.summary, run.report, run.path / "policy" / "model.safetensors"):
        assert path.is_file(), path
    assert run.trajectory_names() == ["eval_after", "eval_before", "step_000001", "step_000002"]
    assert [p.name for p in run.checkpoints.iterdir()] == ["step_000002"]
    assert list((run.path / "wandb").glob("offline-run-*"))
    html = run.report.read_text()
    assert "<html" in html
    assert not re.search(r"""(src|href)=["']https?://""", html)  # self-contained


def test_every_metric_is_documented(first_run: FirstRun) -> None:
    rows = first_run.run.read_metrics()
    steps = [(r["stage"], r["step"]) for r in rows]
    assert steps[:30] == [("base", n) for n in range(1, 31)]
    assert steps[30] == ("coldstart", 1)
    assert steps[-4:] == [("eval_before", 0), ("grpo", 1), ("grpo", 2), ("eval_after", 0)]
    for row in rows:
        assert undocumented(set(row) - COLUMNS) == []
    for row in first_run.run.read_metrics("grpo"):
        # The mean: a near-tie of the indexer may flip and shift a few tokens, wrong weights would shift all of them.
        assert row["mismatch/mean"] < 1e-3
        assert row["mismatch/probe_max"] < 1e-4
        assert row["episode/count"] == 8
        assert row["staleness/max"] == 0
        assert {"reward/mean", "loss/total", "policy/entropy", "rollout/tokens_per_s"} <= set(row)
        assert {f"reward/family/{f}" for f in FAMILIES} <= set(row)


def test_the_summary_has_what_the_docs_quote(first_run: FirstRun) -> None:
    summary = first_run.run.read_summary()
    for name in ("eval_before", "eval_after"):
        evaluation = summary[name]
        assert set(evaluation["families"]) == FAMILIES
        assert (evaluation["k"], evaluation["n_tasks"]) == (2, 4)
        assert 0 <= evaluation["overall"] <= 1
        for family in evaluation["families"].values():
            assert {"avg@k", "stderr", "k", "n_tasks"} <= set(family)
    assert summary["tokens_sampled"] == sum(r["tokens/sampled"] for r in first_run.run.read_metrics("grpo")) > 0
    assert summary["rollout_tokens_per_s"] > 0
    assert summary["learner_tokens_per_s"] > 0
    assert 0 < summary["mismatch_max"] < 1
    assert {"base policy", "cold start", "evaluation before", "GRPO", "evaluation after"} <= set(summary["wall_s"])
    assert summary["steps"] == 2
    assert summary["failures"] == {}


def test_trajectories_are_readable_and_true(first_run: FirstRun) -> None:
    rows = first_run.run.read_trajectories("step_000001")
    assert len(rows) == 8
    assert {r["family"] for r in rows} == FAMILIES
    for row in rows:
        assert row["failure_kind"] is None
        assert row["task_id"].split("/")[1] == "train"
        assert (row["version_min"], row["version_max"]) == (0, 0)
        assert row["reward"] == pytest.approx(sum(v for k, v in row["reward_parts"].items() if "/" not in k))
        spans = [span for segment in row["segments"] for span in segment["spans"]]
        assert sum(s["end"] - s["start"] for s in spans) == row["sampled_tokens"] > 0
        assert all(x <= 0 for s in spans for x in s["logprobs"])
        assert row["messages"][-1]["role"] in ("assistant", "tool", "user")
    held_out = first_run.run.read_trajectories("eval_after")
    assert {r["task_id"].split("/")[1] for r in held_out} == {"heldout"}
    assert {(r["version_min"], r["version_max"]) for r in held_out} == {(2, 2)}


def test_the_policy_loads_in_transformers_and_has_learned(first_run: FirstRun) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = first_run.run.path / "policy"
    loaded: Any = AutoModelForCausalLM.from_pretrained(policy, output_loading_info=True)
    model, info = loaded
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert type(model).__name__ == "DeepseekV32ForCausalLM"
    tokens = AutoTokenizer.from_pretrained(policy)('What is "Oslo"?')["input_ids"]
    assert max(tokens) < model.config.vocab_size
    (cold,) = (first_run.cwd / "cache").glob("coldstart-*")
    before = AutoModelForCausalLM.from_pretrained(cold).state_dict()
    after = model.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    # The indexer is frozen in RL, and so is the router's bias.
    assert all(torch.equal(before[k], after[k]) for k in before if ".indexer." in k or "correction_bias" in k)


def test_the_cold_start_keeps_its_demonstrations(first_run: FirstRun) -> None:
    from datasets import load_from_disk

    (cold,) = (first_run.cwd / "cache").glob("coldstart-*")
    demos: Any = load_from_disk(str(cold / "demos"))
    assert len(demos) == 32
    assert set(demos["family"]) == FAMILIES
    for row in demos:
        assert len(row["tokens"]) == len(row["loss_mask"])
        assert row["task_id"].split("/")[1] == "train"
        assert json.loads(row["messages"])[-1]["role"] == "assistant"
    figures = json.loads((cold / "coldstart.json").read_text())
    assert set(figures["demo_outcome"]) == FAMILIES


def test_finished_stages_are_reused_until_something_changes(
    first_run: FirstRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from train_runs import train_config

    from rl.recipes import cold_start as coldstart
    from rl.recipes import pretrain
    from rl.recipes.policy_stages import base_stage, coldstart_stage
    from rl.run.assemble import open_tasksets

    for module, name in ((pretrain, "pretrain"), (coldstart, "coldstart")):

        @wraps(getattr(module, name))  # of the same module: a key knows where its function is defined
        def ran(*args: Any) -> None:
            raise LookupError("the stage ran")

        monkeypatch.setattr(module, name, ran)
    cache = f"cache_dir={first_run.cwd / 'cache'}"
    run, progress = RunDir(tmp_path), Progress((), console=Console(file=io.StringIO()))
    cfg = train_config(*first_run.overrides, cache, "name=other", "steps=99", "objective.clip=0.1")
    tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
    base = base_stage(cfg, run, progress)
    start = coldstart_stage(cfg, base, tasksets["train"], run, progress)
    assert base.reused
    assert start.reused
    assert base.path == first_run.base

    with pytest.raises(LookupError):
        base_stage(train_config(*first_run.overrides, cache, "base.dense_steps=21"), run, progress)
    for change in ("coldstart.demos=33", "seed=1", "rollout.thinking=false"):
        changed = train_config(*first_run.overrides, cache, change)
        assert base_stage(changed, run, progress).reused
        with pytest.raises(LookupError):
            coldstart_stage(changed, base, tasksets["train"], run, progress)
    off = train_config(*first_run.overrides, cache, "coldstart.enabled=false")
    assert coldstart_stage(off, base, tasksets["train"], run, progress) == base


@pytest.mark.slow
def test_a_second_call_starts_at_once(first_run: FirstRun) -> None:
    output = Command("rl-train", *first_run.overrides, "name=first", cwd=first_run.cwd).wait()
    for stage in ("base policy", "cold start", "evaluation before"):
        assert f"{stage}: reused" in output
    second = Path(first_run.cwd / "runs" / "first-2")
    assert json.loads((second / "summary.json").read_text())["run"] == "first-2"
    assert (second / "trajectories" / "eval_before.jsonl").is_file()
    rows = [json.loads(line)["stage"] for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert rows == ["eval_before", "grpo", "grpo", "eval_after"]


@pytest.mark.slow
def test_rl_eval_of_a_run(first_run: FirstRun) -> None:
    small = [o for o in first_run.overrides if o.startswith(("rollout.", "eval."))]
    output = Command("rl-eval", "run=first", *small, cwd=first_run.cwd).wait()
    assert "held-out evaluation" in output
    summary = json.loads((first_run.run.path / "policy" / "eval" / "summary.json").read_text())
    assert set(summary["eval_after"]["families"]) == FAMILIES

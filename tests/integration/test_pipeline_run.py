"""`rl-train experiment=v32_pipeline` in miniature: killed in the second specialist, resumed, ended by its budget."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_runs import THREADS, Command, reap

from rl.data.corpus import load_data
from rl.run.paths import resolve
from rl.tracking.metrics import undocumented
from rl.tracking.rundir import RunDir

BASE = resolve("pkg://rl.bases/tiny_dsa_base")
FAMILIES = ("search", "code")


@dataclass(frozen=True)
class Pipeline:
    """What the killed run left, and the run after ``resume``."""

    run: RunDir
    first: dict[str, Any]  # the first specialist's record when the run was killed
    output: str  # of the resumed run
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    cwd = tmp_path_factory.mktemp("pipeline")
    command = Command(
        "rl-train", "experiment=v32_pipeline", f"base.source={BASE}", "coldstart.enabled=false", *THREADS,
        "pipeline.distill.threads=1", "env.families={search: 1, code: 1}", "prompts_per_step=4", "group_size=2",
        "rollout.max_concurrency=16", "rollout.kv_cache_gib=0.1", "eval.n_tasks=2", "eval.k=2",
        "pipeline.specialist_steps=2", "pipeline.specialist_prompts=4", "pipeline.data_tasks=8",
        "pipeline.data_samples=4", "pipeline.keep_per_task=2", "checkpoint_every=1",
        "learner.skip_zero_advantage=false",
        # The specialists take about two thirds of it; the mixed stage would go on for 100 steps.
        "steps=100", "budget.rl_share=0.5", "budget.pretrain_flops=1.2e11", "tracking.wandb=disabled",
        "tracking.plain_every_s=0.01", "name=pipe", cwd=cwd,
    )  # fmt: skip
    metrics = cwd / "runs" / "pipe" / "metrics.jsonl"
    command.wait_until(lambda: metrics.exists() and '"stage": "grpo/code", "step": 1' in metrics.read_text())
    assert reap(command.kill(), 120) == []
    run = RunDir.existing(cwd / "runs" / "pipe")
    first = json.loads((run.path / "stages" / "search" / "stage.json").read_text())
    output = Command("rl-train", "resume=pipe", cwd=cwd).wait()
    return Pipeline(run, first, output, run.read_summary())


def test_the_resumed_run_goes_on_at_the_unfinished_stage(done: Pipeline) -> None:
    for stage in ("GRPO search", "evaluation search", "data search"):
        assert f"{stage}: reused" in done.output
    places = [
        done.output.index(f"{stage}: done in")
        for stage in ("GRPO code", "evaluation code", "data code", "distillation", "evaluation distilled",
                      "GRPO mixed", "evaluation after")
    ]  # fmt: skip
    assert places == sorted(places)
    assert done.summary["pipeline"]["specialists"]["search"] == done.first
    steps = [(r["stage"], r["step"]) for r in done.run.read_metrics() if r["stage"].startswith("grpo/")]
    assert steps == [(f"grpo/{f}", n) for f in FAMILIES for n in (1, 2)]


def test_every_stage_is_on_policy_and_documented(done: Pipeline) -> None:
    for row in done.run.read_metrics():
        assert undocumented(set(row) - {"stage", "step", "time"}) == []
        if row["stage"].startswith("grpo"):
            # Versions start again at 0 with every stage: rows of another stage's weights in a cache would show here.
            assert row["mismatch/mean"] < 1e-3
            assert row["mismatch/probe_max"] < 1e-4
            assert row["staleness/max"] == 0
    for family in FAMILIES:
        files = RunDir(done.run.path / "stages" / family)
        for name in files.trajectory_names():
            assert {r["family"] for r in files.read_trajectories(name)} == {family}
        assert (files.path / "policy" / "tokenizer.json").is_file()


def test_the_data_is_what_the_specialists_sampled(done: Pipeline) -> None:
    kept = 0
    for family in FAMILIES:
        counts = done.summary["pipeline"]["specialists"][family]["data"]
        assert counts["sampled"] == 8 * 4 == sum(n for kind, n in counts.items() if kind != "sampled")
        rollouts = done.run.read_trajectories(f"data_{family}")
        assert {r["task_id"].split("/")[1] for r in rollouts} == {"train"}
        trained = {
            r["task_id"]
            for name in RunDir(done.run.path / "stages" / family).trajectory_names()
            for r in RunDir(done.run.path / "stages" / family).read_trajectories(name)
        }
        assert trained.isdisjoint({r["task_id"] for r in rollouts})
        streams = {
            (tuple(s["tokens"]), tuple(i for span in s["spans"] for i in range(span["start"], span["end"])))
            for r in rollouts
            if r["reward_parts"].get("score/outcome") == 1.0
            for s in r["segments"]
        }
        data = load_data(done.run.path / "stages" / family / "data")
        assert all((tuple(d.tokens.tolist()), tuple(np.flatnonzero(d.loss_mask).tolist())) in streams for d in data)
        assert len(data) == counts["kept"]
        kept += len(data)
    assert done.summary["pipeline"]["distillation"]["documents"] == kept > 0


def test_all_policies_are_evaluated(done: Pipeline) -> None:
    found = done.summary["pipeline"]
    for evaluation in (done.summary["eval_before"], found["distilled"], done.summary["eval_after"]):
        assert set(evaluation["families"]) == set(FAMILIES)
    for family in FAMILIES:
        assert set(found["specialists"][family]["eval"]["families"]) == {family}
    for name in ("eval_before", "eval_specialist_search", "eval_distilled", "eval_after"):
        assert {r["task_id"].split("/")[1] for r in done.run.read_trajectories(name)} == {"heldout"}
    page = done.run.report.read_text()
    for text in ("Specialists, distillation, mixed RL", "distilled − specialists", "<h2>Compute</h2>"):
        assert text in page
    assert "pipeline: held-out outcome by stage" in done.output


def test_the_budget_ends_the_mixed_stage(done: Pipeline) -> None:
    summary = done.summary
    shares = [r["compute/rl_share"] for r in done.run.read_metrics() if "compute/rl_share" in r]
    assert shares == sorted(shares)
    assert shares[-1] >= 0.5 > shares[-2]
    assert 0 < summary["steps"] < 100
    assert summary["stop_reason"].startswith("budget.rl_share=0.5 is spent")
    assert "budget.rl_share=0.5 is spent" in done.output
    assert done.run.checkpoints.joinpath(f"step_{summary['steps']:06d}").is_dir()
    compute = summary["compute"]
    assert compute["rl_over_pretraining"] == pytest.approx(shares[-1])
    rl = [e for e in compute["stages"].values() if e["kind"] == "rl"]
    assert len(rl) == 3
    assert all(e["rollout"] > 0 and e["learner"] > 0 for e in rl)
    assert compute["rl_flops"] == pytest.approx(sum(e["rollout"] + e["learner"] for e in rl))
    for stage in ("evaluation cold start", "data code", "evaluation after"):
        assert compute["stages"][stage]["rollout"] > 0
    assert compute["stages"]["distillation"]["learner"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [(), ("learner.lora.rank=4", "rollout.top_p=0.9", "learner.lr=1e-2")])
def test_specialists_teach(tmp_path: Path, adapter: tuple[str, ...]) -> None:
    """`experiment=v4_pipeline` in miniature, with whole policies and with adapters on truncated samples."""
    output = Command(
        "rl-train", "experiment=[v4_pipeline,smoke]", f"base.source={BASE}", "coldstart.enabled=false", *THREADS,
        "env.families={search: 1, code: 1}", "pipeline.specialist_steps=1", "pipeline.specialist_prompts=2",
        "tracking.wandb=disabled", "name=taught", *adapter, cwd=tmp_path,
    ).wait()  # fmt: skip
    run = RunDir.existing(tmp_path / "runs" / "taught")
    rows = run.read_metrics("grpo")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert undocumented(set(row) - {"stage", "step", "time"}) == []
        # It may be 0: so short a training may leave a specialist as it was.
        assert row["loss/total"] == row["loss/distill"] >= 0.0
        assert row["learner/tokens_taught"] == row["learner/tokens_distinct"]
        assert {key for key in row if key.startswith("distill/kl/")} <= {f"distill/kl/{f}" for f in FAMILIES}
        assert row["mismatch/mean"] < 1e-3
    assert "data" not in run.read_summary()["pipeline"]["specialists"]["search"]
    assert "the policy that they teach" in run.report.read_text()
    assert "on-policy distillation: done in" in output

"""`rl-train experiment=self_verification` in miniature, seen to its end. (Killed and resumed is a pipeline's test.)"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from train_runs import THREADS, Command, train_config

from configs.schema import SelfVerificationConfig
from rl.recipes.self_verification import stage_names
from rl.run.paths import resolve
from rl.tracking.metrics import undocumented
from rl.tracking.rundir import RunDir

BASE = resolve("pkg://rl.bases/tiny_reasoner_base")


@dataclass(frozen=True)
class Done:
    run: RunDir
    first: dict[str, Any]  # the first verifier's record
    output: str
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    cwd = tmp_path_factory.mktemp("selfverify")
    command = Command(
        "rl-train", "experiment=self_verification", f"base.source={BASE}", "coldstart.enabled=false", *THREADS,
        "group_size=2", "rollout.max_concurrency=32", "rollout.kv_cache_gib=0.1", "judge.kv_cache_gib=0.1",
        "judge.max_concurrency=64", "eval.n_tasks=2", "eval.k=2", "self_verification.iterations=2",
        "self_verification.meta_steps=1",
        "self_verification.rows_share=1", "self_verification.verify_steps=1",
        "self_verification.verify_prompts=4", "self_verification.prove_steps=2",
        "self_verification.prove_prompts=4", "self_verification.label_problems=8",
        "self_verification.labels.analyses=3",
        "self_verification.labels.min_analyses=1", "self_verification.labels.confirmed=1",
        "self_verification.labels.assessments=1", "self_verification.merge.threads=1", "checkpoint_every=1",
        "learner.skip_zero_advantage=false", "tracking.wandb=disabled", "tracking.plain_every_s=0.01", "name=sv",
        cwd=cwd,
    )  # fmt: skip
    output = command.wait()
    run = RunDir.existing(cwd / "runs" / "sv")
    first = json.loads((run.path / "stages" / "1-verify" / "stage.json").read_text())
    return Done(run, first, output, run.read_summary())


def test_all_stages_in_order(done: Done) -> None:
    places = [done.output.index(f"{stage}: done in") for stage in stage_names(SelfVerificationConfig(iterations=2))]
    assert places == sorted(places)
    found = done.summary["self_verification"]
    assert [sorted(i) for i in found["iterations"]] == [["grpo", "labels", "prover", "verifier"]] * 2
    assert found["iterations"][0]["verifier"] == done.first["figures"]


def test_no_ground_truth_of_a_proof_reaches_a_reward(done: Done) -> None:
    files = RunDir(done.run.path / "stages" / "1-prove")
    rows = [row for name in files.trajectory_names() for row in files.read_trajectories(name)]
    proofs = [row for row in rows if row["failure_kind"] is None and row["family"] in ("prove", "refine")]
    assert proofs
    for row in proofs:
        parts = row["reward_parts"]
        assert row["reward"] == pytest.approx(parts["generator"])
        if parts["generator/format"] == 1.0:  # alpha s + beta (1 - |s' - s|) R_meta, all of the judge
            s, claimed, meta = (parts[f"generator/{k}"] for k in ("verifier_score", "self_score", "meta"))
            assert parts["generator"] == pytest.approx(0.76 * s + 0.24 * (1 - abs(claimed - s)) * meta)
        else:
            assert parts["generator"] == 0.0


def test_labels_are_rows_of_the_next_verifier(done: Done) -> None:
    counts = done.summary["self_verification"]["iterations"][0]["labels"]
    rows = [json.loads(line) for line in (done.run.path / "stages/1-label/rows.jsonl").read_text().splitlines()]
    assert len(rows) == counts["labelled"] > 0
    assert counts["proofs"] == 16
    assert counts["right"] <= counts["labelled"] <= counts["well_formed"] <= counts["proofs"]
    tasks = [row["messages"][1]["content"] for row in RunDir(done.run.path / "stages/2-verify").read_trajectories(
        "step_000001"
    ) if row["family"] == "verify"]  # fmt: skip
    labelled = {f"{row['problem']}\n{row['solution']}" for row in rows}
    assert any(content in labelled for content in tasks)


def test_figures_are_logged_and_documented(done: Done) -> None:
    for row in done.run.read_metrics():
        assert undocumented(set(row) - {"stage", "step", "time"}) == []
    rows = done.run.read_metrics("selfverify")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert all(0.0 <= row["proof/verify_right"] <= 1.0 for row in rows)
    assert (done.run.path / "policy" / "model.safetensors").is_file()


def test_it_needs_its_own_judge() -> None:
    with pytest.raises(ValueError, match="judge=worker"):
        train_config("experiment=self_verification", "judge=none")
    with pytest.raises(ValueError, match="one of the two"):
        train_config("experiment=self_verification", "pipeline.enabled=true")

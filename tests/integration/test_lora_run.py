"""A run that trains an adapter: small checkpoints, resumed, and at its end a policy like any other."""

from __future__ import annotations

from pathlib import Path

from train_runs import SMALL, Command, FirstRun, reap

from rl.learner.checkpoint import latest_checkpoint
from rl.policy.loading import load_policy
from rl.tracking.rundir import RunDir


def test_from_the_command_to_a_plain_policy(first_run: FirstRun, tmp_path: Path) -> None:
    overrides = (f"base.source={first_run.base}", "env=search", "coldstart.enabled=false", "learner.lora.rank=4")
    more = ("learner.lr=2e-3", "objective.kl_coef=0.01", "checkpoint_every=1", "keep_checkpoints=1", "name=lora")
    command = Command("rl-train", *overrides, *SMALL, *more, "steps=3", cwd=tmp_path)
    metrics = tmp_path / "runs" / "lora" / "metrics.jsonl"
    command.wait_until(lambda: metrics.exists() and '"stage": "grpo", "step": 2' in metrics.read_text())
    reap(command.kill(), 120)
    Command("rl-train", "resume=lora", cwd=tmp_path).wait()
    run = RunDir.existing(tmp_path / "runs" / "lora")
    rows = run.read_metrics("grpo")
    assert sorted({row["step"] for row in rows}) == [1, 2, 3]  # the one that was not stored is there twice
    assert max(row["mismatch/max"] for row in rows) < 1e-3
    assert rows[-1]["loss/kl"] > 0  # beside the base, which the adapter has left
    checkpoint = latest_checkpoint(run.checkpoints)
    assert checkpoint is not None
    assert {file.name for file in (checkpoint / "policy").glob("*.safetensors")} == {"adapter_model.safetensors"}
    plain, base = load_policy(run.path / "policy").weights(), load_policy(first_run.base).weights()
    assert plain.keys() == base.keys()
    assert any(bool((plain[name] != value).any()) for name, value in base.items())

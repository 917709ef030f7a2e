"""A policy really learns: a short cold start and a few GRPO steps from the shipped base raise the held-out reward."""

from __future__ import annotations

import json
from pathlib import Path

from train_runs import THREADS, Command

from rl.run.paths import resolve

BASE = resolve("pkg://rl.bases/tiny_dsa_base")


def test_grpo_raises_the_heldout_reward_of_the_agent_family(tmp_path: Path) -> None:
    # The rise in the full demo is 0.5; a fifth of that in 10 steps is far above the noise of 32 x 4 episodes (0.04).
    Command(
        "rl-train", "env=agent", f"base.source={BASE}", "name=learns", "steps=10", "prompts_per_step=8",
        "coldstart.demos=128", "eval.n_tasks=32", "checkpoint_every=100", "tracking.wandb=disabled", *THREADS,
        cwd=tmp_path,
    ).wait()  # fmt: skip
    summary = json.loads((tmp_path / "runs" / "learns" / "summary.json").read_text())
    before, after = summary["eval_before"]["overall"], summary["eval_after"]["overall"]
    assert 0.1 < before < 0.7
    assert after > before + 0.1

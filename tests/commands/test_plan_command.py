"""`rl-train plan=true`: what is printed, the exit codes, and that nothing is started or written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from in_process import command
from released_models import directory

import rl

EIGHT = (
    "cluster=node8", "policy=hf", f"policy.path={directory('qwen3_8b')}", "learner.compute_dtype=bfloat16",
    "learner.recompute=true", "learner.head_rows=1024", "rollout.max_context=8192", "rollout.max_tokens=4096",
    "rollout.max_turns=1", "plan=true",
)  # fmt: skip


def test_the_demo_fits(tmp_path: Path) -> None:
    done = command("rl-train", "plan=true", cwd=tmp_path)
    assert done.returncode == 0, done.output
    assert "deepseek_v32: 1.26 M parameters" in done.output
    assert "one machine without GPU: rollout worker, learner" in done.output
    assert "the plan fits. Nothing was started" in done.output
    for part in (
        "weights",
        "gradients",
        "optimiser",
        "saved activations",
        "logits",
        "cache",
        "replay and batch",
        "in the machine: a",
    ):
        assert part in done.output
    assert list(tmp_path.iterdir()) == []
    apart = command("rl-train", "plan=true", "rollout.env_workers=3", "ray.env_cpus=2", cwd=tmp_path)
    assert "3 environment worker(s) of 2 CPUs, 22 episodes at once in each" in apart.output


def test_one_machine_of_eight_gpus(tmp_path: Path) -> None:
    done = command("rl-train", *EIGHT, "learner.lora.rank=16", cwd=tmp_path)
    assert done.returncode == 0, done.output
    assert "GPU 0 to 6: rollout worker" in done.output
    assert "GPU 7: learner" in done.output
    assert "$" in done.output
    refused = command("rl-train", *EIGHT, cwd=tmp_path)
    assert refused.returncode == 1
    assert "refused: learner.offload_optimizer: learner on GPU 7:" in refused.output
    assert "the plan is refused" in refused.output
    assert list(tmp_path.iterdir()) == []


def test_four_ranks_beside_four_engines(tmp_path: Path) -> None:
    done = command("rl-train", *EIGHT, "learner.ranks=4", "rollout.workers=4", cwd=tmp_path)
    assert done.returncode == 0, done.output
    assert "GPU 0 to 3: rollout worker" in done.output
    assert "GPU 4 to 7: learner" in done.output
    for part in (
        "gathered layers",
        "in the first rank's machine: a checkpoint",
        "in the first rank's machine: a weight",
    ):
        assert part in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("policy=hf",), "configuration error: policy.path is missing"),
        (("policy=hf", "policy.path=nowhere"), "configuration error: policy.path=nowhere: no such directory"),
        (("resume=demo-0",), "configuration error: plan=true with resume=demo-0"),
    ],
)
def test_nothing_to_plan_for(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = command("rl-train", "plan=true", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.output


def test_from_python_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl.run.preflight import ConfigurationError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="plan=true: a plan is printed by rl-train"):
        rl.train(plan=True)
    assert list(tmp_path.iterdir()) == []


def test_neither_ray_nor_vllm_is_loaded() -> None:
    code = (
        "import sys, rl.run.run_plan, rl.run.plan_table, rl.run.plan_memory, rl.run.plan_speed, rl.run.plan_refusals; "
        "sys.exit(sorted({'ray', 'vllm', 'torch'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

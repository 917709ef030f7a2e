"""Memory that a plan says beside what a learner's step of the tiny DSA policy takes, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from train_runs import train_config

from rl.policy.presets import tiny_dsa
from rl.run.model_sizes import ModelSizes
from rl.run.plan_memory import learner_memory

SEQUENCES, LENGTH, SAMPLED = 8, 1024, 640
# Two steps: after the small first one gradients were there once and the optimiser's state is. /proc/self/clear_refs
# with 5 sets the peak back to what is resident now.
STEP = """
import json, sys, tempfile
import numpy as np
import torch
from envs.types import StopReason
from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.dsa import DSAPolicy
from rl.policy.model import DSAForCausalLM
from rl.policy.presets import tiny_dsa
from rl.types import Group, Segment, Trajectory

sequences, length, sampled, recompute = json.loads(sys.argv[1])

def memory(name):
    with open("/proc/self/status") as file:
        return int(file.read().split(name + ":")[1].split()[0]) * 1024

def groups(count, length):
    rng, items = np.random.default_rng(0), []
    for i in range(count):
        tokens = rng.integers(0, 1024, length).astype(np.int32)
        mask = np.arange(length) >= length - sampled * length // 1024
        logprobs, versions = np.where(mask, -7.0, 0.0).astype(np.float32), np.where(mask, 0, -1).astype(np.int32)
        segment = Segment(tokens, mask, logprobs, versions)
        items.append(Trajectory(str(i), "t", "f", [segment], [], StopReason.ANSWERED, float(i % 2), {}))
    return [Group(0, 0, "t", "f", 0, items)]

torch.manual_seed(0)
config = LearnerConfig(threads=1, max_tokens_per_microbatch=sequences * length, recompute=recompute)
with tempfile.TemporaryDirectory() as folder:
    policy = DSAPolicy(DSAForCausalLM(tiny_dsa(1024)))
    learner = Learner(policy, config, ObjectiveConfig(), folder, replay=ReplayConfig(routing="off"))
    learner.step(groups(2, 64))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = memory("VmRSS")
    learner.step(groups(sequences, length))
    print(json.dumps({"before": before, "peak": memory("VmHWM")}))
"""


def measured(recompute: bool) -> tuple[float, float]:
    """GB that a process with policy and optimiser holds, and GB of a step above that."""
    arguments = json.dumps([SEQUENCES, LENGTH, SAMPLED, recompute])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", STEP, arguments], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found["before"] / 1e9, (found["peak"] - found["before"]) / 1e9


def step_of_plan(recompute: bool) -> float:
    """GB of the same step in the plan, which takes all tokens for sampled ones."""
    cfg: Any = train_config("plan=true", "learner.max_tokens_per_microbatch=8192", "rollout.max_context=1024")
    cfg = replace(cfg, learner=replace(cfg.learner, recompute=recompute, head_rows=SEQUENCES * SAMPLED))
    parts = learner_memory(cfg, ModelSizes.of(tiny_dsa(1024))).device
    return parts["saved activations"] + parts["working activations"] + parts["logits"]


@pytest.mark.parametrize("recompute", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_step_of_the_tiny_policy(recompute: bool) -> None:
    held, step = measured(recompute)
    planned = step_of_plan(recompute)
    print(f"recompute={recompute}: process {held:.2f} GB, step {step:.3f} GB, planned {planned:.3f} GB")
    assert step == pytest.approx(planned, rel=0.4)
    assert held < 1.5

"""The example with an agent of its own: a plain OpenAI client, trained through the gateway of a real worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from rl.tracking.rundir import RunDir

pytestmark = pytest.mark.run  # a script with Ray and vLLM

SCRIPT = Path(__file__).parents[2] / "examples" / "your_agent.py"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("steps", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_plain_client_learns_its_errands(tmp_path: Path, steps: int) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--steps", str(steps)], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"held-out reward \S+ before, \S+ after; policy in runs/demo-0/policy", done.stdout)
    run = RunDir.existing(tmp_path / "runs" / "demo-0")
    rows = run.read_metrics("grpo")
    # Seed 0: 0.25 to 0.39 in the first three steps, 0.62 to 0.76 in steps 7 to 10.
    rewards = [row["reward/mean"] for row in rows]
    assert len(rewards) == steps
    assert steps < 10 or fmean(rewards[-3:]) > fmean(rewards[:2]) + 0.1
    assert all(row["failure/total"] == 0 for row in rows)
    # The client forgets nothing: each episode is one segment, up to its last token.
    trajectory = run.read_trajectories("eval_after")[0]
    assert [m["role"] for m in trajectory["messages"]][:3] == ["system", "user", "assistant"]

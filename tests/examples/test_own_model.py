"""The example with a model, rows and a reward of its own, in an empty folder: it learns, and it can be gone on with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from rl.tracking.rundir import RunDir

pytestmark = pytest.mark.run  # a script with Ray and vLLM

SCRIPT = Path(__file__).parents[2] / "examples" / "own_model.py"
# What another process finds in the run: its rows, and the reward that the script defined as __main__.
LATER = """
from pathlib import Path
from configs.schema import TrainConfig
from rl.run.assemble import open_tasksets
from rl.run.preflight import stored_settings
cfg = stored_settings(Path("runs/demo-0"), TrainConfig)
taskset = open_tasksets(cfg.env, cfg.seed, cfg.eval)["train"]
task = taskset.task(0)
reward = taskset.environment(task).reward
print(len(taskset), reward(task.answer, {"answer": task.answer}), reward("no", {"answer": task.answer}))
"""


def call(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("steps", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_random_model_learns_the_last_word(steps: int, tmp_path: Path) -> None:
    output = call(str(SCRIPT), "--steps", str(steps), cwd=tmp_path)
    assert re.search(r"held-out reward \S+ before, \S+ after; policy in runs/demo-0/policy", output)
    run = RunDir.existing(tmp_path / "runs" / "demo-0")
    rewards = [row["reward/mean"] for row in run.read_metrics("grpo")]
    assert len(rewards) == steps
    if steps == 30:
        # Seeds 0 to 2: 0.20 to 0.26 in the first five steps, 0.44 to 0.59 in steps 26 to 30.
        assert fmean(rewards[:5]) < 0.35
        assert fmean(rewards[-5:]) > fmean(rewards[:5]) + 0.12
    assert json.loads((run.path / "policy" / "config.json").read_text())["model_type"] == "llama"
    rows = [json.loads(line) for line in (run.path / "inputs" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 100
    trained, right, wrong = call("-c", LATER, cwd=tmp_path).split()[-3:]
    assert (int(trained) < 100, right, wrong) == (True, "1.0", "0.0")

"""`rl.train` and `rl.evaluate` as a notebook has them: an event loop runs, one process, one call after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = """
import asyncio, json
import rl

SMALL = dict(
    steps=1, prompts_per_step=2, group_size=2, eval={"n_tasks": 2, "k": 1}, coldstart={"enabled": False},
    rollout={"max_turns": 1, "max_tokens": 8, "kv_cache_gib": 0.1, "max_concurrency": 8, "thinking": False},
    learner={"threads": 1, "skip_zero_advantage": False}, tracking={"wandb": "disabled", "save_batch_every": 0},
)
ROWS = [{"prompt": f"Say {n}.", "answer": str(n)} for n in range(20)]

async def cell():
    bonus = 0.25
    run = rl.train(data=ROWS, reward=lambda answer, row: {"outcome": 0.0, "mine": bonus}, name="mine", **SMALL)
    told = {"name": run.name, "steps": run.summary["steps"], "policy": str(run.policy_path), "report": str(run.report)}
    told["rollouts"] = len(run.trajectories("step_000001"))
    told["evaluated"] = [t["task_id"] for t in run.trajectories()]
    found = rl.evaluate(run=run, data=ROWS, reward="exact", eval={"n_tasks": 3, "k": 1})
    told["again"] = [str(found.path), found.summary["eval_after"]["families"]["dataset"]["n_tasks"]]
    print("told", json.dumps(told))

asyncio.run(cell())
"""


@pytest.mark.timeout(600)
def test_two_calls_in_one_process_with_a_running_loop(tmp_path: Path) -> None:
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    done = subprocess.run(
        [sys.executable, "notebook.py"], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("told ")]
    told = json.loads(line.removeprefix("told "))
    assert (told["name"], told["steps"], told["policy"]) == ("mine", 1, "runs/mine/policy")
    assert told["rollouts"] == 4
    assert len(told["evaluated"]) == 2
    assert told["again"] == ["runs/mine/policy/eval", 3]
    assert "</html>" in (tmp_path / told["report"]).read_text()
    (module,) = (tmp_path / "runs" / "mine" / "inputs").glob("*.py")
    assert "bonus = 0.25" in module.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "notebook.py", "runs"]

"""`rl-train ray=cluster` with environments on a machine of their own, which dies in the middle: the run goes on, and
nothing is lost or trained twice. Without a model, and other ends: tests/rollout/test_lost_machines.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lost_nodes import NODES
from train_runs import BIN, SMALL, THREADS

from rl.tracking.rundir import RunDir

pytestmark = [pytest.mark.run, pytest.mark.slow]

RUN = (
    NODES
    + """
import subprocess

machine(cpus=2, gpu_machine=1)  # engine and learner
sandboxes = machine(sandbox_machine=1)
runs = Path(sys.argv[1])
try:
    run = subprocess.Popen([*sys.argv[2:], f"ray.address={cluster.address}"], stdout=sys.stderr, stderr=sys.stderr)
    logged = lambda: [f for f in runs.glob("*/metrics.jsonl") if '"grpo"' in f.read_text()]
    while run.poll() is None and not logged():
        time.sleep(0.2)
    machine(sandbox_machine=1)
    cluster.remove_node(sandboxes, allow_graceful=False)
    code = run.wait(600)
finally:
    cluster.shutdown()
os._exit(code)
"""
)


def test_a_run_goes_on_without_the_machine_of_its_environments(tmp_path: Path) -> None:
    words = [
        str(BIN / "rl-train"), "ray=cluster", "ray.worker_gpus=0", "ray.learner_gpus=0", "rollout.env_workers=1",
        "ray.worker_resources.gpu_machine=1", "ray.env_resources.sandbox_machine=1", *SMALL, *THREADS,
        "coldstart.enabled=false", "steps=4", "env=search",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "runs"), *words], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=850,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    files = RunDir(tmp_path / "runs" / "demo-0")
    assert json.loads((files.path / "summary.json").read_text())["steps"] == 4
    rows = files.read_metrics("grpo")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # Ray may put the new one onto the lost machine's place once more before it takes the machine for dead.
    assert 1 <= rows[-1]["rollout/restarted_env_workers"] <= 2
    assert rows[-1]["rollout/restarted_workers"] == 0
    ids = [row["id"] for step in range(1, 5) for row in files.read_trajectories(f"step_{step:06d}")]
    assert len(ids) == len(set(ids)) == 4 * 4 * 2
    assert max(row["mismatch/mean"] for row in rows) < 1e-3

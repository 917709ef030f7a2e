"""`rl-train ray=cluster` on a Ray of several nodes: they are raylets of this machine (ray.cluster_utils)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from train_runs import BIN, SMALL, THREADS

pytestmark = [pytest.mark.run, pytest.mark.slow]

# A process of its own: this one may hold a Ray already. It starts the nodes, runs the words that it is given, and says
# on which node every actor was.
NODES = """
import json, subprocess, sys
from ray.cluster_utils import Cluster

small = {"object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
for _ in range(3):
    cluster.add_node(num_cpus=1, **small)
try:
    done = subprocess.run([*sys.argv[1:], f"ray.address={cluster.address}"], stdout=sys.stderr, stderr=sys.stderr)
    import ray

    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    actors = [(a["ActorClassName"], a["Address"]["NodeID"]) for a in ray._private.state.actors().values()]
    ray.shutdown()
finally:
    cluster.shutdown()
print(json.dumps({"code": done.returncode, "actors": actors}))
"""


def test_learner_and_workers_on_three_nodes(tmp_path: Path) -> None:
    words = [
        str(BIN / "rl-train"), "ray=cluster", "ray.worker_gpus=0", "ray.learner_gpus=0", "rollout.workers=2", *SMALL,
        *THREADS, "coldstart.enabled=false", "steps=2", "env=search",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", NODES, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr[-4000:]
    kinds = [kind for kind, _ in found["actors"]]
    assert sorted(kinds) == ["LearnerProcess", "RolloutWorker", "RolloutWorker"]
    assert len({node for _, node in found["actors"]}) == 3  # each on a node of its own, none on the head
    summary = json.loads((tmp_path / "runs" / "demo-0" / "summary.json").read_text())
    assert summary["steps"] == 2

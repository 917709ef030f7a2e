"""Engines and environments on machines of their own, which pause and die: raylets of this machine
(``ray.cluster_utils``), told apart by resources that they were started with. The engines are no models; with a real
run: tests/integration/test_lost_nodes.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lost_nodes import NODES

POOL = (
    NODES
    + """
import rollout_doubles
import scripted_engine
from rollout_doubles import AddTaskset
from rewards.compose import default_composer
from rl.rollout import crew as crew_module
from rl.rollout.config import RolloutConfig
from rl.rollout.orders import GroupSpec
from rl.rollout.placing import Placing, Reserved
from rl.rollout.pool import RolloutPool

crew_module.RolloutWorker = scripted_engine.ScriptedWorker
engines = machine(gpu_machine=1)
sandboxes = machine(sandbox_machine=1)
said, told = {}, []
try:
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    config = RolloutConfig(threads=1, max_concurrency=8, max_tokens=120, max_context=512, max_turns=2, env_workers=1,
                           max_restarts=4)
    pool = RolloutPool(
        config, sys.argv[1], rollout_doubles.renderer, {"train": AddTaskset()}, default_composer(),
        placing=Placing(1, Reserved(resources={"gpu_machine": 1}), 1, Reserved(resources={"sandbox_machine": 1})),
    )
    pool.on_finished = lambda group: told.append(group.id)
    crew = pool.crew
    of = {engines.node_id: "engines", sandboxes.node_id: "sandboxes"}
    places = lambda: [of[ray.get(slot.actor.node.remote(), timeout=60)] for slot in (crew.slots[0], crew.players[0])]

    def round_of(first, disturb):
        began = time.monotonic()
        for number in range(first, first + 6):
            pool.submit(GroupSpec(number, AddTaskset().task(number), number, 4, 0))
        time.sleep(0.3)
        disturb()
        groups = pool.take(range(first, first + 6), 150)
        kinds = Counter(str(t.failure_kind) for group in groups for t in group.trajectories)
        return {"places": places(), "kinds": kinds, "seconds": time.monotonic() - began, **pool.counts}

    def paused(node, seconds):
        def disturb():
            signal_all(node, signal.SIGSTOP)
            threading.Timer(seconds, signal_all, (node, signal.SIGCONT)).start()
        return disturb

    said["quiet"] = round_of(0, lambda: None)
    said["engines pause"] = round_of(10, paused(engines, 1.0))
    said["sandboxes pause"] = round_of(20, paused(sandboxes, 1.0))
    of[machine(gpu_machine=1, sandbox_machine=1, cpus=2).node_id] = "spare"
    said["engines pause too long"] = round_of(30, paused(engines, 60.0))
    said["sandboxes are gone"] = round_of(40, lambda: cluster.remove_node(sandboxes, allow_graceful=False))
    spare = next(node for node in cluster.worker_nodes if of.get(node.node_id) == "spare")
    of[machine(gpu_machine=1, sandbox_machine=1, cpus=2).node_id] = "last"
    said["both are gone"] = round_of(50, lambda: cluster.remove_node(spare, allow_graceful=False))
    Path(sys.argv[1], "said").write_text(json.dumps({"said": said, "told": told}))
    pool.close()
finally:
    signal_all(engines, signal.SIGCONT)
    ray.shutdown()
    cluster.shutdown()
os._exit(0)  # a timer may still wait to wake a machine that is no more
"""
)


@pytest.mark.engine
@pytest.mark.slow
def test_machines_that_pause_and_die(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", POOL, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads((tmp_path / "said").read_text())
    said, told = found["said"], found["told"]
    assert sorted(told) == [first + n for first in (0, 10, 20, 30, 40, 50) for n in range(6)]  # each of them once
    assert all(one["kinds"] == {"None": 24} for one in said.values())
    for quiet in ("quiet", "engines pause", "sandboxes pause"):
        assert said[quiet]["places"] == ["engines", "sandboxes"]
        assert said[quiet].get("groups_resubmitted", 0) == 0
    late = said["engines pause too long"]
    assert late["places"] == ["spare", "sandboxes"]
    assert (late["workers_restarted"], late.get("env_workers_restarted", 0)) == (1, 0)
    assert late["groups_resubmitted"] >= 1
    gone = said["sandboxes are gone"]
    assert gone["places"] == ["spare", "spare"]
    assert (gone["workers_restarted"], gone["env_workers_restarted"]) == (1, 1)
    both = said["both are gone"]
    assert both["places"] == ["last", "last"]
    assert (both["workers_restarted"], both["env_workers_restarted"]) == (2, 2)
    assert both.get("groups_skipped", 0) == 0

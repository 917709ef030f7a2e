"""Engines and environments on machines of their own, which pause and die: raylets of this machine
(``ray.cluster_utils``), told apart by resources that they were started with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from train_runs import BIN, SMALL, THREADS

from rl.tracking.rundir import RunDir

pytestmark = [pytest.mark.run, pytest.mark.slow]

# A process of its own: this one may hold a Ray already.
NODES = """
import json, os, signal, sys, threading, time
from collections import Counter
from pathlib import Path

import psutil, ray
from ray.cluster_utils import Cluster

SMALL = {"object_store_memory": 100 * 2**20}
LOST_S = 4.0  # until Ray takes a machine that does not answer for dead: it looks every 0.5 s, and waits 1 s
HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_timeout_ms": 1000,
          "health_check_failure_threshold": 4}
cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH, **SMALL},
)


def machine(cpus=1, **resources):
    return cluster.add_node(num_cpus=cpus, resources=resources, **SMALL)


def processes(node):
    pids = [found.process.pid for kind in node.all_processes.values() for found in kind]
    return [p for pid in pids for p in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]


def signal_all(node, which):
    for process in processes(node):
        try:
            process.send_signal(which)
        except psutil.NoSuchProcess:
            pass
"""

POOL = (
    NODES
    + """
sys.path.insert(0, sys.argv[1])
import rollout_doubles
from rollout_doubles import AddTaskset, tokenizer
from functools import partial
from rewards.compose import default_composer
from rl.chat.tokenizer import ChatTokenizer
from rl.chat.v32 import V32Renderer
from rl.policy.loading import build_policy
from rl.rollout.config import RolloutConfig
from rl.rollout.orders import GroupSpec
from rl.rollout.placing import Reserved
from rl.rollout.pool import RolloutPool

directory = Path(sys.argv[2])
build_policy({"preset": "tiny_dsa", "vocab_size": tokenizer().vocab_size,
              "overrides": {"num_hidden_layers": 2}}).save(directory)
tokenizer().save(directory)




engines = machine(gpu_machine=1)
sandboxes = machine(sandbox_machine=1)
said, told = {}, []
try:
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    config = RolloutConfig(threads=1, max_concurrency=8, max_tokens=200, max_context=512, kv_cache_gib=0.05,
                           max_turns=2, env_workers=1, max_restarts=4)
    pool = RolloutPool(
        config, directory, rollout_doubles.renderer, {"train": AddTaskset()}, default_composer(),
        engines=Reserved(resources={"gpu_machine": 1}), environments=Reserved(resources={"sandbox_machine": 1}),
    )
    pool.on_finished = lambda group: told.append(group.id)
    crew = pool.crew
    of = {node.node_id: name for name, node in {"engines": engines, "sandboxes": sandboxes}.items()}
    where = lambda slot: of.get(ray.get(slot.actor.node.remote(), timeout=60), "another")
    places = lambda: [where(crew.slots[0]), where(crew.players[0])]

    def round_of(first, disturb):
        for number in range(first, first + 6):
            pool.submit(GroupSpec(number, AddTaskset().task(number), number, 4, 0))
        time.sleep(0.2)
        disturb()
        groups = pool.take(range(first, first + 6), 150)
        assert [len(group.trajectories) for group in groups] == [4] * 6
        failed = Counter(t.failure_kind for group in groups for t in group.trajectories)
        return {"places": places(), "failed": failed.get("env_error", 0) + failed.get("aborted", 0), **pool.counts}

    def paused(node, seconds):
        def disturb():
            signal_all(node, signal.SIGSTOP)
            threading.Timer(seconds, signal_all, (node, signal.SIGCONT)).start()
        return disturb

    said["quiet"] = round_of(0, lambda: None)
    said["engines pause"] = round_of(10, paused(engines, 1.5))
    said["sandboxes pause"] = round_of(20, paused(sandboxes, 1.5))
    of[machine(gpu_machine=1, sandbox_machine=1, cpus=2).node_id] = "spare"
    said["engines pause too long"] = round_of(30, paused(engines, 5 * LOST_S))
    said["sandboxes are gone"] = round_of(40, lambda: cluster.remove_node(sandboxes, allow_graceful=False))
    spare = next(node for node in cluster.worker_nodes if of.get(node.node_id) == "spare")
    of[machine(gpu_machine=1, sandbox_machine=1, cpus=2).node_id] = "last"
    said["both are gone"] = round_of(50, lambda: cluster.remove_node(spare, allow_graceful=False))
    pool.close()
finally:
    signal_all(engines, signal.SIGCONT)
    ray.shutdown()
    cluster.shutdown()
print(json.dumps({"said": said, "told": told}))
"""
)


def nodes(code: str, *words: str, cwd: Path) -> tuple[dict[str, Any], str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=850
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, done.stderr


def test_machines_that_pause_and_die(tmp_path: Path) -> None:
    shared = str(Path(__file__).parent.parent / "shared")
    found, _ = nodes(POOL, shared, str(tmp_path), cwd=tmp_path)
    said, told = found["said"], found["told"]
    assert sorted(told) == [first + n for first in (0, 10, 20, 30, 40, 50) for n in range(6)]  # each of them once
    assert all(one["failed"] == 0 for one in said.values())
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
print(json.dumps({"code": code}))
"""
)


def test_a_run_goes_on_without_the_machine_of_its_environments(tmp_path: Path) -> None:
    words = [
        str(BIN / "rl-train"), "ray=cluster", "ray.worker_gpus=0", "ray.learner_gpus=0", "rollout.env_workers=1",
        "ray.worker_resources.gpu_machine=1", "ray.env_resources.sandbox_machine=1", *SMALL, *THREADS,
        "coldstart.enabled=false", "steps=4", "env=search",
    ]  # fmt: skip
    found, said = nodes(RUN, str(tmp_path / "runs"), *words, cwd=tmp_path)
    assert found["code"] == 0, said[-4000:]
    files = RunDir(tmp_path / "runs" / "demo-0")
    assert json.loads((files.path / "summary.json").read_text())["steps"] == 4
    rows = files.read_metrics("grpo")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (rows[-1]["rollout/restarted_env_workers"], rows[-1]["rollout/restarted_workers"]) == (1, 0)
    ids = [row["id"] for step in range(1, 5) for row in files.read_trajectories(f"step_{step:06d}")]
    assert len(ids) == len(set(ids)) == 4 * 4 * 2
    assert max(row["mismatch/mean"] for row in rows) < 1e-3

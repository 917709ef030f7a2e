"""A local Ray is seen by nobody else, and leaves nothing behind; what a killed driver has left is swept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.engine

# A driver of its own: this process may hold a Ray already. It says where it listens, and waits.
DRIVER = """
import json, psutil, sys, time, ray
from configs.schema import RayConfig
from rl.run.assemble import cluster

with cluster(RayConfig(num_cpus=2, object_store_mb=80), 1):
    @ray.remote
    class Actor:
        def answer(self):
            return 1

    actor = Actor.remote()
    ray.get(actor.answer.remote())
    me = psutil.Process()
    every = [me, *me.children(recursive=True)]
    listening = [
        (p.name(), c.laddr.ip) for p in every for c in p.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN
    ]
    folder = ray._private.worker.global_worker.node.get_session_dir_path()
    names = sorted({p.name() for p in me.children(recursive=True)})
    print(json.dumps({"listening": listening, "folder": folder, "names": names}), flush=True)
    if sys.argv[1:] == ["raise"]:
        raise SystemExit(3)
    if sys.argv[1:] == ["wait"]:
        time.sleep(600)
"""


def started(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", DRIVER, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    return process, json.loads(line)


def test_it_listens_on_the_loopback_alone_and_its_folder_goes() -> None:
    process, found = started()
    names = {name for name, _ in found["listening"]}
    assert {"gcs_server", "raylet", "ray::Actor"} <= names
    assert {ip.removeprefix("::ffff:") for _, ip in found["listening"]} == {"127.0.0.1"}
    assert process.wait(60) == 0
    assert not Path(found["folder"]).exists()


def test_an_error_leaves_no_folder_and_the_next_start_sweeps_after_a_kill() -> None:
    process, killed = started("wait")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    psutil.wait_procs(children, timeout=60)
    process, failed = started("raise")
    assert process.wait(60) == 3
    assert not Path(failed["folder"]).exists()
    # By the start above, or by one of another process meanwhile; a killed process itself could not.
    assert not Path(killed["folder"]).exists()


def test_a_folder_in_use_is_not_swept() -> None:
    living, held = started("wait")
    try:
        process, _ = started()
        assert process.wait(60) == 0
        assert Path(held["folder"]).exists()
    finally:
        living.kill()
        living.wait(60)

"""Several Ray nodes on this machine, in a process of its own: what a test runs there begins with ``NODES``."""

# A process of its own: this one may hold a Ray already.
NODES = """
import json, os, signal, sys, threading, time
from collections import Counter
from pathlib import Path

import psutil, ray
from ray.cluster_utils import Cluster

SMALL = {"object_store_memory": 100 * 2**20}
# Ray takes a machine for dead that has not answered five times, for two seconds each.
HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_timeout_ms": 2000,
          "health_check_failure_threshold": 5}
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

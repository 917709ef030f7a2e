"""A local Ray: on this machine's loopback alone, and without the processes that nothing here asks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.run.ending import held, is_orderly, take_back
from rl.run.places import remove_session, sweep_sessions

if TYPE_CHECKING:
    from configs.schema import RayConfig

LOOPBACK = "127.0.0.1"
_STARTS = 4
# The autoscaler of a cluster, what copies the workers' output to the driver, and the dashboard's server, for which
# ``ray.init`` waits 2 s even where there is no dashboard. Each is a Python process for the whole run.
_UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")


def start_local(config: RayConfig, cpus: int) -> Path:
    """Start Ray's processes for this one, on the loopback; returns their session folder.

    A signal that comes meanwhile takes effect when they are up: of half a start Ray leaves processes behind.
    """
    import ray

    folder: Path | None = None
    try:
        with held(), _alone():
            _start(
                address="local",  # never a cluster that RAY_ADDRESS or an earlier `ray start` names
                num_cpus=config.num_cpus or max(os.cpu_count() or 1, cpus),
                include_dashboard=False,
                _node_ip_address=LOOPBACK,
                object_store_memory=config.object_store_mb * 2**20,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            node: Any = ray._private.worker.global_worker.node  # there is no public name for these
            folder = Path(node.get_session_dir_path())
            if (address := node.node_ip_address) != LOOPBACK:
                raise RuntimeError(f"a local Ray must listen on {LOOPBACK} alone, and this version took {address}")
            sweep_sessions(folder.parent)
        return folder
    except BaseException:
        ray.shutdown()
        if folder is not None:
            remove_session(folder)
        raise


def visible_gpus() -> int:
    """GPUs that a local Ray will offer: those of this machine that CUDA_VISIBLE_DEVICES (or its like) does not hide."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager: Any = get_accelerator_manager_for_resource("GPU")
    shown = manager.get_current_process_visible_accelerator_ids()
    there: int = manager.get_current_node_num_accelerators()
    return there if shown is None else min(there, len(shown))


def vital_processes() -> dict[str, int]:
    """Ids of the processes that the local Ray cannot do without, by the names of their logs."""
    import ray
    from ray._private import ray_constants

    node: Any = ray._private.worker.global_worker.node
    kinds = (ray_constants.PROCESS_TYPE_RAYLET, ray_constants.PROCESS_TYPE_GCS_SERVER)
    return {kind: found.process.pid for kind in kinds for found in node.all_processes[kind]}


@contextmanager
def _alone() -> Iterator[None]:
    """A Ray that starts in the block knows no other machine. There is no public setting for any of it."""
    from ray._private import ray_constants, utils
    from ray._private.node import Node

    # Ray takes 127.0.0.1 for a wish for this machine's outward address, and then listens on all of them. It keeps the
    # loopback only where it knows of no clusters, as on Windows.
    changes: list[tuple[Any, str, Any]] = [(ray_constants, "ENABLE_RAY_CLUSTER", False)]
    changes += [(Node, name, _nothing) for name in _UNUSED]
    if is_orderly():  # it takes SIGTERM for itself: once in Python, against its own handler in C++ before
        changes.append((utils, "set_sigterm_handler", lambda handler: take_back()))
    before = [getattr(owner, name) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(changes, before, strict=True):
            setattr(owner, name, value)


def _nothing(*given: Any, **named: Any) -> None:
    """In the place of what starts a process."""


def _start(**settings: Any) -> None:
    """``ray.init``, tried again when its node was not up in time: Ray waits 30 s and has no setting for it, which is
    short on a machine with other work. Raises what Ray raised the last time."""
    import ray

    for left in reversed(range(_STARTS)):
        try:
            ray.init(**settings)
            return
        except BaseException as error:  # Ray has no type of its own for it
            ray.shutdown()
            if "timed out during startup" not in str(error) or not left:
                raise
            logging.getLogger(__name__).warning("Ray's node was not up within 30 s; %d more tries", left)

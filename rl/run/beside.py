"""Files made of whole groups, by a process beside the driver on its machine: replay records are read there from Ray's
store, and not by the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl.policy.handover import PartsLost
from rl.tracking.stall import StallError

FETCH_S = 600.0  # for the parts of a group to come from another machine
CALLS = 4  # at once: a group whose parts do not come must not hold up the others


class _Caller:
    """The process: calls what it is given."""

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class Beside:
    """Calls of module-level functions in a process of Ray's on this machine.

    One process for all of them, from the first call until this object goes: a task of its own for each call would be a
    new Python process nearly every time (Ray keeps no more idle ones than there are CPUs, which actors hold).
    """

    def __init__(self) -> None:
        self._caller: Any = None

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Begin ``function(*args)``; what ``get`` takes."""
        if self._caller is None:
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            node = ray.get_runtime_context().get_node_id()
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            retried = {"max_restarts": -1, "max_task_retries": 1}  # a file is written anew from its beginning
            actor: Any = ray.remote(num_cpus=0, max_concurrency=CALLS, scheduling_strategy=here, **retried)
            self._caller = actor(_Caller).remote()
        return self._caller.call.remote(function, *args)

    def ready(self, ref: Any) -> bool:
        import ray

        return bool(ray.wait([ref], timeout=0)[0])

    def get(self, ref: Any) -> Any:
        """Its result. Raises what it has raised; PartsLost; StallError after twice ``FETCH_S``."""
        import ray

        try:
            return ray.get(ref, timeout=2 * FETCH_S)
        except ray.exceptions.GetTimeoutError:
            raise StallError("files of rollouts to be written", 2 * FETCH_S) from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ray.exceptions.ObjectLostError):
                raise PartsLost("its rollouts went with the machine they were on") from error
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise

"""Files made of whole groups, by a process beside the driver on its machine: replay records are read there from Ray's
store, and not by the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl.policy.handover import PartsLost
from rl.tracking.stall import StallError

FETCH_S = 600.0  # for the parts of a group to come from another machine


class Beside:
    """Calls of module-level functions in a process of Ray's on this machine."""

    def __init__(self) -> None:
        import ray

        self._ray = ray
        self._made: dict[Callable[..., Any], Any] = {}  # Ray's remote functions, by what they call

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Begin ``function(*args)``; what ``get`` takes."""
        if function not in self._made:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            node = self._ray.get_runtime_context().get_node_id()
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            options: dict[str, Any] = {"num_cpus": 0, "max_retries": 1, "scheduling_strategy": here}
            self._made[function] = self._ray.remote(**options)(function)
        return self._made[function].remote(*args)

    def ready(self, ref: Any) -> bool:
        return bool(self._ray.wait([ref], timeout=0)[0])

    def get(self, ref: Any) -> Any:
        """Its result. Raises what it has raised; PartsLost; StallError after twice ``FETCH_S``."""
        try:
            return self._ray.get(ref, timeout=2 * FETCH_S)
        except self._ray.exceptions.GetTimeoutError:
            raise StallError("files of rollouts to be written", 2 * FETCH_S) from None
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, self._ray.exceptions.ObjectLostError):
                raise PartsLost("its rollouts went with the machine they were on") from error
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise

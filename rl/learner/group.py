"""Processes that train a policy, as the driver sees them: a call goes to all ranks, and the first one's answer counts.

    call -> every rank, in the same order -> (collectives among them) -> get: all are done, rank 0's result

One rank is an actor. Several are as many, in a placement group (all of them or none), that meet over torch.distributed:
gloo on CPUs, NCCL on GPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rl.tracking.stall import StallError

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

CAUSE_S = 10.0  # when one rank has failed: how long to look for the one that failed first
TRANSPORT = ("gloo", "NCCL", "ncclUniqueId", "TCPStore")  # in what a rank says of another one's end


class LearnerLost(RuntimeError):
    """A process of the learner is gone, or rollouts that it was to train on: with it the weights since the last
    checkpoint."""


class LearnerGroup:
    """``ranks`` processes (``rl.learner.rank_process``). Methods are named: those of ``LearnerProcess``, or of another
    kind of process."""

    def __init__(self, start: Callable[..., ActorHandle[Any]], ranks: int, num_gpus: float) -> None:
        """Starts the actors and does not wait for them. ``start``: of one, which gets ``rank=`` and Ray's options.
        ``num_gpus``: of each rank."""
        import ray

        self._ray = ray
        self._others: dict[Any, list[Any]] = {}  # by the first rank's ref: the other ranks', not waited for yet
        self._placed: Any = None
        where: dict[str, Any] = {"num_gpus": num_gpus}
        if ranks > 1:
            from ray.util.placement_group import placement_group
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            share = {"CPU": 1.0} | ({"GPU": num_gpus} if num_gpus else {})
            self._placed = placement_group([share for _ in range(ranks)], strategy="PACK")
            where["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._placed)
        self._ranks: list[Any] = [start(rank=rank, **where) for rank in range(ranks)]
        self._starting: list[Any] = []
        if ranks > 1:
            meeting = self._ranks[0].meet.remote()
            self._starting = [rank.join.remote(meeting) for rank in self._ranks]

    @property
    def size(self) -> int:
        return len(self._ranks)

    def call(self, method: str, *args: Any) -> Any:
        """Start ``method`` on every rank; the first one's ref, for ``get``. Large arguments are stored once: give them
        as what ``put`` returns."""
        first, *others = [getattr(rank, method).remote(*args) for rank in self._ranks]
        if others:
            self._others[first] = others
        return first

    def call_stored(self, method: str) -> tuple[Any, Any]:
        """The same of a method that returns (what is to stay in the object store, a number): their refs."""
        first, *others = [getattr(rank, method).options(num_returns=2).remote() for rank in self._ranks]
        if others:
            self._others[first[1]] = [number for _, number in others]
        return first[0], first[1]

    def put(self, value: Any) -> Any:
        """``value`` for ``call``: where several ranks take it, once in the object store."""
        return self._ray.put(value) if self.size > 1 else value

    def get(self, what: str, ref: ObjectRef[Any], deadline_s: float, left_s: float | None = None) -> Any:
        """The first rank's result, when all ranks are done. ``what`` names it; ``left_s``: wait for so long only.

        Raises StallError after ``deadline_s``, LearnerLost when a process is gone, and what a rank has raised.
        """
        others = self._others.pop(ref, [])
        refs = [ref, *others, *self._starting]
        until = time.monotonic() + (deadline_s if left_s is None else left_s)
        try:
            results = self._ray.get(refs, timeout=max(0.0, until - time.monotonic()))
        except self._ray.exceptions.GetTimeoutError:
            raise StallError(f"{what} (step_deadline_s)", deadline_s) from None
        except self._ray.exceptions.RayError as error:
            self._raise_cause(what, error, refs)
            raise
        self._starting = []
        return results[0]

    def _raise_cause(self, what: str, error: Exception, refs: list[Any]) -> None:
        """Raise for the rank that failed first: the others' errors tell of a lost connection only."""
        found: list[Exception] = [error]
        if self.size > 1:
            self._ray.wait(refs, num_returns=len(refs), timeout=CAUSE_S)
            for ref in refs:
                try:
                    self._ray.get(ref, timeout=0)
                except self._ray.exceptions.GetTimeoutError:
                    continue  # it still waits for the one that failed
                except Exception as other:
                    found.append(other)
        gone = self._ray.exceptions.RayActorError
        if dead := next((e for e in found if isinstance(e, gone)), None):
            if dead.actor_init_failed:
                raise RuntimeError(f"the learner could not start: {str(dead).strip().splitlines()[-1]}") from dead
            raise LearnerLost(f"the learner's process is gone; the run waited for {what}") from dead
        if lost := next((e for e in found if isinstance(e, self._ray.exceptions.ObjectLostError)), None):
            # Ranks may have stopped in the middle of a pass: they begin anew, and so do the groups (rl.run.finished).
            raise LearnerLost(f"rollouts went with the machine they were on; the run waited for {what}") from lost
        if own := next((e for e in found if not any(word in str(e) for word in TRANSPORT)), None):
            raise own

    def kill(self) -> None:
        """End the processes."""
        for rank in self._ranks:
            self._ray.kill(rank, no_restart=True)
        if self._placed is not None:
            from ray.util.placement_group import remove_placement_group

            remove_placement_group(self._placed)

"""Where a pool's workers are: Ray reserves room for all of them at once, so that a run begins with all or with none.

Two placement groups: rollout workers close together (PACK: their weights come over fewer links), environment workers
far apart (SPREAD: their sandboxes share no cores where it can be had). A worker that is replaced takes the place of
the old one; the places of a machine that is gone go to another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

CALLS = 10_000  # of an actor that run at the same time


@dataclass(frozen=True)
class Reserved:
    """What Ray reserves for one worker. ``resources``: of your own, by name, as nodes were started with them."""

    cpus: float = 1.0
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def bundle(self) -> dict[str, float]:
        """For a placement group, which takes no zeros."""
        all_of_it = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: share for name, share in all_of_it.items() if share}


ONE_CPU = Reserved()


class Placing:
    """Places for ``engines`` rollout workers and ``players`` environment workers. Waits for nothing; Ray must be
    initialised."""

    def __init__(self, engines: int, engine: Reserved, players: int, player: Reserved) -> None:
        from ray.util.placement_group import placement_group

        self._engine, self._player = engine, player
        self._said = {"rollout.workers": (engines, engine), "rollout.env_workers": (players, player)}
        self._engines = placement_group([engine.bundle] * engines, strategy="PACK")
        self._players = placement_group([player.bundle] * players, strategy="SPREAD") if players else None
        self._ahead: dict[int, Any] = {}

    def wait(self, seconds: float) -> bool:
        """Whether all have their places; waits for it, about so long."""
        groups = [group for group in (self._engines, self._players) if group is not None]
        return all(group.wait(seconds) for group in groups)

    def wanted(self) -> str:
        """What there is to be room for, and how much of it is free."""
        import ray

        said = {name: (count, one.bundle) for name, (count, one) in self._said.items() if count}
        counted = (f"{name}={count} of {bundle}" for name, (count, bundle) in said.items())
        there = ray.available_resources()
        free = {kind: there.get(kind, 0.0) for kind in sorted({kind for _, bundle in said.values() for kind in bundle})}
        machines = sum(node["Alive"] for node in ray.nodes())
        return f"{' and '.join(counted)}; free are {free} on {machines} machine(s)"

    def engine(self, kind: type, index: int, *args: Any) -> Any:
        """A new actor of the class ``kind`` in the place ``index`` of the rollout workers; gets ``index`` too."""
        return self._actor(kind, self._engine, self._engines, index, args)

    def begin(self, kind: type, **named: Any) -> None:
        """Start an actor of the class ``kind`` for every rollout worker, before there is a pool that they are for."""
        count, reserved = self._said["rollout.workers"]
        self._ahead = {i: self._actor(kind, reserved, self._engines, i, (), named) for i in range(count)}

    def begun(self, index: int) -> Any | None:
        """The actor that ``begin`` has started in the place ``index``, once."""
        return self._ahead.pop(index, None)

    def end_begun(self) -> None:
        """End what ``begin`` has started and nobody has taken."""
        import ray

        while self._ahead:
            ray.kill(self._ahead.popitem()[1], no_restart=True)

    def player(self, kind: type, index: int, *args: Any) -> Any:
        """The same of the environment workers."""
        return self._actor(kind, self._player, self._players, index, args)

    def close(self) -> None:
        """Give the places back."""
        from ray.util.placement_group import remove_placement_group

        for group in (self._engines, self._players):
            if group is not None:
                remove_placement_group(group)

    def _actor(
        self, kind: type, reserved: Reserved, group: Any, index: int, args: tuple[Any, ...],
        named: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:  # fmt: skip
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        options: dict[str, Any] = {
            "num_cpus": reserved.cpus,
            "num_gpus": reserved.gpus,
            "resources": dict(reserved.resources),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        }
        made: Any = ray.remote(kind).options(max_restarts=0, max_concurrency=CALLS, **options)
        return made.remote(index, *args, **named)

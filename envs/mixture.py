"""MixTaskset: several families as one, interleaved so that every stretch of tasks has all of them.

Task i belongs to slot i mod ``CYCLE``. The slots are dealt by smooth weighted round robin: each slot adds
every family's weight to its credit, takes the family with the most credit, and takes 1 off it. Hence
after n tasks family f has had weight_f * n of them, to within one; and task(i) needs no history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.environment import Environment
from envs.families import taskset_class
from envs.taskset import Split, Taskset
from envs.types import Task

CYCLE = 120
DEFAULT_FAMILIES: dict[str, float] = {"search": 1.0, "code": 1.0, "interpreter": 1.0, "agent": 1.0}


class MixTaskset(Taskset):
    """``families``: weight by family (a short name or an import path). Weights need not sum to 1.

    ``settings`` gives a family's own keywords: ``settings={"search": {"two_hop": 0.5}}``.
    ``members`` holds the member tasksets by the name they were given under.
    """

    family = "mix"
    env_class = Environment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        families: Mapping[str, float] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(split, seed, size)
        weights = dict(DEFAULT_FAMILIES if families is None else families)
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"families.{name} is {weight}, a weight cannot be negative")
        weights = {name: float(weight) for name, weight in weights.items() if weight > 0}
        if not weights:
            raise ValueError(f"families is {families!r}: at least one weight must be above 0")
        settings = settings or {}
        for name in settings:
            if name not in weights:
                raise ValueError(f"settings.{name}: no such family in the mixture ({', '.join(weights)})")
        self.members: dict[str, Taskset] = {
            name: taskset_class(name)(split=split, seed=seed, size=self.size, **settings.get(name, {}))
            for name in weights
        }
        self._by_family = {member.family: member for member in self.members.values()}
        if len(self._by_family) < len(self.members):
            raise ValueError(f"families {', '.join(weights)}: two of them have the same Taskset.family")
        total = sum(weights.values())
        self._slots = _deal({name: weight / total for name, weight in weights.items()})

    def task(self, index: int) -> Task:
        cycle, slot = divmod(index, CYCLE)
        name = self._slots[slot]
        position = cycle * self._slots.count(name) + self._slots[:slot].count(name)
        return self.members[name].task(position)

    def environment(self, task: Task) -> Environment:
        return self._by_family[task.family].environment(task)


def _deal(shares: Mapping[str, float]) -> tuple[str, ...]:
    """The family of each of the ``CYCLE`` slots. A share below 1 / CYCLE still gets a slot."""
    credit = dict.fromkeys(shares, 0.0)
    slots: list[str] = []
    for _ in range(CYCLE):
        for name, share in shares.items():
            credit[name] += share
        # rounding keeps equal credits equal: ties go to the family named first
        best = max(credit, key=lambda name: round(credit[name], 9))
        credit[best] -= 1.0
        slots.append(best)
    for name in shares:
        if name not in slots:
            slots[slots.index(max(shares, key=lambda n: shares[n]))] = name
    return tuple(slots)

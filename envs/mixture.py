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
    members: dict[str, Taskset]

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
        self.members = {
            name: taskset_class(name)(split=split, seed=seed, size=self.size, **settings.get(name, {}))
            for name in weights
        }
        for name, member in self.members.items():
            if type(member).next_index is not Taskset.next_index:
                raise ValueError(
                    f"families.{name} chooses its tasks itself, which a mixture does not ask for: "
                    f"put the mixture into it (env=curriculum env.of=mix), not it into the mixture"
                )
        self._by_family = _families(self.members)
        total = sum(weights.values())
        self._slots = _deal({name: weight / total for name, weight in weights.items()})

    def task(self, index: int) -> Task:
        cycle, slot = divmod(index, CYCLE)
        name = self._slots[slot]
        position = cycle * self._slots.count(name) + self._slots[:slot].count(name)
        member = self.members[name]
        return member.task(position % len(member))

    def environment(self, task: Task) -> Environment:
        return self._by_family[task.family].environment(task)

    def verify(self, task: Task) -> str | None:
        return self._by_family[task.family].verify(task)

    def fingerprint(self) -> str:
        return " ".join(member.fingerprint() for member in self.members.values()).strip()


def _families(members: Mapping[str, Taskset]) -> dict[str, Taskset]:
    """The member that plays each family; a member may hold several families itself (a built data set)."""
    found: dict[str, Taskset] = {}
    for name, member in members.items():
        inner = getattr(member, "members", None) or {member.family: member}
        for family in (taskset.family for taskset in inner.values()):
            if family in found:
                raise ValueError(f"families.{name}: two of the families have the same Taskset.family {family!r}")
            found[family] = member
    return found


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

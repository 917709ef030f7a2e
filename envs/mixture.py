"""MixTaskset: several tasksets as one, interleaved so that every stretch of tasks has all of them.

    families={"search": 2, "code": 1}                                      families by their names
    families={"sums": 2, "facts": 1, "search": 0.5},                       two data sets and a family
    settings={"sums": {"of": "dataset", "path": "sums.jsonl"}, "facts": {"of": "dataset", "path": "facts.csv"}}

Training task i belongs to slot i mod ``CYCLE``. The slots are dealt by smooth weighted round robin: each slot adds
every member's weight to its credit, takes the member with the most credit, and takes 1 off it. Hence
after n tasks member m has had weight_m * n of them, to within one; and task(i) needs no history. A member's tasks
come in its own endless order (``Taskset.index_at``): a small data set begins again, shuffled anew.

Held-out tasks take turns between the families, whatever the weights: an evaluation looks at each of them alike.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any

from envs.environment import Environment
from envs.families import known, taskset_class
from envs.taskset import Split, Taskset
from envs.types import Task

CYCLE = 120
DEFAULT_FAMILIES: dict[str, float] = {"search": 1.0, "code": 1.0, "interpreter": 1.0, "agent": 1.0}


class MixTaskset(Taskset):
    """``families``: weight by family (a short name or an import path). Weights need not sum to 1.

    ``settings`` gives a family's own keywords: ``settings={"search": {"two_hop": 0.5}}``. With ``of``, which names the
    family, the member may have any other name, so that one family can be there several times; a data set then has
    that name in metrics. ``members`` holds the member tasksets by the name they were given under.
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
        self.members = {name: _member(name, settings.get(name, {}), split, seed, size) for name in weights}
        for name, member in self.members.items():
            if type(member).next_index is not Taskset.next_index:
                raise ValueError(
                    f"families.{name} chooses its tasks itself, which a mixture does not ask for: "
                    f"put the mixture into it (env=curriculum env.of=mix), not it into the mixture"
                )
        self._by_family = _families(self.members)
        if split == "heldout":
            self._slots = tuple(self._member_names())
        else:
            total = sum(weights.values())
            self._slots = _deal({name: weight / total for name, weight in weights.items()})
        self._endless = size is None

    def task(self, index: int) -> Task:
        cycle, slot = divmod(index, len(self._slots))
        name = self._slots[slot]
        position = cycle * self._slots.count(name) + self._slots[:slot].count(name)
        member = self.members[name]
        return member.task(member.index_at(position))

    def _member_names(self) -> list[str]:
        """The member of each family, so one that holds several families has as many turns."""
        names = {id(member): name for name, member in self.members.items()}
        return [names[id(member)] for member in self._by_family.values()]

    def index_at(self, turn: int) -> int:
        """Without a ``size`` a mixture never begins again: its members do."""
        return turn if self._endless else turn % len(self)

    def environment(self, task: Task) -> Environment:
        return self._by_family[task.family].environment(task)

    def verify(self, task: Task) -> str | None:
        return self._by_family[task.family].verify(task)

    def fingerprint(self) -> str:
        return " ".join(member.fingerprint() for member in self.members.values()).strip()

    def inputs(self) -> dict[str, dict[str, Any]]:
        return {name: found for member in self.members.values() for name, found in member.inputs().items()}

    def metrics(self) -> dict[str, float]:
        """The sums of the members' metrics."""
        found: Counter[str] = Counter()
        for member in self.members.values():
            found.update(member.metrics())
        return dict(found)


def _member(name: str, settings: Mapping[str, Any], split: Split, seed: int, size: int | None) -> Taskset:
    if name in known() or "." in name:
        return taskset_class(name)(split=split, seed=seed, size=size, **settings)
    keywords = dict(settings)
    cls = taskset_class(str(keywords.pop("of", name)))
    if "name" in inspect.signature(cls).parameters:
        keywords.setdefault("name", name)
    try:
        return cls(split=split, seed=seed, size=size, **keywords)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def families_of(taskset: Taskset) -> list[str]:
    """The families of a mixture, of a built data set with several, or of a plain taskset, which has one."""
    members: Mapping[str, Taskset] = getattr(taskset, "members", None) or {}
    return [family for member in members.values() for family in families_of(member)] or [taskset.family]


def _families(members: Mapping[str, Taskset]) -> dict[str, Taskset]:
    """The member that plays each family; a member may hold several families itself (a built data set)."""
    found: dict[str, Taskset] = {}
    for name, member in members.items():
        for family in families_of(member):
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

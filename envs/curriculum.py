"""CurriculumTaskset: the next task is chosen by what was measured on the tasks before it.

    rl-train env=curriculum env.of=mix
    rl-train env=curriculum env.of=built env.settings.path=data/v32

Tasks are grouped into buckets (family, level). A trained group tells how often its task was solved; with the population
variance of its outcomes y_1 … y_G

    signal = 4 · Var(y)          1 when half of the attempts succeed, 0 when all do or none does

A bucket's pass rate and signal are running means over its groups. A bucket is drawn with probability proportional to
its share of the taskset × max(floor, signal), then its next task in the taskset's order; a task seen before
is passed over with probability 1 − max(floor, its last signal). So a bucket or task whose groups have no variance
(every attempt right, or none) is drawn rarely, but never dropped: as the policy changes, so does what it can learn.
Before anything is measured every signal counts as 1: buckets come by their share of the taskset.
"""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from envs.environment import Environment
from envs.families import taskset_class
from envs.taskset import Split, Taskset
from envs.types import Task

_PRIOR = 4  # groups that a bucket's first signal of 1 counts as: one unlucky group settles nothing


@dataclass
class Bucket:
    """What is known of one (family, level)."""

    share: int = 0  # of the first `look` tasks
    cursor: int = 0  # where in the taskset's order its next task is looked for
    groups: int = 0  # measured
    passed: float = 0.5  # running mean of outcomes
    signal: float = 1.0  # running mean of 4 Var(outcomes)
    silent: int = 0  # groups without variance


class CurriculumTaskset(Taskset):
    """The tasks of the taskset named ``of`` (made with ``settings``), in an order that follows the measurements.

    ``floor``: the least weight of a bucket or task, relative to the best. ``memory``: groups that a bucket's running
    means remember. ``look``: tasks looked at when it starts, to know which buckets there are. Adaptive is
    ``next_index`` alone; iteration, held-out tasks and evaluation are those of the inner taskset.
    """

    family = "curriculum"
    env_class = Environment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        of: str = "mix",
        settings: Mapping[str, Any] | None = None,
        floor: float = 0.1,
        memory: int = 50,
        look: int = 256,
    ) -> None:
        inner = taskset_class(of)(split=split, seed=seed, size=size, **(settings or {}))
        self._around(inner, floor, memory, look)

    def _around(self, inner: Taskset, floor: float, memory: int, look: int) -> None:
        super().__init__(inner.split, inner.seed, len(inner))
        if not 0.0 < floor <= 1.0:
            raise ValueError(f"floor={floor}: must be above 0 (no task is dropped) and at most 1")
        for name, value in (("memory", memory), ("look", look)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.inner, self.floor, self.memory, self.look = inner, floor, memory, min(look, len(inner))
        self.family, self.env_class, self.max_turns = inner.family, inner.env_class, inner.max_turns
        self.members: dict[str, Taskset] = {}
        for name, member in getattr(inner, "members", {}).items():
            own = CurriculumTaskset.__new__(CurriculumTaskset)
            own._around(member, floor, memory, look)
            self.members[name] = own
        self.draws = 0
        self.buckets: dict[str, Bucket] = {}
        self.tasks: dict[int, list[float]] = {}  # by index: pass rate and signal of its last group
        self._names: dict[int, str] = {}  # bucket by index; can be made again, so it is not part of the state

    # -- the inner taskset's ------------------------------------------------------------------

    def task(self, index: int) -> Task:
        return self.inner.task(index)

    def environment(self, task: Task) -> Environment:
        return self.inner.environment(task)

    def verify(self, task: Task) -> str | None:
        return self.inner.verify(task)

    def fingerprint(self) -> str:
        """Over the source of the tasksets inside, and what they read."""
        digest = hashlib.sha256(self.inner.fingerprint().encode())
        for taskset in (self.inner, *getattr(self.inner, "members", {}).values()):
            digest.update(Path(inspect.getsourcefile(type(taskset)) or "").read_bytes())
        return digest.hexdigest()

    def inputs(self) -> dict[str, dict[str, Any]]:
        return self.inner.inputs()

    # -- choosing and learning ----------------------------------------------------------------

    def next_index(self) -> int:
        if not self.buckets:
            for index in range(self.look):
                self.buckets.setdefault(self._bucket(index), Bucket()).share += 1
        rng = random.Random(f"curriculum {self.seed} {self.draws}")
        self.draws += 1
        names = list(self.buckets)
        (name,) = rng.choices(names, [self.buckets[n].share * self.weight(n) for n in names])
        bucket = self.buckets[name]
        for index in self._of_bucket(name):
            seen = self.tasks.get(index)
            if seen is None or rng.random() < max(self.floor, seen[1]):
                break
        bucket.cursor = (index + 1) % len(self)
        return index

    def observe(self, index: int, outcomes: Sequence[float]) -> None:
        if not outcomes:
            return  # every attempt was an infrastructure failure: nothing was measured
        mean = sum(outcomes) / len(outcomes)
        bucket = self.buckets.setdefault(self._bucket(index), Bucket(share=1))
        bucket.groups += 1
        rate = 1 / min(bucket.groups + _PRIOR, self.memory)
        bucket.passed += (mean - bucket.passed) / min(bucket.groups, self.memory)
        if len(outcomes) > 1:  # one attempt says how hard a task is, not whether attempts differ
            signal = 4 * sum((y - mean) ** 2 for y in outcomes) / len(outcomes)
            bucket.signal += (signal - bucket.signal) * rate
            bucket.silent += max(outcomes) == min(outcomes)
            self.tasks[index] = [mean, signal]

    def weight(self, name: str) -> float:
        """What a bucket's share of the taskset is multiplied by."""
        return max(self.floor, self.buckets[name].signal)

    def metrics(self) -> dict[str, float]:
        silent, groups = (sum(getattr(b, field) for b in self.buckets.values()) for field in ("silent", "groups"))
        known = {name: bucket for name, bucket in self.buckets.items() if bucket.groups}
        return {
            **self.inner.metrics(),
            "curriculum/groups_total": float(groups),
            "curriculum/zero_variance_total": float(silent),
            "curriculum/at_floor": sum(self.weight(name) <= self.floor for name in known) / max(len(known), 1),
            **{f"curriculum/pass_rate/{name}": bucket.passed for name, bucket in known.items()},
            **{f"curriculum/weight/{name}": self.weight(name) for name in known},
        }

    def _bucket(self, index: int) -> str:
        if index not in self._names:
            task = self.task(index)
            self._names[index] = f"{task.family}-{task.metadata.get('level', 1)}"
        return self._names[index]

    def _of_bucket(self, name: str) -> Iterator[int]:
        """The bucket's tasks from its cursor on, cyclically. Buckets met on the way are known from then on."""
        index = self.buckets[name].cursor
        while True:
            if (own := self._bucket(index)) == name:
                yield index
            self.buckets.setdefault(own, Bucket(share=1))
            index = (index + 1) % len(self)

    # -- resumption ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "draws": self.draws,
            "buckets": {name: asdict(bucket) for name, bucket in self.buckets.items()},
            "tasks": {str(index): list(known) for index, known in self.tasks.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.draws = int(state["draws"])
        self.buckets = {name: Bucket(**bucket) for name, bucket in state["buckets"].items()}
        self.tasks = {int(index): list(known) for index, known in state["tasks"].items()}

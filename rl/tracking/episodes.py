"""A set of trajectories sorted and counted: by family, events inside episodes, failures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from rl.types import Trajectory


def by_family(trajectories: Iterable[Trajectory]) -> dict[str, list[Trajectory]]:
    """Trajectories by family, families in alphabetical order."""
    families: dict[str, list[Trajectory]] = defaultdict(list)
    for t in trajectories:
        families[t.family].append(t)
    return dict(sorted(families.items()))


def event_counts(trajectories: Iterable[Trajectory]) -> tuple[Counter[str], Counter[str]]:
    """(counts, failures): events inside episodes, and masked trajectories by ``failure_kind``."""
    counts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for t in trajectories:
        counts.update(t.counts)
        if t.failure_kind is not None:
            failures[t.failure_kind] += 1
    return counts, failures

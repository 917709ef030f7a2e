"""Watches the share of masked rollouts, cause by cause: one that rises may be something that the policy learns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rl.doctor.detector import Memory, Reading
from rl.doctor.records import StepRecord
from rl.types import Trajectory

LEAST = 0.1  # share of a step's rollouts below which nothing is said
RISE = 2.0  # times the mean so far
MEMORY = 0.9  # of the running mean, a step


class MaskedShare:
    """Told every step's rollouts; a cause is named again only when its share has doubled once more.

    A share is compared with the lowest mean since the cause was last named (before that with 0): a mean alone would
    follow a share that rises slowly.
    """

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}
        self._lowest: dict[str, float] = {}

    def rise(self, trajectories: Sequence[Trajectory]) -> Reading:
        """The largest share that has risen since the steps before, 0 when none has; where: all of them in words."""
        kinds = Counter(t.failure_kind for t in trajectories if t.failure_kind is not None)
        said, largest = [], 0.0
        for kind in sorted(self._mean.keys() | kinds.keys()):
            share = kinds[kind] / max(1, len(trajectories))
            before = self._lowest.get(kind, 0.0)
            risen = share >= LEAST and share >= RISE * before
            if risen:
                families = sorted({t.family for t in trajectories if t.failure_kind == kind})
                said.append(f"{kind} {share:.0%} (so far {before:.0%}; {', '.join(families)})")
                largest = max(largest, share)
            mean = share if risen else MEMORY * self._mean.get(kind, 0.0) + (1 - MEMORY) * share
            self._mean[kind], self._lowest[kind] = mean, mean if risen else min(before, mean)
        return Reading(largest, "; ".join(said))


def masked(step: StepRecord, memory: Memory) -> Reading | None:
    """Share of rollouts that are masked for a cause that has become more frequent."""
    rollouts = [t for g in step.groups for t in g.trajectories]
    if not rollouts:
        return None
    watch: MaskedShare = memory.setdefault("watch", MaskedShare())
    return watch.rise(rollouts)

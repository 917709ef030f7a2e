"""Workers that were lost, and what is to be done about it: how many may be replaced, and which task is to blame.

Replacements are limited as a rate, ``max_restarts`` within ``restarts_s``: a run of weeks loses a worker now and then,
and only a machine or a policy on which they keep dying has to stop it.

A task that kills its worker would kill each replacement too. All groups of a lost worker are suspects, and run again
together, as most losses are nobody's fault. Those that were there a second time run again one after the other, each
alone on its worker; a group that loses its worker alone, not for the first time, is *skipped*: it comes back as a group
of masked rollouts (``worker_lost``), so that the step has it, the failure is counted, and nothing learns from it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from envs.types import StopReason
from rl.tracking.failures import first_line
from rl.types import Group, Trajectory

if TYPE_CHECKING:
    from rl.rollout.orders import GroupSpec

TASK_ERROR, WORKER_LOST = "task_error", "worker_lost"
SKIPPED = (TASK_ERROR, WORKER_LOST)  # failure_kind of rollouts that were not made
ENOUGH = 2  # losses of a worker with the same group in it


class Losses:
    """The books of lost workers. ``now``: a clock in seconds."""

    def __init__(self, max_restarts: int, within_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._max, self._within_s, self._now = max_restarts, within_s, now
        self._when: deque[float] = deque()
        self._nodes: set[str] = set()  # machines that were lost and are counted
        self._of: Counter[tuple[str, int]] = Counter()  # losses by group

    def may_replace(self, node: str | None = None) -> bool:
        """Whether one more worker may be replaced now; if so, it is counted. ``node``: the machine that was lost with
        it, which counts once, however many workers it had."""
        now = self._now()
        while self._when and now - self._when[0] >= self._within_s:
            self._when.popleft()
        if node is not None and node in self._nodes:
            return True
        if len(self._when) >= self._max:
            return False
        self._when.append(now)
        if node is not None:
            self._nodes.add(node)
        return True

    @property
    def recent(self) -> int:
        """Replacements within the window that ends with the last question."""
        return len(self._when)

    def divide(self, lost: Sequence[GroupSpec]) -> tuple[list[GroupSpec], list[GroupSpec], list[GroupSpec]]:
        """The groups of a worker that was lost: those to run again as before, alone, and not at all."""
        for spec in lost:
            self._of[spec.taskset, spec.id] += 1
        once = [spec for spec in lost if self._of[spec.taskset, spec.id] < ENOUGH]
        often = [spec for spec in lost if self._of[spec.taskset, spec.id] >= ENOUGH]
        return ([], [], often) if len(lost) == len(often) == 1 else (once, often, [])

    def back(self, spec: GroupSpec) -> None:
        """The group of ``spec`` has come back; the next one with its number is another one."""
        del self._of[spec.taskset, spec.id]


def skipped_group(spec: GroupSpec, kind: str, why: str) -> Group:
    """The group of ``spec`` as rollouts that were not made, masked for ``kind``; says so on stderr."""
    task = spec.task
    print(f"task {task.id} (group {spec.id}) is skipped, {kind}: {first_line(why)}", file=sys.stderr)
    messages = [message.to_json() for message in task.prompt]
    rollouts = [
        Trajectory(
            f"{spec.taskset}-{spec.id}-{position}", task.id, task.family, [], messages, StopReason.ABORTED,
            failure_kind=kind, failure_detail=why, counts={StopReason.ABORTED.value: 1, kind: 1},
        )
        for position in range(spec.size)
    ]  # fmt: skip
    return Group(spec.id, spec.task_index, task.id, task.family, spec.version, rollouts)

"""The learner's work on a batch while the rest of it is still sampled, seen from the driver.

A group goes to the learner as soon as it has arrived; those that arrive while the learner computes wait, and go
together, so that micro-batches are as full as the time allows. The weights change only in ``LearnerHandle.step``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rl.types import Group


class Overlap:
    """The groups of one batch on their way to the learner.

    Args:
        send: starts ``Learner.accumulate`` on some groups; gives what becomes ready when it has ended.
        ended: raises what went wrong in it.
    """

    def __init__(self, send: Callable[[list[Group]], Any], ended: Callable[[Any], None]) -> None:
        self._send, self._ended = send, ended
        self.running: Any = None  # what the pool is to watch beside its groups; None: nothing runs
        self.waiting: list[Group] = []  # not sent yet

    def add(self, groups: Sequence[Group]) -> None:
        """Some groups of the batch have arrived."""
        self.waiting += groups
        if self.running is None:
            self._next()

    def ended(self) -> None:
        """What was ``running`` has ended."""
        running, self.running = self.running, None
        self._ended(running)
        self._next()

    def _next(self) -> None:
        if self.waiting:
            groups, self.waiting = self.waiting, []
            self.running = self._send(groups)

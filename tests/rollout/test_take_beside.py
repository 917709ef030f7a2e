"""`RolloutPool.take` beside other work: it watches both, and gives that work the groups which are taken alone."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from rollout_doubles import AddTaskset

from rl.learner.overlap import Overlap
from rl.policy.handover import GroupRefs
from rl.rollout.crew import Slot
from rl.rollout.losses import Losses
from rl.rollout.order_book import OrderBook, _Order
from rl.rollout.orders import GroupSpec
from rl.rollout.pool import RolloutPool
from rl.tracking.stall import StallError
from rl.types import Group

WORK = "the learner's work"


class Ray:
    """References are strings that become ready in the order of ``script``."""

    def __init__(self, script: list[str]) -> None:
        self.script, self.watched = script, list[list[str]]()

    def wait(self, refs: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        self.watched.append(list(refs))
        ready = [self.script.pop(0)] if self.script and self.script[0] in refs else []
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: str) -> Group:
        return Group(int(ref), int(ref), f"add/{ref}", "add", 0)


class Book(OrderBook):
    def replace_hung(self) -> None:
        return

    def report(self) -> str:
        return "groups"


class Scripted(RolloutPool):
    def __init__(self, script: list[str], orders: int) -> None:
        self._ray: Any = Ray(script)
        slot, task = Slot(0, None), AddTaskset().task(0)
        specs = [GroupSpec(n, task, n, 1, 0) for n in range(orders)]
        self.crew: Any = SimpleNamespace(slots=[slot], players=[], is_hungry=False, feed=lambda: None)
        self._finished = deque()
        self.book: Any = Book(self.crew, Losses(1, 1.0), self._finish)
        self.book._ray = self._ray
        self.book._orders = {str(spec.id): _Order(spec, slot, None, 0.0, GroupRefs(None, None, ())) for spec in specs}


def overlap(sent: list[list[int]], ends: list[str]) -> Overlap:
    def send(groups: list[Group]) -> str:
        sent.append([group.id for group in groups])
        return WORK

    return Overlap(send, ends.append)


def test_the_work_goes_on_as_soon_as_it_can_and_gets_only_what_is_taken() -> None:
    pool = Scripted(["2", "5", "0", WORK, "1", "3", WORK, "4"], 6)
    sent, ends = list[list[int]](), list[str]()
    beside = overlap(sent, ends)
    found = pool.take([0, 1, 2, 3], 5.0, beside=beside)
    assert [group.id for group in found] == [0, 1, 2, 3]
    assert sent == [[2], [0]]  # 5 is of a later batch
    assert ends == [WORK]
    assert [group.id for group in beside.waiting] == [1, 3]
    assert WORK in pool._ray.watched[-1]
    later, told = overlap(sent, ends), list[int]()
    found = pool.take([5, 4], 5.0, lambda n, group: told.append(n), beside=later)
    assert [group.id for group in found] == [5, 4]
    assert (sent[2:], told) == ([[5], [4]], [1, 2])


def test_what_arrived_before_goes_together() -> None:
    pool = Scripted([], 0)
    for number in (3, 1, 7, 2):
        pool.put(Group(number, number, "t", "t", 0))
    sent = list[list[int]]()
    assert [group.id for group in pool.take([1, 2, 3], 5.0, beside=overlap(sent, []))] == [1, 2, 3]
    assert sent == [[3, 1, 2]]
    assert [group.id for group in pool.take([7], 5.0)] == [7]


def test_what_fails_in_the_work_ends_the_wait_and_loses_no_group() -> None:
    pool, sent = Scripted(["1", WORK], 3), list[list[int]]()

    def gone(ended: Any) -> None:
        raise RuntimeError("the learner's process is gone")

    beside = Overlap(lambda groups: WORK, gone)
    with pytest.raises(RuntimeError, match="process is gone"):
        pool.take([0, 1, 2], 5.0, beside=beside)
    assert pool.outstanding == 3
    assert [group.id for group in pool.take([1], 5.0, beside=overlap(sent, []))] == [1]
    with pytest.raises(StallError):
        pool.take([0], 0.01, beside=overlap(sent, []))

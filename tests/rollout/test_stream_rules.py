"""A stream of weights to a new worker that breaks: once more, then another worker in its place; not the run's end, and
not for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rl.policy.rendezvous import Receipt, StreamBroken
from rl.rollout.config import RolloutConfig
from rl.rollout.crew import Slot
from rl.rollout.streams import ATTEMPTS, SHARE, Streams

RECEIPT = Receipt(3, 1, 4, "a", False)


class Dead(Exception):
    """The process is gone."""


class Actor:
    """Answers a call by what it was made with: an exception is raised where the answer is awaited."""

    def __init__(self, answer: Any) -> None:
        self.meet = SimpleNamespace(remote=lambda timeout_s: ("h", 1))
        self.send_weights = SimpleNamespace(remote=lambda meeting: [RECEIPT])
        self.receive_weights = SimpleNamespace(remote=lambda *given: answer)


class Workers:
    def __init__(self, *answers: Any) -> None:
        self.config = RolloutConfig(weights="gloo", sync_s=10.0)
        self.slots = [Slot(i, Actor(answer)) for i, answer in enumerate(answers)]
        self.replaced: list[tuple[int, str]] = []

    def is_loss(self, error: Exception) -> bool:
        return isinstance(error, Dead)

    def replace(self, slot: Slot, actor: Any, error: Exception | str) -> None:
        self.replaced.append((slot.index, str(error)))
        slot.broken = 0

    def answer(self, ref: Any, ends: float) -> Any:
        if isinstance(ref, Exception):
            raise ref
        return ref

    def doing(self, slot: Slot) -> str:
        return ""

    def ready(self) -> None:
        return


def fed(workers: Workers, sender: Any = None, times: int = 2 * ATTEMPTS) -> list[bool]:
    streams, found = Streams(workers), []
    streams.sender = sender
    workers.slots[0].unfed = "up"
    for _ in range(times):
        found.append(streams.feed(workers.slots[0], 3))
    return found


def test_from_another_engine() -> None:
    broken = Workers(StreamBroken("the cable"), [RECEIPT])
    assert fed(broken) == [False] * 4
    assert broken.replaced == [(0, "weights of version 3 did not reach it: the cable")] * 2  # twice after two each
    assert fed(whole := Workers([RECEIPT], None), times=1) == [True]
    assert whole.replaced == []
    dead = Workers(Dead("killed"), None)
    assert fed(dead, times=1) == [False]
    assert (dead.replaced, dead.slots[0].broken) == ([(0, "killed")], 0)  # nothing broke: it died


def test_from_the_learner() -> None:
    def send(meeting: Any) -> Any:
        return lambda seconds: RECEIPT

    sender = SimpleNamespace(adapts=False, moved=False, meet=lambda: ("h", 1), send=send)
    broken = Workers(StreamBroken("the cable"))
    import ray  # noqa: F401 (streams ask it for the type of a late answer)

    assert fed(broken, sender, ATTEMPTS) == [False] * ATTEMPTS
    assert broken.replaced == [(0, "weights of version 3 did not reach it: the cable")]
    sender.moved = True
    assert fed(Workers([RECEIPT]), sender, 1) == [False]  # the next sync brings newer ones


@pytest.mark.parametrize("waits", [3])
def test_the_waits_of_a_rank_end_before_the_driver_gives_up(waits: int) -> None:
    assert waits * SHARE < 1

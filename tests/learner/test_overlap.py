"""What the driver sends to a learner that works beside the rollouts."""

from __future__ import annotations

from rl.learner.overlap import Overlap
from rl.types import Group


def group(number: int) -> Group:
    return Group(number, number, f"t/{number}", "t", 0)


def test_groups_that_arrive_while_it_works_go_together() -> None:
    sent, ends = list[list[int]](), list[int]()

    def send(groups: list[Group]) -> int:
        sent.append([one.id for one in groups])
        return len(sent)

    overlap = Overlap(send, ends.append)
    assert overlap.running is None
    overlap.add([group(3)])
    assert (overlap.running, sent) == (1, [[3]])
    for number in (1, 4):
        overlap.add([group(number)])
    assert sent == [[3]]
    overlap.ended()
    assert (overlap.running, sent, ends) == (2, [[3], [1, 4]], [1])
    overlap.ended()
    assert (overlap.running, ends) == (None, [1, 2])
    overlap.add([group(2), group(0)])
    overlap.add([group(5)])
    assert sent[2:] == [[2, 0]]
    assert [one.id for one in overlap.waiting] == [5]  # goes with the step

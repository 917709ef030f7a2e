"""Lost workers: a rate, not a total; and the one task of many that is to blame."""

from __future__ import annotations

import pytest

from envs.types import Message, StopReason, Task
from rl.rollout.losses import WORKER_LOST, Losses, skipped_group
from rl.rollout.orders import GroupSpec


def spec(number: int, size: int = 2) -> GroupSpec:
    return GroupSpec(number, Task(f"t/{number}", "calm", (Message("user", "go"),)), 7, size, 3)


def test_replacements_are_limited_within_a_window() -> None:
    now = [0.0]
    losses = Losses(max_restarts=2, within_s=100, now=lambda: now[0])
    asked = []
    for when in (0, 60, 99, 100, 130, 160, 161):
        now[0] = when
        asked.append(losses.may_replace())
    assert asked == [True, True, False, True, False, True, False]
    assert losses.recent == 2
    assert not Losses(0, 100).may_replace()


def test_a_task_that_kills_its_worker_is_found_among_others() -> None:
    losses = Losses(9, 100)
    a, b, c = spec(0), spec(1), spec(2)
    assert losses.divide([a, b]) == ([a, b], [], [])
    assert losses.divide([a, b, c]) == ([c], [a, b], [])  # twice: alone from now on
    losses.back(a)  # it was not a
    assert losses.divide([b]) == ([], [], [b])
    assert losses.divide([a]) == ([a], [], [])  # its books were closed when it came back


def test_alone_in_its_worker_twice_is_enough() -> None:
    losses = Losses(9, 100)
    assert losses.divide([spec(5)]) == ([spec(5)], [], [])
    assert losses.divide([spec(5)]) == ([], [], [spec(5)])


def test_the_same_number_in_another_taskset_is_another_group() -> None:
    losses = Losses(9, 100)
    held = GroupSpec(5, spec(5).task, 7, 2, 3, taskset="heldout")
    losses.divide([spec(5)])
    assert losses.divide([held]) == ([held], [], [])


def test_a_skipped_group_is_masked_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    group = skipped_group(spec(4, size=3), WORKER_LOST, "it lost its worker\nand more")
    assert (group.id, group.task_index, group.version, len(group.trajectories)) == (4, 7, 3, 3)
    assert {(t.failure_kind, t.stop_reason, t.reward) for t in group.trajectories} == {
        ("worker_lost", StopReason.ABORTED, 0.0)
    }
    assert [t.id for t in group.trajectories] == ["train-4-0", "train-4-1", "train-4-2"]
    assert group.outcomes() == []
    assert capsys.readouterr().err == "task t/4 (group 4) is skipped, worker_lost: it lost its worker\n"

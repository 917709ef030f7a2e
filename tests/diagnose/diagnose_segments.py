"""Sizes of the made-up segments, and a group of them."""

from __future__ import annotations

from collections.abc import Callable

from envs.types import StopReason
from rl.types import Group, Segment, Trajectory

VOCAB, TOPK, PROMPT, LENGTH = 32, 12, 6, 40

MakeSegment = Callable[..., Segment]


def group(*segments: Segment) -> list[Group]:
    """One trajectory per segment, all in one group."""
    made = Group(0, 0, "task", "search", 3)
    for number, one in enumerate(segments):
        made.trajectories.append(Trajectory(f"g0/{number}", "task", "search", [one], [], StopReason.ANSWERED, 1.0))
    return [made]

"""Parts for the tests, at the top level of a module so that a child process can import them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from envs.types import Episode, Message, StopReason, Task
from rewards.part import GroupPart, RewardPart, Scored

OUTCOME = {"outcome": 1.0}


def an_episode(
    text: str = "5",
    *,
    family: str = "search",
    tokens: int = 0,
    thinking: int = 0,
    stop: StopReason = StopReason.ANSWERED,
    counts: Mapping[str, int] | None = None,
    reasoning: str = "",
    metadata: Mapping[str, Any] | None = None,
    answer: Any = None,
) -> Episode:
    task = Task("t0", family, (Message("user", "q"),), answer=answer, metadata=metadata or {})
    said = Message("assistant", text, reasoning=reasoning)
    return Episode(task, (*task.prompt, said), stop, 1, tokens, counts or {}, thinking)


@dataclass(frozen=True, kw_only=True)
class Pid(RewardPart):
    """Says in which process it ran, and how often it was called there."""

    name: str = "pid"
    bounds: tuple[float, float] = (0.0, 1e9)

    def __call__(self, episode, scores):
        print("what a part prints must not disturb anybody")
        return os.getpid()


@dataclass(frozen=True, kw_only=True)
class Detailed(RewardPart):
    name: str = "detailed"

    def __call__(self, episode, scores):
        return Scored(0.5, {"seen": 7, "share": 0.25}, mask="not_today" if episode.counts.get("bad") else None)


@dataclass(frozen=True, kw_only=True)
class Slowly(RewardPart):
    """Async: waits for ``wait_s``, then gives 0.25. ``under_way``: how many of this process wait; ``most``: at once."""

    name: str = "slowly"
    wait_s: float = 0.05
    under_way: ClassVar[int] = 0
    most: ClassVar[int] = 0

    async def __call__(self, episode, scores):
        Slowly.under_way += 1
        Slowly.most = max(Slowly.most, Slowly.under_way)
        await asyncio.sleep(self.wait_s)
        Slowly.under_way -= 1
        return 0.25


@dataclass(frozen=True, kw_only=True)
class Rank(GroupPart):
    """1 for the shortest text of the group, 0 for the longest."""

    name: str = "rank"

    def __call__(self, episodes, scores):
        sizes = [len(e.answer or "") for e in episodes]
        return [Scored(float(size == min(sizes)), {"size": size}) for size in sizes]


@dataclass(frozen=True, kw_only=True)
class Clock(RewardPart):
    """Another value at every call."""

    name: str = "clock"
    bounds: tuple[float, float] = (0.0, 1e12)

    def __call__(self, episode, scores):
        return time.monotonic_ns() / 1e9

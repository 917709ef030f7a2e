"""Values of parts with ``cache: true``, kept in memory: the same answer is not scored twice.

One cache per rollout worker, least recently used out first. Problems are not kept: a part that was late once may be in
time the next time. A part that is random (a sampled judge) must not be cached, unless one draw per key is meant.
"""

from __future__ import annotations

from collections import OrderedDict

from rewards.results import Result

ENTRIES = 10_000


class ScoreCache:
    """(index of the part, key) → results. Used from one event loop at a time."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self._entries = entries
        self._kept: OrderedDict[tuple[int, str], list[Result]] = OrderedDict()
        self.hits = 0

    def get(self, part: int, key: str) -> list[Result] | None:
        found = self._kept.get((part, key))
        if found is not None:
            self._kept.move_to_end((part, key))
            self.hits += 1
        return found

    def put(self, part: int, key: str, results: list[Result]) -> None:
        self._kept[(part, key)] = results
        if len(self._kept) > self._entries:
            self._kept.popitem(last=False)

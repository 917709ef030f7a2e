"""What loaders of foreign formats have in common: candidates by name, of which those that cannot be played are refused.

    chosen = self.choose(names, keys, examine)      # examine(number) -> None, or the cause in words

Each candidate belongs to one split by a hash of its key (``split_of``). All of the split are examined when the set
opens, in the order of the file and up to ``size`` that can be played. ``refused`` then holds the cause of every other
by its name: the log says it once, ``envs-check`` writes it into the certificate, and the number of them is logged with
the metrics.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from envs.epochs import EpochOrder
from envs.taskset import Taskset, split_of

_SAY_EVERY_S = 30.0
_NAMED = 10  # refusals that the log names


class ForeignTaskset(Taskset):
    """``source``: what is read, in words. ``own_split``: all candidates belong to the split that was asked for."""

    source: str
    own_split = False
    workers = 1  # candidates that are examined at once

    def choose(
        self, names: Sequence[str], keys: Sequence[str], examine: Callable[[int], str | None], size: int | None
    ) -> None:
        """Decide which candidates are the tasks; see the module. Raises ValueError when none is."""
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{self.source}: {twice!r} is there {names.count(twice)} times; names must differ")
        mine = [n for n, key in enumerate(keys) if self.own_split or split_of(key) == self.split]
        if not mine:
            raise ValueError(f"split={self.split}: {self.source} has no task in it ({len(names)} in all)")
        self.refused: dict[str, str] = {}
        chosen: list[int] = []
        said = time.monotonic()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="examine") as pool:
            for start in range(0, len(mine), self.workers):
                if size is not None and len(chosen) >= size:
                    break
                numbers = mine[start : start + self.workers]
                for number, cause in zip(numbers, pool.map(examine, numbers), strict=True):
                    if cause is None:
                        chosen.append(number)
                    else:
                        self.refused[names[number]] = cause
                if time.monotonic() - said > _SAY_EVERY_S:
                    said = time.monotonic()
                    looked = start + len(numbers)
                    _log(f"{self.source}: {looked} of {len(mine)} looked at, {len(self.refused)} refused")
        told = [f"{name}: {cause}" for name, cause in self.refused.items()]
        more = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        if not chosen:
            raise ValueError(
                f"{self.source}: none of {len(mine)} tasks of split={self.split} can be played: "
                f"{'; '.join(told[:3])}{f'; and {len(told) - 3} more' if len(told) > 3 else ''}"
            )
        if told:
            self.say(f"{len(told)} of {len(mine)} are refused: {'; '.join(told[:_NAMED])}{more}")
        self.chosen = tuple(chosen[:size])
        self.size = len(self.chosen)
        shuffles = self.split == "train"
        self._order = EpochOrder(f"{self.family}/{self.split}/{self.seed}", self.size) if shuffles else None

    def say(self, text: str) -> None:
        """In the log, once: a set is opened for every split, and again."""
        with _lock:
            _once(f"{self.source}: {text}")

    def index_at(self, turn: int) -> int:
        return turn % len(self) if self._order is None else self._order.index(turn)

    def metrics(self) -> dict[str, float]:
        return {"data/skipped_rows": float(len(self.refused))} if self.refused else {}


_lock = threading.Lock()


def _log(text: str) -> None:
    logging.getLogger(__name__).warning("%s", text)


@cache
def _once(text: str) -> None:
    _log(text)

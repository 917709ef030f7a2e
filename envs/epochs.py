"""The order of passes over rows: every epoch is a permutation of its own, the same for the same name.

    order = EpochOrder("sums/train/seed 0", 3)
    [order.index(turn) for turn in range(6)]      # [2, 0, 1, 0, 2, 1]: two passes

Turn t is position t mod n of epoch t // n. An epoch is shuffled by a generator that its name and number seed, so any
turn can be asked for, in any process: a resumed run needs the turn and nothing else.
"""

from __future__ import annotations

import random
from array import array
from typing import Any

_KEPT = 2  # epochs in memory: turns are asked for in order, but for a few that are late


class EpochOrder:
    """``size`` rows, shuffled anew in every epoch. Eight bytes a row and epoch in memory."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self._epochs: dict[int, array[int]] = {}

    def index(self, turn: int) -> int:
        """The row at ``turn`` ≥ 0."""
        epoch, position = divmod(turn, self.size)
        order = self._epochs.get(epoch)
        if order is None:
            order = array("q", range(self.size))
            random.Random(f"{self.name}, epoch {epoch}").shuffle(order)
            kept = sorted(self._epochs, reverse=True)[: _KEPT - 1]
            self._epochs = {number: self._epochs[number] for number in kept} | {epoch: order}
        return order[position]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_epochs": {}}

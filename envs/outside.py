"""An episode of an agent that runs somewhere else: it was opened from outside, and lasts until it is closed from there.

Nothing is started here. Whoever opened it has the endpoint, posts how well it went, and says when it is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from envs.driving import DrivingEnvironment, Endpoint
from envs.types import Episode, NoRewardError, Task


class OutsideEnvironment(DrivingEnvironment):
    """``opened`` gets the endpoint, in the thread of the environment; ``closing`` ends the episode, as ``longest_s``
    seconds do."""

    def __init__(
        self,
        task: Task,
        opened: Callable[[Endpoint], None],
        closing: threading.Event,
        longest_s: float,
        **config: Any,
    ) -> None:
        super().__init__(task, **config)
        self._opened, self._closing, self._longest_s = opened, closing, longest_s
        self._posted: list[dict[str, float]] = []

    def drive(self, endpoint: Endpoint) -> None:
        self._posted = endpoint.posted
        self._opened(endpoint)
        self._closing.wait(self._longest_s)

    def score(self, episode: Episode) -> dict[str, float]:
        """What was posted last; 0 for an episode that a limit cut before anything was. Raises NoRewardError."""
        if self._posted:
            return self._posted[-1]
        if not episode.ended:
            return {"outcome": 0.0}
        raise NoRewardError("nobody posted a reward before the episode was closed")

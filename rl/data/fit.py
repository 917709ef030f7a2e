"""What demonstrations need of the rollout's limits: turns, tokens of a message, tokens of the window.

    needs = Needs.of([tokenise(renderer, demo.messages, thinking=True) for demo in demos])
    needs.settings(RolloutConfig())      # ["rollout.max_tokens=320"]: what to set so that all of them would fit

A rollout that is cut at a limit has not failed, so nothing else says that the limit was too small to solve the task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rl.rollout.config import RolloutConfig
    from rl.types import TokenStream

LIMITS = {"turns": "max_turns", "message": "max_tokens", "window": "max_context"}  # of Needs → of ``rollout``
ROUND = 32  # tokens that a suggested limit is a multiple of


@dataclass(frozen=True)
class Need:
    """Over the demonstrations: how much 95 % of them need at most, and all of them."""

    p95: int
    max: int


@dataclass(frozen=True)
class Needs:
    """``turns``: assistant messages of an episode; ``message``: tokens of the longest one; ``window``: tokens of the
    longest context, prompt included."""

    turns: Need
    message: Need
    window: Need

    @classmethod
    def of(cls, episodes: Sequence[Sequence[TokenStream]]) -> Needs:
        """``episodes``: the token streams of each, at least one episode."""
        runs = [[run for stream in streams for run in sampled_runs(stream.loss_mask)] for streams in episodes]
        return cls(
            _need([len(lengths) for lengths in runs]),
            _need([max(lengths, default=0) for lengths in runs]),
            _need([max((len(stream) for stream in streams), default=0) for streams in episodes]),
        )

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Needs:
        return cls(**{name: Need(**raw[name]) for name in LIMITS})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def words(self) -> str:
        """``turns 5 (p95 4), tokens of a message 74 (p95 61), of the window 310 (p95 290)``."""
        named = {"turns": "turns", "message": "tokens of a message", "window": "of the window"}
        return ", ".join(f"{named[n]} {getattr(self, n).max:,} (p95 {getattr(self, n).p95:,})" for n in LIMITS)

    def settings(self, rollout: RolloutConfig) -> list[str]:
        """Overrides that make room for all demonstrations where the limits of ``rollout`` do not; [] when they fit."""
        have = {"turns": rollout.turn_limit, "message": rollout.max_tokens, "window": rollout.max_context}
        short = {name: getattr(self, name).max for name in LIMITS if getattr(self, name).max > have[name]}
        wanted = {name: n if name == "turns" else math.ceil(n / ROUND) * ROUND for name, n in short.items()}
        if wanted.get("message", 0) >= wanted.get("window", rollout.max_context):  # the window holds a message and more
            wanted["window"] = wanted["message"] + ROUND
        return [f"rollout.{LIMITS[name]}={wanted[name]}" for name in LIMITS if name in wanted]


def sampled_runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of True in ``mask``: the tokens of each message."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [int(end - start) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _need(values: Sequence[int]) -> Need:
    ordered = sorted(values)
    return Need(ordered[math.ceil(0.95 * len(ordered)) - 1], ordered[-1])

"""What a reward part is: a small callable with a name, a weight, bounds and a deadline.

A part maps one finished episode and the environment's scores to one number p_i; the composer adds them up,
R = Σ_i w_i · p_i. A group part does so for all finished episodes of one task at once. Either may be ``async def``.

    @dataclass(frozen=True, kw_only=True)
    class Polite(RewardPart):
        name: str = "polite"
        bounds: tuple[float, float] = (0.0, 1.0)

        def __call__(self, episode, scores):
            return float("please" in (episode.answer or ""))

Next to the number a part may give details (logged, not added) and a reason to mask: see ``Scored``. A masked sample
enters neither the loss nor its group's mean, which is not the same as reward 0. What raises, hangs, or gives something
that is no number within ``bounds`` masks the sample too, so that a broken part never scores anything.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from envs.types import Episode
from rewards.schedule import Schedule

Scores = Mapping[str, float]


class RewardError(ValueError):
    """A part, or the environment's score, gave something that is no reward.

    ``part`` names it, ``kind`` is one of ``rewards.results.PROBLEMS``. A part may raise it to say what is wrong in its
    own words. The rollout masks the sample and counts it; it never becomes reward 0.
    """

    def __init__(self, part: str, problem: str, kind: str = "raised") -> None:
        super().__init__(f"reward part '{part}': {problem}")
        self.part, self.problem, self.kind = part, problem, kind


@dataclass(frozen=True)
class Scored:
    """What a part gives when it has more to say than one number.

    ``value`` is p_i. ``details`` are stored as ``<part>/<name>`` next to the terms and logged, and are not added to
    the reward. ``mask`` is why the sample must not be trained on: one word, which becomes its ``failure_kind``;
    ``note`` says more about that, for its ``failure_detail``.
    """

    value: float
    details: Mapping[str, float] = field(default_factory=dict)
    mask: str | None = None
    note: str = ""


Given = float | Scored  # what a part gives for one episode


@dataclass(frozen=True)
class LengthUse:
    """Whether a part's value depends on how long an episode is, and how, in plain words.

    ``none`` · ``direct``: it reads a number of tokens · ``indirect``: it reads the text and tends to change with its
    length · ``selects``: it adds nothing, but masks episodes for their length · ``undeclared``: the part does not say.
    """

    kind: Literal["none", "direct", "indirect", "selects", "undeclared"]
    how: str = ""


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """The fields that every part has."""

    name: str  # key in Trajectory.reward_parts and in the metrics reward/part/<name>
    weight: float | Schedule = 1.0  # w_i, or {start, end, steps}: linear in the policy version
    families: tuple[str, ...] = ()  # families it applies to; empty: all
    bounds: tuple[float, float] = (-1.0, 1.0)  # least and largest value before the weight; beyond them it is masked
    timeout_s: float = 30.0  # seconds one call may take; later it is abandoned and the sample masked
    isolate: bool | None = None  # run in a process that is killed when late; null: yes, unless it is async
    cache: bool = False  # keep values of equal episodes (see cache_key), in each rollout worker

    def length_use(self) -> LengthUse:
        """Whether the value depends on the length of an episode. Every part should say."""
        return LengthUse("undeclared")


@dataclass(frozen=True, kw_only=True)
class RewardPart(PartOptions, ABC):
    """Base of the parts that score one episode. Subclasses are frozen dataclasses, built by Hydra from plain fields."""

    @abstractmethod
    def __call__(self, episode: Episode, scores: Scores) -> Given | Awaitable[Given]:
        """The unweighted value p_i. ``scores`` are the environment's named scores ("outcome" always)."""

    def cache_key(self, episode: Episode, scores: Scores) -> str:
        """Equal keys, equal values. Default: a digest of everything that the part is given."""
        return digest(_plain(episode), dict(scores))


@dataclass(frozen=True, kw_only=True)
class GroupPart(PartOptions, ABC):
    """Base of the parts that score the finished episodes of one task together.

    They are called when the group is complete, with the episodes that are to be trained on (failed and masked ones are
    left out), and give one value each, in the same order.
    """

    @abstractmethod
    def __call__(
        self, episodes: Sequence[Episode], scores: Sequence[Scores]
    ) -> Sequence[Given] | Awaitable[Sequence[Given]]:
        """The unweighted values p_i, one per episode."""

    def cache_key(self, episodes: Sequence[Episode], scores: Sequence[Scores]) -> str:
        """Equal keys, equal values. Default: a digest of everything that the part is given."""
        return digest([_plain(e) for e in episodes], [dict(s) for s in scores])


def digest(*things: Any) -> str:
    """SHA-256 of JSON-like values, for cache keys. What JSON does not know enters by its ``str``."""
    return hashlib.sha256(json.dumps(things, sort_keys=True, default=str).encode()).hexdigest()


def _plain(episode: Episode) -> list[Any]:
    task = episode.task
    messages = [message.to_json() for message in episode.messages]
    said = [] if episode.said is None else [[message.to_json() for message in episode.said]]
    return [task.family, task.id, task.seed, task.answer, messages, episode.stop_reason.value, episode.turns,
            episode.sampled_tokens, episode.thinking_tokens, dict(episode.counts), *said]  # fmt: skip

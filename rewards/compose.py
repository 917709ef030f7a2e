"""Adds up the parts of a reward: R = Σ_i w_i · p_i, every term kept by name.

Parts are foreign code until proven otherwise. Each call has a deadline and runs where it can be given up: isolated
parts in a process (``rewards.isolation``), async parts on a loop of their own, the rest on a thread
(``rewards.threads``). Two of our own only look at a few numbers, and are called where they are asked for.
Whatever goes wrong with one masks the sample with a reason and is counted; it never becomes a number.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from envs.types import Episode
from envs.waiting import result_of
from rewards.describe import length_statement, sum_statement
from rewards.format import FormatPenalty
from rewards.isolated import attempt, attempt_async
from rewards.isolation import Children
from rewards.length import Length
from rewards.outcome import Outcome
from rewards.part import GroupPart, PartOptions, RewardError, RewardPart, Scores
from rewards.results import Problem, Result, raised
from rewards.schedule import Schedule, read_weight, weight_at
from rewards.score_cache import ScoreCache
from rewards.threads import Late, LoopThread, in_thread

T = TypeVar("T")
_AT_ONCE = (FormatPenalty, Length)  # no class made of them: that may do anything
ERROR, TIMEOUT = "reward_error", "reward_timeout"  # failure_kind of a sample whose reward could not be computed


@dataclass(frozen=True)
class Reward:
    """The reward of one episode.

    ``parts`` are the weighted terms w_i · p_i (they sum to ``total``), the details of the parts as ``<part>/<name>``
    and, as ``score/<name>``, the raw scores of the environment, which evaluation reads so that it does not move with
    the weights. ``masked`` is why the sample must not be trained on, or None: ``reward_error`` or ``reward_timeout``
    when there is no reward (``total`` is 0 and means nothing), else a part's own reason. ``detail`` says it in words;
    ``counts`` has ``<part>.<problem>`` for every part that gave none.
    """

    total: float
    parts: dict[str, float]
    masked: str | None = None
    detail: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    problem: RewardError | None = None  # the first part that gave no value


@dataclass(frozen=True)
class _Slot:
    """A part, and what the composer made of its options."""

    index: int
    part: PartOptions
    weight: float | Schedule
    families: frozenset[str]
    where: str  # here | thread | loop | process

    def applies_to(self, family: str) -> bool:
        return not self.families or family in self.families


class RewardComposer:
    """Scores episodes with a fixed list of parts. It pickles: processes, threads and cache are opened where it is used.

    Args:
        parts: instances of ``RewardPart`` and ``GroupPart``; names must differ.
    Raises:
        ValueError: a part's options make no sense; names part and field.
    """

    def __init__(self, parts: Iterable[RewardPart | GroupPart]) -> None:
        self.parts = tuple(parts)
        if not self.parts:
            raise ValueError("rewards.parts is empty: give at least rewards.outcome.Outcome")
        for part in self.parts:
            if not isinstance(part, (RewardPart, GroupPart)):
                raise ValueError(f"rewards.parts: {type(part).__name__} is no RewardPart and no GroupPart")
        names = [part.name for part in self.parts]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"rewards.parts: name '{repeated[0]}' is used twice; set a different `name`")
        self._slots = [_slot(i, part) for i, part in enumerate(self.parts)]
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "_slots": self._slots}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        self._children: Children | None = None
        self._loops: dict[int, LoopThread] = {}
        self._cache = ScoreCache()

    # -- scoring -----------------------------------------------------------------------------

    async def score(self, episode: Episode, scores: Scores, version: int = 0) -> Reward:
        """The reward of ``episode`` without its group parts. Never raises for what a part or a score does.

        Args:
            scores: what ``Environment.score`` returned.
            version: policy version at which the group was admitted; schedules read it.
        """
        raw, bad = _raw(scores)
        if bad:
            return _reward(raw, bad, [], version)
        slots = self._of(RewardPart, episode.task.family)
        results = await asyncio.gather(*(self._run(slot, (episode, scores), 1) for slot in slots))
        return _reward(raw, [], [(s, r[0]) for s, r in zip(slots, results, strict=True)], version)

    async def score_group(
        self, episodes: Sequence[Episode], scores: Sequence[Scores], rewards: Sequence[Reward], version: int = 0
    ) -> list[Reward]:
        """``rewards`` with the terms of the group parts, in the same order. Never raises for what a part does.

        Args:
            episodes: the finished episodes of one task; the masked ones are not shown to the parts.
            scores, rewards: of the same episodes.
        """
        out = list(rewards)
        valid = [i for i, reward in enumerate(rewards) if reward.masked is None]
        slots = self._of(GroupPart, episodes[valid[0]].task.family) if valid else []
        if not slots:
            return out
        arguments = ([episodes[i] for i in valid], [scores[i] for i in valid])
        results = await asyncio.gather(*(self._run(slot, arguments, len(valid)) for slot in slots))
        for place, i in enumerate(valid):
            found = [(slot, r[place]) for slot, r in zip(slots, results, strict=True)]
            out[i] = _reward(out[i].parts, [], found, version)
        return out

    def __call__(self, episode: Episode, scores: Scores, version: int = 0) -> Reward:
        """``score`` for scripts: not inside an event loop, and a problem is raised.

        Raises:
            RewardError: a score or a part is NaN, infinite, out of bounds or no number, or a part raised or was late.
        """
        reward = result_of(self.score(episode, scores, version))
        if reward.problem is not None:
            raise reward.problem
        return reward

    def describe(self) -> str:
        """The sum of the parts, and whether any of it depends on length: see ``rewards.describe``."""
        return f"{sum_statement(self.parts)}\n{length_statement(self.parts)}"

    def close(self) -> None:
        """End the processes and threads. The next call starts them again."""
        if self._children is not None:
            self._children.close()
        for loop in self._loops.values():
            loop.stop()
        self._loops = {}

    # -- one call ----------------------------------------------------------------------------

    def _of(self, kind: type, family: str) -> list[_Slot]:
        return [slot for slot in self._slots if isinstance(slot.part, kind) and slot.applies_to(family)]

    async def _run(self, slot: _Slot, arguments: tuple[Any, ...], n: int) -> list[Result]:
        """``n`` results of one part, from the cache where it may."""
        key: str | None = None
        part: Any = slot.part
        if part.cache:
            found = await self._guarded(slot, lambda: _key(part, arguments))
            if isinstance(found, Problem):
                return [found] * n
            key = found
            if (kept := self._cache.get(slot.index, key)) is not None:
                return kept
        results = await self._attempt(slot, arguments)
        if isinstance(results, Problem):
            return [results] * n
        # A mask is no value either: what a judge could not say today it may say tomorrow.
        if key is not None and not any(isinstance(r, Problem) or r.mask for r in results):
            self._cache.put(slot.index, key, results)
        return results

    async def _attempt(self, slot: _Slot, arguments: tuple[Any, ...]) -> list[Result] | Problem:
        part, group = slot.part, isinstance(slot.part, GroupPart)
        if slot.where == "process":
            if self._children is None:
                self._children = Children([s.part if s.where == "process" else None for s in self._slots])
            return await self._children.call(slot.index, arguments, part.timeout_s, group)
        if slot.where == "here":
            return attempt(part, arguments, group)
        if slot.where == "thread":
            return await self._guarded(slot, lambda: attempt(part, arguments, group))
        loop = self._loops.get(slot.index)
        if loop is None:
            loop = self._loops[slot.index] = LoopThread(f"reward {part.name}")
        try:
            return await loop.run(part.timeout_s, attempt_async(part, arguments, group))
        except Late:
            if self._loops.get(slot.index) is loop and not await loop.responds():
                loop.abandon()
                self._loops.pop(slot.index, None)
            return _late(part)

    async def _guarded(self, slot: _Slot, function: Callable[[], T]) -> T | Problem:
        try:
            return await in_thread(f"reward {slot.part.name}", slot.part.timeout_s, function)
        except Late:
            return _late(slot.part)


def default_composer() -> RewardComposer:
    """Outcome (weight 1), format penalty (0.05 per bad call, at most 0.25), no length policy."""
    return RewardComposer([Outcome(), FormatPenalty(), Length(policy="none")])


def _slot(index: int, part: RewardPart | GroupPart) -> _Slot:
    where = f"rewards.parts.{part.name}"
    bounds = tuple(part.bounds)
    if len(bounds) != 2 or not all(math.isfinite(b) for b in bounds) or not bounds[0] <= bounds[1]:
        raise ValueError(f"{where}.bounds={list(bounds)}: give two finite numbers [lowest, highest]")
    if not part.timeout_s > 0 or not math.isfinite(part.timeout_s):
        raise ValueError(f"{where}.timeout_s={part.timeout_s}: give a number of seconds above 0")
    if isinstance(part.families, str):
        raise ValueError(f"{where}.families={part.families!r}: give a list of family names")
    is_async = inspect.iscoroutinefunction(type(part).__call__)
    isolate = not is_async if part.isolate is None else part.isolate
    if isolate:
        try:
            pickle.dumps(part)
        except Exception as error:
            raise ValueError(
                f"{where}: it cannot be sent to its own process ({type(error).__name__}: {error}); "
                "define its class at the top level of a module, or set isolate: false"
            ) from error
    plain = "here" if type(part) in _AT_ONCE else "thread"
    place = "process" if isolate else "loop" if is_async else plain
    return _Slot(index, part, read_weight(part.name, part.weight), frozenset(part.families), place)


def _key(part: Any, arguments: tuple[Any, ...]) -> str | Problem:
    """The part's cache key; its method may be foreign code."""
    try:
        return str(part.cache_key(*arguments))
    except BaseException as error:
        return raised(error)


def _late(part: PartOptions) -> Problem:
    return Problem("timeout", f"was not done within timeout_s={part.timeout_s:g}; it was abandoned")


def _raw(scores: Mapping[str, Any]) -> tuple[dict[str, float], list[RewardError]]:
    """The environment's scores that are numbers, and errors for the rest."""
    raw: dict[str, float] = {}
    bad: list[RewardError] = []
    for key, value in scores.items():
        # No float() of just anything: a score is foreign too, and this is the worker's own thread.
        if not isinstance(value, numbers.Real) and type(value).__name__ not in ("bool_", "bool"):
            bad.append(_score_error(key, "wrong_type", f"is a {type(value).__name__}, which is not a finite number"))
        elif not _finite(value):
            bad.append(_score_error(key, "not_finite", "is NaN, infinite or beyond what a float holds"))
        elif key == "outcome" and not 0 <= value <= 1:  # evaluation counts it, whatever the parts make of it
            bad.append(_score_error(key, "out_of_bounds", f"is {float(value)}; it must lie in [0, 1]"))
        else:
            raw[f"score/{key}"] = float(value)
    return raw, bad


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer with more digits than a float holds
        return False


def _score_error(key: str, kind: str, text: str) -> RewardError:
    return RewardError(f"score.{key}", f"the environment's score '{key}' {text}", kind)


def _reward(
    before: Mapping[str, float], errors: list[RewardError], found: list[tuple[_Slot, Result]], version: int
) -> Reward:
    """``before`` plus the terms that were found; masked when any is missing or asks for it."""
    terms: dict[str, float] = {}
    details: dict[str, float] = {}
    masked: str | None = None
    note = ""
    for slot, result in found:
        name = slot.part.name
        if isinstance(result, Problem):
            errors = [*errors, RewardError(name, result.text, result.kind)]
            continue
        terms[name] = weight_at(slot.weight, version) * result.value
        details |= {f"{name}/{detail}": value for detail, value in result.details.items()}
        if masked is None and result.mask is not None:
            masked, note = result.mask, result.note
    parts = {**{k: v for k, v in before.items() if "/" not in k}, **terms}
    # fsum: the same total in whatever order the parts are listed.
    total = math.fsum(parts.values())
    parts |= details | {k: v for k, v in before.items() if "/" in k}
    if not errors:
        return Reward(total, parts, masked, note)
    late = errors[0].kind == "timeout"
    return Reward(
        0.0,
        parts,
        TIMEOUT if late else ERROR,
        "\n".join(str(error) for error in errors),
        dict(Counter(f"{error.part}.{error.kind}" for error in errors)),
        errors[0],
    )

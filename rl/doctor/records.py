"""What detectors look at: one step's numbers and rollouts, as the loop has them or as files tell them.

A line of another toolkit's JSONL is one rollout; only ``task_id`` and ``reward`` are required::

    {"task_id": "t1", "reward": 1.0, "step": 3, "group": "7",
     "segments": [{"tokens": [5, 9, 2], "spans": [{"start": 1, "end": 3, "logprobs": [-0.1, -0.7], "version": 2}]}],
     "messages": [{"role": "assistant", "content": "42"}], "stop_reason": "answered", "failure_kind": null,
     "reward_parts": {"outcome": 1.0, "score/outcome": 1.0}, "turns": 1, "id": "a", "family": "math"}

``step`` is 1 where it is missing, ``group`` (the rollouts whose rewards are compared with each other) the task.
``spans`` are what the policy sampled, ``version`` the number of optimiser steps behind the weights that did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.types import StopReason
from rl.types import Group, Segment, Trajectory

_OURS = re.compile(r".+-(\d+)-\d+")  # the id of a rollout of ours: <taskset>-<group>-<place in it>


@dataclass(frozen=True)
class Settings:
    """What a run was told, as far as detectors hold its numbers to it."""

    prompts: int
    group_size: int
    max_staleness: int
    minibatches: int
    lr: float
    warmup_steps: int
    aggregation: str
    constant: int | None
    norm: str
    clips: bool  # the loss is the clipped surrogate, uncorrected
    coarse: bool  # engine or learner compute in 16 bits
    taught: bool = False  # teachers score what is sampled: groups of equal rewards are learned from too

    @classmethod
    def of(cls, cfg: Any) -> Settings:
        """Of a ``configs.schema.TrainConfig``."""
        learner, objective = cfg.learner, cfg.objective
        return cls(
            cfg.prompts_per_step, cfg.group_size, cfg.max_staleness, learner.minibatches, learner.lr,
            learner.warmup_steps, objective.loss_aggregation, objective.loss_constant, objective.advantage_norm,
            objective.surrogate == "clip" and objective.correction == "none",
            not learner.compute_dtype == cfg.rollout.dtype == "float32", bool(objective.distill.teachers),
        )  # fmt: skip


@dataclass(frozen=True)
class StepRecord:
    """One step. ``settings`` None: the rollouts are of another toolkit, and nothing is known but themselves."""

    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    groups: Sequence[Group] = ()
    settings: Settings | None = None

    @property
    def valid(self) -> list[Trajectory]:
        """Rollouts that are trained on."""
        return [t for g in self.groups for t in g.trajectories if t.failure_kind is None]

    def number(self, name: str) -> float | None:
        """A metric, None where it is not there or no number."""
        value = self.metrics.get(name)
        return None if value is None else float(value)

    @property
    def on_policy(self) -> bool:
        """Whether every token was sampled by the weights that were trained, and they were trained once."""
        once = self.settings is not None and self.settings.minibatches == 1
        return once and (self.number("staleness/max") or 0.0) == 0.0


def groups_of(rows: Iterable[Mapping[str, Any]]) -> dict[int, list[Group]]:
    """Groups by step, of rollouts as JSON rows: those of ``trajectories/step_000012.jsonl``, or the form above.

    Raises ValueError for a row that is no rollout; the message begins with its number, from 1.
    """
    steps: dict[int, dict[str, Group]] = {}
    for number, row in enumerate(rows, start=1):
        try:
            trajectory = trajectory_of(row)
            step = int(row.get("step", 1))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise ValueError(f"row {number} is no rollout: {type(error).__name__}: {error}") from error
        ours = _OURS.fullmatch(trajectory.id) if "counts" in row else None  # another toolkit's id may look the same
        key = str(row.get("group", ours[1] if ours else trajectory.task_id))
        groups = steps.setdefault(step, {})
        if key not in groups:
            name = int(key) if ours and key == ours[1] else -1
            groups[key] = Group(name, -1, trajectory.task_id, trajectory.family, -1)
        groups[key].trajectories.append(trajectory)
    return {step: list(groups.values()) for step, groups in sorted(steps.items())}


def trajectory_of(row: Mapping[str, Any]) -> Trajectory:
    """The rollout in a JSON row. Raises ValueError, TypeError or KeyError when it is none."""
    if not isinstance(row, Mapping):
        raise ValueError("a row must be a JSON object")
    for key in ("task_id", "reward"):
        if key not in row:
            raise ValueError(f"'{key}' is missing")
    reward, messages = row["reward"], list(row.get("messages") or ())
    stop, failure = row.get("stop_reason") or "answered", row.get("failure_kind") or None
    if not all(isinstance(message, Mapping) for message in messages):
        raise ValueError("'messages' must be a list of JSON objects")
    if not isinstance(failure, str | None):
        raise ValueError(f"failure_kind={failure!r}: must be a word or null")
    return Trajectory(
        id=str(row.get("id", "")),
        task_id=str(row["task_id"]),
        family=str(row.get("family", "")),
        segments=[_segment(s) for s in row.get("segments") or ()],
        messages=messages,
        stop_reason=StopReason(stop) if stop in set(StopReason) else StopReason.ANSWERED,
        reward=float("nan") if reward is None else float(reward),
        reward_parts={k: float("nan") if v is None else float(v) for k, v in (row.get("reward_parts") or {}).items()},
        failure_kind=failure,
        turns=int(row.get("turns") or 0),
    )


def _segment(stored: Mapping[str, Any]) -> Segment:
    tokens = np.asarray(stored["tokens"], np.int32)
    if tokens.ndim != 1:
        raise ValueError("'tokens' must be a list of numbers")
    mask = np.zeros(len(tokens), bool)
    logprobs, versions = np.zeros(len(tokens), np.float32), np.full(len(tokens), -1, np.int32)
    for span in stored["spans"]:
        start, end = int(span["start"]), int(span["end"])
        if not 0 <= start < end <= len(tokens):
            raise ValueError(f"a span from {start} to {end} in a segment of {len(tokens)} tokens")
        mask[start:end] = True
        logprobs[start:end] = np.nan if span.get("logprobs") is None else span["logprobs"]
        versions[start:end] = span.get("version", 0)
    return Segment(tokens, mask, logprobs, versions)


def spans_of(segment: Segment) -> list[tuple[int, int]]:
    """(begin, end) of what was sampled in one piece, whatever versions sampled it."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], segment.loss_mask.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def sampled_key(trajectory: Trajectory) -> bytes:
    """All tokens that the policy sampled, segment by segment: equal for rollouts in which it said the same."""
    return b"|".join(s.tokens[s.loss_mask].astype(np.int32).tobytes() for s in trajectory.segments)

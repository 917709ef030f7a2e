"""Steps as a clean run has them, by hand; tests spoil them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.types import StopReason
from rl.doctor.by_books import advantages_of
from rl.doctor.records import Settings, StepRecord
from rl.types import Group, Segment, Trajectory

SETTINGS = Settings(4, 4, 0, 1, 1e-3, 2, "sequence_mean", None, "mean", clips=True, coarse=False)
OPEN, RESULT, STOP = 7, 8, 9  # tokens: before a turn, before a result, at a turn's end


def segment(answers: Sequence[Sequence[int]], version: int = 0, logprob: float = -0.7) -> Segment:
    """Turns of ``answers``, a result of four tokens between them."""
    tokens, mask = [1, 2, 3, OPEN], [False] * 4
    for number, answer in enumerate(answers):
        if number:
            tokens += [RESULT, 20 + number, 21, 22, OPEN]
            mask += [False] * 5
        tokens += [*answer, STOP]
        mask += [True] * (len(answer) + 1)
    at = np.array(mask)
    return Segment(
        np.array(tokens, np.int32), at, np.where(at, logprob, 0.0).astype(np.float32), np.where(at, version, -1)
    )


def rollout(group: int, place: int, answers: Sequence[Sequence[int]], reward: float, **given: Any) -> Trajectory:
    return Trajectory(
        **{
            "id": f"train-{group}-{place}", "task_id": f"sums/train/0/{group}", "family": "sums",
            "segments": [segment(answers)], "messages": [{"role": "assistant", "content": "42"}],
            "stop_reason": StopReason.ANSWERED, "reward": reward,
            "reward_parts": {"outcome": reward, "score/outcome": reward}, "turns": len(answers), **given,
        }
    )  # fmt: skip


def groups(step: int, settings: Settings = SETTINGS) -> list[Group]:
    """Four groups of four, two turns each; half of the rollouts are right."""
    rng, made = random.Random(step), []
    for number in range((step - 1) * settings.prompts, step * settings.prompts):
        members = [
            rollout(number, i, [[rng.randrange(30, 90) for _ in range(5)] for _ in range(2)], float(i % 2))
            for i in range(settings.group_size)
        ]
        made.append(Group(number, number, members[0].task_id, "sums", step - 1, members))
    return made


def metrics(step: int, of: Sequence[Group], settings: Settings = SETTINGS, **other: float) -> dict[str, float]:
    """What the learner reports of ``of`` in a clean run."""
    a = np.array([x for g in of for x in advantages_of(g, settings.norm)])
    return {
        "policy/ratio_mean": 1.0, "mismatch/mean": 3e-8, "mismatch/probe_live_mean": 1e-7, "policy/approx_kl": 1e-8,
        "replay/routing_overlap": 1.0, "policy/drift_p95": 1e-7, "policy/surprise": 0.01, "policy/surprise_z": 0.8,
        "policy/entropy": 0.7, "group/zero_variance": 0.25, "learner/skipped_steps": 0.0, "staleness/max": 0.0,
        "learner/gradient_changed": 0.0,
        "learner/lr": settings.lr * min(1.0, step / settings.warmup_steps), "score/outcome": 0.5, "reward/mean": 0.5,
        "advantage/mean": float(a.mean()), "advantage/std": float(a.std()), "advantage/min": float(a.min()),
        "advantage/max": float(a.max()), "loss/policy": 1e-9, "policy/masked_sequences": 0.0, **other,
    }  # fmt: skip


def record(step: int, settings: Settings = SETTINGS, **other: float) -> StepRecord:
    of = groups(step, settings)
    return StepRecord(
        step, metrics(step, of, settings) | {k.replace("__", "/"): v for k, v in other.items()}, of, settings
    )

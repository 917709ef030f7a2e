"""Rollouts with known numbers, for all tracking tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from envs.types import StopReason
from rl.types import Segment, Trajectory

MakeTrajectory = Callable[..., Trajectory]


def _trajectory(
    id: str = "g0/0",
    *,
    task: str = "search/0",
    family: str = "search",
    reward: float = 1.0,
    outcome: float | None = 1.0,
    sampled: int = 3,
    prompt: int = 2,
    version: int = 5,
    failure: str | None = None,
    stop: StopReason = StopReason.ANSWERED,
    counts: dict[str, int] | None = None,
    text: str = "Oslo",
) -> Trajectory:
    n = prompt + sampled
    mask = np.arange(n) >= prompt
    segment = Segment(
        tokens=np.arange(n, dtype=np.int32),
        loss_mask=mask,
        logprobs=np.where(mask, -0.5, 0.0).astype(np.float32),
        versions=np.where(mask, version, -1).astype(np.int32),
    )
    parts = {} if outcome is None else {"outcome": outcome, "score/outcome": outcome}
    messages = [
        {"role": "user", "content": "Where?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "I search.",
            "tool_calls": [{"name": "search", "arguments": {"query": "x"}}],
        },
        {"role": "tool", "content": "a passage"},
        {"role": "assistant", "content": text},
    ]
    return Trajectory(
        id=id,
        task_id=task,
        family=family,
        segments=[segment],
        messages=messages,
        stop_reason=stop,
        reward=reward,
        reward_parts=parts,
        failure_kind=failure,
        turns=2,
        counts=counts or {},
        wall_s=1.5,
    )


@pytest.fixture
def make() -> MakeTrajectory:
    """Builds a ``Trajectory``; every argument has a default."""
    return _trajectory

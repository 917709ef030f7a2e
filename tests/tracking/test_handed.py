"""Bytes per token that workers hand over, by hand; choices stay as small as they were recorded."""

from __future__ import annotations

import numpy as np
import pytest

from envs.types import StopReason
from rl.rollout.engine_api import replay_of
from rl.tracking.handed import handed_metrics
from rl.tracking.metrics import undocumented
from rl.types import Group, ReplayRecord, Segment, Trajectory


def segment(length: int, replay: ReplayRecord | None) -> Segment:
    return Segment(
        np.zeros(length, np.int32),
        np.ones(length, bool),
        np.zeros(length, np.float32),
        np.zeros(length, np.int32),
        replay,
    )


def groups(*segments: Segment) -> list[Group]:
    """One rollout for each segment."""
    rollouts = [Trajectory("a", "t", "f", [one], [], StopReason.ANSWERED) for one in segments]
    return [Group(0, 0, "t", "f", 0, rollouts)]


def test_bytes_by_hand() -> None:
    rows = {"experts": np.zeros((9, 3, 2), np.uint8), "indexer": np.zeros((9, 2, 5), np.int16)}
    kept = [np.zeros(4, np.int32), np.zeros(6, np.int32)]
    found = handed_metrics(groups(segment(10, replay_of(10, rows, kept)), segment(30, None)))
    assert found == {
        "bytes/tokens": 4, "bytes/loss_mask": 1, "bytes/logprobs": 4, "bytes/versions": 4, "bytes/valid": 10 / 40,
        "bytes/experts": 10 * 6 / 40, "bytes/indexer": 10 * 20 / 40, "bytes/support": 40 / 40,
        "bytes/total": pytest.approx(13 + 0.25 + 1.5 + 5 + 1), "bytes/driver": pytest.approx(2 * 20.75),
    }  # fmt: skip
    assert undocumented(found) == []
    assert handed_metrics([]) == handed_metrics(groups()) == {}


def test_choices_keep_their_size_until_they_are_packed() -> None:
    rows = {"experts": np.zeros((9, 3, 2), np.uint8), "indexer": np.zeros((9, 2, 5), np.int32)}
    record = replay_of(10, rows, [])
    assert record is not None
    assert (record.experts.dtype, record.indexer.dtype, record.first(4).experts.dtype) == (np.uint8, np.int32, np.uint8)

"""A stored batch comes back as it was, complete or not at all, and the newest stay."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_segments import group, recorded

from envs.types import StopReason
from rl.rollout.config import RolloutConfig
from rl.run.batches import flatten, load_batch, save_batch, stored_steps, unflatten
from rl.tracking.config import TrackingConfig
from rl.tracking.rundir import RunDir, RunDirError
from rl.types import Group, ReplayRecord, Segment, Trajectory

LAYERS, EXPERTS, CHOSEN = 2, 3, 4


def same(a: Any, b: Any) -> bool:
    """Equal values and equal types, down to the dtypes of arrays."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (Group, Trajectory, Segment, ReplayRecord)):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return type(a) is type(b) and a == b


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    length = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    replay = None
    if draw(st.booleans()):
        support: list[np.ndarray | None] | None = None
        if draw(st.booleans()):
            sizes = draw(st.lists(st.none() | st.integers(0, 5), min_size=length, max_size=length))
            support = [None if n is None else rng.integers(0, 99, n).astype(np.int32) for n in sizes]
        replay = ReplayRecord(
            rng.random(length) < 0.5,
            rng.integers(0, 255, (length, LAYERS, EXPERTS)).astype(np.uint8) if draw(st.booleans()) else None,
            rng.integers(-1, 999, (length, LAYERS, CHOSEN)).astype(np.int16) if draw(st.booleans()) else None,
            support,
        )
    return Segment(
        rng.integers(0, 2**20, length).astype(np.int32),
        rng.random(length) < 0.5,
        -rng.random(length).astype(np.float32),
        rng.integers(-1, 9, length).astype(np.int32),
        replay,
    )


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    return Trajectory(
        draw(st.sampled_from(["a", "ü/1"])),
        "t",
        "code",
        draw(st.lists(segments(), max_size=2)),
        [{"role": "assistant", "content": draw(st.sampled_from(["", "Ωslo", "\ud800"]))}],
        draw(st.sampled_from(StopReason)),
        draw(st.floats(-1, 1)),
        {"score/outcome": 1.0},
        draw(st.none() | st.just("env_error")),
        counts={"parse_error": 2},
    )


ONE = st.just(1)


@given(
    st.lists(
        st.builds(Group, ONE, ONE, st.just("t"), st.just("code"), ONE, st.lists(trajectories(), max_size=2)), max_size=2
    )
)
@settings(max_examples=30)
def test_round_trip_of_ragged_groups(groups: list[Group]) -> None:
    arrays, described = flatten(groups)
    assert all(a.dtype != object for a in arrays.values())
    assert same(unflatten(arrays, json.loads(json.dumps(described))), groups)


def store(run: RunDir, step: int, groups: list[Group], keep: int = 2, **rollout: Any) -> Path:
    def save_policy(directory: Path) -> None:
        directory.mkdir()
        (directory / "config.json").write_text(f"weights before step {step}")

    return save_batch(run, step, step - 1, groups, RolloutConfig(**rollout), save_policy, keep)


def test_a_stored_batch_comes_back_from_disk(tmp_path: Path) -> None:
    run, groups = RunDir(tmp_path), group(recorded(0, top_k=4), recorded(1))
    groups[0].trajectories[0].reward_parts = {"length": np.float32(0.5)}  # rewards may be numpy numbers
    store(run, 20, groups, temperature=0.7, top_k=4)
    batch = load_batch(run)
    assert (batch.step, batch.version, batch.truncated) == (20, 19, True)
    assert batch.sampling == {"temperature": 0.7, "top_p": 1.0, "top_k": 4, "min_p": 0.0}
    assert (batch.policy / "config.json").read_text() == "weights before step 20"
    groups[0].trajectories[0].reward_parts = {"length": 0.5}
    assert same(batch.groups, groups)


def test_the_newest_stay_and_a_repeated_step_is_replaced(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (20, 40, 60, 40):
        store(run, step, group(recorded(step)))
    assert stored_steps(run) == [40, 60]
    assert [p.name for p in sorted(run.batches.iterdir())] == ["step_000040", "step_000060"]
    assert not load_batch(run, 60).truncated
    with pytest.raises(RunDirError, match=r"no batch of step 20: stored are the steps \[40, 60\]; .*save_batch_every"):
        load_batch(run, 20)


def test_a_full_disk_leaves_the_older_batches_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    store(run, 20, group(recorded(0)))

    def full(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class WrappedByRay(RuntimeError):
        cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_in_the_actor(directory: Path) -> None:
        raise WrappedByRay

    def full_for_safetensors(directory: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    message = r"disk full: could not write .*step_000040 .*MiB free"
    for save_policy in (full, full_in_the_actor, full_for_safetensors):
        with pytest.raises(RunDirError, match=message):
            save_batch(run, 40, 39, group(recorded(0)), RolloutConfig(), save_policy, 1)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        with pytest.raises(RunDirError, match=message):
            store(run, 40, group(recorded(0)), keep=1)
    assert [p.name for p in run.batches.iterdir()] == ["step_000020"]
    with pytest.raises(KeyError):  # other errors stay what they are
        save_batch(run, 40, 39, [], RolloutConfig(), lambda directory: {}[directory], 1)


def test_a_damaged_batch_says_so(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    path = store(run, 20, group(recorded(0))) / "tokens.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunDirError, match=r"step_000020 is damaged .*; remove it"):
        load_batch(run, 20)


def test_halves_that_do_not_belong_together() -> None:
    arrays, _ = flatten(group(recorded(0), recorded(1)))
    _, described = flatten(group(recorded(0)))
    with pytest.raises(ValueError, match=r"other numbers of rows than tokens\.npz has: tokens"):
        unflatten(arrays, described)


def test_which_steps_are_stored() -> None:
    stored = [step for step in range(1, 51) if TrackingConfig(save_batch_every=20).saves_batch(step, 50)]
    assert stored == [20, 40, 50]
    assert not any(TrackingConfig(save_batch_every=0).saves_batch(step, 50) for step in range(1, 51))
    with pytest.raises(ValueError, match=r"tracking\.save_batch_every=-1: must be 0"):
        TrackingConfig(save_batch_every=-1)
    with pytest.raises(ValueError, match=r"tracking\.keep_batches=0: must be at least 1"):
        TrackingConfig(keep_batches=0)

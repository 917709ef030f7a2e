"""One step's batch on disk, whole: what `rl-doctor attribute=true` needs to run that step's forward pass again.

    runs/<name>/batches/step_000020/
      batch.json       step, version, sampling settings, groups and trajectories without their per-token arrays
      tokens.npz       per-token arrays of all segments, one after the other (no pickle inside)
      policy/          the weights the learner had BEFORE the step, in Hugging Face format, with the tokenizer

The arrays are ``tokens``, ``loss_mask``, ``logprobs``, ``versions`` [T of all segments], ``valid`` [T of the segments
with a replay record], ``experts`` [.., L_moe, K] and ``indexer`` [.., layers, k] (of those that recorded them) and the
sampling support as ragged rows: ``support_size`` (-1: nothing was cut) and ``support_ids``. A batch is written beside
its place and renamed into it: one that can be seen is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.types import StopReason
from rl.policy.handover import GroupRefs, opened, whole
from rl.run.beside import FETCH_S, Beside
from rl.tracking.rundir import RunDir, RunDirError, explained, step_name, write_atomic
from rl.types import Group, ReplayRecord, Segment, Trajectory, Usage

if TYPE_CHECKING:
    from rl.rollout.config import RolloutConfig

FORMAT = 1
SAMPLING = ("temperature", "top_p", "top_k", "min_p")  # fields of the rollout config kept with a batch
_TOKEN_ARRAYS = ("tokens", "loss_mask", "logprobs", "versions")
_RECORDS = ("experts", "indexer")


@dataclass
class StoredBatch:
    """``groups`` as the learner got them at ``step``; ``policy``: directory of its weights then, version ``version``.

    ``sampling``: temperature, top_p, top_k and min_p of the rollouts.
    """

    step: int
    version: int
    sampling: dict[str, float]
    groups: list[Group]
    policy: Path

    @property
    def truncated(self) -> bool:
        """Whether the sampler cut low-probability tokens."""
        s = self.sampling
        return s["top_p"] < 1 or s["top_k"] > 0 or s["min_p"] > 0


def save_batch(
    run: RunDir,
    step: int,
    version: int,
    groups: Sequence[Group],
    rollout: RolloutConfig,
    save_policy: Callable[[Path], None],
    keep: int,
    beside: Beside | None = None,
) -> Path:
    """Write ``batches/step_<step>`` and remove all but the newest ``keep``; returns its path.

    ``rollout``: the settings it was sampled with; ``save_policy(directory)`` writes the weights of ``version``
    (``LearnerHandle.save_policy``). ``beside``: where records that the driver does not hold are written.
    Raises RunDirError (disk full, no permission) with the older batches untouched.
    """
    target = run.batches / step_name(step)
    partial = run.batches / f".partial_{target.name}"
    with explained(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            save_policy(partial / "policy")
            given = [group.refs or group for group in groups]
            if any(group.refs is not None for group in groups):  # the driver does not hold their records
                beside = beside or Beside()
                described = beside.get(beside.call(write_arrays, partial / "tokens.npz", given))
            else:
                described = write_arrays(partial / "tokens.npz", given)
            head = {
                "format": FORMAT,
                "step": step,
                "version": version,
                "sampling": {n: getattr(rollout, n) for n in SAMPLING},
            }
            write_atomic(partial / "batch.json", json.dumps(head | {"groups": described}, default=np.generic.item))
            shutil.rmtree(target, ignore_errors=True)  # a resumed run repeats steps
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    for old in stored_steps(run)[:-keep]:
        shutil.rmtree(run.batches / step_name(old))
    return target


def stored_steps(run: RunDir) -> list[int]:
    """Steps whose batch is stored, ascending."""
    return sorted(int(p.name.removeprefix("step_")) for p in run.batches.glob("step_*"))


def load_batch(run: RunDir, step: int | None = None) -> StoredBatch:
    """The batch of ``step``, default the newest one.

    Raises RunDirError when it is not there (with the steps that are) or damaged.
    """
    steps = stored_steps(run)
    if step is None and steps:
        step = steps[-1]
    if step is None or step not in steps:
        there = f"stored are the steps {steps}" if steps else "none is stored"
        wanted = "" if step is None else f" of step {step}"
        raise RunDirError(
            f"run '{run.name}' has no batch{wanted}: {there}; tracking.save_batch_every=20 stores one every 20 steps "
            "and the last, tracking.keep_batches says how many stay"
        )
    directory = run.batches / step_name(step)
    try:
        head = json.loads((directory / "batch.json").read_text())
        if head["format"] != FORMAT:
            raise RunDirError(f"{directory} has batch format {head['format']}; this version reads format {FORMAT}")
        with np.load(directory / "tokens.npz", allow_pickle=False) as stored:
            groups = unflatten({name: stored[name] for name in stored.files}, head["groups"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RunDirError(f"{directory} is damaged ({error}); remove it and take another step") from error
    return StoredBatch(step, head["version"], head["sampling"], groups, directory / "policy")


def write_arrays(path: Path, groups: Sequence[Group | GroupRefs]) -> list[dict[str, Any]]:
    """Write the arrays of ``groups`` to ``path``; gives the rest of them, as JSON values."""
    arrays, described = flatten([whole(group) for group in opened(groups, FETCH_S)])
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    return described


def flatten(groups: Sequence[Group]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """(arrays, groups as JSON values): the two halves that ``unflatten`` puts together again.

    Raises ValueError when segments recorded different numbers of layers or choices.
    """
    segments = [s for g in groups for t in g.trajectories for s in t.segments]
    records = [s.replay for s in segments if s.replay is not None]
    supports = [row for r in records if r.support is not None for row in r.support]
    arrays = {name: _joined([getattr(s, name) for s in segments]) for name in _TOKEN_ARRAYS}
    arrays["valid"] = _joined([r.valid for r in records])
    for name in _RECORDS:
        if rows := [value for r in records if (value := getattr(r, name)) is not None]:
            arrays[name] = _joined(rows)
    if any(r.support is not None for r in records):
        arrays["support_size"] = np.array([-1 if row is None else len(row) for row in supports], np.int32)
        arrays["support_ids"] = _joined([row for row in supports if row is not None])
    return arrays, [_group_json(g) for g in groups]


def unflatten(arrays: Mapping[str, np.ndarray], described: Sequence[Mapping[str, Any]]) -> list[Group]:
    """Inverse of ``flatten``. Raises ValueError or KeyError when the halves do not belong together."""
    taken = dict.fromkeys(arrays, 0)

    def take(name: str, count: int) -> np.ndarray:
        start = taken[name]
        taken[name] = start + count
        return arrays[name][start : start + count]

    def support_row() -> np.ndarray | None:
        size = int(take("support_size", 1)[0])
        return None if size < 0 else take("support_ids", size)

    def segment(length: int, recorded: Sequence[str] | None) -> Segment:
        tokens, loss_mask, logprobs, versions = (take(name, length) for name in _TOKEN_ARRAYS)
        replay = None
        if recorded is not None:
            choices = {name: take(name, length) for name in _RECORDS if name in recorded}
            support = [support_row() for _ in range(length)] if "support" in recorded else None
            replay = ReplayRecord(take("valid", length), support=support, **choices)
        return Segment(tokens, loss_mask, logprobs, versions, replay)

    groups = []
    for group in described:
        trajectories = [
            Trajectory(
                **{k: v for k, v in t.items() if k not in ("segments", "stop_reason", "usage")},
                stop_reason=StopReason(t["stop_reason"]),
                usage=Usage(**t.get("usage", {})),  # batches of older versions have none
                segments=[segment(s["length"], s["recorded"]) for s in t["segments"]],
            )
            for t in group["trajectories"]
        ]
        groups.append(Group(**{**group, "trajectories": trajectories}))
    if wrong := [name for name, values in arrays.items() if taken[name] != len(values)]:
        raise ValueError(f"batch.json describes other numbers of rows than tokens.npz has: {', '.join(wrong)}")
    return groups


def _group_json(group: Group) -> dict[str, Any]:
    return {f.name: getattr(group, f.name) for f in fields(Group) if f.name not in ("handed", "refs")} | {
        "trajectories": [
            {f.name: getattr(t, f.name) for f in fields(Trajectory)}
            | {
                "stop_reason": t.stop_reason.value,
                "segments": [_segment_json(s) for s in t.segments],
                "usage": asdict(t.usage),
            }
            for t in group.trajectories
        ]
    }


def _segment_json(segment: Segment) -> dict[str, Any]:
    """Length, and which choices were recorded (None: no replay record at all)."""
    record = segment.replay
    names = None if record is None else [n for n in (*_RECORDS, "support") if getattr(record, n) is not None]
    return {"length": len(segment), "recorded": names}


def _joined(rows: Sequence[np.ndarray]) -> np.ndarray:
    if not rows:
        return np.zeros(0, np.int32)
    shapes = {row.shape[1:] for row in rows}
    if len(shapes) > 1:
        raise ValueError(f"replay records of different [layers, choices] shapes in one batch: {sorted(shapes)}")
    return np.concatenate(rows)

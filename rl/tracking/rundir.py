"""One run on disk. Nothing here needs an account, a network or a running process to be read again.

    runs/<name>/
      config.yaml                    the resolved config
      metrics.jsonl                  one line per logged step: {"stage", "step", "time", <metric>: <number>}
      trajectories/step_000012.jsonl one line per rollout (also eval_before.jsonl, eval_after.jsonl)
      summary.json                   the end result (rl.tracking.summary)
      report.html                    the readable report (rl.tracking.report)
      batches/step_000020/           the batch of a step and the weights it was trained from (rl.run.batches)
      diagnose/step_000020.json      what rl-doctor attribute=true found in it
      doctor.html                    what rl-doctor found in the whole (rl.tracking.findings)
      checkpoints/  bad_batches/     written by the learner

``metrics.jsonl`` is append-only and fsynced at every line. A resumed run repeats the steps after its last
checkpoint: readers take the last line of a (stage, step). The other files are replaced atomically.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from envs.url_secrets import without_credentials
from rl.types import Segment, Trajectory

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunDirError(RuntimeError):
    """A record of the run could not be written or read; the message names the file and the fix."""


class RunDir:
    """The folder of one run.

    Args:
        path: ``runs/<name>``.
        make: create it with its sub-folders when they are missing.
    """

    def __init__(self, path: str | Path, *, make: bool = True) -> None:
        self.path = Path(path)
        self._appending = False
        if not make:
            return
        with explained(self.path):
            for folder in (self.path, self.trajectories, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def new(cls, runs_dir: str | Path, stem: str) -> RunDir:
        """A folder of its own: ``<runs_dir>/<stem>``, else ``<stem>-2``, ``<stem>-3``, … whichever is free first.

        Making the folder is what takes the name, so two runs that start at the same moment never share one.
        """
        runs = Path(runs_dir)
        with explained(runs):
            runs.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                path = runs / (stem if number == 1 else f"{stem}-{number}")
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                return cls(path)
        raise AssertionError("unreachable: count() does not end")

    @classmethod
    def existing(cls, path: str | Path) -> RunDir:
        """The run at ``path``, which must be there: for readers, which must not make empty runs.

        Raises:
            RunDirError: there is no run at ``path``.
        """
        if not (Path(path) / "config.yaml").exists() and not (Path(path) / "metrics.jsonl").exists():
            raise RunDirError(f"no run at '{path}': it has neither config.yaml nor metrics.jsonl")
        return cls(path, make=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def trajectories(self) -> Path:
        return self.path / "trajectories"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def bad_batches(self) -> Path:
        return self.path / "bad_batches"

    @property
    def batches(self) -> Path:
        return self.path / "batches"

    @property
    def diagnoses(self) -> Path:
        return self.path / "diagnose"

    @property
    def doctor(self) -> Path:
        return self.path / "doctor.html"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    # ------------------------------------------------------------------ writing

    def write_config(self, yaml_text: str) -> None:
        """Keep the resolved config (``OmegaConf.to_yaml(cfg, resolve=True)``), without what URLs in it keep secret."""
        write_atomic(self.config, without_credentials(yaml_text))

    def log_metrics(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line and fsync it. NaN and infinities become null: JSON has no word for them."""
        row: dict[str, Any] = {"stage": stage, "step": step, "time": round(time.time(), 3)}
        for key, value in metrics.items():
            if key in row:
                raise ValueError(f"metric '{key}' of stage '{stage}' collides with a column; rename it")
            number = float(value)
            row[key] = number if math.isfinite(number) else None
        if not self._appending:  # only a writer may cut: a reader could meet a line that is being written
            _cut_unfinished_line(self.metrics)
            self._appending = True
        _append(self.metrics, json.dumps(row))

    def append_trajectory(self, name: str, trajectory: Trajectory, *, tokens: bool = True) -> None:
        """One more line of ``trajectories/<name>.jsonl``, fsynced: where episodes end one by one."""
        _append(self.trajectories / f"{name}.jsonl", json.dumps(trajectory_json(trajectory, tokens=tokens)))

    def log_trajectories(self, name: str, trajectories: Iterable[Trajectory], *, tokens: bool = True) -> Path:
        """Write ``trajectories/<name>.jsonl`` (name: ``step_name(12)``, ``eval_before``, …) and fsync it."""
        path = self.trajectories / f"{name}.jsonl"
        lines = (json.dumps(trajectory_json(t, tokens=tokens)) for t in trajectories)
        write_atomic(path, "".join(line + "\n" for line in lines))
        return path

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomic(self.summary, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")

    # ------------------------------------------------------------------ reading

    def read_metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Rows in order of first appearance; of a repeated (stage, step) the last row counts."""
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for row in read_jsonl(self.metrics):
            if stage is None or row["stage"] == stage:
                rows[(row["stage"], row["step"])] = row
        return list(rows.values())

    def read_trajectories(self, name: str) -> list[dict[str, Any]]:
        return list(read_jsonl(self.trajectories / f"{name}.jsonl"))

    def trajectory_names(self) -> list[str]:
        return sorted(path.stem for path in self.trajectories.glob("*.jsonl"))

    def read_summary(self) -> dict[str, Any]:
        """The summary, or {} while the run has not written one."""
        return json.loads(self.summary.read_text()) if self.summary.exists() else {}


def step_name(step: int) -> str:
    """File stem of one training step's trajectories: ``step_000012``."""
    return f"step_{step:06d}"


def trajectory_json(trajectory: Trajectory, *, tokens: bool = True) -> dict[str, Any]:
    """One trajectory as JSON values: the readable view, and the token truth when ``tokens``.

    Segments are stored as all token ids plus the sampled spans ``{start, end, version, logprobs}``; loss mask
    and versions follow from the spans. Replay records (experts) are not stored.
    """
    versions = [int(v) for s in trajectory.segments for v in np.unique(s.versions[s.loss_mask])]
    row: dict[str, Any] = {
        "id": trajectory.id,
        "task_id": trajectory.task_id,
        "family": trajectory.family,
        "reward": _json_number(trajectory.reward),
        "reward_parts": {k: _json_number(v) for k, v in trajectory.reward_parts.items()},
        "stop_reason": trajectory.stop_reason.value,
        "failure_kind": trajectory.failure_kind,
        "failure_detail": trajectory.failure_detail,
        "turns": trajectory.turns,
        "counts": dict(trajectory.counts),
        "sampled_tokens": trajectory.sampled_tokens,
        "total_tokens": trajectory.total_tokens,
        "usage": asdict(trajectory.usage),
        "version_min": min(versions, default=None),
        "version_max": max(versions, default=None),
        "wall_s": round(trajectory.wall_s, 3),
        "messages": trajectory.messages,
    }
    if tokens:
        row["segments"] = [
            {"tokens": segment.tokens.tolist(), "spans": _spans(segment)} for segment in trajectory.segments
        ]
    return row


def write_atomic(path: Path, text: str) -> None:
    """Replace ``path`` in one step: readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        try:
            # A policy can write half a surrogate pair; that must not end the run.
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _append(path: Path, line: str) -> None:
    """``line`` at the end of ``path``, on the disk when this returns."""
    with explained(path), path.open("ab") as file:
        size = file.tell()
        try:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)  # no half line stays when the disk is full
            raise


def _spans(segment: Segment) -> list[dict[str, Any]]:
    """Maximal runs of sampled tokens of one policy version."""
    spans: list[dict[str, Any]] = []
    for start, end in _runs(segment.loss_mask, segment.versions):
        spans.append(
            {
                "start": start,
                "end": end,
                "version": int(segment.versions[start]),
                "logprobs": [round(float(x), 6) for x in segment.logprobs[start:end]],
            }
        )
    return spans


def _runs(mask: np.ndarray, versions: np.ndarray) -> Iterator[tuple[int, int]]:
    keys = list(zip(mask.tolist(), np.where(mask, versions, -1).tolist(), strict=True))
    start = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[start]:
            if mask[start]:
                yield start, end
            start = end


def _json_number(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in the lines of ``path``, none where there is no file; a line that is being written is left out.

    Raises RunDirError for a line that is no JSON.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return  # a writer is in the middle of this line
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise RunDirError(
                    f"{path} line {number} is not JSON ({error.msg}); remove that line to read the rest"
                ) from error


def _cut_unfinished_line(path: Path) -> None:
    """Drop what a killed run left of its last line."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the usual OSErrors into messages that say what to do."""
    try:
        yield
    except Exception as error:
        number = _os_error_number(error)
        if number in _DISK_FULL:
            parent = next(p for p in (path, *path.parents) if p.exists())
            free = shutil.disk_usage(parent).free / 2**20
            raise RunDirError(
                f"disk full: could not write {path} ({free:.0f} MiB free). Free some space or put the "
                "run's folder on another disk, then go on with resume"
            ) from error
        if number in (errno.EACCES, errno.EROFS):
            raise RunDirError(
                f"no permission to write {path}: {os.strerror(number)}; choose another run folder"
            ) from error
        raise


def _os_error_number(error: Exception) -> int | None:
    """errno of ``error``, also where Ray wraps it (``cause``) or safetensors only writes it into its message."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, OSError):
        return cause.errno
    found = re.search(r"\(os error (\d+)\)", str(cause))
    return int(found[1]) if found else None

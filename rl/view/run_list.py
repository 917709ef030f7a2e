"""The runs of a directory, each as one line: what it is, how far it is, what it reached.

Everything is read from the run's files (``rl.tracking.rundir``) and kept until they change. A broken file makes a
figure unknown, never the page fail.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rl.tracking.rundir import RunDir

T = TypeVar("T")
ACTIVE_S = 180.0  # a run whose files changed within so many seconds counts as running
_TAIL = 1 << 18  # bytes from the end of metrics.jsonl in which its last rows are looked for
_NUMBER = re.compile(r"(\d+)")


class NotThere(Exception):
    """A run, a file or a rollout that was asked for is not there; the message says which."""


@dataclass(frozen=True)
class RunLine:
    """One run. ``state``: running, finished, or stopped (no end is on record and nothing changes any more)."""

    name: str
    state: str
    step: int | None  # of the last GRPO row
    steps: int | None  # as configured
    before: float | None  # held-out avg@k
    after: float | None
    changed: float  # seconds since the epoch
    families: tuple[str, ...]
    held_out: bool = True  # else ``after`` is of tasks that nobody has held out (rl-gateway), and there is no before


class Kept:
    """What was made of a file, until the file changes."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, Path], tuple[tuple[int, int, int], Any]] = {}

    def get(self, what: str, path: Path, make: Callable[[Path], T]) -> T | None:
        """``make(path)``; None when the file is not there or cannot be read."""
        try:
            stat = path.stat()
            mark = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            known = self._found.get((what, path))
            if known is None or known[0] != mark:
                known = (mark, make(path))
                self._found[what, path] = known
        except (OSError, ValueError):
            return None
        made: T = known[1]
        return made


class Runs:
    """The runs in ``directory``, which need not be there yet."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._kept = Kept()

    def names(self) -> list[str]:
        """Names of all runs, alphabetical."""
        try:
            entries = sorted(os.listdir(self.directory))
        except OSError:
            return []
        # A name that is no UTF-8 has no URL.
        return [name for name in entries if _is_run(self.directory / name) and name.isprintable()]

    def open(self, name: str) -> RunDir:
        """The run ``name``. Raises NotThere when the directory has none of that name; a path is no name."""
        if name not in self.names():
            raise NotThere(f"no run '{name}' in {self.directory}")
        return RunDir(self.directory / name, make=False)

    def lines(self) -> list[RunLine]:
        """All runs, the one that changed last first."""
        return sorted((self.line(self.open(name)) for name in self.names()), key=lambda run: -run.changed)

    def line(self, run: RunDir) -> RunLine:
        summary = self.summary(run)
        before, after = (_overall(summary, name) for name in ("eval_before", "eval_after"))
        families = ((summary.get("eval_after") or summary.get("eval_before") or {}).get("families")) or {}
        changed = max((_mtime(path) for path in (run.config, run.metrics, run.summary, run.trajectories)), default=0.0)
        steps = self.config(run).get("steps")
        return RunLine(
            name=run.name,
            state=_state(run, summary, changed),
            step=self._kept.get("step", run.metrics, _last_step),
            steps=steps if isinstance(steps, int) else None,
            before=before,
            after=after,
            changed=changed,
            families=tuple(sorted(families)),
            held_out="evaluated" not in summary,
        )

    def summary(self, run: RunDir) -> dict[str, Any]:
        """summary.json; {} while there is none that can be read."""
        return self._kept.get("summary", run.summary, _json_object) or {}

    def config(self, run: RunDir) -> dict[str, Any]:
        """config.yaml; {} when there is none that can be read."""
        return self._kept.get("config", run.config, _yaml_object) or {}


def trajectory_files(run: RunDir) -> list[str]:
    """Names of all trajectories files of a run in the order of training: ``eval_before``, ``step_000001``, …,
    ``eval_after``; those of a stage of its own with its folder (``stages/search/step_000001``)."""
    found = [f"{path.stem}" for path in run.trajectories.glob("*.jsonl")]
    for folder in sorted(run.path.glob("stages/*/trajectories")):
        found += [f"stages/{folder.parent.name}/{path.stem}" for path in folder.glob("*.jsonl")]
    return sorted((name for name in found if not name.rpartition("/")[2].startswith(".")), key=_in_order)


def trajectory_path(run: RunDir, name: str) -> Path:
    """The file of ``name``. Raises NotThere when the run has no such file."""
    if name not in trajectory_files(run):
        raise NotThere(f"run '{run.name}' has no trajectories '{name}'")
    folder, _, stem = name.rpartition("/")
    return (run.path / folder if folder else run.path) / "trajectories" / f"{stem}.jsonl"


def _in_order(name: str) -> tuple[Any, ...]:
    folder, _, stem = name.rpartition("/")
    place = {"eval_before": 0, "eval_after": 3}.get(stem, 1 if stem.startswith("step_") else 2)
    return (folder, place, [int(part) if part.isdigit() else part for part in _NUMBER.split(stem)])


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.yaml", "metrics.jsonl", "summary.json"))


def _state(run: RunDir, summary: dict[str, Any], changed: float) -> str:
    # rl-eval writes the policies' names and its report last; rl-train ends with eval_after, which rl-gateway writes as
    # episodes end: there the report is last.
    if run.report.is_file() if "evaluated" in summary else "eval_after" in summary or "policies" in summary:
        return "finished"
    if time.time() - changed < ACTIVE_S:
        return "running"
    return "finished" if _mtime(run.report) >= _mtime(run.metrics) > 0 else "stopped"


def _overall(summary: dict[str, Any], name: str) -> float | None:
    value = (summary.get(name) or {}).get("overall")
    return float(value) if isinstance(value, (int, float)) else None


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _last_step(path: Path) -> int | None:
    """Step of the last row of a GRPO stage among the last rows of metrics.jsonl."""
    for line in _lines_from_the_end(path):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and str(row.get("stage", "")).startswith("grpo"):
            return int(row["step"])
    return None


def _lines_from_the_end(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        lines = file.read().split(b"\n")
    yield from reversed(lines[:-1])  # what follows the last line end is a line that is being written


def _json_object(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object")
    return found


def _yaml_object(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no mapping")
    return found

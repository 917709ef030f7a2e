"""Where every rollout lies in its file, and what it is found by. The rollouts themselves stay on disk.

A file is read once, line by line. Of each line only the head is parsed: ``rl.tracking.rundir.trajectory_json`` writes
messages and tokens last. A file that was replaced is read again, one that grew from where it ended.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from sys import intern
from threading import Lock
from typing import Any, NamedTuple

from rl.view.run_list import NotThere

ROWS_KEPT = 500_000  # heads that stay in memory, over all files; about 150 MB
_REST = b', "messages": '


class Head(NamedTuple):
    """What one rollout is found by, and its place: ``line`` counts from 0, ``offset`` and ``size`` are bytes."""

    line: int
    offset: int
    size: int
    id: str
    task: str
    family: str
    reward: float | None
    outcome: float | None
    stop: str
    failure: str | None
    turns: int
    tokens: int  # sampled


class FileIndex:
    """The heads of one file, as far as it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heads: list[Head] = []
        self.unreadable: list[int] = []  # numbers of lines, from 1, that are no rollout
        self._inode, self._end, self._lines = -1, 0, 0
        self._lock = Lock()

    def update(self) -> FileIndex:
        """Reads what is new. Raises NotThere when the file is gone."""
        with self._lock:
            try:
                file = self.path.open("rb")
            except OSError as error:
                raise NotThere(f"{self.path.name} is not there any more") from error
            with file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._end:
                    self.heads, self.unreadable = [], []
                    self._inode, self._end, self._lines = stat.st_ino, 0, 0
                file.seek(self._end)
                for data in file:
                    if not data.endswith(b"\n"):
                        break
                    self._add(data)
        return self

    def _add(self, data: bytes) -> None:
        try:
            self.heads.append(_head(_outline(data), self._lines, self._end, len(data)))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.unreadable.append(self._lines + 1)
        self._lines += 1
        self._end += len(data)

    def read(self, head: Head) -> dict[str, Any]:
        """The whole rollout. Raises NotThere when another one lies there by now."""
        row = _loaded(self.raw(head))
        if row.get("id") != head.id:
            raise NotThere(f"{self.path.name} was written anew meanwhile; load the page again")
        return row

    def raw(self, head: Head) -> bytes:
        """Its line as it is in the file."""
        with self.path.open("rb") as file:
            file.seek(head.offset)
            return file.read(head.size)


class TrajectoryIndex:
    """The files that were asked for last, ``ROWS_KEPT`` rollouts of them in all."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, FileIndex] = OrderedDict()
        self._lock = Lock()

    def file(self, path: Path) -> FileIndex:
        """The up-to-date index of the file at ``path``. Raises NotThere when there is none."""
        with self._lock:
            index = self._files.setdefault(path, FileIndex(path))
            self._files.move_to_end(path)
        index.update()
        with self._lock:
            kept = sum(len(one.heads) for one in self._files.values())
            while kept > ROWS_KEPT and len(self._files) > 1:
                _, oldest = self._files.popitem(last=False)
                kept -= len(oldest.heads)
        return index


def _outline(data: bytes) -> dict[str, Any]:
    """The members of a row before its messages; of a row in another order all."""
    cut = data.find(_REST)
    if cut > 0:
        try:
            found = json.loads(data[:cut] + b"}")
        except ValueError:  # what looked like the key is inside another member
            pass
        else:
            if isinstance(found, dict) and "stop_reason" in found:
                return found
    return _loaded(data)


def _loaded(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _head(row: Mapping[str, Any], line: int, offset: int, size: int) -> Head:
    parts = row.get("reward_parts") or {}
    failure = row.get("failure_kind")
    return Head(
        line=line,
        offset=offset,
        size=size,
        id=str(row["id"]),
        task=str(row["task_id"]),
        family=intern(str(row["family"])),
        reward=_number(row.get("reward")),
        outcome=_number(parts.get("score/outcome")),
        stop=intern(str(row["stop_reason"])),
        failure=None if failure is None else intern(str(failure)),
        turns=int(row.get("turns") or 0),
        tokens=int(row.get("sampled_tokens") or 0),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and isfinite(value) else None

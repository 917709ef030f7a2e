"""Finished groups on disk until a checkpoint holds what was learned from them: what a killed run has sampled and
scored is trained on when it resumes, and not sampled again.

    runs/<name>/finished/group_000123     SHA-256 of what follows, a line's end, the group as an .npz (no pickle inside)

A group is written when it reaches the driver, under its number, and removed once its training is in every checkpoint
that is kept, so a resume from an older one finds its groups too. Numbers count admissions: a resumed run admits the
same tasks under the same numbers, so the number says which group it is, and each is trained on once. Sampled again are
groups that were in flight, whose file is damaged (named), that are older than ``max_staleness`` allows when their turn
comes, and all of them when ``origin`` differs: their rewards or the meaning of their versions may have changed.

What the driver does not hold of a group (``rl.policy.handover``) it does not hold for this either: a process beside it
writes the file, and the driver goes on. A file is renamed into place and not fsynced: no kill of a process loses it. A
crash of the machine may lose or damage the newest ones, which the hash finds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rl.policy.handover import GroupRefs, PartsLost, with_records
from rl.run.batches import flatten, unflatten
from rl.run.beside import FETCH_S, Beside, WriterLost
from rl.tracking.rundir import explained
from rl.types import Group

FOLDER = "finished"
FORMAT = 1
_NAME = re.compile(r"group_(\d{6,})")
_HEAD = "group.json"  # the array that holds all but the other arrays, as JSON in UTF-8


class FinishedGroups:
    """The finished groups of one GRPO stage, in ``folder``.

    Args:
        origin: what the groups depend on beyond their task: a digest of settings and start policy.
        limit_bytes: of all files; the oldest groups give way, and would be sampled again.
        keep_checkpoints: how many checkpoints stay on disk.
        say: told, in a sentence, what cannot be used.
        beside: writes groups whose records the driver does not hold.
    """

    def __init__(
        self,
        folder: Path,
        origin: str,
        limit_bytes: int,
        keep_checkpoints: int,
        say: Callable[[str], None] = print,
        beside: Beside | None = None,
    ) -> None:
        self.folder, self.origin = folder.absolute(), origin  # the process beside has another working directory
        self._limit, self._say = limit_bytes, say
        self._firsts: deque[int] = deque(maxlen=keep_checkpoints)  # by checkpoint: the first group not trained in it
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for stray in folder.glob(".*"):  # of a driver that was killed while it wrote
                stray.unlink()
        self._bytes = {number: path.stat().st_size for number, path in stored(folder).items()}
        self._of_before = set(self._bytes)  # what an earlier driver has left: only that can come back
        self.reused = 0  # groups that came from disk, in this process
        self._beside = beside
        self._writing: dict[int, Any] = {}  # groups that are being written beside the driver

    def begin(self, first: int) -> None:
        """The stage goes on with group ``first`` as the oldest that is not trained."""
        self._firsts.append(first)

    def put(self, group: Group) -> None:
        """Keep ``group``. Raises RunDirError when it, or one before it, cannot be written."""
        self._settle()
        if (size := sum(group.handed.values())) > self._limit:  # its file is no smaller: nothing need be fetched for it
            self._of_before.discard(group.id)
            self._written(group.id, size)
            return
        if group.refs is None:
            self._written(group.id, write(self._path(group.id), group, self.origin, self._limit))
            return
        self._beside = self._beside or Beside()
        path = self._path(group.id)
        self._writing[group.id] = self._beside.call(write, path, group.refs, self.origin, self._limit)
        self._of_before.discard(group.id)

    def flush(self) -> None:
        """Return when all that was put is on disk. Raises as ``put``."""
        self._settle(wait=True)

    def _settle(self, wait: bool = False) -> None:
        """Note what has been written beside the driver since."""
        for number, ref in list(self._writing.items()):
            assert self._beside is not None
            if not (wait or self._beside.ready(ref)):
                continue
            del self._writing[number]
            try:
                self._written(number, self._beside.get(ref))
            except (PartsLost, WriterLost) as error:
                self._say(f"group {number} is not kept for a resume: {error}")

    def _written(self, number: int, size: int) -> None:
        """Group ``number`` is in its file, or was too large for it: then ``size`` is above the limit."""
        if size > self._limit:
            self._say(
                f"group {number} is not kept for a resume: it has {size / 2**20:,.1f} MiB, and "
                f"keep_finished_mb={self._limit / 2**20:g}"
            )
            return
        self._bytes[number] = size
        self._of_before.discard(number)
        for oldest in sorted(self._bytes):
            if sum(self._bytes.values()) <= self._limit:
                break
            self._drop(oldest)

    def take(self, number: int, task_index: int, version: int, max_staleness: int) -> Group | None:
        """Group ``number`` as an earlier driver left it, or None where its task has to be run.

        ``version``: of the weights that it will be trained from.
        """
        if number not in self._of_before:
            return None
        self._of_before.discard(number)
        wrong, group = "", None
        try:
            group, origin = decoded(self._path(number).read_bytes())
            if origin != self.origin:
                wrong = "the run's settings or its start policy have changed since"
            elif (group.id, group.task_index) != (number, task_index):
                wrong = f"it is of task {group.task_index}, and task {task_index} is next"
            elif not 0 <= version - group.version <= max_staleness:
                wrong = f"it is of version {group.version}, too old for version {version}"
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            wrong = f"{self._path(number)} is damaged ({error})"
        if wrong or group is None:
            self._say(f"warning: finished group {number} is sampled again: {wrong}")
            self._drop(number)
            return None
        self.reused += 1
        return group

    def checkpoint(self, first: int) -> None:
        """A checkpoint is on disk in which all groups before ``first`` are trained."""
        self._firsts.append(first)
        self.flush()
        for number in [n for n in self._bytes if n < self._firsts[0]]:
            self._drop(number)

    def clear(self) -> None:
        """The stage is over and its last checkpoint written."""
        self.flush()
        for number in list(self._bytes):
            self._drop(number)

    def _drop(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)
        del self._bytes[number]
        self._of_before.discard(number)

    def _path(self, number: int) -> Path:
        return self.folder / f"group_{number:06d}"


def stored(folder: Path) -> dict[int, Path]:
    """Files of finished groups in ``folder`` by number."""
    return {int(found[1]): path for path in folder.glob("group_*") if (found := _NAME.fullmatch(path.name))}


def write(path: Path, group: Group | GroupRefs, origin: str, limit: int) -> int:
    """Write ``group`` to ``path``; the size of its file, which is not written above ``limit``. Raises RunDirError."""
    (found,) = with_records([group], FETCH_S)
    content = encoded(found, origin)
    if len(content) > limit:
        return len(content)
    temporary = path.with_name(f".{path.name}.tmp")
    with explained(path):
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return len(content)


def encoded(group: Group, origin: str) -> bytes:
    """``group`` as the content of its file."""
    arrays, described = flatten([group])
    head = json.dumps({"format": FORMAT, "origin": origin, "groups": described}, default=np.generic.item)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_HEAD: np.frombuffer(head.encode(), np.uint8)}, **arrays)
    body = buffer.getvalue()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decoded(content: bytes) -> tuple[Group, str]:
    """Inverse of ``encoded``: the group and its origin. Raises ValueError, KeyError or BadZipFile for anything else."""
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its content is not what was written")
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        head = json.loads(arrays[_HEAD].tobytes())
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']}; this version reads {FORMAT}")
        (group,) = unflatten({name: arrays[name] for name in arrays.files if name != _HEAD}, head["groups"])
    return group, str(head["origin"])

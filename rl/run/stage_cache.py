"""Finished stages are kept and reused: ``cache/<stage>-<key>/`` holds a stage's output.

The key is a SHA-256 over everything the stage depends on: its configuration, the keys of the stages before it,
and the code that it runs (``envs.closure``). Change any of them and the stage runs again; change nothing and it is
reused. ``inputs.json`` in the folder shows what the key was made of, without passwords.

A stage writes into a temporary folder that is renamed when it is complete. ``manifest.json``, written last, lists every
file with its size and SHA-256: an entry that does not match it is damaged, and is made again. What a killed stage left
behind is swept by the next one: a folder whose lock nobody holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.url_secrets import cleaned

if TYPE_CHECKING:
    from rl.tracking.progress import Progress, Stage

INPUTS, MANIFEST, _LOCK = "inputs.json", "manifest.json", ".lock"
_SCRATCH = ".stage-"
_YOUNG_S = 60.0  # a scratch folder younger than this is left alone


@dataclass(frozen=True)
class StageResult:
    """Where a stage's output lies, its key, and whether it was there already."""

    path: Path
    key: str
    reused: bool


def tree_hash(directory: str | Path) -> str:
    """SHA-256 over names and contents of all files below ``directory`` (a policy, a tokenizer)."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"no directory at '{directory}': give an existing policy directory, or base=scratch")
    digest = hashlib.sha256()
    for file in _files(directory):
        digest.update(str(file.relative_to(directory)).encode())
        digest.update(_about(file)["sha256"].encode())
    return digest.hexdigest()


def stage_key(inputs: dict[str, Any]) -> str:
    """Key of a stage from its JSON-serialisable inputs (hex, 16 digits)."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def cached_stage(
    title: str,
    name: str,
    inputs: dict[str, Any],
    directory: str | Path,
    progress: Progress,
    produce: Callable[[Path, Stage], object],
    total: int | None = None,
) -> StageResult:
    """Reuse the output of stage ``name`` for ``inputs`` below ``directory``, or make it by ``produce(folder, stage)``,
    with its progress shown as ``title`` (``total`` steps, if known)."""
    root, key = Path(directory), stage_key(inputs)
    target = root / f"{name}-{key}"
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    with _locked(root):
        fault = damage(target)
        if fault is None:
            progress.reused(title, str(target))
            return StageResult(target, key, reused=True)
        if os.path.lexists(target):
            progress.say(f"{title}: {target} is damaged ({fault}): made again")
            _remove(target)
    with progress.stage(title, total=total) as stage:
        _make(target, name, inputs, lambda out: produce(out, stage))
    return StageResult(target, key, reused=False)


def damage(entry: Path) -> str | None:
    """What is wrong with a cache entry, in words; None for a complete one."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text())
    except OSError:
        return f"no {MANIFEST}"
    except ValueError:
        return f"{MANIFEST} is not JSON"
    if not isinstance(manifest, dict) or INPUTS not in manifest:
        return f"{MANIFEST} is not a list of its files"
    for name, about in manifest.items():
        file = entry / name
        if not file.is_file():
            return f"{name} is missing"
        if about != _about(file):
            return f"{name} has changed"
    return None


def sweep(directory: Path) -> None:
    """Remove what killed stages left below ``directory``: scratch folders that no living process has locked."""
    for scratch in directory.glob(f"{_SCRATCH}*"):
        try:
            if time.time() - scratch.stat().st_mtime < _YOUNG_S:  # it may not have its lock yet
                continue
            with (scratch / _LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(scratch, ignore_errors=True)
        except OSError:  # its stage is running, or somebody else is removing it
            continue


def _make(target: Path, name: str, inputs: dict[str, Any], produce: Callable[[Path], object]) -> None:
    """Produce ``target``. When another process has made the same in the meantime, its output stays."""
    scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{name}-", dir=target.parent))
    with (scratch / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            produce(scratch)
            (scratch / INPUTS).write_text(json.dumps(cleaned(inputs), sort_keys=True, indent=1))
            listed = {str(file.relative_to(scratch)): _about(file) for file in _files(scratch) if file.name != _LOCK}
            (scratch / MANIFEST).write_text(json.dumps(listed, indent=1) + "\n")
            (scratch / _LOCK).unlink()
            with _locked(target.parent):
                if damage(target) is not None:
                    if os.path.lexists(target):
                        _remove(target)
                    os.replace(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One process at a time looks at the entries of ``root`` and changes them. Held for a check and a rename only."""
    with (root / _LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove(entry: Path) -> None:
    """Take a damaged entry away in one step, so that nobody sees half of it. Under the lock."""
    aside = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=entry.parent))
    os.replace(entry, aside / "damaged")
    shutil.rmtree(aside, ignore_errors=True)


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file())


def _about(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}

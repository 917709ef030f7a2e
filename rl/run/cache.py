"""Finished stages are kept and reused: ``cache/<stage>-<key>/`` holds a stage's output.

The key is a SHA-256 over everything the stage depends on: its configuration, the keys of the stages before it,
and the source files it runs. Change any of them and the stage runs again; change nothing and it is reused.
A stage writes into a temporary directory that is renamed when it is complete, so a kill leaves no half output.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOURCE_ROOT = Path(__file__).resolve().parents[2]


def source_hash(*packages: str) -> str:
    """SHA-256 over the Python files below ``packages`` (paths relative to the repository, files or folders)."""
    digest = hashlib.sha256()
    for package in packages:
        path = _SOURCE_ROOT / package
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        if not files:
            raise FileNotFoundError(f"source_hash: no Python file at '{package}'")
        for file in files:
            digest.update(str(file.relative_to(_SOURCE_ROOT)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def tree_hash(directory: str | Path) -> str:
    """SHA-256 over names and contents of all files below ``directory`` (a policy, a tokenizer)."""
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"no directory at '{directory}': give an existing policy directory, or base=scratch")
    digest = hashlib.sha256()
    for file in sorted(p for p in directory.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(directory)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def stage_key(inputs: dict[str, Any]) -> str:
    """Key of a stage from its JSON-serialisable inputs (hex, 16 digits)."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StageResult:
    """Where a stage's output lies, its key, and whether it was there already."""

    path: Path
    key: str
    reused: bool


def run_stage(name: str, inputs: dict[str, Any], cache_dir: str | Path, produce: Callable[[Path], None]) -> StageResult:
    """Reuse the output of stage ``name`` for ``inputs``, or call ``produce(directory)`` to make it."""
    key = stage_key(inputs)
    target = Path(cache_dir) / f"{name}-{key}"
    if target.is_dir():
        return StageResult(target, key, reused=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        produce(scratch)
        (scratch / "inputs.json").write_text(json.dumps(inputs, sort_keys=True, indent=1))
        try:
            os.replace(scratch, target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(scratch)  # another run has made the same in the meantime
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return StageResult(target, key, reused=False)

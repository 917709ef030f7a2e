"""Where certificates lie, how they are written, and which of them fits a task set.

Those of a task set from files lie beside its data, ``data/certificates/``; all others in the folder that the
configuration names. A certificate is found by what it says, whatever its file is called. It is plain JSON: it proves
nothing against somebody who edits it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from envs.certificate.identity import Identity, data_files, differences, identity_of
from envs.certificate.verdicts import Result, failed
from envs.factory.store import write_atomic
from envs.mixture import families_of
from envs.taskset import Taskset
from envs.url_secrets import without_credentials

FORMAT = 1
FOLDER = "certificates"  # beside the data, and by default in the working directory
PACKAGE = "speciale-rl"
_MARK = "certificate"  # the key that says that a file is one, and in which format

State = Literal["valid", "failed", "stale", "damaged", "none"]


@dataclass(frozen=True)
class Found:
    """The certificate that fits a task set best. ``said``: what is wrong with it, or with what it says."""

    state: State
    said: str = ""
    path: Path | None = None
    certificate: Mapping[str, Any] | None = None


def certificate_of(
    taskset: Taskset, results: Mapping[str, Result], waived: Mapping[str, str], tasks: int, command: str,
    refused: Mapping[str, str] = {},
) -> dict[str, Any]:  # fmt: skip
    """A certificate, as JSON. ``tasks``: how many were looked at. Of ``waived`` what did not hold is kept. ``refused``:
    what of the source is no task, and why."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        _MARK: FORMAT,
        "date": now,
        "command": without_credentials(command),
        "package": f"{PACKAGE} {_version()}",
        "python": platform.python_version(),
        "tasks": tasks,
        "results": {row: dict(result) for row, result in results.items()},
        "waived": {row: reason for row, reason in waived.items() if results[row]["held"] is False},
        "task_set": identity_of(taskset).to_json(),
        **({"refused": dict(refused)} if refused else {}),
    }


def put(certificate: Mapping[str, Any], taskset: Taskset, folder: Path) -> Path:
    """Write a certificate beside the data, or into ``folder`` where that cannot be. Raises OSError: neither can be."""
    about = certificate["task_set"]
    digits = "".join(about[key]["sha256"][:6] for key in ("rows", "code"))
    family = _in_a_name(about["families"][0])
    text = json.dumps(certificate, indent=1, ensure_ascii=False) + "\n"
    *first, last = places(taskset, folder)
    for place in first:
        try:
            return _written(place / f"{family}-{digits}.json", text)
        except OSError:  # data that may only be read
            continue
    return _written(last / f"{family}-{digits}.json", text)


def find(taskset: Taskset, folder: Path) -> Found:
    """The certificate for ``taskset``: one that fits, the newest; else the one that fits best, and what has changed."""
    made_by = f"{type(taskset).__module__}.{type(taskset).__qualname__}"
    known = [one for one in _all(places(taskset, folder)) if one[1]["task_set"]["made_by"] == made_by]
    if not known:
        return _damaged(taskset, folder) or Found("none")
    looked_at: dict[str, Identity] = {}
    judged = []
    for path, certificate in known:
        sampled = certificate["task_set"]["rows"]
        key = f"{sampled.get('split')} {sampled.get('seed')}"
        if key not in looked_at:
            try:
                looked_at[key] = identity_of(taskset, sampled)
            except Exception as error:  # what makes its tasks is its author's code
                return Found("stale", f"its tasks cannot be made as they were: {error}", path, certificate)
        judged.append((differences(certificate["task_set"], looked_at[key]), path, certificate))
    fewest = min(len(changed) for changed, _, _ in judged)
    best = [one for one in judged if len(one[0]) == fewest]
    changed, path, certificate = max(best, key=lambda one: str(one[2]["date"]))
    if changed:
        return Found("stale", f"changed since: {', '.join(changed)}", path, certificate)
    if wrong := failed(certificate["results"], certificate["waived"]):
        said = "; ".join(f"{row}: {certificate['results'][row]['said']}" for row in wrong)
        return Found("failed", said, path, certificate)
    waived = "; ".join(f"{row} waived: {reason}" for row, reason in certificate["waived"].items())
    return Found("valid", waived, path, certificate)


def places(taskset: Taskset, folder: Path) -> list[Path]:
    """Folders in which its certificates are looked for, the one to write to first."""
    files = [Path(name) for name in data_files(taskset) if Path(name).exists()]
    return [*dict.fromkeys((path if path.is_dir() else path.parent) / FOLDER for path in files), folder]


def _damaged(taskset: Taskset, folder: Path) -> Found | None:
    """A file with the name of a certificate of ``taskset`` that is none, or is of another version of this package."""
    begins = f"{_in_a_name(families_of(taskset)[0])}-"
    for path, found in _read(places(taskset, folder)):
        if path.name.startswith(begins) and (fault := _fault(found)):
            return Found("damaged", fault, path)
    return None


def _all(folders: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    return ((path, found) for path, found in _read(folders) if not _fault(found))


def _read(folders: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
    """Every JSON file there with what it holds, or with the error of reading it."""
    for folder in folders:
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            try:
                yield path, json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                yield path, error


def _fault(found: Any) -> str | None:
    """Why what a file holds is no certificate; None for one."""
    if isinstance(found, Exception):
        return f"it cannot be read: {found}"
    if not isinstance(found, dict) or _MARK not in found:
        return "it is no certificate"
    if found[_MARK] != FORMAT:
        return f"its format is {found[_MARK]!r}, this version reads {FORMAT}"
    about = found.get("task_set")
    parts = {"date": str, "results": dict, "waived": dict, "task_set": dict, "tasks": int}
    missing = [name for name, kind in parts.items() if not isinstance(found.get(name), kind)]
    if isinstance(about, dict):
        whole = {field.name for field in fields(Identity)}
        missing += [f"task_set.{name}" for name in sorted(whole - set(about))]
    return f"it has no {missing[0]}" if missing else None


def _in_a_name(family: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in family)


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    return path


def _version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"

"""What an examination found, kept in the cache of this package: a set that opens again runs nothing again.

    found = remembered("swe_rows", [row, setup], SweState, lambda: examine(row))     # Verdicts, or raises RefusedError

The key is over what is given and the code that finds it. What a time limit stopped is not kept (another machine, or
this one later, may be quicker), nor what is to be fetched first.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from envs.closure import code_hash
from envs.code.release_tests import definition_of, turnable
from envs.code.repo_packages import cache_folder


class RefusedError(ValueError):
    """Something that a task needs cannot be had in the sandbox; says what, and where it stands."""


class StoppedError(RefusedError):
    """Another time it may be otherwise: a run took too long, a commit has not been fetched. It is not kept."""


@dataclass(frozen=True)
class Verdicts:
    """The tests that decide, by their ids: those that fail at the start, those that pass at the start, and those of
    both that fail where they are turned round (``release_tests``)."""

    f2p: tuple[str, ...]
    p2p: tuple[str, ...]
    deciding: frozenset[str]


def remembered(kind: str, about: Any, code: object, examine: Callable[[], Verdicts]) -> Verdicts:
    """``examine()``, or what it gave or raised before for ``about`` (JSON values) and the same ``code``."""
    key = json.dumps([about, sys.version, version("pytest"), code_hash(code)], sort_keys=True)
    digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:32]
    path = cache_folder().parent / kind / f"{digest}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if "cause" in kept:
            raise RefusedError(kept["cause"])
        return Verdicts(tuple(kept["f2p"]), tuple(kept["p2p"]), frozenset(kept["deciding"]))
    try:
        found = examine()
    except StoppedError:
        raise
    except RefusedError as error:
        _keep(path, {"cause": str(error)})
        raise
    _keep(path, {"f2p": found.f2p, "p2p": found.p2p, "deciding": sorted(found.deciding)})
    return found


def can_turn(texts: dict[str, str], tests: Collection[str]) -> dict[str, str]:
    """Where the tests are defined (path::qualified name) that can be turned round. Raises RefusedError for a test file
    that cannot be read."""
    found = {}
    for test in tests:
        try:
            place = definition_of(texts, test)
            if place is not None and place.partition("::")[2] in turnable(texts[place.partition("::")[0]]):
                found[test] = place
        except SyntaxError as error:
            here = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise RefusedError(f"the test file {test.partition('::')[0]} is no Python {here}: {error}") from error
    return found


def check_numbers(*bounds: tuple[str, float, float, float]) -> None:
    """(name, value, lowest, highest) each. Raises ValueError that names the setting."""
    for name, value, low, high in bounds:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{name}={value}: must be from {low} to {high}")


def check_folder(name: str, path: str | Path, what: str) -> Path:
    """The folder, absolute. Raises ValueError that names the setting where it is not given (``what`` it should be) or
    not there."""
    if not str(path):
        raise ValueError(f"{name} is missing: give the folder of {what}, env.{name}=FOLDER")
    if not Path(path).is_dir():
        raise ValueError(f"{name}={path}: there is no such folder")
    return Path(path).absolute()


def check_packages(names: Collection[str]) -> None:
    """Raise ValueError for a distribution that is not installed here."""
    if isinstance(names, str):
        raise ValueError(f"packages={names!r:.80}: must be a list, such as [attrs]")
    for name in names:
        try:
            distribution(name)
        except PackageNotFoundError as error:
            raise ValueError(f"packages: {name!r} is not installed: pip install {name!r}") from error


def _keep(path: Path, found: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(found), encoding="utf-8")
    fresh.rename(path)

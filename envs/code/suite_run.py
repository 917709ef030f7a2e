"""Runs pytest tests of any files in the sandbox: a state of a repository, and what is mounted beside it, no network.

    run = run_tests_of(Place(mounts={"site": folder}), files, ["tests/test_a.py"])        -> Run, as ``repo_run`` has it

All files are copied into the sandbox for one run, so nothing of another state can be read there, and no compiled cache
is stale.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.code.repo_run import Run, Verdict, guest_program, row_of_line, spent, tame
from envs.sandbox import Limits, Sandbox, SandboxResult

TOP = "/tmp/work"
# What a configuration asks for beyond the tests themselves: coverage, strictness, plugins that are not here
_OPTIONS = ("-o", "addopts=", "-o", "filterwarnings=", "-o", "required_plugins=", "-o", "xfail_strict=false")


@dataclass(frozen=True, eq=False)
class Place:
    """What a run has beside its files: ``mounts`` (name -> host folder, read-only in /mnt), ``base`` (the folder of the
    repository that imports begin at), ``plugins`` of pytest."""

    mounts: Mapping[str, Path] = field(default_factory=dict)
    base: str = ""
    plugins: tuple[str, ...] = ()


def run_tests_of(
    place: Place,
    files: Mapping[str, bytes],
    targets: Sequence[str],
    only: Collection[str] | None,
    limits: Limits,
    test_s: float,
    cover: bool = False,
    hash_seed: int = 0,
) -> Run:
    """Run the test files ``targets``; ``only``: of these the functions (file::Class::name). ``test_s``: CPU seconds of
    one test.

    ``cover`` records the functions each test enters. ``Run.unimportable`` tells of a test file that failed to import.
    """
    root = f"{TOP}/{place.base}" if place.base else TOP
    here = [target for target in targets if target in files]
    job = pytest_job(TOP, root, here, only, test_s, place.plugins, cover)
    return run_of(run_guest(place, files, job, limits, hash_seed))


def pytest_job(
    top: str, root: str, targets: Sequence[str], only: Collection[str] | None, test_s: float,
    plugins: Sequence[str] = (), cover: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """A job of ``repo_guest``: test files below ``top``, of code below ``root``."""
    return {
        "top": top,
        "root": root,
        "first": [],
        "doctests": [],
        "pytest": list(targets),
        "only": None if only is None else sorted(only),
        "options": [*_OPTIONS, *(word for name in plugins for word in ("-p", name))],
        "names": {},
        "test_s": test_s,
        "cover": cover,
        "stop": False,
    }


def run_of(result: SandboxResult) -> Run:
    """The verdicts in what ``repo_guest`` printed."""
    late = result.timed_out or result.exit_code in (-signal.SIGPROF, -signal.SIGXCPU)
    return run_of_rows(rows_of(result), late)


def rows_of(result: SandboxResult) -> Iterator[list[Any]]:
    """The rows that it printed."""
    return filter(None, map(row_of_line, result.stdout.split("\n")))


def run_of_rows(rows: Iterable[list[Any]], late: bool) -> Run:
    """The verdicts of one run. ``late``: it was stopped, unless a row says that it came to its end."""
    verdicts: dict[str, Verdict] = {}
    twice: set[str] = set()
    ended, unimportable = False, ""
    for row in rows:
        match row:
            case ["pytest", str(name), passed, dict(info), float(seconds), list(covered)]:
                if info.get("skipped"):
                    continue
                if name in verdicts:
                    twice.add(name)
                verdicts[name] = _verdict(passed, info, seconds, covered)
            case ["collect", str(name), str(message)]:
                unimportable = unimportable or f"{name}: {tame(message)}"
            case ["end", float(seconds)]:
                ended, spent["cpu_s"] = True, spent["cpu_s"] + seconds
    for name in twice:  # of the code under test, which may write anything
        verdicts[name] = Verdict(False, got="reported twice")
    late = late and not ended
    broken = "" if ended or late else "the tests ended the program"
    return Run(verdicts, timed_out=late, ended=ended, broken=broken, unimportable=unimportable)


def run_guest(
    place: Place, files: Mapping[str, bytes], job: Mapping[str, Any], limits: Limits, hash_seed: int = 0
) -> SandboxResult:
    """Run a job of ``repo_guest`` beside these files; {"script": code} is a program as it is."""
    base = f"{TOP}/{place.base}" if place.base else TOP
    job = {"top": TOP, "path": [*dict.fromkeys((base, TOP)), f"{TOP}/.installed", "/mnt/site", "/mnt"], **job}
    return Sandbox(limits).run_python(guest_program(), json.dumps(job), files, place.mounts, {}, hash_seed)


def _verdict(passed: Any, info: Mapping[str, Any], seconds: float, covered: list[Any]) -> Verdict:
    entered = tuple(name for name in covered if isinstance(name, str))
    if passed is True:
        return Verdict(True, seconds=seconds, covered=entered)
    got, inside = tame(str(info.get("message", ""))), str(info.get("inside") or "")
    return Verdict(False, "", "", got, passed is None, seconds, entered, inside=inside)

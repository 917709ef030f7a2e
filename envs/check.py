"""``envs-check``: does a taskset keep its promises? Run it before training on a new environment.

    envs-check search
    envs-check my_module.MyTaskset tasks=100 split=heldout levels=3

Tasks: well formed, the same in another order and in a process with another hash seed, some pass ``verify``, none
is in both splits (same key or same ``metadata["group"]``), they pickle, iteration resumes. Episodes: tool schemas,
the oracle solves every task twice in the same way and also as it comes back from a data set on disk, the novice
scores between 0 and the oracle, doing nothing and calling tools at random score about 0, scores are named numbers
in [0, 1] also for bad behaviour, cheats that need to know nothing of an environment (lists of answers, the question
copied, SQL and paths in arguments, forged output, texts without end: ``envs.cheats``) are paid like giving up, no call
is slow.
Exit code 0 when nothing failed, 1 when something did, 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from envs.behaviour import EpisodePromises
from envs.families import known, taskset_class
from envs.promises import Check, CheckFailed, Doubt, Skip, Subject, TaskPromises
from envs.taskset import Split, Taskset

Status = Literal["ok", "skipped", "WARNING", "FAILED"]
# Further checks, of the episodes that the others have played: what knows of tokens is no part of this package.
More = Callable[[EpisodePromises], list[Check]]


@dataclass(frozen=True)
class Finding:
    """Outcome of one check; ``detail`` holds the figure that was measured, or what is wrong."""

    check: str
    status: Status
    detail: str


def check_taskset(
    make: Callable[[Split], Taskset], tasks: int = 20, step_s: float = 10.0,
    origin: tuple[str, Mapping[str, Any]] | None = None, more: More | None = None,
) -> list[Finding]:  # fmt: skip
    """All checks of the taskset that ``make(split)`` builds, on its first ``tasks`` tasks of each split.

    ``origin``: the name and keywords it is made from, with which another process can make it too. ``more``: checks that
    come after these, of the same episodes.
    """
    subject = Subject(make, tasks, step_s, origin)
    episodes = EpisodePromises(subject)
    findings: list[Finding] = []
    for name, check in [*TaskPromises(subject).checks(), *episodes.checks(), *(more(episodes) if more else [])]:
        try:
            findings.append(Finding(name, "ok", check()))
        except Skip as reason:
            findings.append(Finding(name, "skipped", str(reason)))
        except Doubt as doubt:
            findings.append(Finding(name, "WARNING", str(doubt)))
        except CheckFailed as problem:
            findings.append(Finding(name, "FAILED", str(problem)))
        except Exception as error:  # the environment's own code raised: that is the finding
            findings.append(Finding(name, "FAILED", f"{type(error).__name__}: {error}"))
    return findings


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as keywords; values are JSON where they can be, else text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{pair!r} is not key=value")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


def main(
    argv: Sequence[str] | None = None, more: Callable[[dict[str, Any]], More] | None = None, its_settings: str = ""
) -> int:
    """``more(settings)`` takes the settings of further checks out of ``settings`` and gives the checks;
    ``its_settings`` describes them for ``--help``."""
    parser = argparse.ArgumentParser(
        prog="envs-check",
        description="Check a taskset and its environment: schemas, determinism, oracle, rewards, splits.",
    )
    parser.add_argument("taskset", help=f"one of {', '.join(known())}, or package.module.ClassName")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help=f"tasks=20 (how many), step_s=10 (seconds a turn may take){its_settings}; the rest goes to the taskset",
    )
    arguments = parser.parse_args(argv)
    sys.path.insert(0, "")  # a module in the current folder, also through the console script
    name = arguments.taskset.removeprefix("env=")
    try:
        settings = parse_settings(arguments.settings)
        tasks, step_s = int(settings.pop("tasks", 20)), float(settings.pop("step_s", 10.0))
        settings.pop("split", None)  # both splits are checked
        further = more(settings) if more else None
        cls = taskset_class(name)
        findings = check_taskset(lambda split: cls(split=split, **settings), tasks, step_s, (name, settings), further)
    except (ValueError, TypeError, ImportError) as error:
        print(f"envs-check: {error}", file=sys.stderr)
        return 2
    _print(name, findings)
    return int(any(finding.status == "FAILED" for finding in findings))


def _print(name: str, findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colors = {"ok": "green", "skipped": "yellow", "WARNING": "bold yellow", "FAILED": "bold red"}
    table = Table("check", "result", "detail", title=f"envs-check {escape(name)}", title_justify="left")
    for finding in findings:
        color = colors[finding.status]
        table.add_row(finding.check, f"[{color}]{finding.status}[/]", escape(finding.detail))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())

"""``envs-check``: does a taskset keep its promises? Run it before training on a new environment.

    envs-check search
    envs-check my_module.MyTaskset tasks=100 split=heldout levels=3

Tasks: well formed, the same in another order and in a process with another hash seed, some pass ``verify``, none
is in both splits (same key or same ``metadata["group"]``), they pickle, iteration resumes. Episodes: tool schemas,
the oracle solves every task twice in the same way and also as it comes back from a data set on disk, the novice
scores between 0 and the oracle, doing nothing and calling tools at random score about 0, the same calls are scored
the same twice, scores are named numbers in [0, 1] also for bad behaviour, cheats that need to know nothing of an
environment (lists of answers, the question copied, SQL and paths in arguments, forged output, texts without end:
``envs.cheats``) are paid like giving up, no call is slow.
What was found is written into a certificate (``envs.certificate``), for whoever trains on the task set later.
Exit code 0 when nothing failed, 1 when something did, 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from envs.behaviour import EpisodePromises
from envs.certificate.identity import command_of, parts_of
from envs.certificate.shelf import FOLDER, certificate_of, put
from envs.certificate.verdicts import ROWS, Result, check_waivers, failed, results_of, rows_behind
from envs.families import known, taskset_class
from envs.promises import Check, CheckFailed, Doubt, Finding, Skip, Subject, TaskPromises
from envs.taskset import Split, Taskset

SHOWN = 20  # refused tasks that are printed

# Further checks, of the episodes that the others have played: what knows of tokens is no part of this package.
More = Callable[[EpisodePromises], list[Check]]


@dataclass(frozen=True)
class Checked:
    """``findings`` of the checks of this package, ``further`` those of others, ``measured`` the figures."""

    subject: Subject
    findings: list[Finding]
    further: list[Finding]
    measured: Mapping[str, Mapping[str, Any]]


def check_taskset(
    make: Callable[[Split], Taskset], tasks: int = 20, step_s: float = 10.0,
    origin: tuple[str, Mapping[str, Any]] | None = None, more: More | None = None,
) -> list[Finding]:  # fmt: skip
    """All checks of the taskset that ``make(split)`` builds, on its first ``tasks`` tasks of each split.

    ``origin``: the name and keywords it is made from, with which another process can make it too. ``more``: checks that
    come after these, of the same episodes.
    """
    checked = run_checks(Subject(make, tasks, step_s, origin), more)
    return [*checked.findings, *checked.further]


def run_checks(subject: Subject, more: More | None = None) -> Checked:
    """All checks of ``subject``, then ``more``."""
    episodes = EpisodePromises(subject)
    findings = [_finding(*one) for one in (*TaskPromises(subject).checks(), *episodes.checks())]
    further = [_finding(*one) for one in (more(episodes) if more else ())]
    return Checked(subject, findings, further, episodes.measured)


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", check())
    except Skip as reason:
        return Finding(name, "skipped", str(reason))
    except Doubt as doubt:
        return Finding(name, "WARNING", str(doubt))
    except CheckFailed as problem:
        return Finding(name, "FAILED", str(problem))
    except Exception as error:  # the environment's own code raised: that is the finding
        return Finding(name, "FAILED", f"{type(error).__name__}: {error}")


def certify(
    checked: Checked, folder: Path | None, waived: Mapping[str, str], command: str | None = None
) -> tuple[list[str], list[Finding]]:
    """Write the certificate of what was checked into ``folder`` (None: write none), or beside its data.

    Returns what there is to say, and all findings, those of waived rows marked so. ``command``: what was given.
    """
    taskset = checked.subject.taskset
    results = results_of(checked.findings, checked.measured)
    findings = [_waived(finding, results, waived) for finding in checked.findings]
    said = [f"waive.{row}: it held, so it needs no waiver" for row in waived if results[row]["held"] is not False]
    if folder is None:
        return said, findings
    if (parts := parts_of(taskset)) != [taskset]:
        said.append("a mixture has no certificate of its own, its members have; check each of them:")
        return [*said, *(f"  {command_of(part)}" for part in parts)], findings
    try:
        told = command or command_of(taskset)
        refused = checked.subject.refused()
        said += _refusals(refused)
        made = certificate_of(taskset, results, waived, checked.subject.count, told, refused)
        path = put(made, taskset, folder)
    except Exception as error:  # what makes its tasks is its author's code
        return [*said, f"no certificate was written: {type(error).__name__}: {error}"], findings
    wrong = failed(results, waived)
    state = f"not valid ({', '.join(wrong)})" if wrong else "valid"
    return [*said, f"certificate, {state}: {path}"], findings


def _refusals(refused: Mapping[str, str]) -> list[str]:
    if not refused:
        return []
    told = [f"  {name}: {cause}" for name, cause in list(refused.items())[:SHOWN]]
    more = [f"  and {len(refused) - SHOWN} more, in the certificate"] if len(refused) > SHOWN else []
    return [f"refused, {len(refused)} in all:", *told, *more]


def _waived(finding: Finding, results: Mapping[str, Result], waived: Mapping[str, str]) -> Finding:
    """The finding, marked where all that it made fail is waived."""
    rows = [row for row in rows_behind(finding.check) if results[row]["held"] is False]
    if finding.status not in ("FAILED", "WARNING") or not rows or not set(rows) <= set(waived):
        return finding
    reasons = "; ".join(waived[row] for row in rows)
    return replace(finding, status="waived", detail=f"{finding.detail} (waived: {reasons})")


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as keywords; values are JSON where they can be, ``[a, b]`` is a list without quotes too, all
    else is text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{pair!r} is not key=value")
        settings[key] = _value(value)
    return settings


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        words = re.fullmatch(r"\[([^][{}\"']*)\]", text)  # as Hydra writes it, and what a shell leaves of ["a"]
        return [_value(word.strip()) for word in words[1].split(",")] if words else text


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
        help=f"tasks=20 (how many), step_s=10 (seconds a turn may take), certificates={FOLDER} (where a certificate is "
        "written that does not lie beside the data; null: none is written), "
        f"waive={{row: reason}} (rows of it that need not hold: {', '.join(ROWS)}){its_settings}; the rest goes to the "
        "taskset",
    )
    arguments = parser.parse_args(argv)
    sys.path.insert(0, "")  # a module in the current folder, also through the console script
    name = arguments.taskset.removeprefix("env=")
    try:
        settings = parse_settings(arguments.settings)
        tasks, step_s = int(settings.pop("tasks", 20)), float(settings.pop("step_s", 10.0))
        settings.pop("split", None)  # both splits are checked
        folder, waived = settings.pop("certificates", FOLDER), check_waivers(settings.pop("waive", {}))
        further = more(settings) if more else None
        cls = taskset_class(name)
        subject = Subject(lambda split: cls(split=split, **settings), tasks, step_s, (name, settings))
        checked = run_checks(subject, further)
        words = shlex.join(["envs-check", name, *arguments.settings])
        said, findings = certify(checked, None if folder is None else Path(str(folder)), waived, words)
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"envs-check: {error}", file=sys.stderr)
        return 2
    findings += checked.further
    _print(name, findings)
    print("\n".join(said))
    return int(any(finding.status == "FAILED" for finding in findings))


def _print(name: str, findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colors = {"ok": "green", "skipped": "yellow", "waived": "yellow", "WARNING": "bold yellow", "FAILED": "bold red"}
    table = Table("check", "result", "detail", title=f"envs-check {escape(name)}", title_justify="left")
    for finding in findings:
        color = colors[finding.status]
        table.add_row(finding.check, f"[{color}]{finding.status}[/]", escape(finding.detail))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())

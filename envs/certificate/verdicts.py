"""What the checks of ``envs-check`` mean for a certificate: six rows, each held or not, with its figures.

    oracle          it scores 1 on every task looked at; a task set without an oracle is said to have none
    doing nothing   scores 0
    random tools    score no more than Taskset.chance (0.1), and two standard errors of so few tasks
    cheats          none of envs.cheats is paid more than an honest failure
    deterministic   the same tasks again and in another process; played twice, the same prompt and the same scores
    other checks    nothing else of envs-check failed

A row that did not hold can be waived, with a reason that stands in the certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from envs.promises import Finding

ORACLE, NOTHING, RANDOM, CHEATS = "oracle", "doing nothing", "random tools", "cheats"
DETERMINISTIC, OTHER = "deterministic", "other checks"
# The checks behind each row; all others are behind the last one.
_CHECKS: dict[str, tuple[str, ...]] = {
    ORACLE: ("oracle",),
    NOTHING: ("chance",),
    RANDOM: ("chance",),
    CHEATS: ("cheats",),
    DETERMINISTIC: ("determinism", "other process", "repeat"),
}
ROWS = (*_CHECKS, OTHER)
_SAID = 300  # characters of a finding that are kept

Result = dict[str, Any]


def results_of(findings: Sequence[Finding], measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Result]:
    """By row: ``held`` (None: there was nothing to look at), ``said``, and what was measured."""
    by_check = {finding.check: finding for finding in findings}
    found = {
        row: _result(row, [by_check[c] for c in checks if c in by_check], measured.get(row))
        for row, checks in _CHECKS.items()
    }
    others = [f for f in findings if not any(f.check in checks for checks in _CHECKS.values())]
    return found | {OTHER: _result(OTHER, others, None)}


def failed(results: Mapping[str, Mapping[str, Any]], waived: Mapping[str, str] = {}) -> list[str]:
    """The rows that did not hold and are not waived."""
    return [row for row, result in results.items() if result["held"] is False and row not in waived]


def check_waivers(waived: Any) -> dict[str, str]:
    """``{row: reason}`` as it was given. Raises ValueError for an unknown row, and for a reason that is none."""
    if not isinstance(waived, Mapping):
        raise ValueError(f'waive={waived!r}: give rows and reasons, waive=\'{{"{CHEATS}": "why this is right"}}\'')
    for row, reason in waived.items():
        if row not in ROWS:
            raise ValueError(f"waive.{row}: no such row; rows are {', '.join(ROWS)}")
        if not isinstance(reason, str) or len(reason.split()) < 2:
            raise ValueError(f"waive.{row}={reason!r}: give the reason, in words")
    return dict(waived)


def rows_behind(check: str) -> list[str]:
    """The rows that a check decides."""
    return [row for row, checks in _CHECKS.items() if check in checks] or [OTHER]


def in_words(row: str, result: Mapping[str, Any]) -> str:
    """A result in a few words, for a table."""
    if row == ORACLE:
        return f"{result['solved']} of {result['of']}" if "solved" in result else _bare(result, "none")
    if row in (NOTHING, RANDOM):
        return f"{result['mean']:.2f}" if "mean" in result else _bare(result, "?")
    if row == CHEATS:
        return f"{len(result['paid'])} of {result['played']} paid" if "paid" in result else _bare(result, "?")
    return _bare(result, "?")


def _bare(result: Mapping[str, Any], nothing: str) -> str:
    return {True: "yes", False: "failed", None: nothing}[result["held"]]


def _result(row: str, findings: Sequence[Finding], measured: Mapping[str, Any] | None) -> Result:
    wrong = [finding for finding in findings if finding.status == "FAILED"]
    judge = _JUDGES.get(row)
    held: bool | None = not wrong
    if judge is not None:
        skipped = all(finding.status == "skipped" for finding in findings)
        held = judge(measured) if measured is not None else None if skipped else False
    shown = wrong if row == OTHER and wrong else findings
    details = [
        f.detail[:_SAID] if row in (f.check, NOTHING, RANDOM) else f"{f.check}: {f.detail[:_SAID]}" for f in shown
    ]
    said = "; ".join(details) if row != OTHER or wrong else ""
    return {"held": held, "said": said, **(measured or {})}


_JUDGES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    ORACLE: lambda measured: bool(measured["solved"] == measured["of"]),
    NOTHING: lambda measured: bool(measured["mean"] == 0.0),
    RANDOM: lambda measured: bool(measured["mean"] <= measured["limit"]),
    CHEATS: lambda measured: not measured["paid"],
}

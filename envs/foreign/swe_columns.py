"""One row in the form of SWE-bench, whatever data set it is from.

    row = swe_row({"instance_id": "pallets__flask-5014", "repo": "pallets/flask", "base_commit": "7ee9ce…", …})

| column | |
|---|---|
| ``instance_id``, ``repo``, ``problem_statement``, ``patch`` | needed |
| ``FAIL_TO_PASS``, ``PASS_TO_PASS`` | lists of tests, or JSON texts of such lists; the first not empty |
| ``base_commit`` | needed, or a ``repo`` that ends in it (SWE-smith: ``swesmith/owner__name.1fd52536``) |
| ``test_patch`` | "" where the tests that decide are in the repository already (SWE-smith) |
| ``version`` | chooses a folder of packages; may be missing |

All other columns (``hints_text``, ``environment_setup_commit``, ``image_name``, …) are not looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envs.row_source import BadRowError

_COMMIT = 7  # digits of a commit that every data set gives
_WITH_COMMIT = re.compile(r"(?:.*/)?(?P<owner>[^/]+?)__(?P<name>[^/]+)\.(?P<commit>[0-9a-f]{7,40})")


@dataclass(frozen=True)
class SweRow:
    """A row whose columns have been read; nothing is known of its repository yet."""

    name: str  # instance_id
    repo: str  # owner/name
    commit: str
    issue: str
    patch: str
    test_patch: str
    f2p: tuple[str, ...]
    p2p: tuple[str, ...]
    version: str


def swe_row(row: Mapping[str, Any]) -> SweRow:
    """Raises BadRowError that names the column."""
    repo, commit = _text(row, "repo"), row.get("base_commit")
    if not commit:
        found = _WITH_COMMIT.fullmatch(repo)
        if found is None:
            raise BadRowError(f"column base_commit: is missing, and repo={repo!r} does not end in a commit")
        repo, commit = f"{found['owner']}/{found['name']}", found["commit"]
    f2p = _tests(row, "FAIL_TO_PASS")
    if not f2p:
        raise BadRowError("column FAIL_TO_PASS: is empty: no test tells whether the task is solved")
    return SweRow(
        _text(row, "instance_id"),
        repo,
        str(commit),
        _text(row, "problem_statement"),
        _text(row, "patch"),
        str(row.get("test_patch") or ""),
        f2p,
        tuple(test for test in _tests(row, "PASS_TO_PASS") if test not in f2p),
        str(row.get("version") or ""),
    )


def copy_key(row: SweRow) -> str:
    """The same for rows that ask for the same change under other names: repository, commit and changed lines."""
    lines = "\n".join(line.rstrip() for line in row.patch.splitlines() if line.startswith(("+", "-")))
    return hashlib.sha256(f"{row.repo} {row.commit[:_COMMIT]}".lower().encode() + lines.encode()).hexdigest()


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        shown = "missing" if value is None else "empty" if value == "" else repr(value)[:80]
        raise BadRowError(f"column {column}: is {shown}, wanted a text")
    return value


def _tests(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = row.get(column)
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRowError(f"column {column}: is a text that is no JSON list: {value[:60]!r}") from error
    if value in (None, ""):  # an empty cell of a CSV file
        value = []
    if not isinstance(value, list) or not all(isinstance(test, str) and test for test in value):
        raise BadRowError(f"column {column}: wanted a list of the names of tests, or such a list as JSON text")
    return tuple(dict.fromkeys(value))

"""The certificates of a run's families as text: for its report, its last words and `rl-view`.

summary.json has them as ``certificates``: {family: {"state", "said", "path", "date", "tasks", "results"}}
(``rl.run.certified``); a run with ``certificate=off`` has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.certificate.verdicts import ROWS

CERTIFICATE_COLUMNS = ("family", "certificate", *ROWS, "tasks", "date")
_WORDS = {"ours": "needs none", "none": "none", "failed": "not valid", "stale": "stale", "valid": "valid"}


def certificate_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each family in ``CERTIFICATE_COLUMNS``; what is not known is a dash."""
    return [
        (
            family,
            _WORDS[one["state"]],
            *(one.get("results", {}).get(row, "–") for row in ROWS),
            str(one.get("tasks", "–")),
            one.get("date", "–")[:10],
        )
        for family, one in sorted((summary.get("certificates") or {}).items())
    ]


def certificate_notes(summary: Mapping[str, Any]) -> list[str]:
    """What there is to say of a family's certificate: what has changed, what did not hold, what was waived."""
    found = sorted((summary.get("certificates") or {}).items())
    return [f"{family}: {one['said']}" for family, one in found if one["said"]]

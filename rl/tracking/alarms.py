"""Alarms of a run as text, from its metrics alone: what the report shows of the detectors in the loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rl.doctor.catalogue import BY_NAME

ALARM_COLUMNS = ("alarm", "stage", "first step", "steps", "what is wrong", "cure")
PREFIX = "alarm/"


def alarm_rows(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each detector and stage with an alarm in ``rows`` of metrics.jsonl, in the order of first steps."""
    steps: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        for name in (key.removeprefix(PREFIX) for key in row if key.startswith(PREFIX)):
            steps.setdefault((name, str(row["stage"])), []).append(int(row["step"]))
    found: list[tuple[str, ...]] = []
    for (name, stage), fired in sorted(steps.items(), key=lambda item: min(item[1])):
        known = BY_NAME.get(name)  # an older version may have had another detector
        said = ("", "") if known is None else (known.cause, known.cure)
        found.append((name, stage, str(min(fired)), str(len(fired)), *said))
    return found

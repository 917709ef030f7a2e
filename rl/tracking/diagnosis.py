"""A finished attribution (``rl.learner.attribution``) as text: what `rl-doctor attribute=true` prints, and the report.

diagnose/step_000020.json::

    {"step", "version", "device", "temperature",
     "tokens": {"exact", "older"}, "measured_on": "exact" | "all",
     "rows": [{"part", "setting", "status", then "why", or
               "tokens", "mean", "p99", "max", "outside" and for routing and indexer "choices"}],
     "worst": {setting: [{"trajectory", "segment", "position", "token", "text", "sampler", "learner", "flips"}]}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rl.tracking.rundir import RunDir, RunDirError


class TextTable(NamedTuple):
    """A titled table of strings; the first column is left-aligned. ``note`` goes below it."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


ROW_HEAD = (
    "part",
    "measured with",
    "tokens",
    "mean |d|",
    "p99 |d|",
    "max |d|",
    "adds",
    "r outside",
    "other choice",
    "overlap",
)


def diagnosis_tables(found: Mapping[str, Any]) -> list[TextTable]:
    """The attribution table and one table of worst tokens per setting."""
    tables = [TextTable(f"train/inference mismatch of step {found['step']}", ROW_HEAD, _rows(found), _note(found))]
    for setting, tokens in found["worst"].items():
        table = _worst(setting, tokens)
        if table.rows not in [earlier.rows for earlier in tables]:  # a part that changes nothing has the same worst
            tables.append(table)
    return tables


def read_diagnoses(run: RunDir) -> list[dict[str, Any]]:
    """Everything `rl-doctor attribute=true` has found in this run, by step."""
    found = []
    for path in sorted(run.diagnoses.glob("step_*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except json.JSONDecodeError as error:
            raise RunDirError(f"{path} is not JSON ({error.msg}); remove it and run rl-doctor again") from error
    return found


def _rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    base = found["rows"][0]["mean"]
    return [tuple(_cells(row, base)) for row in found["rows"]]


def _cells(row: Mapping[str, Any], base: float) -> Iterator[str]:
    yield row["part"]
    if row["status"] != "measured":
        yield f"{row['status']}: {row['why']}"
        yield from ["–"] * (len(ROW_HEAD) - 2)
        return
    yield row["setting"]
    yield f"{row['tokens']:,}"
    for name in ("mean", "p99", "max"):
        yield _nats(row[name])
    yield "–" if row["part"] == "numerics" else f"{row['mean'] - base:+.1e}"
    yield f"{row['outside']:.2%}"
    choices = row.get("choices")
    yield f"{choices['other']:,} of {choices['rows']:,}" if choices else "–"
    yield f"{choices['overlap']:.4%}" if choices else "–"


def _note(found: Mapping[str, Any]) -> str:
    exact, older = found["tokens"]["exact"], found["tokens"]["older"]
    measured = (
        f"{exact:,} tokens were sampled by exactly the weights of version {found['version']}"
        + (f", {older:,} by older ones (counted in staleness only)." if older else ".")
        if found["measured_on"] == "exact"
        else f"All {older:,} tokens were sampled by weights older than version {found['version']}: every row holds "
        "staleness too. A run with max_staleness=0, or step 1 of this one, shows the other parts alone."
    )
    unrecorded = [r["part"] for r in found["rows"] if r["status"] == "not recorded"]
    hidden = f" Numerics includes what was not recorded: {', '.join(unrecorded)}." if unrecorded else ""
    return (
        "d = log pi_learner - log pi_sampler, in nats; adds: mean |d| above numerics; r = exp(d), outside [0.9, 1.1]; "
        "other choice: input tokens whose live choice differs from the recorded one in some layer. "
        f"{measured}{hidden} Recomputed on {found['device']}."
    )


def _worst(setting: str, tokens: list[Mapping[str, Any]]) -> TextTable:
    """Largest |d| first; how d changes with each part shows which of them made it."""
    settings = list(tokens[0]["learner"])
    parts = list(tokens[0]["flips"])
    head = ("trajectory", "segment", "position", "token", "sampler", *(f"d, {s}" for s in settings))
    rows = []
    for t in tokens:
        flips = [f"{t['flips'][p]}" for p in parts]
        text = str(t["token"]) + (f" {t['text']!r}" if t.get("text") else "")
        place = (t["trajectory"], str(t["segment"]), str(t["position"]), text, f"{t['sampler']:.4f}")
        rows.append((*place, *(f"{lp - t['sampler']:+.1e}" for lp in t["learner"].values()), *flips))
    note = "flips: input tokens of the segment up to there whose live choice differs from the recorded one."
    flip_head = tuple(f"flips, {p}" for p in parts)
    return TextTable(f"worst tokens with {setting}", (*head, *flip_head), rows, note if parts else "")


def _nats(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"

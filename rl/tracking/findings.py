"""What the detectors of ``rl.doctor`` find in the files of a run, or of another toolkit, and the page on it.

``python -m rl.tracking.findings docs/doctor.md`` writes the list of detectors into that page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rl.doctor.catalogue import DETECTORS
from rl.doctor.records import Settings, StepRecord, groups_of
from rl.doctor.watch import Watch
from rl.tracking.band import with_defaults
from rl.tracking.diagnosis import TextTable
from rl.tracking.metrics import entry
from rl.tracking.rundir import RunDir, RunDirError, step_name, write_atomic

BEGIN, END = "<!-- made by python -m rl.tracking.findings: begin -->", "<!-- end -->"
READS = {"metrics": "metrics", "rollouts": "rollouts alone", "both": "metrics and rollouts"}
ALARMS = ("alarm", "first step", "steps", "value", "limit", "what is wrong", "cure")
LIMITS = ("detector", "steps it could look at", "largest value", "at step", "limit", "where the limit comes from")


@dataclass(frozen=True)
class Examined:
    """The detectors after ``steps`` steps of one stage."""

    stage: str
    steps: int
    watch: Watch

    @property
    def alarms(self) -> list[str]:
        """A line for every detector that fired: its sentence of the first time, and in how many steps it did."""
        lines = []
        for detector in DETECTORS:
            course = self.watch.courses[detector.name]
            if course.first is not None:
                since = f"{self.stage}, step {course.fired[0]} ({len(course.fired)} of {self.steps})"
                lines.append(f"{since}: {detector.sentence(course.first)}")
        return lines

    @property
    def blind(self) -> list[str]:
        """Detectors that had nothing to look at."""
        return [name for name, course in self.watch.courses.items() if not course.looked]


def settings_of(run: RunDir, stage: str = "grpo") -> Settings | None:
    """What ``stage`` of ``run`` was told, whatever version wrote it; None without a configuration.

    Raises ValueError for one that is no YAML or lacks a setting.
    """
    if not run.config.exists():
        return None
    try:
        stored = with_defaults(yaml.safe_load(run.config.read_text(encoding="utf-8")) or {})
        settings, pipeline = Settings.of(_Named(stored)), stored["pipeline"]
        # the teachers of such a pipeline are its specialists, and not in its configuration
        taught = stage == "grpo" and pipeline["enabled"] and pipeline["merge"] == "teachers"
        return replace(settings, taught=True) if taught else settings
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{run.config} cannot be used: {type(error).__name__}: {error}") from error


class _Named:
    """The values of a mapping by attribute."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        value = self._values[name]
        return _Named(value) if isinstance(value, Mapping) else value


def records_of(
    run: RunDir, stage: str, settings: Settings | None, steps: range | None = None, *, rollouts: bool = True
) -> Iterator[StepRecord]:
    """The ``steps`` of ``stage`` (None: all) in their order, with their ``rollouts`` where those lie in ``run``.

    Raises RunDirError for a file that is damaged.
    """
    stored = set(run.trajectory_names()) if rollouts else set()
    for row in sorted(run.read_metrics(stage), key=lambda row: int(row["step"])):
        step, name = int(row["step"]), step_name(row["step"])
        if steps is not None and step not in steps:
            continue
        metrics = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and k not in ("step", "time")}
        try:
            groups = groups_of(run.read_trajectories(name)) if name in stored else {}
        except ValueError as error:
            raise RunDirError(f"{run.trajectories / name}.jsonl: {error}") from error
        yield StepRecord(step, metrics, [g for found in groups.values() for g in found], settings)


def examine_run(run: RunDir) -> list[Examined]:
    """Every GRPO stage of ``run``, as far as it has come. Raises as ``settings_of`` and ``records_of``."""
    stages = dict.fromkeys(row["stage"] for row in run.read_metrics() if str(row["stage"]).startswith("grpo"))
    # the rollouts of a pipeline's stages lie elsewhere
    return [
        examine(stage, records_of(run, stage, settings_of(run, stage), rollouts=stage == "grpo")) for stage in stages
    ]


def examine_file(path: Path) -> list[Examined]:
    """A JSONL file of rollouts (``rl.doctor.records``). Raises ValueError for one that is none."""
    steps = groups_of(_rows(path))
    if not steps:
        raise ValueError(f"{path} has no rollout")
    return [examine(path.name, (StepRecord(step, {}, groups) for step, groups in steps.items()))]


def _rows(path: Path) -> Iterator[Any]:
    """The rows of a JSONL file that anybody may have written: with empty lines, with no line feed at its end."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _row(path, number, line)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error


def _row(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} line {number} is not JSON: {error}") from error


def examine(stage: str, records: Iterable[StepRecord]) -> Examined:
    """All detectors on ``records``, which are in the order of their steps."""
    watch, steps = Watch(), 0
    for record in records:
        watch.step(record)
        steps += 1
    return Examined(stage, steps, watch)


def finding_tables(examined: Iterable[Examined]) -> list[TextTable]:
    """Two tables for every stage: the alarms, and what every detector has seen."""
    tables = []
    for one in examined:
        fired: list[tuple[str, ...]] = []
        seen: list[tuple[str, ...]] = []
        for d in DETECTORS:
            course = one.watch.courses[d.name]
            limit = f"{d.limit:g}" + (f", {d.in_a_row} steps in a row" if d.in_a_row > 1 else "")
            if (reading := course.first) is not None:
                value = f"{reading.value:.3g}" + (f" ({reading.where})" if reading.where else "")
                steps = f"{len(course.fired)} of {one.steps}"
                fired.append((d.name, str(course.fired[0]), steps, f"{d.shows} {value}", limit, d.cause, d.cure))
            worst = (f"{course.worst:.3g}", str(course.worst_step)) if course.looked else ("–", "–")
            seen.append((d.name, f"{course.looked} of {one.steps}", *worst, limit, d.basis))
        note = "" if fired else "No detector fired."
        tables.append(TextTable(f"{one.stage}: alarms", ALARMS, fired, note))
        tables.append(TextTable(f"{one.stage}: all detectors", LIMITS, seen, "–: what it reads was not recorded."))
    return tables


def write_page(path: Path, name: str, examined: list[Examined], attribution: Mapping[str, Any] | None) -> Path:
    """The page at ``path``, one HTML file without scripts; ``attribution``: of a stored batch, as `rl-doctor` found
    it."""
    from rl.tracking.diagnosis import diagnosis_tables
    from rl.tracking.report import templates
    from rl.tracking.svg import STYLE, SVG_STYLE

    more = [] if attribution is None else diagnosis_tables(attribution)
    state = f"{sum(one.steps for one in examined)} steps, {sum(len(one.alarms) for one in examined)} alarms"
    tables = [*finding_tables(examined), *more]
    page = templates().get_template("doctor.html.j2")
    write_atomic(path, page.render(name=name, state=state, tables=tables, svg_style=f"{STYLE}\n{SVG_STYLE}"))
    return path


def detectors_markdown() -> str:
    """The list of detectors, between the marks of docs/doctor.md."""
    entries = []
    for d in DETECTORS:
        limit = f"{d.limit:g}" + (f", {d.in_a_row} steps in a row" if d.in_a_row > 1 else "")
        said = (
            f"{d.shows.rstrip(',')}. Limit {limit} ({d.basis}); reads {READS[d.reads]}. What is wrong: {d.cause}. "
            f"Cure: {d.cure}."
        )
        entries.append(entry(f"**`{d.name}`**", said))
    return f"{BEGIN}\n\n" + "\n".join(entries) + f"\n\n{END}"


def with_detectors(page: str) -> str:
    """``page`` with the list between its marks. Raises ValueError when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN} and {END}")
    return before + detectors_markdown() + after


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_detectors(file.read_text(encoding="utf-8")), encoding="utf-8")

"""Applies all detectors to a run, step by step: in its loop as it goes, or to its files afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rl.doctor.catalogue import DETECTORS
from rl.doctor.detector import Detector, Memory, Reading
from rl.doctor.records import StepRecord


@dataclass(frozen=True)
class Alarm:
    """``detector`` fired in ``step``; ``new``: to be said (the first, second, fourth, eighth time)."""

    detector: Detector
    step: int
    reading: Reading
    new: bool

    @property
    def sentence(self) -> str:
        return self.detector.sentence(self.reading)


@dataclass
class Course:
    """What a detector has seen so far: steps that it could look at, alarms, its largest reading and where it was."""

    looked: int = 0
    fired: list[int] = field(default_factory=list)
    first: Reading | None = None  # of the first alarm
    worst: float = -math.inf
    worst_step: int = 0
    above: int = 0  # steps in a row
    memory: Memory = field(default_factory=dict)


class Watch:
    """Told the steps of one stage in their order."""

    def __init__(self, detectors: Sequence[Detector] = DETECTORS) -> None:
        self.courses: dict[str, Course] = {detector.name: Course() for detector in detectors}
        self._detectors = detectors

    def step(self, record: StepRecord) -> list[Alarm]:
        """The alarms of this step, in the order of the table."""
        alarms = []
        for detector in self._detectors:
            course = self.courses[detector.name]
            reading = detector.measure(record, course.memory)
            if reading is None or math.isnan(reading.value):
                continue
            course.looked += 1
            if reading.value > course.worst:
                course.worst, course.worst_step = reading.value, record.step
            course.above = course.above + 1 if reading.value > detector.limit else 0
            if course.above < detector.in_a_row:
                continue
            course.fired.append(record.step)
            course.first = course.first or reading
            times = len(course.fired)
            alarms.append(Alarm(detector, record.step, reading, detector.says_each or times & (times - 1) == 0))
        return alarms

"""Derivations: a chain of small operations, worked out line by line, every line checkable by program.

    2 +3a *2b -4c          the problem: start with 2; step a adds 3, step b doubles, step c takes 4 (all modulo 5)
    a2+3=0                 a line: the label it reaches, the value before, the steps it does, the value after
    c0*2-4=1               a line may do several steps at once: right, but details are left out

Short as it is, this has what a proof has: a solution can be complete, right with omitted details, or wrong in one
line from which the rest follows, and ground truth exists for each of the three. Labels stand *behind* the steps they
name in the problem: a small transformer finds a step by the token of its label.

Verdicts on lines: ``ok``; ``skip`` (right, several steps at once); ``bad`` (malformed, out of order, steps other than
the problem's, another value before than the line above gave, or a wrong result). Scores as in DeepSeekMath-V2
(arXiv 2511.22570): 1 complete and rigorous, 0.5 sound with omitted details, 0 fatal.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LABELS = "abcdefghijkl"
MODULUS = 5
OPERATIONS = "+-*"
OK, SKIP, BAD = "ok", "skip", "bad"
IN_LINE = ("result", "operand", "carry")  # mistakes within a line
ERRORS = (*IN_LINE, "gap", "short", "extra")  # kinds of injected error

_LINE = re.compile(r"([a-l])(\d)((?:[-+*]\d)+)=(\d)")

Step = tuple[str, int]


@dataclass(frozen=True)
class Problem:
    """``steps``: (operation, digit) in order; step i has label ``LABELS[i]``."""

    start: int
    steps: tuple[Step, ...]

    @property
    def text(self) -> str:
        return f"{self.start}" + "".join(f" {op}{d}{LABELS[i]}" for i, (op, d) in enumerate(self.steps))

    @property
    def values(self) -> tuple[int, ...]:
        """The start and the value after each step."""
        values = [self.start]
        for step in self.steps:
            values.append(apply(values[-1], step))
        return tuple(values)

    @property
    def answer(self) -> int:
        return self.values[-1]

    @property
    def last_label(self) -> str:
        return LABELS[len(self.steps) - 1]


@dataclass(frozen=True)
class Line:
    """One line of a derivation: ``steps`` lead from ``before`` to ``after``, which carries ``label``."""

    label: str
    before: int
    steps: tuple[Step, ...]
    after: int

    @property
    def text(self) -> str:
        return f"{self.label}{self.before}" + "".join(f"{op}{d}" for op, d in self.steps) + f"={self.after}"


def apply(value: int, step: Step) -> int:
    """The value after one step, modulo 5."""
    operation, digit = step
    return {"+": value + digit, "-": value - digit, "*": value * digit}[operation] % MODULUS


def run(value: int, steps: Sequence[Step]) -> int:
    """The value after several steps."""
    for step in steps:
        value = apply(value, step)
    return value


def random_problem(rng: random.Random, shortest: int, longest: int) -> Problem:
    """A problem of ``shortest`` to ``longest`` steps (at most 12)."""
    if not 1 <= shortest <= longest <= len(LABELS):
        raise ValueError(f"steps from {shortest} to {longest}: must lie within 1 and {len(LABELS)}, in this order")
    count = rng.randint(shortest, longest)
    steps = tuple((rng.choice(OPERATIONS), rng.randint(1, MODULUS - 1)) for _ in range(count))
    return Problem(rng.randrange(MODULUS), steps)


def derive(problem: Problem, strides: Sequence[int]) -> list[Line]:
    """The right lines, line i doing ``strides[i]`` steps at once (the last stride is repeated, and cut at the end)."""
    lines: list[Line] = []
    done, values = 0, problem.values
    while done < len(problem.steps):
        stride = min(strides[min(len(lines), len(strides) - 1)], len(problem.steps) - done)
        end = done + stride
        lines.append(Line(LABELS[end - 1], values[done], problem.steps[done:end], values[end]))
        done = end
    return lines


def random_strides(rng: random.Random, longest: int) -> list[int]:
    """A stride for every line a derivation may have."""
    return [rng.randint(1, longest) for _ in LABELS]


def text_of(lines: Sequence[Line]) -> str:
    return "\n".join(line.text for line in lines)


def inject(problem: Problem, lines: Sequence[Line], kind: str, rng: random.Random) -> list[Line]:
    """The derivation with one error of ``kind``; the lines after it follow from it without a further mistake.

    ``result`` a wrong value after; ``operand`` a digit that is not the problem's; ``carry`` another value before than
    the line above gave; ``gap`` a step is passed over; ``short`` the last line is missing; ``extra`` there is one more.
    A derivation of one line has no gap and cannot be short, one of twelve steps can have no more: those get ``result``.
    """
    if kind not in ERRORS:
        raise ValueError(f"kind is {kind!r}, must be one of {', '.join(ERRORS)}")
    full = len(problem.steps) == len(LABELS)
    if (kind in ("short", "gap") and len(lines) == 1) or (kind == "extra" and full):
        kind = "result"
    if kind == "short":
        return list(lines[:-1])
    if kind == "extra":
        step = (rng.choice(OPERATIONS), rng.randint(1, MODULUS - 1))
        return [*lines, Line(LABELS[len(problem.steps)], problem.answer, (step,), apply(problem.answer, step))]
    at = rng.randrange(len(lines))
    if kind == "gap":
        lines = [line for i, line in enumerate(lines) if i != min(at, len(lines) - 2)]
        return _spoilt(problem, lines, {}, rng)
    return _spoilt(problem, lines, {at: kind}, rng)


def spoil(problem: Problem, lines: Sequence[Line], share: float, rng: random.Random) -> list[Line]:
    """The derivation with a mistake of its own in every line with probability ``share``, at least in one."""
    wrong = {i: rng.choice(IN_LINE) for i in range(len(lines)) if rng.random() < share}
    return _spoilt(problem, lines, wrong or {rng.randrange(len(lines)): rng.choice(IN_LINE)}, rng)


def _spoilt(problem: Problem, lines: Sequence[Line], wrong: Mapping[int, str], rng: random.Random) -> list[Line]:
    value, broken = problem.start, []
    for i, line in enumerate(lines):
        before, steps = value, line.steps
        if wrong.get(i) == "carry":
            before = _other(value, rng)
        if wrong.get(i) == "operand":
            j = rng.randrange(len(steps))
            other = (steps[j][0], 1 + (steps[j][1] - 1 + rng.randint(1, MODULUS - 2)) % (MODULUS - 1))
            steps = (*steps[:j], other, *steps[j + 1 :])
        after = run(before, steps)
        if wrong.get(i) == "result":
            after = _other(after, rng)
        broken.append(Line(line.label, before, steps, after))
        value = after
    return broken


def verdicts(problem: Problem, solution: str) -> list[tuple[str, str]]:
    """(line text, verdict) of every line that is not blank. A line is judged on what the one above it gave."""
    found: list[tuple[str, str]] = []
    value, done = problem.start, 0
    for text in (raw.strip() for raw in solution.splitlines()):
        if not text:
            continue
        line = parse_line(text)
        if line is None:
            found.append((text, BAD))
            continue
        end = LABELS.index(line.label) + 1
        right = (
            done < end <= len(problem.steps)
            and line.before == value
            and line.steps == problem.steps[done:end]
            and line.after == run(line.before, line.steps)
        )
        found.append((text, BAD if not right else OK if end == done + 1 else SKIP))
        value, done = line.after, max(done, end)
    return found


def score(problem: Problem, solution: str) -> float:
    """Ground truth of a solution: 1, 0.5 or 0 (see the module)."""
    judged = verdicts(problem, solution)
    lines = [parse_line(text) for text, _ in judged]
    last = lines[-1] if lines else None
    if last is None or any(verdict == BAD for _, verdict in judged):
        return 0.0
    if last.label != problem.last_label:
        return 0.0
    return score_of(verdict for _, verdict in judged)


def score_of(given: Iterable[str]) -> float:
    """The score that verdicts on lines amount to."""
    seen = set(given)
    return 0.0 if BAD in seen else 0.5 if SKIP in seen else 1.0


def parse_line(text: str) -> Line | None:
    """The line, or None when it is none."""
    match = _LINE.fullmatch(text)
    if match is None:
        return None
    label, before, steps, after = match.groups()
    pairs = tuple((steps[i], int(steps[i + 1])) for i in range(0, len(steps), 2))
    return Line(label, int(before), pairs, int(after))


def parse_problem(text: str) -> Problem | None:
    """The problem that ``Problem.text`` made, or None."""
    start, *steps = text.split()
    if not re.fullmatch(r"\d", start) or not steps or len(steps) > len(LABELS):
        return None
    pairs = []
    for label, step in zip(LABELS, steps, strict=False):
        if not re.fullmatch(rf"[-+*]\d{label}", step):
            return None
        pairs.append((step[0], int(step[1])))
    return Problem(int(start), tuple(pairs))


def _other(value: int, rng: random.Random) -> int:
    return (value + rng.randint(1, MODULUS - 1)) % MODULUS

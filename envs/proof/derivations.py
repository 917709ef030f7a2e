"""The three roles of DeepSeekMath-V2 on derivations, where every judgement has a ground truth.

    prove    2 +3a *2b              ->  ## Solution, the lines; ## Self Evaluation, an evaluation of them
    verify   problem and solution   ->  an evaluation: each line taken apart, with a verdict (ok, skip, bad); the score
    assess   … and an evaluation    ->  each claimed defect, taken apart, with fair or unfair; a rating

A program knows the score of every solution (``envs.reasoning.derivation.score``) and the rating of every evaluation
(``rating``), so accuracy, honesty and label quality can be measured however the roles are trained. The raw scores of an
episode are in its ``scores``: ``outcome`` (right verdict, or for ``prove`` a complete and rigorous solution), and
``truth``, ``error`` (|s' − s| against the program) and ``formatted``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from envs.proof.texts import Evaluation, evaluation_text, generation_text, meta_text
from envs.reasoning.derivation import (
    BAD,
    ERRORS,
    LABELS,
    OK,
    SKIP,
    Line,
    Problem,
    apply,
    derive,
    inject,
    parse_line,
    random_strides,
    score_of,
    spoil,
    text_of,
    verdicts,
)
from envs.reasoning.derivation import score as true_score

VERDICTS = (OK, SKIP, BAD)
FAIR, UNFAIR = "fair", "unfair"
MISSING = "end"  # the line of an evaluation that stands for the end of the solution
_STEP = re.compile(r"(?:[-+*]\d|\?)([-+*]\d)[=!]\d")
_CHECK = re.compile(r"([a-l])\d(\d)[=!]((?:(?:[-+*]\d|\?)[-+*]\d[=!]\d)+)(\d)[=!](?:[-+*]\d\?!)*")
_END = re.compile(rf"{MISSING}/[a-l]/[a-l?][=!]")


@dataclass(frozen=True)
class Analysis:
    """What an evaluation says: ``claims`` are (line text, verdict) in order, ``score`` the boxed number.

    ``checks`` are the lines taken apart, one for each claim (function ``checks``).
    """

    claims: tuple[tuple[str, str], ...]
    score: float
    checks: tuple[str, ...]

    @property
    def text(self) -> str:
        lines = (f"{check} {verdict}" for check, (_, verdict) in zip(self.checks, self.claims, strict=True))
        return evaluation_text("\n".join(lines), self.score)


def evaluation_of(problem: Problem, solution: str) -> Analysis:
    """The right evaluation of a solution: every line with its verdict, the end with ok or bad, and the true score."""
    claims = [*verdicts(problem, solution), (MISSING, OK if complete(problem, solution) else BAD)]
    return Analysis(tuple(claims), true_score(problem, solution), checks(problem, solution))


def checks(problem: Problem, solution: str) -> tuple[str, ...]:
    """Every line of a solution taken apart: what should be there and then what is, = or ! after each pair.

        a2+3=0    a22=+3+3=00=      before: 2 and 2; step: +3 and +3, which gives 0; after: 0 and 0
        a2+4=0    a22=+3+4!10!      the step is not the problem's, and 2 + 4 is 1, not 0
        the end   end/c/a!          the last line should reach step c and reaches a

    Two neighbours can be compared by a policy that cannot check a line by looking at it. What should be there comes
    first, so that it is worked out and not copied. A step too many stands behind ?, one that is missing before it,
    at the end. A line that is none stands as it is.
    """
    found, value, done, last = [], problem.start, 0, "?"
    for text in (raw.strip() for raw in solution.splitlines()):
        if not text:
            continue
        line = parse_line(text)
        last = "?" if line is None else line.label
        if line is None:
            found.append(text)
            continue
        end = LABELS.index(line.label) + 1
        expected = problem.steps[done:end]
        parts, running = [line.label, _pair(str(line.before), str(value))], line.before
        for i, step in enumerate(line.steps):
            running = apply(running, step)
            parts += [_pair(_said(step), _said(expected[i]) if i < len(expected) else "?"), str(running)]
        parts.append(f"{line.after}{'=' if line.after == running else '!'}")
        parts += [_pair("?", _said(step)) for step in expected[len(line.steps) :]]
        found.append("".join(parts))
        value, done = line.after, max(done, end)
    aim = problem.last_label
    return (*found, f"{MISSING}/{aim}/{last}{'=' if last == aim else '!'}")


def _said(step: tuple[str, int]) -> str:
    return f"{step[0]}{step[1]}"


def _pair(said: str, right: str) -> str:
    return f"{right}{said}{'=' if said == right else '!'}"


def complete(problem: Problem, solution: str) -> bool:
    """Whether the last line reaches the last step."""
    lines = [line.strip() for line in solution.splitlines() if line.strip()]
    return bool(lines) and lines[-1].startswith(problem.last_label)


def read_claims(analysis: str) -> tuple[tuple[str, str], ...] | None:
    """The claims in the analysis of an evaluation: (line, verdict), the lines put together again; None when there is
    anything else in it."""
    claims = []
    for written in (raw.strip() for raw in analysis.splitlines()):
        text, _, verdict = written.rpartition(" ")
        if text and verdict in VERDICTS:
            claims.append((_line_of(text), verdict))
        elif written:
            return None
    return tuple(claims)


def _line_of(check: str) -> str:
    """The line that was taken apart; what is no check, itself."""
    if _END.fullmatch(check):
        return MISSING
    match = _CHECK.fullmatch(check)
    if match is None:
        return check
    label, before, steps, after = match.groups()
    return f"{label}{before}" + "".join(step[1] for step in _STEP.finditer(steps)) + f"={after}"


def rating(problem: Problem, solution: str, evaluation: Evaluation) -> float:
    """Ground truth of an assessment, by the rule of DeepSeekMath-V2.

    Only claimed defects are judged (lines called skip or bad). None of them real: 0. Some: 0.5. All, or none claimed:
    1, lowered to 0.5 where the evaluation does not restate the solution line by line, or its score is not what its own
    verdicts amount to.
    """
    claims = read_claims(evaluation.analysis) if evaluation.ok else None
    if claims is None:
        return 0.0
    right = dict(evaluation_of(problem, solution).claims)
    defects = [(line, verdict) for line, verdict in claims if verdict != OK]
    real = sum(right.get(line) == verdict for line, verdict in defects)
    if defects and not real:
        return 0.0
    if real < len(defects):
        return 0.5
    restated = [line for line, _ in claims] == list(right)
    matches = evaluation.score == score_of(verdict for _, verdict in claims)
    return 1.0 if restated and matches else 0.5


def assessment_text(problem: Problem, solution: str, evaluation: Evaluation) -> str:
    """The right assessment: each claimed defect with fair or unfair, and the rating."""
    claims = read_claims(evaluation.analysis) or ()
    right = evaluation_of(problem, solution)
    truth = dict(right.claims)
    taken_apart = {line: check for check, (line, _) in zip(right.checks, right.claims, strict=True)}
    lines = [
        f"{taken_apart.get(line, line)} {verdict} {FAIR if truth.get(line) == verdict else UNFAIR}"
        for line, verdict in claims
        if verdict != OK
    ]
    return meta_text("\n".join(lines), rating(problem, solution, evaluation))


def random_solution(problem: Problem, rng: random.Random) -> str:
    """A solution of any quality: 35 % complete, 25 % with steps left out, 40 % wrong, half of them in several lines."""
    kind = rng.choices(("complete", "skips", "error"), (0.35, 0.25, 0.4))[0]
    if kind == "complete":
        return text_of(derive(problem, [1]))
    lines = derive(problem, skipping(problem, rng))
    if kind == "skips":
        return text_of(lines)
    if rng.random() < 0.6:
        lines = derive(problem, [1])
    if rng.random() < 0.5:
        return text_of(spoil(problem, lines, 0.5, rng))
    return text_of(inject(problem, lines, rng.choice(ERRORS), rng))


def skipping(problem: Problem, rng: random.Random) -> list[int]:
    """Strides of which at least one is 2 or 3."""
    while True:
        strides = random_strides(rng, 3)
        if any(len(line.steps) > 1 for line in derive(problem, strides)):
            return strides


def noisy_evaluation(problem: Problem, solution: str, noise: float, rng: random.Random) -> Analysis:
    """An evaluation by someone careless: every verdict is, with probability ``noise``, another one; the score follows
    from the verdicts, or with probability ``noise`` from nothing."""
    claims = []
    right = evaluation_of(problem, solution)
    for line, verdict in right.claims:
        if rng.random() < noise:
            verdict = rng.choice([v for v in VERDICTS if v != verdict])
        claims.append((line, verdict))
    score = score_of(verdict for _, verdict in claims)
    if rng.random() < noise:
        score = rng.choice((0.0, 0.5, 1.0))
    return Analysis(tuple(claims), score, right.checks)


def generation(lines: Sequence[Line], evaluation: Analysis) -> str:
    """A generator's output."""
    return generation_text(text_of(lines), evaluation.text)

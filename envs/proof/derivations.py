"""The three roles of DeepSeekMath-V2 on derivations, where every judgement has a ground truth.

    prove    2 +3a *2b              ->  ## Solution, the lines; ## Self Evaluation, an evaluation of them
    verify   problem and solution   ->  an evaluation: each line worked out again, then the line and a verdict (ok,
                                        skip, bad); last the score
    assess   … and an evaluation    ->  each claimed defect, worked out again, with fair or unfair; last a rating

A program knows the score of every solution (``envs.reasoning.derivation.score``) and the rating of every evaluation
(``rating``), so accuracy, honesty and label quality can be measured however the roles are trained. The raw scores of an
episode are in its ``scores``: ``outcome`` (right verdict, or for ``prove`` a complete and rigorous solution), and
``truth``, ``error`` (|s' − s| against the program) and ``formatted``.
"""

from __future__ import annotations

import random
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
    text_of,
    verdicts,
)
from envs.reasoning.derivation import score as true_score

VERDICTS = (OK, SKIP, BAD)
FAIR, UNFAIR = "fair", "unfair"
MISSING = "end"  # the line of an evaluation that stands for the end of the solution


@dataclass(frozen=True)
class Analysis:
    """What an evaluation says: ``claims`` are (line text, verdict) in order, ``score`` the boxed number.

    ``working`` has for every claim the single steps that lead there, from what the line above gave: a comparison of
    two short lines is within reach of a policy that cannot check one by looking at it.
    """

    claims: tuple[tuple[str, str], ...]
    score: float
    working: tuple[str, ...]

    @property
    def text(self) -> str:
        lines = [
            f"{working}\n{line} {verdict}" if working else f"{line} {verdict}"
            for working, (line, verdict) in zip(self.working, self.claims, strict=True)
        ]
        return evaluation_text("\n".join(lines), self.score)


def evaluation_of(problem: Problem, solution: str) -> Analysis:
    """The right evaluation of a solution: every line with its verdict, the end with ok or bad, and the true score."""
    claims = [*verdicts(problem, solution), (MISSING, OK if complete(problem, solution) else BAD)]
    return Analysis(tuple(claims), true_score(problem, solution), (*workings(problem, solution), ""))


def workings(problem: Problem, solution: str) -> list[str]:
    """For every line of a solution the single steps from what the line above gave to its label; "" without any."""
    found, value, done = [], problem.start, 0
    for text in (raw.strip() for raw in solution.splitlines()):
        if not text:
            continue
        line = parse_line(text)
        end = done if line is None else min(LABELS.index(line.label) + 1, len(problem.steps))
        steps = []
        for i in range(done, end):
            after = apply(value, problem.steps[i])
            steps.append(Line(LABELS[i], value, (problem.steps[i],), after).text)
            value = after
        found.append("\n".join(steps))
        if line is not None:
            value, done = line.after, max(done, end)
    return found


def complete(problem: Problem, solution: str) -> bool:
    """Whether the last line reaches the last step."""
    lines = [line.strip() for line in solution.splitlines() if line.strip()]
    return bool(lines) and lines[-1].startswith(problem.last_label)


def read_claims(analysis: str) -> tuple[tuple[str, str], ...] | None:
    """The claims in the analysis of an evaluation: lines with a verdict. Lines without one are working, which is not
    judged; None when there is anything else."""
    claims = []
    for line in (raw.strip() for raw in analysis.splitlines()):
        text, _, verdict = line.rpartition(" ")
        if text and verdict in VERDICTS:
            claims.append((text, verdict))
        elif line and parse_line(line) is None:
            return None
    return tuple(claims)


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
    working = {line: steps for steps, (line, _) in zip(right.working, right.claims, strict=True)}
    lines = []
    for line, verdict in claims:
        if verdict != OK:
            lines += [steps] if (steps := working.get(line, "")) else []
            lines.append(f"{line} {verdict} {FAIR if truth.get(line) == verdict else UNFAIR}")
    return meta_text("\n".join(lines), rating(problem, solution, evaluation))


def random_solution(problem: Problem, rng: random.Random) -> str:
    """A solution of any quality: 35 % complete, 25 % with steps left out, 40 % with one injected error."""
    kind = rng.choices(("complete", "skips", "error"), (0.35, 0.25, 0.4))[0]
    if kind == "complete":
        return text_of(derive(problem, [1]))
    lines = derive(problem, skipping(problem, rng))
    if kind == "skips":
        return text_of(lines)
    if rng.random() < 0.6:
        lines = derive(problem, [1])
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
    return Analysis(tuple(claims), score, right.working)


def generation(lines: Sequence[Line], evaluation: Analysis) -> str:
    """A generator's output."""
    return generation_text(text_of(lines), evaluation.text)

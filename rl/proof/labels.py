"""Labels for proofs without people: the rule of DeepSeekMath-V2 (arXiv 2511.22570).

A proof gets n evaluations. Each that finds an issue (score 0 or ½) gets m assessments; it is confirmed when the
majority say that its findings are right. Then

    of the evaluations with the LOWEST score at least k are confirmed   label = that score
    every evaluation that found an issue was refuted, or none did       label = 1
    otherwise                                                           no label (drop the proof, or ask a person)

The paper gives no n, m and k; the defaults are ours. It leaves open, too, what an evaluation is worth that the
assessors call half right: here it confirms nothing, and it prevents a 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from envs.proof.texts import Evaluation
from rl.proof.calls import Assess, Calls, Verify, together
from rl.proof.config import LabelConfig


class Finding(StrEnum):
    """What the assessments say about one evaluation."""

    CONFIRMED = "confirmed"  # most of them: all that it found is right (rating 1)
    REFUTED = "refuted"  # most of them: nothing that it found is right (rating 0)
    OPEN = "open"  # neither, or too few well-formed assessments, or not assessed


@dataclass(frozen=True)
class Judged:
    """One well-formed evaluation of a proof and what came of assessing it."""

    evaluation: Evaluation
    finding: Finding = Finding.OPEN

    @property
    def score(self) -> float:
        if self.evaluation.score is None:
            raise ValueError(f"an evaluation that is not well-formed cannot be judged: {self.evaluation.problem}")
        return self.evaluation.score


@dataclass(frozen=True)
class Label:
    """``score`` in {0, 0.5, 1} or None, with its grounds. ``reason``: confirmed, no_issue, unsettled or too_few."""

    score: float | None
    reason: str
    judged: tuple[Judged, ...] = ()


def finding(assessments: Sequence[Evaluation], asked: int) -> Finding:
    """The majority of the well-formed ``assessments``, of which there must be more than half of ``asked``."""
    ratings = [assessment.score for assessment in assessments if assessment.score is not None]
    if 2 * len(ratings) <= asked:
        return Finding.OPEN
    if 2 * ratings.count(1.0) > len(ratings):
        return Finding.CONFIRMED
    return Finding.REFUTED if 2 * ratings.count(0.0) > len(ratings) else Finding.OPEN


def auto_label(judged: Sequence[Judged], config: LabelConfig) -> Label:
    """The rule above for the well-formed evaluations of one proof; the finding of those with score 1 is not read."""
    kept = tuple(judged)
    if len(kept) < config.min_analyses:
        return Label(None, "too_few", kept)
    issues = [one for one in kept if one.score < 1.0]
    lowest = _lowest(kept)
    if lowest and sum(one.finding is Finding.CONFIRMED for one in lowest) >= config.confirmed:
        return Label(lowest[0].score, "confirmed", kept)
    if all(one.finding is Finding.REFUTED for one in issues):
        return Label(1.0, "no_issue", kept)
    return Label(None, "unsettled", kept)


async def label_proof(
    problem: str, solution: str, verify: Verify, assess: Assess, config: LabelConfig, calls: Calls | None = None
) -> Label:
    """Evaluate, assess and label one proof.

    The evaluations with the lowest score are assessed first; the others only where the label still depends on them, so
    findings may be left OPEN that were not needed. ``calls`` is shared by proofs that are labelled at once.
    """
    calls = calls or Calls(config.concurrency, config.per_call)
    answers = await calls.samples(lambda n: verify(problem, solution, n), config.analyses)
    judged = [Judged(answer) for answer in answers if answer.score is not None]
    if len(judged) < config.min_analyses:
        return auto_label(judged, config)

    async def assessed(one: Judged) -> Judged:
        text = one.evaluation.text
        given = await calls.samples(lambda n: assess(problem, solution, text, n), config.assessments)
        return Judged(one.evaluation, finding(given, config.assessments))

    lowest = await together(assessed(one) for one in _lowest(judged))
    others = [one for one in judged if not lowest or one.score > lowest[0].score]
    # Only when all of the lowest are refuted can the rest still make it a 1.
    if all(one.finding is Finding.REFUTED for one in lowest):
        issues = await together(assessed(one) for one in others if one.score < 1.0)
        others = issues + [one for one in others if one.score == 1.0]
    return auto_label(lowest + others, config)


async def label_proofs(
    proofs: Sequence[tuple[str, str]], verify: Verify, assess: Assess, config: LabelConfig
) -> list[Label]:
    """Label many (problem, solution) at once; one label each, in order.

    Raises:
        JudgeError: not one call came through. Single failures cost opinions: too few, and there is no label.
    """
    calls = Calls(config.concurrency, config.per_call)
    labels = await together(label_proof(*proof, verify, assess, config, calls) for proof in proofs)
    calls.check()
    return labels


def _lowest(judged: Sequence[Judged]) -> list[Judged]:
    """The evaluations with the lowest score, if that is an issue."""
    low = min((one.score for one in judged), default=1.0)
    return [one for one in judged if one.score == low] if low < 1.0 else []

"""The reward parts of DeepSeekMath-V2; formulas in ``rewards.verification``.

    VerifierReward    family "verify": problem and solution in, an evaluation out; label s = task.answer
    MetaReward        family "assess": problem, solution and evaluation in, an assessment out; label ms = task.answer
    GeneratorReward   family "prove": problem in, solution and self-evaluation out; a judge verifies it

Each applies to its own family, so that one mixture of the three trains one policy in all roles. Tasks name their
material in ``metadata``: "problem" and, in verify and assess, "solution".

What is not well-formed is the policy's doing and scores 0. A judge that cannot be asked, or of whose answers fewer than
the configured minimum are well-formed, has given no score: the sample is masked (``reward_judge``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envs.proof.texts import SCORES, Evaluation, parse_evaluation, parse_generation, parse_meta
from envs.types import Episode, Task
from rewards.judge import Judge, JudgeError
from rewards.part import LengthUse, RewardError, RewardPart, Scored, digest
from rewards.proof_roles import ProofRoles
from rewards.verification import (
    ALPHA,
    BETA,
    ProofPrompts,
    generator_reward,
    score_reward,
    self_evaluation_reward,
    verifier_reward,
)

NO_JUDGEMENT = "reward_judge"  # why a sample is masked when the judge gave no score


@dataclass(frozen=True, kw_only=True)
class MetaReward(RewardPart):
    """R = R_format · (1 − |ms' − ms|), ms from ``task.answer``. Details: predicted, label, format."""

    name: str = "meta"
    families: tuple[str, ...] = ("assess",)
    bounds: tuple[float, float] = (0.0, 1.0)

    def length_use(self) -> LengthUse:
        return LengthUse("none")

    def __call__(self, episode: Episode, scores: Mapping[str, float]) -> Scored:
        label, read = _label(self.name, episode.task), parse_meta(episode.answer or "")
        return Scored(verifier_reward(read.ok, read.score, label), _details(read, label))


@dataclass(frozen=True, kw_only=True)
class VerifierReward(RewardPart):
    """R = R_format · (1 − |s' − s|) · R_meta, s from ``task.answer``. Details: predicted, label, format, meta.

    With a judge R_meta is the mean of its well-formed ratings of the evaluation; without one it is 1. The judge is not
    asked where the product is 0 without it.
    """

    name: str = "verifier"
    families: tuple[str, ...] = ("verify",)
    bounds: tuple[float, float] = (0.0, 1.0)
    timeout_s: float = 300.0  # the judge's time included
    judge: Judge | None = None  # the meta-verifier; null: R_meta = 1
    prompts: ProofPrompts | None = None  # what it is asked, e.g. {_target_: envs.proof.prompts.FullPrompts}
    assessments: int = 1  # m, ratings of each evaluation
    min_assessments: int = 1  # fewer well-formed ones: the sample is masked
    max_tokens: int | None = None  # of one rating; null: the judge's own
    temperature: float | None = 1.0  # of the ratings; null: the judge's own

    def __post_init__(self) -> None:
        if self.judge is not None and self.prompts is None:
            raise ValueError(
                f"reward.{self.name}.prompts is null: with a judge name its prompts, envs.proof.prompts.FullPrompts"
            )
        _check_votes(self.name, "assessments", self.assessments, self.min_assessments)

    def length_use(self) -> LengthUse:
        if self.judge is None:
            return LengthUse("none")
        return LengthUse("indirect", "a meta-verifier's opinion of the evaluation")

    def cache_key(self, episode: Episode, scores: Mapping[str, float]) -> str:
        return _key(episode)

    async def __call__(self, episode: Episode, scores: Mapping[str, float]) -> Scored:
        task = episode.task
        label, read = _label(self.name, task), parse_evaluation(episode.answer or "")
        details = _details(read, label)
        if read.score is None or self.judge is None or self.prompts is None or score_reward(read.score, label) == 0.0:
            return Scored(verifier_reward(read.ok, read.score, label), details)
        problem, solution = (_material(self.name, task, key) for key in ("problem", "solution"))
        roles = ProofRoles(self.judge, self.prompts, self.max_tokens, self.temperature)
        try:
            answers = await roles.assess(problem, solution, read.text, self.assessments)
        except JudgeError as error:
            return Scored(0.0, details, NO_JUDGEMENT, f"{self.name}: {error}")
        ratings = _well_formed(answers)
        details["assessments"] = len(ratings)
        if missing := _missing(self.name, "assessments", answers, self.min_assessments):
            return Scored(0.0, details, NO_JUDGEMENT, missing)
        details["meta"] = _mean(ratings)
        return Scored(verifier_reward(True, read.score, label, details["meta"]), details)


@dataclass(frozen=True, kw_only=True)
class GeneratorReward(RewardPart):
    """R = R_format(Y, Z) · (α·s + β·(1 − |s' − s|)·R_meta(Z)).

    s is the mean score of the judge's well-formed evaluations of Y, R_meta the mean of its well-formed ratings of Z.
    Both are asked at once. Details: format, r_y, r_z, self_score (s'), verifier_score (s), meta, and how many
    ``analyses`` and ``assessments`` were well-formed.
    """

    name: str = "generator"
    families: tuple[str, ...] = ("prove",)
    bounds: tuple[float, float] = (0.0, 1.0)
    timeout_s: float = 300.0  # the judge's time included
    judge: Judge  # the verifier, and the meta-verifier unless that is named
    prompts: ProofPrompts  # what they are asked, e.g. {_target_: envs.proof.prompts.FullPrompts}
    meta_judge: Judge | None = None  # another model as meta-verifier; null: `judge` does both
    analyses: int = 4  # n, evaluations of each proof
    min_analyses: int = 2  # fewer well-formed ones: the sample is masked
    assessments: int = 2  # m, ratings of each self-evaluation; 0: R_meta = 1
    min_assessments: int = 1  # fewer well-formed ones: the sample is masked
    alpha: float = ALPHA  # weight of the proof's score
    beta: float = BETA  # weight of the self-evaluation
    max_tokens: int | None = None  # of one answer of the judge; null: the judge's own
    temperature: float | None = 1.0  # of the judge's answers; null: the judge's own

    def __post_init__(self) -> None:
        if self.judge is None:
            raise ValueError(
                f"reward.{self.name}.judge is null: it needs a verifier: run with judge=worker or judge=endpoint"
            )
        _check_votes(self.name, "analyses", self.analyses, self.min_analyses)
        if self.assessments != 0:
            _check_votes(self.name, "assessments", self.assessments, self.min_assessments)
        generator_reward(True, 1.0, 1.0, self.alpha, self.beta)  # checks the weights

    def length_use(self) -> LengthUse:
        return LengthUse("indirect", "a verifier's opinion of the proof and of the self-evaluation")

    def cache_key(self, episode: Episode, scores: Mapping[str, float]) -> str:
        return _key(episode)

    async def __call__(self, episode: Episode, scores: Mapping[str, float]) -> Scored:
        read = parse_generation(episode.answer or "")
        details = {"format": float(read.ok)}
        if read.self_score is None:
            return Scored(0.0, details)
        details["self_score"] = read.self_score
        problem = _material(self.name, episode.task, "problem")
        verifier = ProofRoles(self.judge, self.prompts, self.max_tokens, self.temperature)
        meta = ProofRoles(self.meta_judge or self.judge, self.prompts, self.max_tokens, self.temperature)
        asked = [verifier.verify(problem, read.solution, self.analyses)]
        if self.assessments:
            asked.append(meta.assess(problem, read.solution, read.evaluation.text, self.assessments))
        try:
            analyses, *assessments = await asyncio.gather(*asked)
        except JudgeError as error:
            return Scored(0.0, details, NO_JUDGEMENT, f"{self.name}: {error}")
        verdicts, ratings = _well_formed(analyses), [_well_formed(answers) for answers in assessments]
        details["analyses"] = len(verdicts)
        missing = _missing(self.name, "analyses", analyses, self.min_analyses)
        if self.assessments:
            details["assessments"] = len(ratings[0])
            missing = missing or _missing(self.name, "assessments", assessments[0], self.min_assessments)
        if missing:
            return Scored(0.0, details, NO_JUDGEMENT, missing)
        details["verifier_score"] = details["r_y"] = s = _mean(verdicts)
        details["meta"] = _mean(ratings[0]) if ratings else 1.0
        details["r_z"] = self_evaluation_reward(read.self_score, s, details["meta"])
        return Scored(generator_reward(True, s, details["r_z"], self.alpha, self.beta), details)


def _well_formed(answers: Sequence[Evaluation]) -> list[float]:
    return [answer.score for answer in answers if answer.score is not None]


def _missing(part: str, what: str, answers: Sequence[Evaluation], least: int) -> str:
    """Why too few of the judge's answers are well-formed; "" if they are enough."""
    good = len(_well_formed(answers))
    if good >= least:
        return ""
    last = next((answer.problem for answer in reversed(answers) if not answer.ok), "none came")
    return (
        f"{part}: {good} of {len(answers)} {what} are well-formed, reward.{part}.min_{what}={least}; the last: {last}"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _details(read: Evaluation, label: float) -> dict[str, float]:
    details = {"format": float(read.ok), "label": label}
    return details if read.score is None else details | {"predicted": read.score}


def _label(part: str, task: Task) -> float:
    try:
        label = float(task.answer)
    except (TypeError, ValueError):
        label = -1.0
    if label not in SCORES:
        raise RewardError(part, f"answer of task '{task.id}' is {task.answer!r}; the label must be 0, 0.5 or 1")
    return label


def _material(part: str, task: Task, key: str) -> str:
    text = task.metadata.get(key)
    if not isinstance(text, str) or not text:
        raise RewardError(
            part, f"metadata of task '{task.id}' (family '{task.family}') has no text '{key}' to show to the judge"
        )
    return text


def _key(episode: Episode) -> str:
    task = episode.task
    return digest(task.answer, task.metadata.get("problem"), task.metadata.get("solution"), episode.answer)


def _check_votes(part: str, field: str, votes: int, least: int) -> None:
    if votes < 1:
        raise ValueError(f"reward.{part}.{field}={votes}: must be at least 1")
    if not 1 <= least <= votes:
        raise ValueError(f"reward.{part}.min_{field}={least}: must be from 1 to {field}={votes}")

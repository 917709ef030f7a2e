"""Sequential refinement (DeepSeekMath-V2, arXiv 2511.22570): the prover corrects itself until it believes in its proof.

    attempt 1      prove(problem)
    attempt i + 1  refine(problem, Y_i, [Z_i])   until the self-score s'_i is 1 or ``max_iterations`` attempts are made

Several such threads run in parallel: their final proofs give pass@1, the one with the best self-score best@threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from envs.proof.texts import SCORES, Evaluation, Generation
from rl.proof.calls import Calls, Prove, Refine, together


@dataclass(frozen=True)
class RefineConfig:
    """The paper's values, where it has some."""

    max_iterations: int = 8  # attempts in all, the first included
    threads: int = 32  # independent threads per problem
    concurrency: int = 64  # calls under way at once

    def __post_init__(self) -> None:
        for name in ("max_iterations", "threads", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"refine.{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Refinement:
    """One thread: its attempts in order, those that were not well-formed included."""

    attempts: tuple[Generation, ...]

    @property
    def final(self) -> Generation | None:
        """The last well-formed attempt; None without one."""
        return next((attempt for attempt in reversed(self.attempts) if attempt.ok), None)

    @property
    def self_score(self) -> float:
        """What the prover gives its final proof; −1 without one, below every score."""
        score = self.final.self_score if self.final else None
        return -1.0 if score is None else score


async def refine_proof(
    problem: str, prove: Prove, refine: Refine, config: RefineConfig, calls: Calls | None = None
) -> Refinement:
    """One thread. An attempt that is not well-formed, or a call that failed, uses up an iteration; the next starts
    from the last well-formed attempt, or anew."""
    calls = calls or Calls(config.concurrency, 1)
    attempts: list[Generation] = []
    last: Generation | None = None
    while len(attempts) < config.max_iterations and (last is None or last.self_score != 1.0):
        if last is None:
            ask = partial(prove, problem)
        else:
            ask = partial(refine, problem, last.solution, [last.evaluation.text])
        answers = await calls.samples(ask, 1)
        attempt = answers[0] if answers else Generation(False, problem=f"no answer: {calls.last_error}")
        attempts.append(attempt)
        last = attempt if attempt.ok else last
    return Refinement(tuple(attempts))


async def refine_threads(
    problem: str, prove: Prove, refine: Refine, config: RefineConfig, calls: Calls | None = None
) -> list[Refinement]:
    """``threads`` independent threads at once. Raises JudgeError when not one call came through."""
    calls = calls or Calls(config.concurrency, 1)
    threads = await together(refine_proof(problem, prove, refine, config, calls) for _ in range(config.threads))
    calls.check()
    return threads


def self_selected(threads: Sequence[Refinement]) -> Refinement:
    """The thread whose final proof the prover scores best, the first of equals. Raises ValueError without threads."""
    if not threads:
        raise ValueError("threads is empty: there is nothing to select from")
    return max(threads, key=lambda thread: thread.self_score)


def majority_score(evaluations: Sequence[Evaluation]) -> float | None:
    """The most frequent score of the well-formed evaluations, the lowest of equals; None without one."""
    given = [evaluation.score for evaluation in evaluations if evaluation.score is not None]
    return max(SCORES, key=lambda score: (given.count(score), -score)) if given else None

"""High-compute search (DeepSeekMath-V2, arXiv 2511.22570): a pool of proofs, verified, selected, refined, in rounds.

    round 1   `proofs` attempts, each with `verifications` evaluations
    round r   the `best` proofs of the pool by mean score (then self-score); each paired with up to `critiques` of its
              evaluations, those that find an issue first; a refined proof per pair, verified, into the pool
    until a proof passes all its evaluations, or `rounds` are done

The paper makes one proof per (proof, evaluation) pair; the released script shows all critiques of a proof in one prompt
(lowest scores first, at most four per score) and draws four proofs from it: ``RELEASED``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from envs.proof.texts import Evaluation, Generation
from rl.proof.calls import Calls, Prove, Refine, Verify, together


@dataclass(frozen=True)
class SearchConfig:
    """The paper's values by default; where it gives none, the comment says so."""

    proofs: int = 64  # attempts of the first round
    verifications: int = 64  # evaluations of each proof
    best: int = 64  # proofs of the pool that are refined in a round
    critiques: int = 8  # evaluations paired with each of them, at most
    one_prompt: bool = False  # all critiques of a proof in one prompt, instead of a prompt each
    per_score: int = 0  # critiques with the same score, at most, where scores differ; 0: no limit
    samples: int = 1  # refined proofs per prompt
    rounds: int = 16  # rounds in all, the first included
    min_share: float = 0.5  # share of a proof's evaluations that must be well-formed, else it is left out (ours)
    concurrency: int = 64  # calls under way at once (ours)
    per_call: int = 8  # answers asked for in one call (ours)
    seed: int = 0  # of the choice of critiques

    def __post_init__(self) -> None:
        for name in ("proofs", "verifications", "best", "critiques", "samples", "rounds", "concurrency", "per_call"):
            if getattr(self, name) < 1:
                raise ValueError(f"search.{name}={getattr(self, name)}: must be at least 1")
        if self.per_score < 0:
            raise ValueError(f"search.per_score={self.per_score}: must be 0 (no limit) or more")
        if not 0 < self.min_share <= 1:
            raise ValueError(f"search.min_share={self.min_share}: must be in (0, 1]")


# inference/run.sh of the released code; it skips meta-verification, and so does this search.
RELEASED = SearchConfig(proofs=128, verifications=64, best=32, critiques=8, one_prompt=True, per_score=4, samples=4)


@dataclass(frozen=True)
class Candidate:
    """A verified proof. ``evaluations`` are the well-formed ones; ``parent`` its place in the pool, None in round 1."""

    solution: str
    self_score: float
    evaluations: tuple[Evaluation, ...]
    round: int
    parent: int | None = None

    @property
    def scores(self) -> list[float]:
        return [evaluation.score for evaluation in self.evaluations if evaluation.score is not None]

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)

    @property
    def passed(self) -> bool:
        """Every well-formed evaluation gives it 1."""
        return all(score == 1.0 for score in self.scores)


@dataclass(frozen=True)
class Round:
    """What one round did. ``asked`` = malformed + duplicates + unverified + added + attempts lost to failed calls."""

    number: int
    asked: int  # attempts
    malformed: int  # not well-formed: dropped
    duplicates: int  # a solution seen before, word by word: not verified again
    unverified: int  # too few well-formed evaluations: dropped
    added: int  # new in the pool
    best_mean: float  # of the whole pool after it; −1 while it is empty
    mean: float  # of those added; −1 without any


@dataclass(frozen=True)
class SearchResult:
    """``best`` is the pool's first by mean score, None if the pool stayed empty.

    ``stopped``: passed | rounds (they ran out) | empty (no first attempt could be verified) | no_answer (every call of
    a round failed). ``failed_calls`` of the ``calls`` brought nothing.
    """

    best: Candidate | None
    stopped: str
    rounds: tuple[Round, ...]
    pool: tuple[Candidate, ...] = field(repr=False)
    calls: int
    failed_calls: int

    @property
    def passed(self) -> bool:
        """``best`` passes all its evaluations."""
        return self.stopped == "passed"


async def search(problem: str, prove: Prove, verify: Verify, refine: Refine, config: SearchConfig) -> SearchResult:
    """Search for a proof of ``problem`` that passes all its evaluations.

    Raises:
        JudgeError: not one call came through.
    """
    calls = Calls(config.concurrency, config.per_call)
    rng = random.Random(config.seed)
    pool: list[Candidate] = []
    seen: set[str] = set()
    rounds: list[Round] = []

    async def attempts(parent: int, critiques: Sequence[Evaluation]) -> list[tuple[Generation, int | None]]:
        solution, texts = pool[parent].solution, [critique.text for critique in critiques]
        answers = await calls.samples(lambda n: refine(problem, solution, texts, n), config.samples)
        return [(answer, parent) for answer in answers]

    async def verified(attempt: Generation) -> list[Evaluation]:
        answers = await calls.samples(lambda n: verify(problem, attempt.solution, n), config.verifications)
        return [answer for answer in answers if answer.ok]

    stopped = "rounds"
    made: list[tuple[Generation, int | None]]
    for number in range(1, config.rounds + 1):
        made_before, failed_before = calls.made, calls.failed
        if number == 1:
            first = await calls.samples(lambda n: prove(problem, n), config.proofs)
            asked = config.proofs
            made = [(attempt, None) for attempt in first]
        else:
            prompts = [
                pair for place in ranked(pool)[: config.best] for pair in _pairs(place, pool[place], config, rng)
            ]
            asked = len(prompts) * config.samples
            made = [one for some in await together(attempts(*prompt) for prompt in prompts) for one in some]
        fresh: list[tuple[Generation, int | None]] = []
        for attempt, parent in made:
            if attempt.ok and attempt.solution not in seen:
                seen.add(attempt.solution)
                fresh.append((attempt, parent))
        malformed = sum(not attempt.ok for attempt, _ in made)
        verdicts = await together(verified(attempt) for attempt, _ in fresh)
        calls.check()
        added = [
            Candidate(attempt.solution, attempt.self_score or 0.0, tuple(evaluations), number, parent)
            for (attempt, parent), evaluations in zip(fresh, verdicts, strict=True)
            if evaluations and len(evaluations) >= config.min_share * config.verifications
        ]
        pool += added
        rounds.append(
            Round(
                number,
                asked,
                malformed,
                duplicates=len(made) - malformed - len(fresh),
                unverified=len(fresh) - len(added),
                added=len(added),
                best_mean=max((candidate.mean for candidate in pool), default=-1.0),
                mean=sum(candidate.mean for candidate in added) / len(added) if added else -1.0,
            )
        )
        if any(candidate.passed for candidate in added):
            stopped = "passed"
        elif calls.made - made_before == calls.failed - failed_before:
            stopped = "no_answer"  # further rounds would only wait for it again
        elif not pool:
            stopped = "empty"
        if stopped != "rounds":
            break
    best = pool[ranked(pool)[0]] if pool else None
    return SearchResult(best, stopped, tuple(rounds), tuple(pool), calls.made, calls.failed)


def ranked(pool: Sequence[Candidate]) -> list[int]:
    """Places in the pool, best first: by mean score, then self-score, then age."""
    return sorted(range(len(pool)), key=lambda place: (-pool[place].mean, -pool[place].self_score, place))


def choose_critiques(
    evaluations: Sequence[Evaluation], count: int, rng: random.Random, *, per_score: int = 0, lowest_first: bool = False
) -> list[Evaluation]:
    """Up to ``count`` of the well-formed evaluations: those that find an issue at random, then the others at random.

    Args:
        per_score: at most so many with the same score, unless all have the same; 0: no limit.
        lowest_first: by score, instead of 0 and 0.5 alike.
    """
    order = [evaluation for evaluation in evaluations if evaluation.ok]
    rng.shuffle(order)
    order.sort(key=lambda evaluation: (evaluation.score or 0.0) if lowest_first else evaluation.score == 1.0)
    if per_score and len({evaluation.score for evaluation in order}) > 1:
        order = [one for i, one in enumerate(order) if sum(o.score == one.score for o in order[:i]) < per_score]
    return order[:count]


def _pairs(
    place: int, candidate: Candidate, config: SearchConfig, rng: random.Random
) -> list[tuple[int, list[Evaluation]]]:
    """The prompts that refine one proof: its place in the pool and the critiques to be shown."""
    chosen = choose_critiques(
        candidate.evaluations, config.critiques, rng, per_score=config.per_score, lowest_first=config.one_prompt
    )
    return [(place, chosen)] if config.one_prompt else [(place, [critique]) for critique in chosen]

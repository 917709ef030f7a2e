r"""Figures of one task from n samples of it, of which k are drawn without replacement. All of them exact expectations.

With outcomes o_1 … o_n in [0, 1] of the samples, c of them full (o = 1), and S a k-subset of the samples::

    avg@n      (1/n) Σ_i o_i
    pass@k     1 − C(n−c, k) / C(n, k)               some sample of S is right (Chen et al. 2021, arXiv 2107.03374)
    maj@k      E_S[ outcome of the most frequent answer in S ]       self-consistency (Wang et al. 2022)
    best@k     E_S[ outcome of the sample with the highest score in S ]          best-of-k by a verifier

Ties are split fairly: answers with equally many votes, or samples with equal scores, win with the same probability.
None of these is estimated by drawing subsets: the expectation over all C(n, k) of them is computed. An estimator of k
needs n ≥ k samples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from fractions import Fraction
from math import comb, fsum

FULL = 1.0 - 1e-9  # an outcome from here on is a solved task


def mean(outcomes: Sequence[float]) -> float:
    """avg@n: the mean outcome. Raises ValueError without samples."""
    if not outcomes:
        raise ValueError("avg@k of a task without samples; leave the task out")
    return fsum(outcomes) / len(outcomes)


def pass_at_k(outcomes: Sequence[float], k: int) -> float:
    """Probability that some of k samples solves the task: the unbiased estimate from n ≥ k samples."""
    n = _checked("pass", outcomes, k)
    wrong = sum(o < FULL for o in outcomes)
    return 1.0 - comb(wrong, k) / comb(n, k)


def majority_at_k(answers: Sequence[Hashable | None], outcomes: Sequence[float], k: int) -> float:
    """Expected outcome of a majority vote among k samples.

    ``answers`` [n]: what each sample votes for, equal values being the same answer; None is no vote. A winner counts
    with the mean outcome of the samples that gave it (where the answer decides the outcome, that is its outcome).
    Subsets in which nobody votes count with the mean outcome of the samples without a vote.
    """
    n = _checked("maj", outcomes, k, answers)
    classes: dict[Hashable, list[float]] = defaultdict(list)
    silent = [o for a, o in zip(answers, outcomes, strict=True) if a is None]
    for answer, outcome in zip(answers, outcomes, strict=True):
        if answer is not None:
            classes[answer].append(outcome)
    sizes = Counter(len(members) for members in classes.values())
    wins = {size: _subsets_won(size, sizes - Counter([size]), len(silent), k) for size in sizes}
    terms = [float(wins[len(members)] / comb(n, k)) * mean(members) for members in classes.values()]
    if nobody := comb(len(silent), k):
        terms.append(nobody / comb(n, k) * mean(silent))
    return fsum(terms)


def best_of_k(scores: Sequence[float | None], outcomes: Sequence[float], k: int) -> float:
    """Expected outcome of the sample that ``scores`` [n] puts first among k.

    None (the verifier gave no score) ranks below every score. With the samples in groups of equal score, s_g of them
    in group g and l_g below it, group g is at the top of C(l_g + s_g, k) − C(l_g, k) of the C(n, k) subsets.
    """
    n = _checked("best", outcomes, k, scores)
    ranks: dict[float, list[float]] = defaultdict(list)
    for score, outcome in zip(scores, outcomes, strict=True):
        ranks[-float("inf") if score is None else score].append(outcome)
    terms, below = [], 0
    for _, members in sorted(ranks.items()):
        top = comb(below + len(members), k) - comb(below, k)
        terms.append(top / comb(n, k) * mean(members))
        below += len(members)
    return fsum(terms)


def _subsets_won(size: int, others: Counter[int], silent: int, k: int) -> Fraction:
    """How many k-subsets a class of ``size`` samples wins, a t-fold tie counting 1/(t+1).

    ``others``: how many other classes there are of each size. For every number of votes v it can have, the other
    classes are chosen from one after the other: each gives fewer than v samples, or v (a tie), and ``silent`` samples
    fill the rest.
    """
    total = Fraction(0)
    for votes in range(1, min(size, k) + 1):
        rest = k - votes
        ways: dict[tuple[int, int], int] = {(0, 0): 1}  # (samples chosen so far, classes tied) → number of choices
        for other in others.elements():
            after: dict[tuple[int, int], int] = defaultdict(int)
            for (taken, tied), count in ways.items():
                for more in range(min(other, votes, rest - taken) + 1):
                    after[taken + more, tied + (more == votes)] += count * comb(other, more)
            ways = after
        chosen = comb(size, votes)
        for (taken, tied), count in ways.items():
            total += Fraction(chosen * count * comb(silent, rest - taken), tied + 1)
    return total


def _checked(name: str, outcomes: Sequence[float], k: int, paired: Sequence[object] | None = None) -> int:
    n = len(outcomes)
    if not 1 <= k <= n:
        raise ValueError(f"{name}@{k} of {n} samples: k must be between 1 and the number of samples")
    if paired is not None and len(paired) != n:
        raise ValueError(f"{name}@{k}: {len(paired)} answers or scores for {n} outcomes; give one for each")
    return n

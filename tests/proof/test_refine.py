"""Sequential refinement with a scripted prover: it stops when the prover is content, or at the cap."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from envs.proof.texts import (
    Evaluation,
    Generation,
    evaluation_text,
    generation_text,
    parse_evaluation,
    parse_generation,
)
from rewards.judge import JudgeError
from rl.proof.refine import RefineConfig, Refinement, majority_score, refine_proof, refine_threads, self_selected


def attempt(name: str, self_score: float | None) -> Generation:
    if self_score is None:
        return parse_generation("no form")
    return parse_generation(generation_text(name, evaluation_text(f"of {name}", self_score)))


class Prover:
    """Gives ``script`` in order; remembers from what each attempt started. A string in the script is a failure."""

    def __init__(self, *script: Generation | str) -> None:
        self.script = list(script)
        self.started_from: list[str | None] = []

    def _next(self) -> Sequence[Generation]:
        given = self.script.pop(0)
        if isinstance(given, str):
            raise JudgeError(given)
        return [given]

    async def prove(self, problem: str, n: int) -> Sequence[Generation]:
        assert (problem, n) == ("P", 1)
        self.started_from.append(None)
        return self._next()

    async def refine(self, problem: str, output: str, critiques: Sequence[str], n: int) -> Sequence[Generation]:
        (critique,) = critiques
        assert parse_evaluation(critique).analysis == f"of {output}"
        self.started_from.append(output)
        return self._next()

    def run(self, cap: int) -> Refinement:
        return asyncio.run(refine_proof("P", self.prove, self.refine, RefineConfig(max_iterations=cap)))


def test_it_stops_at_self_score_1() -> None:
    prover = Prover(attempt("a", 0), attempt("b", 0.5), attempt("c", 1), attempt("d", 1))
    thread = prover.run(cap=8)
    assert [one.solution for one in thread.attempts] == ["a", "b", "c"]
    assert prover.started_from == [None, "a", "b"]
    assert thread.final is not None
    assert (thread.final.solution, thread.self_score) == ("c", 1.0)


def test_a_first_attempt_that_is_content_is_the_last() -> None:
    assert len(Prover(attempt("a", 1)).run(cap=8).attempts) == 1


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_it_stops_at_the_cap(cap: int) -> None:
    thread = Prover(*[attempt(name, 0.5) for name in "abcd"]).run(cap)
    assert len(thread.attempts) == cap
    assert thread.final is not None
    assert (thread.final.solution, thread.self_score) == ("abc"[cap - 1], 0.5)


def test_a_later_attempt_replaces_a_better_believed_one() -> None:
    # pass@1 is about the final proof of a thread, also where the prover likes it less
    thread = Prover(attempt("a", 0.5), attempt("b", 0)).run(cap=2)
    assert thread.self_score == 0.0


def test_what_is_not_well_formed_costs_an_iteration_only() -> None:
    prover = Prover(attempt("", None), attempt("a", 0), "busy", attempt("", None), attempt("b", 0.5))
    thread = prover.run(cap=5)
    assert prover.started_from == [None, None, "a", "a", "a"]
    assert [one.ok for one in thread.attempts] == [False, True, False, False, True]
    assert "busy" in thread.attempts[2].problem
    assert thread.final == attempt("b", 0.5)


def test_threads_run_at_once_and_the_prover_selects() -> None:
    now = most = 0

    async def prove(problem: str, n: int) -> Sequence[Generation]:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return [attempt("a", 0.5)] * n

    async def refine(problem: str, output: str, critiques: Sequence[str], n: int) -> Sequence[Generation]:
        return [attempt("b", 1)] * n

    threads = asyncio.run(refine_threads("P", prove, refine, RefineConfig(threads=6, concurrency=3)))
    assert [len(thread.attempts) for thread in threads] == [2] * 6
    assert most == 3


def test_the_first_of_the_best_believed_is_selected() -> None:
    threads = [Refinement((attempt(name, score),)) for name, score in zip("abcd", (0.5, None, 1, 1), strict=True)]
    assert self_selected(threads) is threads[2]
    assert threads[1].self_score == -1.0
    with pytest.raises(ValueError, match="threads is empty"):
        self_selected([])


def test_a_prover_that_never_answers_is_an_error() -> None:
    prover = Prover("refused", "refused")
    with pytest.raises(JudgeError, match="all 2 calls failed, the last one: refused"):
        asyncio.run(refine_threads("P", prover.prove, prover.refine, RefineConfig(max_iterations=2, threads=1)))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((1, 1, 0), 1.0),
        ((0.5, 0.5, 1, 1, 0), 0.5),  # a tie goes to the lower score
        ((0, 0.5, 1), 0.0),
        ((1, None, None), 1.0),
        ((None,), None),
        ((), None),
    ],
)
def test_the_majority_of_verifications(scores: tuple[float | None, ...], expected: float | None) -> None:
    given = [Evaluation(False) if s is None else parse_evaluation(evaluation_text("a", s)) for s in scores]
    assert majority_score(given) == expected


@pytest.mark.parametrize("name", ["max_iterations", "threads", "concurrency"])
def test_config_errors_name_the_field(name: str) -> None:
    with pytest.raises(ValueError, match=rf"refine\.{name}=0"):
        RefineConfig(**{name: 0})

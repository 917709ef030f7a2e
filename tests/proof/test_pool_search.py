"""The pool search against a scripted prover and verifier whose outcome is known.

A proof is a number of errors, "2 errors #7"; a verifier gives 1 for none, 0.5 for one, 0 for more, and the refiner
mends one error per critique that finds an issue.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.proof.texts import SCORES, Evaluation, Generation, evaluation_text, generation_text, parse_evaluation
from envs.proof.texts import parse_generation as read
from rewards.judge import JudgeError
from rl.proof.search import RELEASED, Candidate, SearchConfig, SearchResult, choose_critiques, ranked, search


def evaluations(*scores: float) -> list[Evaluation]:
    return [parse_evaluation(evaluation_text(f"e{i}", score)) for i, score in enumerate(scores)]


class World:
    def __init__(
        self, start: Sequence[int | None], *, stubborn: bool = False, fail_every: int = 0, dead_after: int = 0
    ) -> None:
        self.start, self.stubborn = list(start), stubborn
        self.fail_every, self.dead_after = fail_every, dead_after
        self.serial = itertools.count()
        self.calls: Counter[str] = Counter()
        self.refined: list[tuple[str, tuple[str, ...], int]] = []
        self.now = self.most = 0

    def attempt(self, errors: int | None) -> Generation:
        if errors is None:
            return read("I give up")
        solution = f"{errors} errors #{next(self.serial)}"
        return read(generation_text(solution, evaluation_text("self", 0.5)))

    async def _asked(self, role: str) -> None:
        self.calls[role] += 1
        number = self.calls.total()
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if (self.dead_after and number > self.dead_after) or (self.fail_every and number % self.fail_every == 0):
            raise JudgeError("busy")

    async def prove(self, problem: str, n: int) -> Sequence[Generation]:
        await self._asked("prove")
        return [self.attempt(self.start.pop(0)) for _ in range(n)]

    async def verify(self, problem: str, solution: str, n: int) -> Sequence[Evaluation]:
        await self._asked("verify")
        score = {0: 1.0, 1: 0.5}.get(int(solution.split()[0]), 0.0)
        return [parse_evaluation(evaluation_text("seen", score))] * n

    async def refine(self, problem: str, output: str, critiques: Sequence[str], n: int) -> Sequence[Generation]:
        await self._asked("refine")
        self.refined.append((output, tuple(critiques), n))
        mended = 0 if self.stubborn else sum(parse_evaluation(critique).score != 1.0 for critique in critiques)
        return [self.attempt(max(0, int(output.split()[0]) - mended)) for _ in range(n)]

    def search(self, **fields: object) -> SearchResult:
        config = SearchConfig(**{"proofs": len(self.start), "verifications": 4, "best": 2, "critiques": 2} | fields)
        return asyncio.run(search("P", self.prove, self.verify, self.refine, config))


def test_the_defaults_are_the_papers_and_the_released_scripts() -> None:
    paper = SearchConfig()
    assert (paper.proofs, paper.verifications, paper.best, paper.critiques, paper.rounds) == (64, 64, 64, 8, 16)
    assert (paper.one_prompt, paper.samples) == (False, 1)
    # 128 proofs a round: 32 prompts of four samples
    assert (RELEASED.proofs, RELEASED.verifications, RELEASED.rounds) == (128, 64, 16)
    assert RELEASED.best * RELEASED.samples == RELEASED.proofs


def test_a_proof_with_two_errors_is_mended_in_two_rounds() -> None:
    world = World([3, 2, 4, None])
    result = world.search()
    # round 1: three proofs, all with mean 0; the two oldest are refined, with two critiques each, one error per prompt
    first, second, third = result.rounds
    assert (first.asked, first.malformed, first.added, first.best_mean, first.mean) == (4, 1, 3, 0.0, 0.0)
    assert (second.asked, second.added, second.best_mean) == (4, 4, 0.5)
    assert [world.refined[i][0] for i in range(4)] == ["3 errors #0", "3 errors #0", "2 errors #1", "2 errors #1"]
    # 3 -> 2, 2 and 2 -> 1, 1: means 0, 0, 0.5, 0.5; round 3 refines the two with one error
    assert second.mean == pytest.approx(0.25)
    assert (third.added, third.best_mean, third.mean) == (4, 1.0, 1.0)
    assert result.passed
    assert result.best is not None
    assert (result.best.mean, result.best.round, result.best.solution) == (1.0, 3, "0 errors #7")
    # its ancestors: from 2 errors through 1
    parent = result.pool[result.best.parent or 0]
    assert parent.solution == "1 errors #5"
    assert result.pool[parent.parent or 0].solution == "2 errors #1"
    assert len(result.pool) == 3 + 4 + 4
    assert all(critiques == (evaluation_text("seen", 0.0),) for _, critiques, _ in world.refined[:4])


def test_all_critiques_in_one_prompt_mend_faster() -> None:
    world = World([2, 3])
    result = world.search(one_prompt=True, samples=3)
    # two prompts with two critiques each, three samples a prompt: 2 -> 0
    assert [(output, len(critiques), n) for output, critiques, n in world.refined] == [
        ("2 errors #0", 2, 3),
        ("3 errors #1", 2, 3),
    ]
    assert [one.asked for one in result.rounds] == [2, 6]
    assert result.passed


def test_a_first_proof_that_passes_ends_the_search() -> None:
    world = World([1, 0, 2])
    result = world.search()
    assert (len(result.rounds), result.passed, world.calls["refine"]) == (1, True, 0)
    assert result.best is not None
    assert result.best.solution.startswith("0 errors")


def test_without_progress_the_rounds_run_out() -> None:
    result = World([2, 2], stubborn=True).search(rounds=3)
    assert (len(result.rounds), result.stopped, result.passed) == (3, "rounds", False)
    assert result.best is not None
    assert result.best.round == 1


def test_an_empty_pool_ends_the_search() -> None:
    result = World([None, None]).search()
    assert (result.best, result.stopped, len(result.rounds), result.pool) == (None, "empty", 1, ())
    assert result.rounds[0].best_mean == -1.0


def test_equal_solutions_are_verified_once() -> None:
    world = World([1, 1])
    world.serial = itertools.repeat(9)  # type: ignore[assignment]
    result = world.search(rounds=1)
    assert (result.rounds[0].duplicates, result.rounds[0].added, world.calls["verify"]) == (1, 1, 1)


def test_a_proof_with_few_readable_evaluations_is_left_out() -> None:
    world = World([0, 0])

    async def verify(problem: str, solution: str, n: int) -> Sequence[Evaluation]:
        good = evaluations(1)
        return good * 2 + [Evaluation(False)] * 2 if solution.endswith("#0") else good + [Evaluation(False)] * 3

    config = SearchConfig(proofs=2, verifications=4, rounds=1)
    result = asyncio.run(search("P", world.prove, verify, world.refine, config))
    # half of four evaluations is enough, a quarter is not
    assert (result.rounds[0].added, result.rounds[0].unverified) == (1, 1)
    assert result.best is not None
    assert result.best.scores == [1.0, 1.0]


def test_questions_are_asked_at_once_within_the_limit() -> None:
    world = World([2] * 16)
    result = world.search(verifications=8, per_call=2, concurrency=10, rounds=1)
    assert world.calls == {"prove": 8, "verify": 16 * 4}
    assert world.most == 10
    assert result.calls == 72


def test_some_failed_calls_cost_opinions_all_failed_is_an_error() -> None:
    world = World([2] * 8, fail_every=5)
    result = world.search(per_call=1)
    assert result.passed
    assert result.failed_calls == world.calls.total() // 5
    with pytest.raises(JudgeError, match="all 2 calls failed, the last one: busy"):
        World([2, 2], fail_every=1).search(per_call=1)


def test_a_model_that_dies_ends_the_search_with_what_was_found() -> None:
    # two proofs and their evaluations in one call each: calls 1 to 3, then silence
    result = World([1, 2], dead_after=3).search()
    assert (result.stopped, len(result.rounds), result.failed_calls) == ("no_answer", 2, 4)
    assert result.best is not None
    assert result.best.solution == "1 errors #0"


def test_equal_seeds_give_equal_searches() -> None:
    assert World([3, 4, 2]).search(seed=3).pool == World([3, 4, 2]).search(seed=3).pool


def test_the_pool_is_ranked_by_mean_then_self_score_then_age() -> None:
    def candidate(self_score: float, *scores: float) -> Candidate:
        return Candidate("x", self_score, tuple(evaluations(*scores)), 1)

    pool = [candidate(1, 0, 1), candidate(0, 1, 0.5), candidate(0.5, 0.5, 0.5), candidate(1, 0.5, 0.5)]
    assert ranked(pool) == [1, 0, 3, 2]
    assert [one.mean for one in pool] == [0.5, 0.75, 0.5, 0.5]
    assert not pool[1].passed


@pytest.mark.parametrize("seed", range(5))
def test_critiques_that_find_an_issue_come_first(seed: int) -> None:
    given = evaluations(1, 0, 1, 0.5, 1, 0)
    chosen = choose_critiques(given, 4, random.Random(seed))
    assert sorted(one.score or 0.0 for one in chosen) == [0, 0, 0.5, 1]
    assert chosen[3].score == 1.0
    lowest = choose_critiques(given, 3, random.Random(seed), lowest_first=True)
    assert [one.score for one in lowest] == [0, 0, 0.5]
    # at most one per score, as long as there are several scores
    assert [one.score for one in choose_critiques(given, 8, random.Random(seed), per_score=1, lowest_first=True)] == [
        0,
        0.5,
        1,
    ]
    assert len(choose_critiques(evaluations(0, 0, 0), 8, random.Random(seed), per_score=1)) == 3


@given(st.lists(st.sampled_from([*SCORES, None]), max_size=20), st.integers(1, 9), st.integers(0, 3), st.booleans())
def test_a_choice_is_a_subset_in_order(drawn: list[float | None], count: int, per_score: int, lowest: bool) -> None:
    given = [
        Evaluation(False) if score is None else parse_evaluation(evaluation_text(f"e{i}", score))
        for i, score in enumerate(drawn)
    ]
    chosen = choose_critiques(given, count, random.Random(0), per_score=per_score, lowest_first=lowest)
    assert len(chosen) <= count
    assert len({one.text for one in chosen}) == len(chosen)
    assert {one.text for one in chosen} <= {one.text for one in given if one.ok}
    keys = [one.score if lowest else one.score == 1.0 for one in chosen]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"proofs": 0}, r"search\.proofs=0"),
        ({"rounds": 0}, r"search\.rounds=0"),
        ({"per_score": -1}, r"search\.per_score=-1"),
        ({"min_share": 0}, r"search\.min_share=0"),
    ],
)
def test_config_errors_name_the_field(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**fields)

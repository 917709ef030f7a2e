"""Word problems: the answers by hand and by a second way, levels, distinctness."""

from __future__ import annotations

import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.reasoning.stories import STORIES
from envs.reasoning.word_problems import apply, word_problem, written

KINDS = [story.name for story in STORIES]


@settings(max_examples=300)
@given(st.integers(0, 10**9), st.sampled_from(KINDS), st.integers(1, 4))
def test_the_answer_follows_from_the_steps_and_each_number_is_told(seed, kind, level):
    problem = word_problem(random.Random(seed), level, kind)
    value = Fraction(re.search(r"\d+", problem.text)[0])
    for operation, numbers in problem.steps:
        before, value = value, apply(operation, value, numbers)
        assert value >= 0
        if operation in ("part", "percent_off", "take", "take_k", "only"):
            assert value < before
        for n in numbers:  # parts are told in words
            assert operation in ("part", "only") or re.search(rf"\b{re.escape(written(n))}\b", problem.text)
    assert problem.answer == written(value)
    assert (1, 3, 4, 6, 8)[level] >= len(problem.steps) >= (0, 1, 2, 4, 6)[level]
    assert "{" not in problem.text


def test_a_problem_by_hand():
    x = Fraction(240)
    x = apply("times", x, (Fraction(3),))
    assert x == 720
    assert apply("part", x, (Fraction(4),)) == 540
    assert apply("only", x, (Fraction(4),)) == 180
    assert apply("percent_off", x, (Fraction(25),)) == 540
    assert apply("percent_on", x, (Fraction(25),)) == 900
    assert apply("take_k", x, (Fraction(3), Fraction(7))) == 699
    assert apply("full", Fraction(50), (Fraction(12),)) == 4
    assert apply("rest", Fraction(50), (Fraction(12),)) == 2
    assert apply("share", Fraction(50), (Fraction(12),)) == Fraction(25, 6)
    assert apply("more", Fraction(50), (Fraction(60),)) == 10


def test_how_values_are_written():
    assert [written(Fraction(v)) for v in ("12", "12.5", "0.05", "25/6")] == ["12", "12.5", "0.05", "25/6"]


def test_there_are_many_stories_with_enough_events():
    assert len(set(KINDS)) == len(KINDS) >= 12
    for story in STORIES:
        assert len(story.events) >= 8
        assert len(story.finishes) >= 3


def test_problems_differ_and_grow_with_the_level():
    means = []
    for level in (1, 2, 3, 4):
        made = [word_problem(random.Random(f"{level} {i}"), level) for i in range(250)]
        assert len({p.text for p in made}) >= 249
        means.append(sum(len(p.steps) for p in made) / len(made))
    assert means == sorted(means)
    assert means[-1] > means[0] + 3


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="level is 9"):
        word_problem(random.Random(0), 9)
    with pytest.raises(ValueError, match="kind is 'x'"):
        word_problem(random.Random(0), 1, "x")

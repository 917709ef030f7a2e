"""Answers that are right and answers that are not: the labelled pairs of answer_pairs.jsonl, and what holds for any."""

from __future__ import annotations

import json
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from envs.answer_checks import VERIFIERS, choice, exact, math_verify, numeric
from envs.answers.choices import chosen, options_of, right_choice
from envs.answers.forms import read

PAIRS = [json.loads(line) for line in Path(__file__).with_name("answer_pairs.jsonl").read_text("utf-8").splitlines()]
LIMIT_S = 2.0


def test_the_pairs_are_enough_and_none_is_there_twice() -> None:
    assert len({json.dumps(pair, sort_keys=True) for pair in PAIRS}) == len(PAIRS) >= 240
    kinds = Counter((pair["kind"], pair["equal"]) for pair in PAIRS)
    assert min(kinds[kind, equal] for kind in ("exact", "numeric", "math", "choice") for equal in (True, False)) >= 3
    assert sum(not pair["equal"] for pair in PAIRS) >= len(PAIRS) / 3
    assert sum(pair.get("note") == "adversarial" for pair in PAIRS) >= 30


@pytest.mark.parametrize("kind", ["exact", "numeric", "math", "choice"])
def test_every_pair(kind: str) -> None:
    wrong = []
    for pair in PAIRS:
        if pair["kind"] == kind:
            said = VERIFIERS[kind](pair["answer"], {**pair.get("row", {}), "answer": pair["gold"]})
            if said != float(pair["equal"]):
                wrong.append(pair)
    assert wrong == []


def test_math_says_what_numeric_says() -> None:
    for pair in PAIRS:
        if pair["kind"] == "numeric" and not pair.get("row"):
            assert math_verify(pair["answer"], {"answer": pair["gold"]}) == float(pair["equal"]), pair


def written(value: Fraction) -> list[str]:
    """Ways to write a number, each exact."""
    top, bottom = value.numerator, value.denominator
    ways = [
        f"{top}/{bottom}",
        rf"\frac{{{top}}}{{{bottom}}}",
        rf"\dfrac{{{3 * top}}}{{{3 * bottom}}}",
        f"${top}/{bottom}$",
    ]
    whole, rest = divmod(abs(top), bottom)
    sign = "-" if top < 0 else ""
    if rest and whole:
        ways += [f"{sign}{whole} {rest}/{bottom}", rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}"]
    if bottom == 1:
        grouped = f"{top:,}"
        ways += [str(top), grouped, grouped.replace(",", "{,}"), grouped.replace(",", r"\,"), f"{top}.", f"{top}.00"]
    if 10**9 % bottom == 0:
        places = top * (10**9 // bottom)
        digits = f"{abs(places):010d}"
        ways += [
            f"{sign}{digits[:-9]}.{digits[-9:]}",
            f"{places}e-9",
            rf"{places} \times 10^{{-9}}",
            f"{places}*10^(-9)",
        ]
    return ways


numbers = st.one_of(
    st.integers(-(10**12), 10**12).map(Fraction),
    st.decimals(-(10**6), 10**6, places=6).map(Fraction),
    st.fractions(-(10**4), 10**4, max_denominator=10**4),
)


@given(numbers, st.data())
def test_a_number_equals_itself_however_it_is_written(value: Fraction, data: st.DataObject) -> None:
    gold, answer = (data.draw(st.sampled_from(written(value))) for _ in range(2))
    assert numeric(rf"So it is \boxed{{{answer}}}.", {"answer": gold}) == 1.0
    assert numeric(f"The answer is {answer}", {"answer": f"First this.\n#### {gold}"}) == 1.0


@given(numbers, numbers, st.data())
def test_different_numbers_are_never_equal(one: Fraction, other: Fraction, data: st.DataObject) -> None:
    assume(one != other)
    gold, answer = data.draw(st.sampled_from(written(one))), data.draw(st.sampled_from(written(other)))
    assert numeric(answer, {"answer": gold}) == 0.0
    for listed in (f"{gold} or {answer}", f"{answer}; {gold}", rf"\boxed{{{gold}}} \boxed{{{answer}}}"):
        assert numeric(listed, {"answer": gold}) == 0.0


SIGNS = [*"0123456789.,:;=<>±^_{}()[]\\$%/*+-! abxyAB½π", "\\frac", "\\sqrt", "\\boxed{", "\\pi", " or ", "\\cup"]
FORMS = st.lists(st.sampled_from(SIGNS), max_size=40).map("".join)


@given(st.one_of(st.text(), FORMS), st.sampled_from(["", "\\boxed{", "####", "$", "("]))
def test_no_text_raises_or_takes_long(text: str, before: str) -> None:
    begun = time.process_time()
    answer = before + text
    read(answer)
    exact(answer, {"answer": "x"})
    numeric(answer, {"answer": "5"})
    choice(answer, {"answer": "A", "choices": ["1", "2", "3"]})
    assert time.process_time() - begun < LIMIT_S


@given(FORMS, st.sampled_from([r"\sqrt{2}", "x^2+1", "[0,1)", "2x + y = 1"]))
def test_no_text_breaks_the_algebra(text: str, gold: str) -> None:
    assert math_verify(rf"\boxed{{{text}}}", {"answer": gold}) in (0.0, 1.0)


HOSTILE = [
    "(",
    "[",
    "{",
    "\\boxed{",
    "\\frac{",
    "^{",
    "9^",
    "1,",
    "x=",
    " or ",
    "\\pm ",
    "<",
    "a_",
    "####",
    "\\text{",
    "$",
    "/",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_and_deep_answers_are_cheap(piece: str) -> None:
    for length in (2000, 20_000, 200_000):
        answer = piece * (length // len(piece))
        begun = time.process_time()
        numeric(answer, {"answer": "5"})
        choice(answer, {"answer": "A"})
        math_verify(answer, {"answer": r"\sqrt{2}", "question": answer})
        assert time.process_time() - begun < LIMIT_S, length


def test_the_options_of_a_row() -> None:
    assert options_of({"choices": ["A) one", "two"]}) == {"A": "one", "B": "two"}
    assert options_of({"choices": {"label": ["1", "2"], "text": ["x", "y"]}}) == {"1": "x", "2": "y"}
    assert options_of({}) == {}
    assert right_choice({"answer": 1}, {"A": "x", "B": "y"}) == "B"
    assert chosen("z", {"A": "x", "B": "x"}) is None
    for row in ({}, {"answer": 4, "choices": ["x"]}, {"answer": "E", "choices": ["x"]}, {"answer": "B or C"}):
        with pytest.raises(ValueError, match="names no option"):
            choice("A", row)
    with pytest.raises(ValueError, match="give a list of texts"):
        choice("A", {"answer": "A", "choices": "x, y"})

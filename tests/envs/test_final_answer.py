"""Final answers in prose: boxes, labels, typography, numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.final_answer import boxed, clean, final_answer, last_line, number, without_unit


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{12}.", "12"),
        (r"first \boxed{1}, no: \boxed{\frac{3}{4}}", r"\frac{3}{4}"),
        (r"\boxed {12}", "12"),
        (r"\boxed{1} and then \boxed{2", "1"),
        ("no box", None),
        (r"\boxed{}", ""),
    ],
)
def test_the_last_complete_box_counts(text, inside):
    assert boxed(text) == inside


def test_without_a_box_the_label_goes():
    assert final_answer("**Answer:** 12") == "12"
    assert final_answer("The final answer is 12 km") == "12 km"
    assert last_line("Adding up.\n\nAnswer: 7\n") == "7"
    assert final_answer("1 2\n3 4") == "1 2\n3 4"
    assert last_line("") == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,250", 1250),
        ("1{,}250", 1250),
        (r"\$12.50", Fraction(25, 2)),
        ("−3", -3),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        ("6/8", Fraction(3, 4)),
        ("**12**", 12),
        (r"\text{12}", 12),
        ("12.", 12),
        ("1e3", 1000),
        ("12 or 13", None),
        ("12, 13", None),
        ("1,25", None),
        ("1/0", None),
        ("twelve", None),
        ("", None),
        ("9" * 1000, None),
        ("nan", None),
        ("inf", None),
        ("0x1f", None),
        ("1_000", None),
    ],
)
def test_numbers(text, value):
    assert number(text) == value


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_every_way_to_write_a_fraction_is_read(p, q):
    value = Fraction(p, q)
    assert number(f"{p}/{q}") == number(rf"\frac{{{p}}}{{{q}}}") == value
    assert number(f"{p:,}") == p
    assert number(f"${p}$") == p


@given(st.text(max_size=60))
def test_any_text_has_some_answer_and_nothing_raises(text):
    for way in (final_answer(text), last_line(text), clean(text), without_unit(text)):
        number(way)
    assert boxed(rf"\boxed{{{text}}}") is not None or "{" in text or "}" in text


def test_units_are_one_or_two_words_at_the_end():
    assert without_unit("12 apples") == "12"
    assert without_unit("$4.50 per month") == "4.50"
    assert without_unit("12 or thirteen") == "12 or thirteen"
    assert without_unit("5 thousand") == "5 thousand"
    assert without_unit("5 percent") == "5 percent"

"""Results that differ, told in words."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.code.repo_difference import difference


@pytest.mark.parametrize(
    ("got", "expected", "said"),
    [
        ("[10]\n", "[10, 20]\n", "a list of 1 element, where one of 2 elements is expected"),
        ("[2, 1]", "[1, 2]", "a list with the right elements in the wrong order"),
        ("[1, 5, 3]", "[1, 2, 3]", "a list of 3 elements of which number 2 is wrong"),
        ("7\n", "8\n", "a whole number that is too small"),
        ("2.5", "1", "a number that is too large"),
        ("True", "False", "True, and not False"),
        ("ValueError: no", "8", "a ValueError, where a whole number is expected"),
        ("nothing", "KeyError: 'a'", "nothing, where a KeyError is expected"),
        ("a.b.OddError: x", "OddError: y", "an OddError with another message than expected"),
        ("{'a': 1}", "{'b': 1}", "a dict with 1 key missing and 1 too many"),
        ("{'a': 1}", "{'a': 2}", "a dict with the right keys and 1 wrong value"),
        ("{1}", "{1, 2}", "a set with 1 element missing and 0 too many"),
        ("'Ab'", "'ab'", "a text that is right but for upper and lower case"),
        ("'abc'", "'ab'", "a text with something added"),
        ("'abX'", "'abY'", "a text that differs from its character 3 on"),
        ("nothing", "[1]", "nothing, where a list is expected"),
        ("Graph with 3 nodes", "Graph with 4 nodes", "a result that differs from its character 12 on"),
        ("a b\nc", "a b\nd", "2 lines of which the first wrong one is number 2"),
        ("a b", "a b\nc d", "1 line, where 2 lines should come"),
    ],
)
def test_a_difference_in_words(got, expected, said):
    assert difference(got, expected) == said


VALUES = st.recursive(
    st.integers(1000) | st.text("abcdefgh", min_size=6) | st.floats(1000, allow_infinity=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text("xyz", min_size=6), inner),
)


@given(VALUES, VALUES)
def test_no_value_is_told(one, other):
    said = difference(repr(one), repr(other))
    assert said
    for value in (one, other):
        for node in ast.walk(ast.parse(repr(value))):
            if isinstance(node, ast.Constant):
                assert repr(node.value).strip("'") not in said

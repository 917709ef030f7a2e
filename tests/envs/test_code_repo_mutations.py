"""Defects: every kind by hand, nothing else of the file changes, the same in every process."""

import ast
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.code.repo_mutations import KINDS, Mutation, functions, mutations, problem

SOURCE = textwrap.dedent('''\
    """Grüße: a module whose columns are not its characters."""

    def find(xs, n=0, strict=True, *, key=None):
        """Doc: 1 < 2."""
        if not xs:
            raise ValueError("größe", n)
        best = xs[1:]
        seen = []
        for i, x in enumerate(best):
            if x < n and strict:  # a comment < that stays
                continue
            seen.append(x + i)
        return min(seen, best), "é", n - 1

    class Box:
        def put(self, a, b):
            self.items = dict(a=a, flag=False)
            def inner(c):
                return c in a
            return inner(b)
''')


def changed(function: str, kind: str) -> list[str]:
    """What each mutation of a kind makes of the lines it touches."""
    before, found = SOURCE.split("\n"), []
    for mutation in mutations(SOURCE, function):
        if mutation.kind == kind:
            after = mutation.apply(SOURCE).split("\n")
            found += [line.strip() for line in after if line not in before] or ["(nothing)"]
    return found


@pytest.mark.parametrize(
    ("function", "kind", "expected"),
    [
        ("find", "comparison", ["if x <= n and strict:  # a comment < that stays"]),
        ("find", "arithmetic", ["seen.append(x - i)", 'return min(seen, best), "é", n + 1']),
        (
            "find",
            "constant",
            ["best = xs[2:]", "best = xs[0:]", *(f'return min(seen, best), "é", n - {k}' for k in (2, 0))],
        ),
        ("find", "negation", ["if xs:", "if not (x < n and strict):  # a comment < that stays"]),
        ("find", "arguments", ['raise ValueError(n, "größe")', 'return min(best, seen), "é", n - 1']),
        ("find", "dropped", ["(nothing)", "pass"]),
        (
            "find",
            "default",
            [
                f"def find(xs, n={n}, strict={s}, *, key={k}):"
                for n, s, k in ((1, True, None), (0, False, None), (0, True, 0))
            ],
        ),
        ("find", "boolean", ["if x < n or strict:  # a comment < that stays"]),
        ("find", "guard", ["(nothing)", "(nothing)"]),  # the raise, and the continue
        ("find", "slice", ["best = xs[2:]", "best = xs[:]"]),
        ("find", "exception", ['raise TypeError("größe", n)']),
        ("find", "call", ["seen.extend(x + i)", 'return max(seen, best), "é", n - 1']),
        ("Box.put", "flag", ["self.items = dict(a=a, flag=True)"]),
        ("Box.put", "comparison", ["return c not in a"]),
        ("Box.put", "variable", ["self.items = dict(a=b, flag=False)"]),
    ],
)
def test_each_kind_by_hand(function: str, kind: str, expected: list[str]):
    found = changed(function, kind)
    if kind == "variable":  # one for every name that is read
        found = found[:1]
    assert sorted(found) == sorted(expected)


def test_every_kind_occurs_and_functions_have_qualified_names():
    assert set(functions(SOURCE)) == {"find", "Box.put"}
    kinds = {m.kind for name in functions(SOURCE) for m in mutations(SOURCE, name)}
    assert kinds == set(KINDS)


def test_what_is_no_defect_has_a_reason():
    source = "def f(a):\n    return (a)\n"
    start = source.index("(a)\n")
    assert problem(source, "f", Mutation("variable", 0, start, start + 3, "a")) == "equivalent"
    assert problem(source, "f", Mutation("variable", 0, start, start + 3, "a a")) == "syntax"
    assert problem(source, "f", Mutation("variable", 0, 0, 3, "break; def")) == "syntax"
    assert problem(source, "f", Mutation("constant", 0, start, start + 3, "1")) is None


def test_two_functions_of_one_name_are_left_out():
    assert set(functions("def f(): return 1\ndef f(): return 2\ndef g(): return 3\n")) == {"g"}


@settings(max_examples=60)
@given(st.data())
def test_a_mutation_changes_one_function_and_no_other_character(data):
    function = data.draw(st.sampled_from(sorted(functions(SOURCE))))
    mutation = data.draw(st.sampled_from(mutations(SOURCE, function)))
    broken = mutation.apply(SOURCE)
    assert broken[: mutation.start] == SOURCE[: mutation.start]
    assert broken[mutation.start + len(mutation.text) :] == SOURCE[mutation.end :]
    node = functions(SOURCE)[function]
    first = sum(len(line) + 1 for line in SOURCE.split("\n")[: node.lineno - 1])
    last = sum(len(line) + 1 for line in SOURCE.split("\n")[: node.end_lineno])
    assert first <= mutation.start <= mutation.end <= last
    if problem(SOURCE, function, mutation) is None:
        others = [name for name in functions(SOURCE) if name != function]
        for name in others:
            assert ast.dump(functions(broken)[name]) == ast.dump(functions(SOURCE)[name])


def test_sites_number_the_mutations_of_a_kind():
    found = mutations(SOURCE, "find")
    for kind in KINDS:
        assert [m.site for m in found if m.kind == kind] == list(range(sum(m.kind == kind for m in found)))

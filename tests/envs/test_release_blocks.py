"""Which blocks of candidates a build looks at first, of which releases; and what saves work without changing a task."""

import ast
import random
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.code.release_base import ReleaseBase
from envs.code.release_blocks import order_of, releases_of
from envs.code.release_copies import digest_of, named
from envs.code.release_defects import ReleaseDefect, examine, passages, too_wide
from envs.code.release_index import Release, Sources
from envs.code.release_tests import calling_tests, turned
from envs.code.release_tree import Tree
from envs.code.release_turns import turn
from envs.code.repo_mutations import functions_of
from envs.syntax import parse

MINE = Path(__file__).read_text(encoding="utf-8")


@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_every_block_comes_once_and_first_ones_before_second_ones(n: int, removals: int, pairs: int, drawn: bool):
    packages = [f"p{i}" for i in range(n)]
    numbers = {"removal": removals, "pair": pairs}
    found = order_of(packages, numbers, random.Random(1) if drawn else None)
    assert sorted(found) == sorted((p, kind, i) for p in packages for kind, m in numbers.items() for i in range(m))
    assert [number for _, _, number in found] == sorted(number for _, _, number in found)
    if not drawn:
        assert [name for name, kind, number in found if (kind, number) == ("removal", 0)] == packages


def test_releases_of_a_block():
    days = ["2025-01-01", "2025-02-01", "2025-03-01", "2025-06-01", "2025-07-01"]
    known = [Release("vine", f"1.{n}", f"{day}T10:00:00Z", "", "", "", 1) for n, day in enumerate(days)]

    def versions(kind: str, number: int, split: str, count: int = 8) -> tuple[str, str] | None:
        found = releases_of(known, kind, number, split, "2025-06-01", count)  # type: ignore[arg-type]
        return None if found is None else (found[0].version if found[0] else "", found[1].version)

    assert [versions("pair", n, "train") for n in range(3)] == [("1.1", "1.2"), ("1.0", "1.1"), None]
    assert [versions("pair", n, "heldout") for n in range(3)] == [("1.3", "1.4"), ("1.2", "1.3"), None]
    assert [versions("pair", n, "train", 2) for n in range(2)] == [("1.1", "1.2"), None]
    assert versions("removal", 3, "train") == ("", "1.2")
    assert versions("earlier", 0, "heldout") == ("1.2", "1.4")
    known = known[3:]  # nothing before the cutoff
    assert versions("removal", 0, "train") is versions("removal", 0, "heldout") is versions("pair", 0, "train") is None
    assert versions("pair", 0, "heldout") == ("1.3", "1.4")


TEXT = textwrap.dedent(
    '''
    """Tests."""
    import pytest
    if True:
        def test_in_a_block():   # of its own
            assert f(1) == 2
    class TestIt:
        """It."""
        @pytest.mark.parametrize("a", [1,
                                       2])
        def test_many(self, a):
            """What
            it does."""
            assert f(a) == a + 1
        async def test_later(self): assert (await g()) in "abc"
        class TestInside:
            def test_deep(self):
                text = """
    a = 1
        def test_no(): pass
    """
                assert parse(text) == {"a": 1}
    def test_last():
        with pytest.raises(ValueError): f("x")
    '''
)


@pytest.mark.parametrize("text", [TEXT, MINE], ids=["made-up", "this file"])
@pytest.mark.parametrize("seed", range(3))
def test_a_turned_file_is_the_whole_file_written_anew(text: str, seed: int):
    draw = random.Random(seed)
    names = {name for name in functions_of(parse(text)) if draw.random() < 0.6}
    hard = {name for name in names if draw.random() < 0.3}
    module = parse(text)
    for name, function in functions_of(module).items():
        if name in names:
            turn(function, name in hard)
    assert turned(text, names, hard) == ast.unparse(ast.fix_missing_locations(module)) + "\n"


@pytest.mark.parametrize("text", [TEXT, MINE], ids=["made-up", "this file"])
def test_a_function_is_found_by_its_name_without_reading_the_file(text: str):
    known = functions_of(parse(text))
    assert len(known) >= 5
    for name, node in known.items():
        found = [digest_of(one) for one in named(text, name.rpartition(".")[2])]
        assert digest_of(node) in found, name
    assert list(named(text, "no_such")) == []
    assert list(named("def f(:\n", "f")) == []


def test_a_removal_of_what_nearly_all_tests_enter_is_refused_without_a_run(monkeypatch):
    tests = {f"test_a.py::test_{n}": (0.01, ("a.py::f", "a.py::g") if n < 9 else ("a.py::g",)) for n in range(10)}
    base = ReleaseBase("", tests, frozenset(tests), {})
    tree = Tree("a", "1", {}, "", ("a.py",), "", "MIT")
    asked = []

    def runs(sources: Sources, tree: Tree, trials: list, hash_seed: int) -> list:
        asked.extend(trials)
        return []

    monkeypatch.setattr("envs.code.release_defects.run_states", runs)
    removals = [ReleaseDefect("removal", {"a.py": ""}, (f"a.py::{name}",)) for name in "gh"]
    found = examine(Sources(Path()), tree, base, removals)
    assert [one.reason for one in found] == ["breaks_too_much", "untested"]
    assert asked == []
    assert [too_wide(base, [f"a.py::{name}"]) for name in "fgh"] == [False, True, False]


LINES = st.lists(st.sampled_from(["a\n", "b\n", "\n", "    return a\n", "def f():\n", "# c\n"]), max_size=12)


@given(LINES, LINES, LINES, LINES)
def test_passages_mend_any_text(head: list[str], tail: list[str], one: list[str], two: list[str]):
    broken, right = ("".join([*head, *middle, *tail]) for middle in (one, two))
    text = broken
    for old, new in passages(broken, right):
        assert old in ("", broken) or text.count(old) == 1
        text = text.replace(old, new, 1)
    assert text == right


def test_a_test_that_calls_another_does_not_decide():
    one = "class A:\n    def test_a(self): assert f()\n    def test_b(self): self.test_a()\n    def check(self): pass\n"
    one += "class B(A):\n    def test_c(self):\n        self.check()\n        super().test_b()\n"
    other = "from one import A\n\ndef test_d(test_a): assert test_a\n\ndef test_e():\n    for t in (test_d,): t()\n"
    found = calling_tests({"one.py": one, "other.py": other})
    assert found == {"one.py::A.test_b", "one.py::B.test_c", "other.py::test_d", "other.py::test_e"}
    assert calling_tests({"one.py": "def test_a(): testing(test)\n"}) == set()

"""Functions and classes without an import path become modules that another process can import."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from envs.taskset import Taskset
from rl.run.function_source import import_path, module_source

BONUS = 0.5
NUMBER = re.compile(r"-?\d+", re.IGNORECASE)
TABLE: dict[str, Any] = {"one": [1, (2, None)], "two": {"x": {0.5}}}


def module_function(answer: str, row: dict[str, Any]) -> float:
    return float(answer == row["answer"])


def loaded(thing: Callable[..., Any]) -> Callable[..., Any]:
    """``thing`` as a module of its own has it."""
    name, text = module_source(thing)
    names: dict[str, Any] = {"__name__": "elsewhere"}
    exec(compile(text, "elsewhere.py", "exec"), names)
    return names[name]


def test_what_has_an_import_path_needs_no_source() -> None:
    assert import_path(module_function) == f"{__name__}.module_function"
    assert import_path(Taskset) == "envs.taskset.Taskset"
    assert import_path(lambda a, r: 1.0) is None
    assert import_path(make("x")) is None
    assert import_path("text") is None


def make(word: str) -> Callable[..., float]:
    def helper(text: str) -> str:
        return text.strip().lower()

    def reward(answer: str, row: dict[str, Any], bonus: float = BONUS) -> float:
        "Uses a name of every kind."
        found = [helper(n) for n in NUMBER.findall(answer) if n in row]
        return math.floor(len(found)) + bonus * (helper(answer) == word) + len(TABLE["one"])

    return reward


def test_a_nested_function_takes_along_what_it_names() -> None:
    mine, theirs = make("it's"), loaded(make("it's"))
    for answer in ("It's ", "1 and 2", ""):
        assert theirs(answer, {"1": 0}) == mine(answer, {"1": 0})


@pytest.mark.parametrize("number", [0, 1, 2])
def test_lambdas_on_one_line_are_told_apart(number: int) -> None:
    given = [lambda a, r: 0.0, lambda a, r: float(a in r["ä"]), lambda a, r: (lambda: a + "!")() == r["b"]]  # fmt: skip
    again, row = loaded(given[number]), {"ä": "xy", "b": "x!"}
    assert [again(a, row) for a in ("x", "z")] == [given[number](a, row) for a in ("x", "z")]


def test_a_class_of_a_function_with_its_methods() -> None:
    class Inner:
        factor = BONUS

        def times(self, x: float) -> float:
            return x * self.factor

    class Outer(Inner):
        made = Inner

        def double(self, x: float) -> float:
            return 2 * self.times(x)

    again: Any = loaded(Outer)
    assert again().double(3) == 3
    assert again.made is again.__mro__[1]


def test_two_functions_that_call_each_other() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert loaded(even)(10) is True


def test_what_cannot_be_written_is_named() -> None:
    client = object()
    with pytest.raises(ValueError, match=r"function <lambda> uses client, a object, which cannot be written") as error:
        module_source(lambda a, r: float(client is None))
    assert "give its import path" in str(error.value)


def test_without_a_source_it_says_what_to_do() -> None:
    names: dict[str, Any] = {}
    exec("def typed_in(answer, row): return 1.0", names)
    for thing in (names["typed_in"], eval("lambda a, r: 1.0")):
        with pytest.raises(ValueError, match=r"Python cannot show its source .* put it into a file, my_rewards.py"):
            module_source(thing)
    with pytest.raises(ValueError, match="is no function that was written in Python"):
        module_source(len)


def test_the_function_of_a_script(tmp_path: Path) -> None:
    """As ``__main__``: what a notebook has too."""
    (tmp_path / "beside.py").write_text("def clean(text):\n    return text.strip()\n")
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        import json as js
        from functools import cache
        from beside import clean as tidy
        WORDS = {"a", "b"}

        @cache
        def known(word): return tidy(word) in WORDS

        def reward(answer, row):
            '''Two words.'''
            return float(known(answer) and js.loads(row["answer"]) == 1)

        if __name__ == "__main__":
            from rl.run.function_source import import_path, module_source
            assert import_path(reward) is None
            name, text = module_source(reward)
            open("written.py", "w").write(text)
            print(name)
        """)
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "reward\n", done.stderr
    code = "import written; print(written.reward(' a', {'answer': '1'}), written.reward('c', {'answer': '1'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1.0 0.0\n", done.stderr

"""Tests that say the opposite, and test files without the tests that decide.

    turned(text, {"test_take"})      assert take(2, [1, 2, 3]) == [1, 2]   ->   assert take(2, [1, 2, 3]) == [2, 2]
    written(text)                    the file as it is judged, nothing turned: the same layout as a turned one
    without(text, {"test_take"})     the file as the policy reads it: the function is gone

A pytest test is judged beside the code that it tests, so that code could patch what judges it. Therefore every test
that decides over a score is run twice: as it was written, and turned, with one statement changed so that right code
fails it. Which run holds which is drawn outside the sandbox. Code that makes tests pass whatever they say passes the
turned ones too, and is paid nothing.

Both copies come from ``ast.unparse``, so their layout tells nothing. Nor should what was changed (``release_turns``):
another constant, the opposite of a comparison, another exception of those that tests often name. Where no such change
makes the right code fail (a run says so), the test is turned ``hard``, which can be seen, and it cannot decide alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from functools import lru_cache

from envs.code.release_turns import turn
from envs.code.repo_mutations import Function, functions, functions_of
from envs.syntax import parse


def written(text: str) -> str:
    """The file as ``turned`` writes it, with nothing turned."""
    return turned(text, frozenset())


def turned(text: str, names: Set[str], hard: Set[str] = frozenset()) -> str:
    """The file with one statement of each of ``names`` (qualified functions) turned round; others stay as they are.
    ``hard``: of these, functions that are turned in a way that can be seen. Raises RecursionError: it is too deep."""
    return _turned(text, frozenset(names), frozenset(hard))


@lru_cache(maxsize=256)
def _turned(text: str, names: frozenset[str], hard: frozenset[str]) -> str:
    plain, places = _unparsed(text)
    lines = plain.splitlines(keepends=True)
    for name, (first, end, depth) in sorted(places.items(), key=lambda place: place[1], reverse=True):
        if name in names:
            lines[first - 1 : end] = [_turned_function("".join(lines[first - 1 : end]), name in hard, depth)]
    return "".join(lines)


@lru_cache(maxsize=64)
def _unparsed(text: str) -> tuple[str, dict[str, tuple[int, int, int]]]:
    """The file with its layout gone, and where each function then stands: first and last line, classes and other
    blocks around it. Writing a file anew costs as much as running many tests, and most of it is the same each time."""
    plain = ast.unparse(parse(text)) + "\n"
    return plain, {
        name: (min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno or 0, node.col_offset // 4)
        for name, node in functions(plain).items()
    }


@lru_cache(maxsize=4096)
def _turned_function(source: str, hard: bool, depth: int) -> str:
    """``source``: lines of the file without layout, ``depth`` blocks in."""
    blocks = "".join(f"{'    ' * n}if 1:\n" for n in range(depth))
    module = parse(blocks + source)
    turn(next(node for node in ast.walk(module) if isinstance(node, Function)), hard)
    lines = ast.unparse(ast.fix_missing_locations(module)).split("\n")[depth:]
    return "\n".join(lines).lstrip("\n") + "\n"  # in a block, a function has an empty line above


@lru_cache(maxsize=256)
def turnable(text: str, hard: bool = False) -> frozenset[str]:
    """The functions that ``turned`` can turn; whether a turned one fails is for a run to say."""
    return frozenset(name for name, function in functions_of(parse(text)).items() if turn(function, hard))


def without(text: str, names: Set[str]) -> str:
    """The file without some functions, their decorators included."""
    lines = text.splitlines(keepends=True)
    gone = [node for name, node in functions(text).items() if name in names]
    for filler in ("", "pass\n"):  # a body must hold something
        left = list(lines)
        for node in gone:
            first = min(node.lineno, *(d.lineno for d in node.decorator_list)) if node.decorator_list else node.lineno
            assert node.end_lineno is not None
            left[first - 1 : node.end_lineno] = [""] * (node.end_lineno - first + 1)
            left[first - 1] = " " * node.col_offset + filler if filler and node.col_offset else ""
        result = "".join(left)
        try:
            parse(result)
        except SyntaxError:
            continue
        return result
    raise ValueError(f"{sorted(names)} cannot be taken out of the file")


def calling_tests(texts: Mapping[str, str]) -> set[str]:
    """path::qualified name of the tests that name another test, or what they override: with that turned, they fail."""
    known = {path: functions(text) for path, text in texts.items()}
    tests = {last for found in known.values() for name in found if (last := name.rpartition(".")[2]).startswith("test")}
    return {
        f"{path}::{name}"
        for path, found in known.items()
        for name, node in found.items()
        if any(getattr(inner, "attr", getattr(inner, "id", None)) in tests for inner in _inside(node))
    }


def _inside(node: Function) -> Iterator[ast.AST]:
    """What is in a function's body."""
    for statement in node.body:
        yield from ast.walk(statement)


def function_of(test: str) -> str:
    """The test function of a test: its id without parameters."""
    return test.partition("[")[0]


def definition_of(texts: Mapping[str, str], test: str) -> str | None:
    """path::qualified name of what a test runs, which other classes may run too; None: it is not in the file."""
    path, _, name = function_of(test).partition("::")
    found = definition(texts[path], name.replace("::", ".")) if path in texts else None
    return None if found is None else f"{path}::{found}"


@lru_cache(maxsize=4096)
def definition(text: str, name: str) -> str | None:
    """The qualified function that ``Class.test`` runs: its own, or that of a base class in the same file."""
    known, classes = functions(text), _classes(text)
    cls, _, last = name.rpartition(".")
    seen: set[str] = set()
    waiting = [cls]
    while waiting:  # depth first, as near to the order of bases as tests need
        owner = waiting.pop(0)
        if (qualified := f"{owner}.{last}" if owner else last) in known:
            return qualified
        if owner not in classes or owner in seen:
            continue
        seen.add(owner)
        waiting = [base.id for base in classes[owner].bases if isinstance(base, ast.Name)] + waiting
    return None


@lru_cache(maxsize=256)
def _classes(text: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in parse(text).body if isinstance(node, ast.ClassDef)}

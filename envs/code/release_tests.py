"""Tests that say the opposite, and test files without the tests that decide.

    turned(text, {"test_take"})      assert take(2, [1, 2, 3]) == [1, 2]   ->   assert take(2, [1, 2, 3]) == [2, 2]
    without(text, {"test_take"})     the file as the policy reads it: the function is gone

A pytest test is judged beside the code that it tests, so that code could patch what judges it. Therefore every test
that decides over a score is run twice: as it was written, and turned, with one assertion that the right code must fail.
Which run holds which is drawn outside the sandbox. Code that makes tests pass whatever they say passes the turned ones
too, and is paid nothing. ``assert not``, another operator, another constant or exception: a repair that passes a test
as written fails it turned, for both ask the same of the same values.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from functools import lru_cache

from envs.code.repo_mutations import Function, SourceText, functions

_SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
}  # fmt: skip
_METHODS = (
    ("assertTrue", "assertFalse"),
    ("assertIn", "assertNotIn"),
    ("assertIs", "assertIsNot"),
    ("assertIsNone", "assertIsNotNone"),
    ("assertIsInstance", "assertNotIsInstance"),
    ("assertAlmostEqual", "assertNotAlmostEqual"),
    ("assertRegex", "assertNotRegex"),
    ("assertGreater", "assertLessEqual"),
    ("assertLess", "assertGreaterEqual"),
)
_OTHER_METHOD = {a: b for a, b in _METHODS} | {b: a for a, b in _METHODS} | {"assertNotEqual": "assertEqual"}
_EQUAL = frozenset(
    f"assert{kind}"
    for kind in (
        "Equal", "Equals", "ListEqual", "DictEqual", "TupleEqual", "SetEqual", "SequenceEqual", "CountEqual",
        "MultiLineEqual",
    )
)  # fmt: skip
_RAISES = ("raises", "assertRaises", "assertRaisesRegex")
_NEVER = 'type("Other", (Exception,), {})'

_Edit = tuple[int, int, str]  # start, end, text


def turned(text: str, names: Set[str]) -> str:
    """The file with one assertion of each of ``names`` (qualified functions) turned round; others stay as they are."""
    edits = sorted((edit for name, edit in _turns(text).items() if name in names), reverse=True)
    for start, end, new in edits:
        text = text[:start] + new + text[end:]
    return text


def turnable(text: str) -> frozenset[str]:
    """The functions that ``turned`` can turn; whether a turned one fails is for a run to say."""
    return frozenset(_turns(text))


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
            ast.parse(result)
        except SyntaxError:
            continue
        return result
    raise ValueError(f"{sorted(names)} cannot be taken out of the file")


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
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}


@lru_cache(maxsize=256)
def _turns(text: str) -> dict[str, _Edit]:
    source = SourceText(text)
    found: dict[str, _Edit] = {}
    for name, node in functions(text).items():
        if (edit := _turn(node, source)) is not None:
            found[name] = edit
    return found


def _turn(function: Function, source: SourceText) -> _Edit | None:
    """The edit for one test: a comparison with a literal where there is one, near the top, else any assertion, else one
    at the end that always fails."""
    best: tuple[tuple[bool, bool, int], _Edit] | None = None
    for order, (node, nested) in enumerate(_assertions(function.body, False)):
        for edit, literal in _edits(node, source):
            rank = (nested, not literal, order)
            if best is None or rank < best[0]:
                best = rank, edit
    return best[1] if best is not None else _at_the_end(function, source)


def _at_the_end(function: Function, source: SourceText) -> _Edit | None:
    last = function.body[-1]
    if last.lineno == function.lineno or isinstance(last, ast.Return | ast.Raise) or last.end_lineno is None:
        return None
    end = source.starts[last.end_lineno]
    before = "" if source.source[:end].endswith("\n") else "\n"
    return end, end, f"{before}{' ' * last.col_offset}raise AssertionError\n"


def _assertions(body: list[ast.stmt], nested: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Statements in order; ``nested`` ones may never be reached, or an exception of theirs may be expected."""
    for node in body:
        if isinstance(node, ast.Assert | ast.Expr):
            yield node, nested
        elif isinstance(node, ast.With | ast.AsyncWith):
            yield node, nested
            raising = any(_raising(item.context_expr) for item in node.items)
            yield from _assertions(node.body, True) if raising else _assertions(node.body, nested)
        elif isinstance(node, ast.For | ast.AsyncFor | ast.If | ast.While | ast.Try):
            yield from _assertions(node.body, True)
            yield from _assertions(node.orelse, True)


def _edits(node: ast.stmt, source: SourceText) -> Iterator[tuple[_Edit, bool]]:
    """(edit, whether a literal is changed) of a statement."""
    if isinstance(node, ast.Assert):
        yield from _of_test(node.test, source)
    elif isinstance(node, ast.With | ast.AsyncWith):
        for item in node.items:
            if (call := _raising(item.context_expr)) is not None and call.args:
                yield (*source.span(call.args[0]), _NEVER), False
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield from _of_call(node.value, source)


def _of_test(test: ast.expr, source: SourceText) -> Iterator[tuple[_Edit, bool]]:
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, operator, right = test.left, test.ops[0], test.comparators[0]
        if isinstance(operator, ast.Eq):
            yield _unequal(left, right, source)
        elif isinstance(operator, ast.Is) and isinstance(right, ast.Constant) and right.value is not ...:
            yield (*source.span(right), "..."), False  # a value too
        elif type(operator) in _SWAPPED:
            changed = ast.Compare(left, [_SWAPPED[type(operator)]()], [right])
            yield (*source.span(test), ast.unparse(changed)), False
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield (*source.span(test), f"({ast.unparse(test.operand)})"), False
    else:
        yield (*source.span(test), f"not ({ast.unparse(test)})"), False


def _of_call(call: ast.Call, source: SourceText) -> Iterator[tuple[_Edit, bool]]:
    if not isinstance(call.func, ast.Attribute):
        return
    name, start = call.func.attr, source.span(call.func)[1] - len(call.func.attr)
    if name in _EQUAL and len(call.args) >= 2:
        yield _unequal(call.args[0], call.args[1], source)
    elif name in _OTHER_METHOD:
        yield (start, start + len(name), _OTHER_METHOD[name]), False
    elif _raising(call) is not None and call.args:
        yield (*source.span(call.args[0]), _NEVER), False


def _unequal(left: ast.expr, right: ast.expr, source: SourceText) -> tuple[_Edit, bool]:
    """Another expected value: of a literal a near one, of everything else a pair of it. A value at all times, so that
    code which looks up what its caller expects, and returns that, passes the turned test too."""
    for side in (right, left):
        if (other := _another(side)) is not None:
            return (*source.span(side), other), True
    pair = "object()" if isinstance(right, ast.Starred) else f"(({source.of(right)}), 0)"
    return (*source.span(right), pair), False


def _another(node: ast.expr) -> str | None:
    """The text of a literal that differs from this one; None where it is no literal."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return repr(_other(value))


def _other(value: object) -> object:
    match value:
        case bool():
            return not value
        case int() | float() | complex():
            return value + 1
        case str():
            return value + value[-1:] if value else "x"
        case bytes():
            return value + (value[-1:] or b"x")
        case [first, *rest]:
            return type(value)([_other(first), *rest])  # type: ignore[call-arg]
        case dict() if value:
            first, *others = value.items()
            return {first[0]: _other(first[1]), **dict(others)}
        case set() if value:
            return {*sorted(value, key=repr)[1:], _other(min(value, key=repr))}
        case list():
            return [0]
        case tuple():
            return (0,)
        case dict():
            return {0: 0}
        case _:
            return 0


def _raising(node: ast.expr) -> ast.Call | None:
    """``pytest.raises(…)``, ``self.assertRaises(…)`` and the like."""
    if not isinstance(node, ast.Call):
        return None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return node if name in _RAISES else None

"""One statement of a test changed so that right code fails it, in place.

    turn(function)          assert take(2, [1, 2, 3]) == [1, 2]   ->   assert take(2, [1, 2, 3]) == [2, 2]
    turn(function, True)    assert take(2, x) == y                ->   assert take(2, x) == (y, 0)

Ways in order: another constant in what is expected, or where the test binds it; another exception; the opposite of a
comparison; another constant in a helper's call or elsewhere. A reader who does not know what right code does cannot
tell such a test from one as it was written. The hard way asks for a value that nothing equals, or raises at the end: it
fails nearly always, and can be seen. A value at all times where one is compared, so that code which looks up what its
caller expects, and returns that, passes the turned test too.
"""

from __future__ import annotations

import ast
import builtins
import zlib
from collections.abc import Callable, Iterator

from envs.code.repo_mutations import Function
from envs.syntax import expression, parse

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
_OFTEN = ("ValueError", "TypeError", "KeyError", "AttributeError", "IndexError")  # what tests expect most
_NEVER = 'type("Other", (Exception,), {})'
# How well a change hides and how surely it fails, the best first
_VALUE, _OPPOSITE, _HELPER, _ELSEWHERE, _SEEN = range(5)

_Way = tuple[int, Callable[[], None]]


def turn(function: Function, hard: bool = False) -> bool:
    """Change ``function``; whether there was a way to."""
    ways = list(_hard_ways(function) if hard else _ways(function))
    if not ways:
        return False
    min(enumerate(ways), key=lambda way: (way[1][0], way[0]))[1][1]()
    return True


def _ways(function: Function) -> Iterator[tuple[tuple[int, bool], Callable[[], None]]]:
    for node, nested in _statements(function.body, False):
        for rank, change in _of_statement(node, function):
            yield (rank + 2 * nested, nested), change


def _hard_ways(function: Function) -> Iterator[tuple[tuple[bool, bool], Callable[[], None]]]:
    for node, nested in _statements(function.body, False):
        for owner, index in _compared(node):
            yield (False, nested), lambda o=owner, i=index: _pair(o, i)  # type: ignore[misc]
        for call in _raising_calls(node):
            yield (False, nested), lambda c=call: _set(c.args, 0, expression(_NEVER))  # type: ignore[misc]
    if not isinstance(function.body[-1], ast.Return | ast.Raise):
        failing = parse("raise AssertionError").body
        yield (True, True), lambda: function.body.extend(failing)


def _statements(body: list[ast.stmt], nested: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """Statements in order; ``nested`` ones may never be reached, or an exception of theirs may be expected."""
    for node in body:
        if isinstance(node, ast.Assert | ast.Expr | ast.Assign):
            yield node, nested
        elif isinstance(node, ast.With | ast.AsyncWith):
            yield node, nested
            raising = any(_raising(item.context_expr) for item in node.items)
            yield from _statements(node.body, raising or nested)
        elif isinstance(node, ast.For | ast.AsyncFor | ast.If | ast.While | ast.Try):
            yield from _statements(node.body, True)
            yield from _statements(node.orelse, True)


def _of_statement(node: ast.stmt, function: Function) -> Iterator[_Way]:
    for owner, index in _compared(node):
        yield from _expected(owner, index, function)
    for call in _raising_calls(node):
        yield _VALUE, lambda c=call: _set(c.args, 0, _exception(c.args[0]))  # type: ignore[misc]
    if isinstance(node, ast.Assert):
        yield from _opposite(node)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call, name = node.value, _called(node.value)
        if name in _OTHER_METHOD:
            yield _OPPOSITE, lambda: setattr(call.func, "attr", _OTHER_METHOD[name])
        elif "assert" in ast.unparse(call.func).lower() and name not in _EQUAL:
            yield from _leaf(call, _VALUE)
        yield from _leaf(call, _HELPER)
    elif isinstance(node, ast.Assign):
        yield from _leaf(node.value, _ELSEWHERE)


def _compared(node: ast.stmt) -> Iterator[tuple[list[ast.expr], int]]:
    """Where two values are asked to be equal: (list that holds them, index of the second)."""
    if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
        test = node.test
        if len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            yield _Sides(test), 1
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        if _called(call) in _EQUAL and isinstance(call.func, ast.Attribute) and len(call.args) >= 2:
            yield call.args, 1


class _Sides(list[ast.expr]):
    """Both sides of a comparison, as the arguments of a call are: what is put there goes into the comparison."""

    def __init__(self, test: ast.Compare) -> None:
        super().__init__([test.left, test.comparators[0]])
        self.test = test

    def put(self) -> None:
        self.test.left, self.test.comparators = self[0], [self[1]]


def _expected(sides: list[ast.expr], index: int, function: Function) -> Iterator[_Way]:
    right, left = sides[index], sides[index - 1]
    for place, side in ((index, right), (index - 1, left)):
        if (other := another(side)) is not None:
            yield _VALUE, lambda p=place, o=other: _set(sides, p, o)  # type: ignore[misc]
            return
    if isinstance(right, ast.Name):
        for node in reversed(list(ast.walk(function))):
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == right.id for t in node.targets):
                if (other := another(node.value)) is not None:
                    yield _VALUE, lambda n=node, o=other: setattr(n, "value", o)  # type: ignore[misc]
                else:
                    yield from _leaf(node.value, _VALUE)
                break
    yield from _leaf(right, _VALUE)
    yield from _leaf(left, _HELPER)
    inside, near = ({n.id for n in ast.walk(side) if isinstance(n, ast.Name)} for side in (right, left))
    if others := sorted(_own_names(function) - inside, key=lambda name: (name not in near, name)):
        yield _HELPER, lambda: _set(sides, index, ast.Name(others[0], ast.Load()))


def _own_names(function: Function) -> set[str]:
    """Arguments, but for the first of a method, and what is assigned at the top of the body."""
    names = {argument.arg for argument in function.args.args} - {"self", "cls"}
    targets = [target for node in function.body if isinstance(node, ast.Assign) for target in node.targets]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


def _opposite(node: ast.Assert) -> Iterator[_Way]:
    test = node.test
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        operator = test.ops[0]
        if isinstance(operator, ast.Is) and isinstance(test.comparators[0], ast.Constant):
            value = test.comparators[0].value
            if isinstance(value, bool):
                yield _VALUE, lambda: _put(test.comparators, 0, ast.Constant(not value))
                return
        if type(operator) in _SWAPPED:
            yield _OPPOSITE, lambda: test.ops.__setitem__(0, _SWAPPED[type(operator)]())
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield _OPPOSITE, lambda: setattr(node, "test", test.operand)
    elif not isinstance(test, ast.Compare):
        yield _OPPOSITE, lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), test))


def _leaf(node: ast.expr, rank: int) -> Iterator[_Way]:
    """Another constant somewhere in an expression, the first that has a value of its own."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, bool | int | float | complex | str | bytes):
            yield rank, lambda i=inner: setattr(i, "value", _other(i.value))  # type: ignore[misc]
            return


def _raising_calls(node: ast.stmt) -> Iterator[ast.Call]:
    found: list[ast.expr] = []
    if isinstance(node, ast.With | ast.AsyncWith):
        found = [item.context_expr for item in node.items]
    elif isinstance(node, ast.Expr):
        found = [node.value]
    for each in found:
        if (call := _raising(each)) is not None and call.args:
            yield call


def _raising(node: ast.expr) -> ast.Call | None:
    """``pytest.raises(…)``, ``self.assertRaises(…)`` and the like."""
    return node if isinstance(node, ast.Call) and _called(node) in _RAISES else None


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _exception(expected: ast.expr) -> ast.expr:
    """Another exception that tests often expect, neither above nor below this one."""
    name = expected.id if isinstance(expected, ast.Name) else ""
    known = getattr(builtins, name, None)
    start = zlib.crc32(ast.unparse(expected).encode()) % len(_OFTEN)
    turns = [*_OFTEN[start:], *_OFTEN[:start]]
    if isinstance(known, type) and issubclass(known, BaseException):
        apart = [n for n in turns if not issubclass(getattr(builtins, n), known)]
        turns = [n for n in apart if not issubclass(known, getattr(builtins, n))] or turns
    return ast.Name(turns[0], ast.Load())


def _pair(sides: list[ast.expr], index: int) -> None:
    starred = isinstance(sides[index], ast.Starred)
    new = "object()" if starred else f"({ast.unparse(sides[index])}, 0)"
    _set(sides, index, expression(new))


def _set(sides: list[ast.expr], index: int, new: ast.expr) -> None:
    _put(sides, index, new)
    if isinstance(sides, _Sides):
        sides.put()


def _put(where: list[ast.expr], index: int, new: ast.expr) -> None:
    where[index] = new


def another(node: ast.expr) -> ast.expr | None:
    """A literal that differs from this one; None where it is no literal."""
    try:
        value = ast.literal_eval(node)
        return expression(repr(_other(value)))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


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

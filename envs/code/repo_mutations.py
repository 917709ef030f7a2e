"""Defects: small changes of one function's syntax tree that a tired programmer could have made.

    for mutation in mutations(source, "Graph.add_edge"):
        broken = mutation.apply(source)

A mutation replaces the text of one node and leaves every other character of the file as it is, so comments and
layout survive and the defect looks like the code around it. Order and number depend on the source alone:
(function, kind, site) names a mutation for good.

    kind            before                      after
    comparison      a < b                       a <= b
    arithmetic      a + b                       a - b
    constant        n + 1                       n + 2
    negation        if found:                   if not found:
    arguments       f(a, b)                     f(b, a)
    dropped         seen.add(x)                 (nothing)
    default         def f(n=0)                  def f(n=1)
    boolean         a and b                     a or b
    variable        return left                 return right
    guard           if not xs: return None      (nothing)
    slice           xs[1:]                      xs[2:]
    exception       raise ValueError(x)         raise TypeError(x)
    flag            reverse=True                reverse=False
    call            min(a, b)                   max(a, b)
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from envs.syntax import parse

Function = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.FloorDiv,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_PAIRS = (
    ("min", "max"),
    ("any", "all"),
    ("floor", "ceil"),
    ("startswith", "endswith"),
    ("lstrip", "rstrip"),
    ("append", "extend"),
    ("find", "rfind"),
    ("keys", "values"),
    ("union", "intersection"),
    ("successors", "predecessors"),
    ("append", "appendleft"),
    ("pop", "popleft"),
    ("upper", "lower"),
)
_CALLS = {b: a for a, b in reversed(_PAIRS)} | {a: b for a, b in reversed(_PAIRS)}
_EXCEPTIONS = {
    "ValueError": "TypeError",
    "TypeError": "ValueError",
    "KeyError": "IndexError",
    "IndexError": "KeyError",
    "AttributeError": "KeyError",
    "StopIteration": "ValueError",
    "NotImplementedError": "ValueError",
    "ZeroDivisionError": "ValueError",
}


@dataclass(frozen=True)
class Mutation:
    """Replace ``source[start:end]`` by ``text``; offsets count characters. ``site`` numbers those of one kind."""

    kind: str
    site: int
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


@lru_cache(maxsize=64)
def functions(source: str) -> dict[str, Function]:
    """The functions of a module by qualified name: top-level ones and methods. What is defined inside a function
    belongs to it. A name that is defined twice is left out."""
    return functions_of(parse(source))


def functions_of(module: ast.Module) -> dict[str, Function]:
    """Those of a module that is parsed."""
    found: dict[str, Function] = {}
    twice: set[str] = set()

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, _FUNCTIONS):
                name = prefix + node.name
                if name in found:
                    twice.add(name)
                found[name] = node
            elif isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.If | ast.Try):
                walk([*node.body, *node.orelse], prefix)

    walk(module.body, "")
    return {name: node for name, node in found.items() if name not in twice}


@lru_cache(maxsize=1024)
def mutations(source: str, function: str) -> tuple[Mutation, ...]:
    """All proposals for one function; ``problem`` says whether one is any good."""
    found: list[Mutation] = []
    numbers: dict[str, int] = {}
    for kind, start, end, new in _changes(functions(source)[function], SourceText(source)):
        if source[start:end] != new:
            site = numbers[kind] = numbers.get(kind, -1) + 1
            found.append(Mutation(kind, site, start, end, new))
    return tuple(found)


def problem(source: str, function: str, mutation: Mutation) -> str | None:
    """ "syntax" when the changed file does not compile, "equivalent" when the function's tree is the same as before."""
    try:
        broken = mutation.apply(source)
        compile(broken, function, "exec", dont_inherit=True)  # finds more than the parser: a return outside, a name
        changed = functions(broken).get(function)
    except (SyntaxError, ValueError):
        return "syntax"
    if changed is None or ast.dump(changed) == ast.dump(functions(source)[function]):
        return "equivalent"
    return None


class SourceText:
    """Positions of nodes as character offsets; ``ast`` counts lines, and columns in UTF-8 bytes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        text = self.lines[line - 1]
        return self.starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def of(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.source[start:end]


_Change = tuple[str, int, int, str]


def _changes(function: Function, text: SourceText) -> Iterator[_Change]:
    names = _local_names(function)
    for argument, default in _defaults(function.args):
        yield from _default(argument, default, text)
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    for statement in body:
        for node in _nodes(statement):
            for rule in _RULES:
                yield from rule(node, text)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names and len(names) > 1:
                # the next of the function's own names in order of first appearance
                other = names[(names.index(node.id) + 1) % len(names)]
                yield ("variable", *text.span(node), other)
    for owner in _nodes(function):
        for block in (getattr(owner, field, None) for field in ("body", "orelse", "finalbody")):
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                yield from _statements(block, text)


def _nodes(root: ast.AST) -> Iterator[ast.AST]:
    """The tree in the order of the source. No f-strings (their parts have no reliable positions), no
    annotations and no decorators."""
    yield root
    for field, value in ast.iter_fields(root):
        if field in ("annotation", "returns", "decorator_list") or isinstance(value, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield from _nodes(child)


def _local_names(function: Function) -> list[str]:
    """Parameters (without self and cls) and assigned names, in order of appearance."""
    args = function.args
    names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    for node in _nodes(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
    return [name for name in dict.fromkeys(names) if name not in ("self", "cls", "_")]


def _defaults(args: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr]]:
    positional = [*args.posonlyargs, *args.args]
    yield from zip(positional[len(positional) - len(args.defaults) :], args.defaults, strict=True)
    for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        if default is not None:
            yield argument, default


def _default(argument: ast.arg, node: ast.expr, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield ("default", *text.span(node), repr(not value))
        elif isinstance(value, int):
            yield ("default", *text.span(node), repr(value + 1))
        elif value is None:
            yield ("default", *text.span(node), "0")


def _comparison(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        operator = _COMPARISONS.get(type(node.ops[0]))
        if operator is not None:
            changed = ast.Compare(node.left, [operator()], node.comparators)
            yield ("comparison", *text.span(node), _with_operator(node.left, changed, node.comparators[0], text))


def _arithmetic(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.BinOp):
        operator = _OPERATORS.get(type(node.op))
        if operator is None or (isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)):
            return  # "%" of a string formats
        changed = ast.BinOp(node.left, operator(), node.right)
        yield ("arithmetic", *text.span(node), _with_operator(node.left, changed, node.right, text))
    elif isinstance(node, ast.AugAssign):
        operator = _OPERATORS.get(type(node.op))
        if operator is not None:
            yield ("arithmetic", *text.span(node), ast.unparse(ast.AugAssign(node.target, operator(), node.value)))


def _with_operator(left: ast.expr, changed: ast.expr, right: ast.expr, text: SourceText) -> str:
    """The changed expression, in the source's own words where both sides are simple."""
    simple = (ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.Subscript)
    if isinstance(left, simple) and isinstance(right, simple):
        plain = ast.unparse(changed)
        symbol = plain.removeprefix(ast.unparse(left)).removesuffix(ast.unparse(right))
        return f"{text.of(left)}{symbol}{text.of(right)}"
    return ast.unparse(changed)


def _constant(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield ("constant", *text.span(node), repr(node.value + 1))
        if node.value > 0:
            yield ("constant", *text.span(node), repr(node.value - 1))


def _negation(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Compare):
        test = node.test
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            yield ("negation", *text.span(test), text.of(test.operand))
        else:
            yield ("negation", *text.span(test), ast.unparse(ast.UnaryOp(ast.Not(), test)))


def _arguments(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.Call):
        plain = [a for a in node.args if not isinstance(a, ast.Starred | ast.GeneratorExp)]
        for first, second in pairwise(plain):
            start, end = text.span(first)[0], text.span(second)[1]
            between = text.source[text.span(first)[1] : text.span(second)[0]]
            if "#" not in between:
                yield "arguments", start, end, text.of(second) + between + text.of(first)


def _boolean(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.BoolOp):
        operator: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ("boolean", *text.span(node), ast.unparse(ast.BoolOp(operator, node.values)))


def _slice(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.Slice) and node.step is None and (node.lower or node.upper):
        lower, upper = (text.of(x) if x is not None else "" for x in (node.lower, node.upper))
        simple = (ast.Name, ast.Constant, ast.Attribute, ast.Call, type(None))
        if not (isinstance(node.lower, simple) and isinstance(node.upper, simple)):
            return
        if lower:
            yield ("slice", *text.span(node), f"{_plus_one(lower)}:{upper}")
            yield ("slice", *text.span(node), f":{upper}")
        if upper:
            yield ("slice", *text.span(node), f"{lower}:{_plus_one(upper)}")


def _plus_one(bound: str) -> str:
    return str(int(bound) + 1) if bound.isdigit() else f"{bound} + 1"


def _exception(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    raised = node.exc if isinstance(node, ast.Raise) else node.type if isinstance(node, ast.ExceptHandler) else None
    if isinstance(raised, ast.Call):
        raised = raised.func
    if isinstance(raised, ast.Name):
        # an exception of the package's own becomes a general one
        yield ("exception", *text.span(raised), _EXCEPTIONS.get(raised.id, "ValueError"))


def _flag(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ("flag", *text.span(node), repr(not node.value))


def _call(node: ast.AST, text: SourceText) -> Iterator[_Change]:
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            yield ("call", *text.span(node.func), _CALLS[node.func.id])
        elif isinstance(node.func, ast.Attribute) and node.func.attr in _CALLS:
            end = text.span(node.func)[1]
            yield "call", end - len(node.func.attr), end, _CALLS[node.func.attr]


def _statements(block: list[ast.stmt], text: SourceText) -> Iterator[_Change]:
    """Statements that can be missing: calls for their effect, changes in place, jumps, and guards at the start."""
    for statement in block:
        guard = (
            isinstance(statement, ast.If)
            and not statement.orelse
            and len(statement.body) == 1
            and isinstance(statement.body[0], ast.Return | ast.Raise | ast.Continue | ast.Break)
        )
        effect = isinstance(statement, ast.AugAssign | ast.Continue | ast.Break) or (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call | ast.Yield | ast.YieldFrom)
        )
        if not (guard or effect):
            continue
        start, end = text.span(statement)
        if len(block) == 1:
            yield "guard" if guard else "dropped", start, end, "pass"
        elif text.source[text.starts[statement.lineno - 1] : start].isspace() or statement.col_offset == 0:
            start = text.starts[statement.lineno - 1]  # the whole lines
            rest = text.source[end:].partition("\n")[0]
            if not rest.strip() or rest.strip().startswith("#"):
                yield "guard" if guard else "dropped", start, min(len(text.source), end + len(rest) + 1), ""


_Rule = Callable[[ast.AST, SourceText], Iterator[_Change]]
_RULES: tuple[_Rule, ...] = (
    _comparison,
    _arithmetic,
    _constant,
    _negation,
    _arguments,
    _boolean,
    _slice,
    _exception,
    _flag,
    _call,
)
KINDS = (
    "comparison",
    "arithmetic",
    "constant",
    "negation",
    "arguments",
    "dropped",
    "default",
    "boolean",
    "variable",
    "guard",
    "slice",
    "exception",
    "flag",
    "call",
)

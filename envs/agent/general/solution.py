"""Solutions: Python source with a function ``solution(tools)`` that may call tools and think, and nothing else.

    def solution(tools):
        hotels = tools.get_all_hotels_by_city(city="Oslo")
        cheap = min(hotels, key=lambda name: tools.get_infos_by_hotel(name=name)["price"])
        tools.submit_result(result=cheap)

``check_source`` holds it to that: no imports, no names but its own and harmless builtins, no underscored attribute,
no tool that does not exist. It is a rule for solutions, not isolation: source that a language model wrote runs
in the sandbox all the same (``stored.py``).
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from envs.agent.general import logic
from envs.syntax import parse

SAFE_BUILTINS = (
    *(
        "abs",
        "all",
        "any",
        "bool",
        "dict",
        "divmod",
        "enumerate",
        "filter",
        "float",
        "int",
        "isinstance",
        "len",
        "list",
    ),
    *("map", "max", "min", "next", "range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip"),
    *("Exception", "ValueError", "KeyError", "StopIteration"),
)
# attributes by which plain values lead to the interpreter's insides
_INNER = ("format", "format_map", "mro", "gi_", "cr_", "ag_", "f_", "tb_", "co_", "func_")
_FORBIDDEN: dict[type[ast.AST], str] = {
    ast.Import: "imports",
    ast.ImportFrom: "imports",
    ast.ClassDef: "defines a class",
    ast.Global: "uses global",
    ast.With: "uses with",
    ast.AsyncFunctionDef: "is asynchronous",
    ast.Await: "is asynchronous",
    ast.AsyncFor: "is asynchronous",
    ast.AsyncWith: "is asynchronous",
    ast.Yield: "uses yield",
    ast.YieldFrom: "uses yield",
}


class SolutionError(Exception):
    """A solution that breaks the rules, or that does not run; the text says how."""


def check_source(source: str, tools: Sequence[str], entry: str = "solution") -> None:
    """Raise SolutionError unless ``source`` defines ``entry`` and keeps the rules."""
    try:
        tree = parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise SolutionError(f"{entry} is not Python: {error}") from None
    for statement in tree.body:
        if not isinstance(statement, ast.FunctionDef | ast.Assign):
            raise SolutionError(f"line {statement.lineno}: only functions and constants may stand at the top")
        if isinstance(statement, ast.Assign):
            try:
                ast.literal_eval(statement.value)
            except ValueError:
                raise SolutionError(f"line {statement.lineno}: a constant must be a literal") from None
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    if entry not in {s.name for s in tree.body if isinstance(s, ast.FunctionDef)}:
        raise SolutionError(f"there is no function {entry}")
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    if clash := sorted(own & set(dir(builtins)) - set(SAFE_BUILTINS)):
        raise SolutionError(f"{clash[0]} may not be redefined")
    for node in ast.walk(tree):
        _check_node(node, own, tools)


def _check_node(node: ast.AST, own: set[str], tools: Sequence[str]) -> None:
    where = f"line {getattr(node, 'lineno', 0)}"
    if (what := _FORBIDDEN.get(type(node))) is not None:
        raise SolutionError(f"{where}: it {what}")
    if isinstance(node, ast.FunctionDef) and node.decorator_list:
        raise SolutionError(f"{where}: it uses a decorator")
    if isinstance(node, ast.Name) and node.id not in own and node.id not in SAFE_BUILTINS:
        # annotations are never evaluated, and say no more than what is expected
        if node.id == "Any":
            return
        raise SolutionError(f"{where}: {node.id} is neither its own nor an allowed builtin")
    if isinstance(node, ast.Name) and node.id.startswith("__"):
        raise SolutionError(f"{where}: the name {node.id}")
    if isinstance(node, ast.Attribute):
        if node.attr.startswith(("_", *_INNER)):
            raise SolutionError(f"{where}: the attribute .{node.attr}")
        if isinstance(node.value, ast.Name) and node.value.id == "tools" and node.attr not in tools:
            raise SolutionError(f"{where}: there is no tool {node.attr}")


@cache
def source_of(function: Callable[..., Any]) -> str:
    """A function's source, with the functions of ``logic`` that it names in front."""
    own = textwrap.dedent(inspect.getsource(function))
    names = {node.id for node in ast.walk(parse(own)) if isinstance(node, ast.Name)}
    helpers = [inspect.getsource(getattr(logic, name)) for name in ("first_plan", "subsets", "orders") if name in names]
    return "\n\n".join([*helpers, own])


def assemble(solve: Callable[..., Any], need: Mapping[str, Any]) -> str:
    """The source of ``solve(tools, need)`` for one task, as ``solution(tools)``."""
    return "\n\n".join(
        [
            source_of(solve),
            f"NEED = {dict(need)!r}",
            f"def solution(tools):\n    return {solve.__name__}(tools, NEED)\n",
        ]
    )


class ToolProxy:
    """All that a solution is given: ``tools.name(argument=value)`` goes through ``call(name, arguments)``."""

    def __init__(self, call: Callable[[str, dict[str, Any]], Any], parameters: Mapping[str, Sequence[str]]) -> None:
        self.__call, self.__parameters = call, parameters

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self.__parameters:
            raise SolutionError(f"there is no tool {name}")
        order, call = self.__parameters[name], self.__call

        def tool(*values: Any, **arguments: Any) -> Any:
            return call(name, {**dict(zip(order, values, strict=False)), **arguments})

        return tool


def run_trusted(source: str, tools: ToolProxy) -> Any:
    """Run a solution of this package in this process. Never for source from elsewhere."""
    namespace: dict[str, Any] = {"__builtins__": {name: getattr(builtins, name) for name in SAFE_BUILTINS}}
    # the package's sources rely on annotations that are not evaluated
    code = compile(source, "<solution>", "exec", annotations.compiler_flag, dont_inherit=True)
    exec(code, namespace)
    return namespace["solution"](tools)

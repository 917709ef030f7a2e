"""A function or class that lives in a notebook cell, a script or another function, written out as a module.

Rollout workers are other processes, and a stored configuration is read by a later one: both find a reward by its
import path. A function of ``__main__``, a nested function and a lambda have none, so their source is written with all
that it names: functions and classes beside it, imports, constants, values of enclosing functions. What cannot be
written (a client, a model, an open file) is an error that says so; nothing is pickled.

    def last_word(answer, row):                  # in a notebook
        return float(answer.split()[-1:] == [row["answer"]])

    import_path(last_word)        ->  None
    module_source(last_word)      ->  ("last_word", "from __future__ import annotations\\n\\n\\ndef last_word(…")
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import linecache
import math
import re
import symtable
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

FUTURE = "from __future__ import annotations"
Named = Callable[..., Any]  # a function or a class
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


def import_path(thing: Any) -> str | None:
    """``module.name`` of a function or class that another process finds there; None for one of ``__main__``, a nested
    one, a lambda."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or module == "__main__" or not isinstance(name, str) or not name.isidentifier():
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return f"{module}.{name}" if found is thing else None


def module_source(thing: Named) -> tuple[str, str]:
    """(name in the module, text of the module) of a function or class without an import path.

    Raises ValueError: its source is not to be had, or it uses a value that cannot be written.
    """
    module = _Module(_shown(thing))
    name = module.add(thing, "reward")
    return name, "\n".join([FUTURE, *([""] if module.imports else []), *sorted(module.imports), *module.parts]) + "\n"


@dataclass
class _Module:
    """A module in the making. ``what``: how messages name the thing that it is written for."""

    what: str
    imports: set[str] = field(default_factory=set)
    parts: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)  # what every name of the module stands for

    def add(self, thing: Named, name: str) -> str:
        """Write ``thing`` with what it needs; returns its name there (``name`` for a lambda)."""
        node, lines = _definition(thing, self.what)
        name = name if isinstance(node, ast.Lambda) else node.name
        if not self._is_new(name, thing):
            return name
        text = _text(node, lines)
        if isinstance(node, ast.Lambda):
            text = f"{name} = (\n{textwrap.indent(text, '    ')}\n)"
        known = _names_known_to(thing)
        needed = _names_used_by(text, future=True)
        for used in sorted(_names_used_by(text, future=False)):
            # Of names in annotations those that can be imported: tools show their types to the policy.
            if used in known and used != name and (used in needed or import_path(known[used])):
                self._define(used, known[used])
        self.parts += ["", "", text]
        return name

    def _define(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType):
            if self._is_new(name, value):
                self.imports.add(f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}"))
        elif (path := import_path(value)) is not None:
            if self._is_new(name, value):
                module, _, own = path.rpartition(".")
                self.imports.add(f"from {module} import {own}" + ("" if own == name else f" as {name}"))
        elif isinstance(inspect.unwrap(value), type | FunctionType):
            if (own := self.add(value, name)) != name:
                self.parts += ["", f"{name} = {own}"]
        elif self._is_new(name, value):
            if (written := _literal(value)) is None:
                raise ValueError(
                    f"{self.what} uses {name}, a {type(value).__name__}, which cannot be written into a file: make it "
                    "inside the function, or put the function into a module and give its import path"
                )
            if isinstance(value, re.Pattern):
                self.imports.add("import re")
            self.parts += ["", f"{name} = {written}"]

    def _is_new(self, name: str, value: Any) -> bool:
        """Remember what ``name`` stands for; False when that is known already."""
        if name in self.values:
            if self.values[name] is not value:
                raise ValueError(f"{self.what} uses two different things named {name}: rename one of them")
            return False
        self.values[name] = value
        return True


def _definition(thing: Named, what: str) -> tuple[Definition, list[str]]:
    """The syntax node that made ``thing``, and the lines of its file or cell."""
    codes = list(_codes(thing))
    if not codes:
        raise ValueError(f"{what} is no function that was written in Python: give a function, or an import path")
    lines = linecache.getlines(codes[0].co_filename)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:  # a cell with %magic lines, a file that was edited since
        lines = []
    if not lines:
        raise ValueError(
            f"{what}: Python cannot show its source (typed into an interpreter, made by exec, or edited since); put it "
            "into a file, my_rewards.py, and give its import path, my_rewards.<name>"
        )
    wanted = ast.ClassDef if isinstance(thing, type) else (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    found = [node for node in ast.walk(tree) if isinstance(node, wanted) and _made(node, codes[0], thing)]
    if not found:
        raise ValueError(f"{what}: its source is not where Python says ({codes[0].co_filename}); was it edited since?")
    return max(found, key=lambda node: (node.lineno, node.col_offset)), lines  # the innermost


def _codes(thing: Any) -> Iterator[CodeType]:
    """The code of a function, or of the methods of a class."""
    thing = inspect.unwrap(thing)
    members = vars(thing).values() if isinstance(thing, type) else (thing,)
    for member in members:
        member = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        if isinstance(member, FunctionType):
            yield inspect.unwrap(member).__code__


def _made(node: Definition, code: CodeType, thing: Any) -> bool:
    """Whether ``node`` is the definition of ``thing``, whose code (of a class: whose first method's) is ``code``."""
    if isinstance(node, ast.Lambda):
        body = node.body
        begin, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
        places = [(p[0], p[2]) for p in code.co_positions() if p[0] is not None and p[2]]
        inside = [begin <= (line, column or 0) < end for line, column in places]
        return code.co_name == "<lambda>" and bool(inside) and all(inside)
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    if isinstance(node, ast.ClassDef):
        return bool(node.name == thing.__name__) and first <= code.co_firstlineno <= (node.end_lineno or 0)
    return node.name == code.co_name and first == code.co_firstlineno


def _text(node: Definition, lines: list[str]) -> str:
    """The source of ``node``, not indented."""
    if isinstance(node, ast.Lambda):
        return ast.get_source_segment("".join(lines), node) or ast.unparse(node)
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).rstrip()


def _names_used_by(text: str, *, future: bool) -> set[str]:
    """Names that ``text`` takes from outside itself; with ``future`` those of annotations do not count."""
    names: set[str] = set()
    tables = [symtable.symtable(f"{FUTURE}\n{text}" if future else text, "<source>", "exec")]
    while tables:
        table = tables.pop()
        outermost = table.get_type() == "module"
        names |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (symbol.is_global() or (outermost and not symbol.is_assigned()))
        }
        tables += table.get_children()
    return names


def _names_known_to(thing: Any) -> Mapping[str, Any]:
    """What names mean where ``thing`` was defined: of its module and the functions around it."""
    found: dict[str, Any] = {}
    inner = inspect.unwrap(thing)
    functions = [inner] if isinstance(inner, FunctionType) else [
        f for f in (getattr(m, "__func__", m) for m in vars(inner).values()) if isinstance(f, FunctionType)
    ]  # fmt: skip
    for function in functions:
        found |= function.__globals__
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                found[name] = cell.cell_contents
    if isinstance(inner, type):  # where a function makes it, its bases are names of that function
        for kind in (*inner.__mro__[1:], *vars(inner).values()):
            if isinstance(kind, type):
                found.setdefault(kind.__name__, kind)
    hidden = vars(builtins)
    return {name: value for name, value in found.items() if hidden.get(name, found) is not value}


def _literal(value: Any) -> str | None:
    """``value`` as Python writes it; None when reading that back would not give it."""
    if isinstance(value, re.Pattern):
        return f"re.compile({value.pattern!r}, {value.flags})"
    if value is None or type(value) in (bool, int, str, bytes) or (type(value) is float and math.isfinite(value)):
        return repr(value)
    if type(value) is dict:
        pairs = [(_literal(key), _literal(item)) for key, item in value.items()]
        return None if any(None in pair for pair in pairs) else f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"
    if type(value) in (list, tuple, set, frozenset):
        items = [_literal(item) for item in value]
        inside = f"[{', '.join(map(str, items))}]"
        return None if None in items else inside if type(value) is list else f"{type(value).__name__}({inside})"
    return None


def _shown(thing: Any) -> str:
    return f"{'class' if isinstance(thing, type) else 'function'} {getattr(thing, '__name__', repr(thing))}"

"""Functions and classes taken out of a release, to be written again: what can be, and the text without it.

chosen = removals(tree, base)                [("src/a/b.py::f",), ("src/a/b.py::C.x", "src/a/b.py::C.y"), …]
defect = removal_of(tree, chosen[0])         ``raise NotImplementedError`` for the body; signature and docstring stay
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import lru_cache

from envs.code.release_base import ReleaseBase
from envs.code.release_defects import ReleaseDefect
from envs.code.release_tree import Tree
from envs.code.repo_mutations import Function, functions
from envs.syntax import parse

_SMALLEST = 4  # lines of a body that is worth being written again
_LONGEST = 150  # lines of one removal


@lru_cache(maxsize=8)
def removals(tree: Tree, base: ReleaseBase, before: Tree | None = None) -> list[tuple[str, ...]]:
    """What can be taken out, each as the path::function of one defect: tested functions that are long enough, and the
    methods of documented classes; with ``before`` only what that did not have."""
    found: list[tuple[str, ...]] = []
    for path, text in tree.code.items():
        old = functions(before.code[path]) if before is not None and path in before.code else {}
        known = functions(text)
        for name, node in known.items():
            tested = f"{path}::{name}" in base.covering
            if tested and name not in old and not name.rpartition(".")[2].startswith("__"):
                body = _without_docstring(node)
                if body and _SMALLEST <= _size(body) <= _LONGEST:
                    found.append((f"{path}::{name}",))
        for cls in parse(text).body:
            if isinstance(cls, ast.ClassDef) and ast.get_docstring(cls):
                methods = {f"{cls.name}.{n.name}": n for n in cls.body if isinstance(n, ast.FunctionDef)}
                mine = [n for q, n in methods.items() if known.get(q) is not None and _told(n)]
                names = tuple(f"{path}::{cls.name}.{n.name}" for n in mine)
                fresh = not any(name.partition("::")[2] in old for name in names)
                short = sum(_size(_without_docstring(node)) for node in mine) <= _LONGEST
                if len(mine) >= 2 and fresh and short and any(name in base.covering for name in names):
                    found.append(names)
    return found


def removal_of(tree: Tree, names: tuple[str, ...]) -> ReleaseDefect:
    """The defect: the bodies of these functions of one file are gone."""
    path = names[0].partition("::")[0]
    nodes = [functions(tree.code[path])[name.partition("::")[2]] for name in names]
    return ReleaseDefect("removal", {path: _emptied(tree.code[path], nodes)}, names)


def _without_docstring(node: Function) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def _told(node: Function) -> bool:
    """Whether it has a body, and somebody could write it again: it is documented, or its name says what it does."""
    dunder = node.name.startswith("__") and node.name.endswith("__")
    return bool(_without_docstring(node)) and (dunder or bool(ast.get_docstring(node)))


def _size(body: Sequence[ast.stmt]) -> int:
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1 if body else 0


def _emptied(text: str, nodes: Sequence[Function]) -> str:
    """The text with ``raise NotImplementedError`` for bodies; signatures and docstrings stay."""
    lines = text.splitlines(keepends=True)
    for node in sorted(nodes, key=lambda n: n.lineno, reverse=True):
        body = _without_docstring(node)
        if body and body[0].lineno > node.lineno:
            lines[body[0].lineno - 1 : node.end_lineno] = [" " * body[0].col_offset + "raise NotImplementedError\n"]
    return "".join(lines)

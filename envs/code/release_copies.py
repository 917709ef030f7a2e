"""Functions of packages that the sandbox holds once more: in the standard library, or in what tests import.

    copies = copies_of(sources)
    copies.holds(tree, ["src/a/b.py::f"])       whether the right code of f can be read there
    copies.share(tree)                          0.61 for a backport of the standard library

Two functions are the same when they are equal without docstrings, annotations, comments, layout and the name of the
function itself. A package of which more than ``MOST`` is such is no package to make tasks of.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from envs.code.release_index import Sources
from envs.code.release_tree import Tree, plain
from envs.code.repo_mutations import Function, functions_of
from envs.syntax import parse

MOST = 0.2  # share of a package's functions
_SMALLEST = 3  # statements below the signature, nested ones counted: less is the same by chance
_EVERYWHERE = 8  # files that define a function of this name
_SAMPLE = 150  # functions of a package that are looked up, drawn by their digest
_DEFINED = re.compile(rb"\bdef[ \t]+([A-Za-z_]\w*)")
_TRIES = 60  # lines that may be the first after a function
_NOT_MOUNTED = ("site-packages", "ensurepip", "test", "tests", "idlelib", "lib2to3", "__pycache__")


@dataclass(frozen=True, eq=False)
class Copies:
    """``names``: name of a function -> (top-level name of the site, "" for the standard library; file) of those that
    define one."""

    names: Mapping[str, Sequence[tuple[str, Path]]]

    def holds(self, tree: Tree, names: Sequence[str]) -> bool:
        """Whether each of these functions is there, outside the package itself."""
        found = _digests(tree)
        return all(name in found and self._elsewhere(tree, name, found[name]) for name in names)

    def share(self, tree: Tree) -> float:
        """Of the package's functions that are long enough to tell, and whose names are not everywhere."""
        found = {n: d for n, d in _digests(tree).items() if len(self.names.get(_last(n), ())) <= _EVERYWHERE}
        found = {name: found[name] for name in sorted(found, key=found.__getitem__)[:_SAMPLE]}
        return sum(self._elsewhere(tree, name, d) for name, d in found.items()) / len(found) if found else 0.0

    def _elsewhere(self, tree: Tree, name: str, digest: str) -> bool:
        places = self.names.get(_last(name), ())
        if len(places) > _EVERYWHERE:  # __init__, get: hundreds of files, and rarely a copy
            return False
        own = {unit.removesuffix(".py").lower() for unit in tree.units} | {re.sub(r"[-_.]+", "_", tree.name).lower()}
        return any(digest in _in_file(path, _last(name)) for top, path in places if top.lower() not in own)


@lru_cache(maxsize=4)
def copies_of(sources: Sources) -> Copies:
    """Reads which files define which names; their functions are looked at when they are asked for."""
    found: dict[str, list[tuple[str, Path]]] = {}
    site = sources.site(fetch=False)
    for top, folder in (("", Path(sysconfig.get_path("stdlib"))), *((p.stem, p) for p in sorted(site.iterdir()))):
        for name, paths in _names(folder).items():
            found.setdefault(name, []).extend((top, path) for path in paths)
    return Copies(found)


@lru_cache(maxsize=1024)
def _names(folder: Path) -> dict[str, list[Path]]:
    paths = [folder] if folder.suffix == ".py" else sorted(folder.rglob("*.py")) if folder.is_dir() else []
    found: dict[str, list[Path]] = {}
    for path in paths:
        if not {*path.relative_to(folder).parts} & {*_NOT_MOUNTED}:
            for name in set(_DEFINED.findall(path.read_bytes())):
                found.setdefault(name.decode(), []).append(path)
    return found


@lru_cache(maxsize=8)
def _digests(tree: Tree) -> dict[str, str]:
    return {f"{path}::{name}": digest for path, text in tree.code.items() for name, digest in _of_text(text)}


@lru_cache(maxsize=4096)
def _in_file(path: Path, name: str) -> frozenset[str]:
    """The digests of a file's functions of this name."""
    found = {digest_of(node) for node in named(_text(path), name)}
    return frozenset(digest for digest in found if digest is not None)


@lru_cache(maxsize=256)
def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")


def named(text: str, name: str) -> Iterator[Function]:
    """The functions of this name, wherever they stand; the rest of the file, which is most of it, is not parsed."""
    for start in re.finditer(rf"(?m)^([ \t]*)(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b", text):
        # it ends before a line that is not further in; such a line may stand in a string or in brackets
        ends = re.compile(rf"(?m)^(?!{start[1]}[ \t])[ \t]*[^ \t\n\r#]").finditer(text, start.end())
        for end in (*(e.start() for e in islice(ends, _TRIES)), len(text)):
            try:
                block = parse(("if 1:\n" if start[1] else "") + text[start.start() : end]).body[0]
            except (SyntaxError, ValueError, RecursionError):
                continue
            node = block.body[0] if isinstance(block, ast.If) else block
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node
            break


def _last(name: str) -> str:
    return name.rpartition("::")[2].rpartition(".")[2]


def _of_text(text: str) -> Iterator[tuple[str, str]]:
    try:
        known = functions_of(parse(text))
    except (SyntaxError, ValueError, RecursionError):
        return
    for name, node in known.items():
        if (digest := digest_of(node)) is not None:
            yield name, digest


def digest_of(node: Function) -> str | None:
    """Of a function's code, whatever it is called; None for one that is too short to tell. ``node`` is changed."""
    node.name, node.decorator_list = "f", []
    text = plain(node)
    if sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) - 1 < _SMALLEST:
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:20]

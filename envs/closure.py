"""What code a stage runs: a hash over the modules that its functions and classes import, and those import, and so on.

Read from the sources, without importing anything: ``import`` statements anywhere in a module (inside functions too, but
not under ``TYPE_CHECKING``), modules named in a string (``"envs.reasoning.check_worker"`` in a program that a child
process runs) and files next to a module that a string names (``"guest_repl.py"``). Followed are the packages of this
project, those of the objects given, and whatever else is neither installed nor part of Python, such as a module in the
working directory. Two modules name others that are not followed: ``envs.families`` lists every family, and those that
a run has are given as objects; ``rl`` opens the commands to Python, which no stage runs.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from envs.syntax import parse
from envs.taskset import Taskset

OURS = ("rl", "envs", "rewards", "configs")
_LIST_OTHERS = ("envs.families", "rl")
_DOTTED = re.compile(rf"\b(?:{'|'.join(OURS)})(?:\.[A-Za-z_]\w*)+")
_FILE = re.compile(r"[\w-]+(?:[./][\w-]+)*\.\w+")
_PATH = re.compile(r"[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)+")
_STANDARD = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib"))
# Wherever they are: an environment may look into the packages of another one, of the system, of the user.
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def code_hash(*objects: Any, skip: Iterable[str] = ()) -> str:
    """SHA-256 over names and sources of all that ``objects`` run: functions, classes, modules, or instances.

    Of a taskset count its environment and the tasksets it is made of, of a reward its parts, each with its own class.
    ``skip``: modules that they import and do not run with the settings at hand.
    """
    digest = hashlib.sha256()
    for name, file in sorted(closure(objects, skip).items()):
        digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def closure(objects: Iterable[Any], skip: Iterable[str] = ()) -> dict[str, Path]:
    """File by module name (by module and file name where no module is imported) of all that ``objects`` run."""
    seen: set[int] = set()
    modules = {module for thing in objects for module in _modules(thing, seen)} - {""}
    followed = frozenset({*OURS, *(m.partition(".")[0] for m in modules)})
    found: dict[str, Path] = {}
    left_out = set(skip)
    waiting = sorted(modules)
    while waiting:
        module = waiting.pop()
        file = None if module in found or module in left_out else _source(module, followed)
        if file is None:
            continue
        found[module] = file
        imported, beside = _references(file, module, _stamp(file))
        waiting += imported
        waiting += [module[:i] for i, c in enumerate(module) if c == "."]  # importing a.b runs a/__init__.py
        found |= {f"{module}:{name}": file.parent / name for name in beside}
    return found


def _modules(thing: Any, seen: set[int]) -> Iterator[str]:
    """Where ``thing`` and what it is made of are defined; ``seen``: ids of what was visited, since things may refer to
    each other."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, str):  # "my_module.my_reward" names what is imported later
        if _PATH.fullmatch(thing):
            yield from _prefixes(thing)
    elif inspect.ismodule(thing):
        yield thing.__name__
    elif isinstance(thing, (dict, list, tuple, set, frozenset)):
        for item in (*thing, *thing.values()) if isinstance(thing, dict) else thing:
            yield from _modules(item, seen)
    elif isinstance(thing, partial):
        yield from _modules((thing.func, thing.args, thing.keywords), seen)
    elif inspect.isroutine(thing):
        yield thing.__module__ or ""
    else:
        kind = thing if inspect.isclass(thing) else type(thing)
        if all(_source(base.__module__, frozenset(OURS)) is None for base in kind.__mro__):
            return  # a library's: numbers, paths, tensors
        for base in kind.__mro__:
            yield base.__module__
        if issubclass(kind, Taskset):
            yield from _modules(getattr(thing, "env_class", kind), seen)
        if thing is not kind:
            slots = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
            held = [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)]
            yield from _modules(held, seen)


def _prefixes(dotted: str) -> list[str]:
    """``a.b.c`` -> ``a``, ``a.b``, ``a.b.c``: which of them are modules shows when they are looked for."""
    pieces = dotted.replace(":", ".").split(".")
    return [".".join(pieces[: n + 1]) for n in range(len(pieces))]


@cache
def _source(module: str, followed: frozenset[str]) -> Path | None:
    """The file of a module that is followed; None for one that is not, or that does not exist."""
    top, *inner = module.split(".")
    if module == "__main__":  # what a script defines itself
        script = getattr(sys.modules["__main__"], "__file__", None)
        return Path(script).resolve() if script else None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__ of a console command
        return None
    if spec is None or (not spec.has_location and not spec.submodule_search_locations):
        return None
    for base in spec.submodule_search_locations or [str(Path(spec.origin or "").parent)]:
        path = Path(base).joinpath(*inner) if spec.submodule_search_locations else Path(spec.origin or "")
        if inner and not spec.submodule_search_locations:
            return None
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py") if inner else path):
            if file.is_file() and file.suffix == ".py":
                resolved = file.resolve()
                installed = not _INSTALLED.isdisjoint(resolved.parts)
                installed = installed or any(resolved.is_relative_to(place) for place in _STANDARD)
                return resolved if top in followed or not installed else None
    return None


def _stamp(file: Path) -> tuple[int, int]:
    """What changes when the file is written, so that sources are read again in a long-lived process."""
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@cache
def _references(file: Path, module: str, stamp: tuple[int, int]) -> tuple[list[str], list[str]]:
    """(modules, files next to it) that the source of ``module`` names; some of the modules may not exist."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    imported: list[str] = []
    beside: list[str] = []
    for node in _statements(parse(_text(file))):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            imported += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and module not in _LIST_OTHERS:
            for name in _DOTTED.findall(node.value):
                imported += _prefixes(name)[1:]
            if _FILE.fullmatch(node.value) and (file.parent / node.value).is_file():
                beside.append(node.value)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    name = argument.value
                    imported += _prefixes(f"{package}{name}" if name.startswith(".") else name)
    return imported, beside


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but docstrings and what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If):
            negated = isinstance(child.test, ast.UnaryOp) and isinstance(child.test.op, ast.Not)
            if _name(child.test.operand if isinstance(child.test, ast.UnaryOp) else child.test) == "TYPE_CHECKING":
                for seen in child.body if negated else child.orelse:
                    yield seen
                    yield from _statements(seen)
                continue
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        yield child
        yield from _statements(child)


def _name(node: ast.AST) -> str | None:
    """The last name of ``a`` or ``a.b``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _text(file: Path) -> str:
    """A source in the encoding that it declares."""
    with tokenize.open(file) as source:
        return source.read()

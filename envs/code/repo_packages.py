"""The repositories of the repo family: real packages, read from where pip has put them.

    repository("toolz").text("toolz/itertoolz.py")

Nothing of them is kept in this repository. Versions are pinned, because a task names lines of a file; another
version is refused with the command that fixes it. All licences permit copies and changes (``Package.licence``); a
data set of tasks quotes the sources and carries their licences with it.
"""

from __future__ import annotations

import ast
import doctest
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from envs.code.repo_mutations import functions
from envs.syntax import parse

_PYTEST = ("pytest", "_pytest", "pluggy", "py", "iniconfig", "packaging", "pygments")
_CACHES = ("__pycache__", "*.pyc", "*.pyo")


@dataclass(frozen=True)
class Package:
    """One package. ``parts`` are the folders or files that tasks are made of, empty for all of it."""

    name: str  # as imported
    distribution: str
    version: str
    licence: str
    weight: int  # how often tasks are drawn from it, roughly its number of good defects
    parts: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # other packages that it imports
    names: dict[str, str] = field(default_factory=dict)  # what its doctests take for granted: name -> module
    skip: tuple[str, ...] = ()  # paths that are not looked at


PACKAGES: dict[str, Package] = {
    p.name: p
    for p in (
        Package(
            "networkx",
            "networkx",
            "3.6.1",
            "BSD-3-Clause",
            weight=10,
            names={"nx": "networkx"},
            skip=("networkx/drawing/", "networkx/conftest.py"),
        ),
        Package(
            "sympy",
            "sympy",
            "1.14.0",
            "BSD-3-Clause",
            weight=10,
            needs=("mpmath",),
            parts=(
                "sympy/ntheory/",
                "sympy/combinatorics/",
                "sympy/sets/",
                "sympy/utilities/",
                "sympy/functions/combinatorial/",
                "sympy/logic/",
                "sympy/discrete/",
            ),
        ),
        Package("more_itertools", "more-itertools", "11.2.1", "MIT", weight=4),
        Package("boltons", "boltons", "26.2.0", "BSD-3-Clause", weight=3),
        Package("toolz", "toolz", "1.2.0", "BSD-3-Clause", weight=2, skip=("toolz/sandbox/",)),
        Package("pyrsistent", "pyrsistent", "0.20.0", "MIT", weight=2),
        Package("sortedcontainers", "sortedcontainers", "2.4.0", "Apache-2.0", weight=1),
        Package("inflection", "inflection", "0.5.1", "MIT", weight=1),
    )
}


# What tasks are made of unless told otherwise. sympy's tests take long to record at first use, and how many of its
# candidates make a task has not been measured: ask for it with packages=["sympy"].
DEFAULT: tuple[str, ...] = tuple(name for name in PACKAGES if name != "sympy")


@dataclass(frozen=True)
class Doctest:
    """The examples of one docstring."""

    id: str  # path::qualified name
    module: str
    examples: tuple[doctest.Example, ...]


class Repository:
    """The sources of one package, by path relative to the folder above it."""

    def __init__(self, package: Package) -> None:
        self.package = package
        try:
            found = importlib.metadata.version(package.distribution)
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found != package.version:
            raise ModuleNotFoundError(
                f"repository {package.name}: installed is {package.distribution} {found}, tasks are made for "
                f"{package.version}: pip install '{package.distribution}=={package.version}'"
            )
        self.place = _place(package.name)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The Python files, sorted, tests among them."""
        if self.place.is_file():
            return (self.place.name,)
        root = self.place.parent
        return tuple(sorted(p.relative_to(root).as_posix() for p in self.place.rglob("*.py")))

    @cached_property
    def mounts(self) -> dict[str, Path]:
        """What the sandbox must see to import the package and run its tests. Of the package itself that is a copy
        without compiled caches: one of a file that is then covered would still hold what is underneath."""
        others = {place.name: place for place in map(_place, (*self.package.needs, *_PYTEST))}
        return {self.place.name: self._copy(), **others}

    def _copy(self) -> Path:
        """The package as installed, without caches; made once per machine and state of the sources."""
        target = cache_folder() / f"{self.package.name}-{self.package.version}-{self.digest}" / self.place.name
        if not target.exists():
            target.parent.parent.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=".copy-", dir=target.parent.parent))
            try:
                fresh.chmod(0o755)
                if self.place.is_file():
                    shutil.copyfile(self.place, fresh / self.place.name)
                else:
                    shutil.copytree(self.place, fresh / self.place.name, ignore=shutil.ignore_patterns(*_CACHES))
                fresh.rename(target.parent)
            except OSError:
                if not target.exists():  # else another process was quicker
                    raise
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        return target

    @cached_property
    def digest(self) -> str:
        """Of everything in the files: a base run is good for exactly these."""
        total = hashlib.sha256()
        for path in self.files:
            total.update(f"{path}\n{self.text(path)}\n".encode())
        return total.hexdigest()[:16]

    def text(self, path: str) -> str:
        if path not in self.files:
            raise KeyError(path)
        return _read(self.place.parent / path)

    def is_test(self, path: str) -> bool:
        """Tests and their configuration: shown, never edited."""
        parts = PurePosixPath(path).parts
        return "tests" in parts or parts[-1].startswith("test_") or parts[-1] in ("conftest.py", "runtests.py")

    def sources(self) -> Iterator[str]:
        """The files that defects are put into."""
        for path in self.files:
            chosen = not self.package.parts or path.startswith(self.package.parts)
            if chosen and not self.is_test(path) and not path.startswith(self.package.skip):
                yield path

    def doctests(self, path: str) -> dict[str, Doctest]:
        """The doctests of a file as it was installed: an edit cannot change them."""
        return _doctests(self.package.name, path)


def cache_folder() -> Path:
    """``$SPECIALE_CACHE``, else ``$XDG_CACHE_HOME/speciale-rl``, else ``~/.cache/speciale-rl``; of it, ``repo``."""
    own = os.environ.get("SPECIALE_CACHE")
    return Path(own or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "speciale-rl")) / "repo"


@lru_cache(maxsize=32)
def repository(name: str) -> Repository:
    """The repository of a package of ``PACKAGES``. Raises ValueError or ModuleNotFoundError with the fix."""
    if name not in PACKAGES:
        raise ValueError(f"packages: {name!r} is unknown; use some of {', '.join(PACKAGES)}")
    return Repository(PACKAGES[name])


def module_of(path: str) -> str:
    """``a/b.py`` -> ``a.b``, ``a/__init__.py`` -> ``a``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def function_name(path: str, qualified: str) -> str:
    """package.module.function: what the split goes by."""
    return f"{module_of(path)}.{qualified}"


@lru_cache(maxsize=4096)
def _doctests(package: str, path: str) -> dict[str, Doctest]:
    parser, found = doctest.DocTestParser(), {}
    tree = parse(repository(package).text(path))
    documented: list[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]] = [("", tree)]
    documented += functions(repository(package).text(path)).items()
    documented += _classes(tree.body, "")
    for qualified, node in documented:
        docstring = ast.get_docstring(node, clean=False)
        if docstring and ">>>" in docstring:
            try:
                examples = parser.get_examples(docstring)
            except ValueError:  # an example that doctest itself cannot read
                continue
            if examples:
                name = f"{path}::{qualified}" if qualified else path
                found[name] = Doctest(name, module_of(path), tuple(examples))
    return dict(sorted(found.items()))


def _classes(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.ClassDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield prefix + node.name, node
            yield from _classes(node.body, f"{prefix}{node.name}.")


@lru_cache(maxsize=2048)
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace("\r\n", "\n")


@lru_cache(maxsize=64)
def _place(name: str) -> Path:
    """The folder of a package, or the file of a single-module one, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the repo family needs {name}: pip install {name.lstrip('_')}")
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin

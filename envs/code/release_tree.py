"""The files of a release: read from its archive into memory, sorted into code, tests and the rest. Nothing is built.

    tree = read_tree(release, sources.archive(release))
    tree.code, tree.tests            paths of Python files
    older_code(tree, older)          {path: text, or None for a file that the older release did not have}

An older state of a release is its newer one with the code files of the older: tests, data, configuration and the file
that holds the version stay new, so that what fails, fails because of the code.
"""

from __future__ import annotations

import ast
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from envs.code.release_index import Release
from envs.syntax import parse

MAX_TREE = 8_000_000  # bytes of what is kept of an archive
_MAX_FILE = 1_000_000
_MAX_PYTHON = 400_000
_NOT_CODE = re.compile(
    r"^(tests?|testing|docs?|examples?|benchmarks?|tools|scripts|build|dist|misc|requirements|licenses?|binder|bench|"
    r"perf|ci|tasks|.*\.egg-info)$"
)
_NO_MODULE = {"setup.py", "conftest.py", "noxfile.py", "tasks.py", "versioneer.py", "hatch_build.py", "bootstrap.py"}
_VERSION_FILE = re.compile(r"(^|/)(_?version|__version__|__about__|_version_info|__pkginfo__)\.py$")
CONFIGURATION = {"setup.cfg", "pytest.ini", "tox.ini", "pyproject.toml", "pytest.toml", ".pytest.ini"}
_CHANGELOG = re.compile(r"(?i)^(change(s|log)?|history|news|release.?notes|versions?|whats.?new)(\.(md|rst|txt))?$")
# docs, and what lies beside the package with tests of its own
_LEFT_OUT = re.compile(
    r"(^|/)(__pycache__|\.git|\.github|docs?)(/|$)|^(examples?|benchmarks?|bench|tools|scripts|ci)/|\.(pyc|so|pyd)$"
)
_TEST_FILE = re.compile(r"(^|/)(test_[^/]*|t_[^/]*|[^/]*_tests?|conftest)\.py$")


_PERMISSIVE = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|Unlicense|CC0|[Pp]ublic [Dd]omain)\b"
)
_NOT_PERMISSIVE = re.compile(r"GPL|General Public|MPL|Mozilla|EUPL|Proprietary|Affero|NonCommercial|CC BY", re.I)


# What the standard library raises for archives that are cut off, damaged, encrypted or packed in a way it lacks
_UNREADABLE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError,
    KeyError, struct.error, OverflowError, MemoryError,
)  # fmt: skip


class BadTreeError(ValueError):
    """The archive makes no tree; the message is one word for why."""


@dataclass(frozen=True, eq=False)
class Tree:
    """One release. ``files``: content by path; ``base``: the folder that imports begin at ("" or "src"); ``units``:
    the packages and modules in it; ``changelog``: its text, which is no file of the tree: it tells the repair."""

    name: str
    version: str
    files: Mapping[str, bytes]
    base: str
    units: tuple[str, ...]
    changelog: str
    licence: str  # as the release declares it

    @cached_property
    def texts(self) -> dict[str, str]:
        """The Python files that can be read and parsed, by path."""
        found = {}
        for path in sorted(self.files):
            if path.endswith(".py") and len(self.files[path]) <= _MAX_PYTHON:
                text = _python(self.files[path])
                if text is not None:
                    found[path] = text
        return found

    @cached_property
    def code(self) -> dict[str, str]:
        """The package's own Python files."""
        tops = tuple(f"{self.base}/{unit}" if self.base else unit for unit in self.units)
        return {
            path: text
            for path, text in self.texts.items()
            if not is_test(path) and (path in tops or path.startswith(tuple(f"{top}/" for top in tops)))
        }

    @cached_property
    def tests(self) -> tuple[str, ...]:
        """The files that pytest is given."""
        return tuple(p for p in self.texts if is_test(p) and _TEST_FILE.search(p) and not p.endswith("conftest.py"))

    def module(self, path: str) -> str:
        """``src/a/b.py`` -> ``a.b``."""
        inner = path.removeprefix(f"{self.base}/") if self.base else path
        return inner.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def permissive(declared: str) -> bool:
    """Whether what a release declares permits copies and changes, and asks for nothing but its notice."""
    return bool(_PERMISSIVE.search(declared)) and not _NOT_PERMISSIVE.search(declared)


def is_test(path: str) -> bool:
    """Tests, what they read, and their configuration."""
    parts = PurePosixPath(path).parts
    return bool({"tests", "test", "testing"} & set(parts[:-1])) or bool(_TEST_FILE.search(path))


@lru_cache(maxsize=32)  # of a few packages all releases that are looked at
def read_tree(release: Release, archive: Path) -> Tree:
    """Raises BadTreeError: ``unreadable``, ``too_big`` or ``no_code``."""
    raw: dict[str, bytes] = {}
    total = 0
    try:
        for path, content in _members(archive):
            total += len(content)
            if total > 4 * MAX_TREE:
                raise BadTreeError("too_big")
            raw[path] = content
    except BadTreeError:
        raise
    except _UNREADABLE as error:
        raise BadTreeError("unreadable") from error
    base, units = layout(raw)
    if not units:
        raise BadTreeError("no_code")
    info = raw.get("PKG-INFO", b"").decode("utf-8", "replace")
    files = {path: content for path, content in raw.items() if _kept(path, base, units)}
    files |= _metadata(release, info, raw)
    if sum(map(len, files.values())) > MAX_TREE:
        raise BadTreeError("too_big")
    changes = [path for path in sorted(raw) if _CHANGELOG.match(path.rpartition("/")[2])]
    changelog = raw[min(changes, key=lambda p: (p.count("/"), p))].decode("utf-8", "replace") if changes else ""
    tree = Tree(release.name, release.version, files, base, units, changelog, _licence(info))
    if not tree.code:
        raise BadTreeError("no_code")
    return tree


def older_code(newer: Tree, older: Tree) -> dict[str, str | None]:
    """What to lay over the newer files. Raises BadTreeError("layout_changed") where paths have moved."""
    if (newer.base, newer.units) != (older.base, older.units):
        raise BadTreeError("layout_changed")
    over: dict[str, str | None] = {path: None for path in newer.code if path not in older.code}
    version = re.compile(rf"(?m)^(__version__\s*(?::\s*\w+\s*)?=\s*).*{re.escape(older.version)}.*$")
    for path, text in older.code.items():
        if not _VERSION_FILE.search(path):
            now = version.sub(lambda line: line[0].replace(older.version, newer.version), text)
            if newer.code.get(path) != now:
                over[path] = now
    return over


def same_code(one: str, two: str) -> bool:
    """Whether two files differ in docstrings, annotations, comments and layout alone."""
    try:
        return plain(parse(one)) == plain(parse(two))
    except (SyntaxError, ValueError, RecursionError):
        return False


def plain(node: ast.AST) -> str:
    """The tree without docstrings and annotations, as text to compare. ``node`` is changed."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            first = inner.body[0] if inner.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                inner.body = inner.body[1:] or [ast.Pass()]
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            inner.returns = None
        if isinstance(inner, ast.arg):
            inner.annotation = None
    return ast.dump(node)


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(path below the archive's one folder, content) of plain files."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir() and info.file_size <= _MAX_FILE and (name := _inner(info.filename)):
                    yield name, packed.read(info)
        return
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as unpacked:
        for member in unpacked:
            if member.isfile() and member.size <= _MAX_FILE and (name := _inner(member.name)):
                handle = unpacked.extractfile(member)
                if handle is not None:
                    yield name, handle.read()


def _inner(name: str) -> str:
    path = name.removeprefix("./").partition("/")[2]
    plain_path = path and "\0" not in path and not any(step in ("", ".", "..") for step in path.split("/"))
    return path if plain_path else ""


def layout(raw: Mapping[str, bytes]) -> tuple[str, tuple[str, ...]]:
    """(folder that imports begin at, names of the packages and modules in it)."""
    for base in ("src", "lib", "python", ""):
        prefix = f"{base}/" if base else ""
        inner = [path.removeprefix(prefix) for path in raw if path.startswith(prefix)]
        packages = {path.partition("/")[0] for path in inner if path.endswith("/__init__.py") and path.count("/") == 1}
        modules = {path for path in inner if path.endswith(".py") and "/" not in path and not is_test(path)}
        units = sorted(name for name in packages if not _NOT_CODE.match(name))
        if units or base:
            units += sorted(modules - _NO_MODULE) if base else []
        else:
            units = sorted(modules - _NO_MODULE)
        if not units and base == "":  # a namespace package: jaraco/text/__init__.py
            deeper = {path.partition("/")[0] for path in inner if path.count("/") >= 1 and path.endswith(".py")}
            units = sorted(name for name in deeper if not _NOT_CODE.match(name) and name.isidentifier())
        if units:
            return base, tuple(units)
    return "", ()


def _kept(path: str, base: str, units: tuple[str, ...]) -> bool:
    name = path.rpartition("/")[2]
    if _LEFT_OUT.search(path) or _CHANGELOG.match(name):
        return False
    inner = path.removeprefix(f"{base}/") if base and path.startswith(f"{base}/") else ("" if base else path)
    own = inner.partition("/")[0] in units or inner in units
    return own or is_test(path) or path in CONFIGURATION  # and no README: some hold the changes


def _metadata(release: Release, info: str, raw: Mapping[str, bytes]) -> dict[str, bytes]:
    """A dist-info, so that ``importlib.metadata`` works without an install; no description: some hold the changelog."""
    name = re.sub(r"[-_.]+", "_", release.name)
    folder = f".installed/{name}-{release.version}.dist-info"
    header = info.partition("\n\n")[0] or f"Metadata-Version: 2.1\nName: {release.name}\nVersion: {release.version}"
    found = {f"{folder}/METADATA": f"{header}\n".encode()}
    for path, content in raw.items():
        if path.endswith(".egg-info/entry_points.txt"):
            found[f"{folder}/entry_points.txt"] = content
    return found


def _licence(info: str) -> str:
    """What PKG-INFO declares: expression, field and classifiers."""
    header = info.partition("\n\n")[0]
    lines = re.findall(r"(?m)^(?:License-Expression:|License:|Classifier: License ::)\s*(.{1,120})", header)
    return "; ".join(dict.fromkeys(line.strip() for line in lines))


@lru_cache(maxsize=4096)
def _python(content: bytes) -> str | None:
    """The text of a Python file, None where it cannot be read or parsed."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
        parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return text

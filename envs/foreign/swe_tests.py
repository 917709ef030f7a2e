"""Tests by the names that rows give them, and how they are run: by pytest, or by a command of the repository's own.

    ids = Labels(texts, patched).ids("test_add (calc.tests.AddTests)")     # ["calc/tests.py::AddTests::test_add"]
    run = run_command(place, files, "python -m unittest -v {labels}", ids, labels, limits)

Inside, a test is path::Class::name, as pytest has it. Rows may say ``path::Class::name``, ``name (dotted.Class)`` or
``dotted.Class.name`` (unittest, Django), or a bare name, which is looked for in the files of ``test_patch`` (SymPy).
What a command prints is read outside the sandbox, one verdict a test. The code under test may print such lines too,
which is why no score is made of one run (``release_verdict``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from envs.code.release_tests import definition
from envs.code.repo_mutations import functions
from envs.code.repo_run import Run, Verdict, tame
from envs.code.suite_run import TOP, Place, run_guest
from envs.foreign.examined import RefusedError
from envs.sandbox import Limits

PYTEST = "pytest"
LABELS = "{labels}"
_UNITTEST = re.compile(r"(\w+) \(([\w.]+)\)")
_DOTTED = re.compile(r"\w+(?:\.\w+)+")
_NAME = re.compile(r"\w+")
# "test_a (tests.A.test_a) ... ok", with the first line of a docstring between them, but no other result. Atomic: the
# code under test prints these lines, and may print " ... " a million times.
_RESULT = re.compile(
    r"^(\w+) \(([\w.]+)\)(?:[^\n]*\n(?!\w+ \([\w.]+\)))??(?>[^\n]*? \.\.\. )[^\n]*?"
    r"(ok|FAIL|ERROR|skipped|expected failure)\b",
    re.M,
)
_FAILURE = re.compile(r"^(?:FAIL|ERROR): (\w+) \(([\w.]+)\)[^\n]*\n(.*?)(?=^={20,}|^-{20,}\nRan |\Z)", re.M | re.S)


class Labels:
    """``texts``: the test files that there are; ``patched``: those that ``test_patch`` changes."""

    def __init__(self, texts: Mapping[str, str], patched: Collection[str]) -> None:
        self.texts, self.patched = texts, sorted(patched)
        self.roots: set[str] = set()  # folders that dotted names begin at

    def ids(self, label: str) -> list[str]:
        """The tests that a label names. Raises RefusedError when it names none."""
        if "::" in label:
            return [label]
        if found := _UNITTEST.fullmatch(label):
            name, owner = found.groups()
            return [self._dotted(label, owner.removesuffix(f".{name}"), name)]
        if _DOTTED.fullmatch(label):
            owner, _, name = label.rpartition(".")
            return [self._dotted(label, owner, name)]
        if _NAME.fullmatch(label):
            ids = [f"{p}::{label}" for p in self.patched if p in self.texts and label in functions(self.texts[p])]
            if len(ids) == 1:
                return ids
            raise RefusedError(f"test {label!r} is in {len(ids)} of the files of test_patch, wanted one")
        raise RefusedError(f"test {label!r:.100}: is no path::name, name (dotted.Class) or name")

    def _dotted(self, label: str, owner: str, name: str) -> str:
        steps = owner.split(".")
        for count in range(len(steps), 0, -1):  # the longest beginning that is a module
            ending = "/".join(steps[:count]) + ".py"
            paths = [p for p in self.texts if p == ending or p.endswith(f"/{ending}")]
            inner = steps[count:]
            paths = [p for p in paths if definition(self.texts[p], ".".join([*inner, name])) is not None] or paths
            if paths:
                path = min(paths, key=lambda p: (p.count("/"), p))
                self.roots.add(path.removesuffix(ending))
                return "::".join([path, *inner, name])
        raise RefusedError(f"test {label!r:.100}: no file of the repository is its module")

    def dotted(self, test: str) -> str:
        """What a command calls a test, or a test file."""
        path, *names = test.split("::")
        root = max((root for root in self.roots if path.startswith(root)), key=len, default="")
        module = str(PurePosixPath(path.removeprefix(root)).with_suffix("")).replace("/", ".")
        return ".".join([module, *names])


def check_command(command: str) -> None:
    """Raise ValueError for a test command that cannot be run."""
    if command == PYTEST:
        return
    words = shlex.split(command)
    runs = len(words) > 1 and words[0] in ("python", "python3") and (words[1] != "-m" or len(words) > 2)
    if not runs or words.count(LABELS) != 1:
        raise ValueError(
            f"test_command={command!r}: wanted {PYTEST}, or python with a module or script and {LABELS} as one word, "
            f"such as 'python -m unittest -v {LABELS}'"
        )


def run_command(
    place: Place, files: Mapping[str, bytes], command: str, tests: Iterable[str], labels: Labels, limits: Limits,
    hash_seed: int = 0,
) -> Run:  # fmt: skip
    """Run ``command`` on tests (or files), in the top folder of the repository."""
    dotted = {labels.dotted(test): test for test in sorted(tests)}
    words = shlex.split(command)[1:]
    at = words.index(LABELS)
    words[at : at + 1] = dotted
    module = words[0] == "-m"
    words = words[1:] if module else words
    start = "run_module(sys.argv[0], run_name='__main__', alter_sys=True)" if module else (
        "run_path(sys.argv[0], run_name='__main__')")  # fmt: skip
    folder = "''" if module else f"os.path.join({TOP!r}, os.path.dirname(sys.argv[0]))"
    script = f"import os, runpy, sys\nsys.argv = {words!r}\nsys.path.insert(0, {folder})\nrunpy.{start}\n"
    result = run_guest(place, files, {"script": script}, limits, hash_seed)
    said = f"{result.stdout}\n{result.stderr}"
    told = {_joined(found[1], found[2]): tame(_last_line(found[3])) for found in _FAILURE.finditer(said)}
    verdicts: dict[str, Verdict] = {}
    for name, status in results(said):
        test = _id(name, dotted)
        passed = status in ("ok", "expected failure")
        if test is None or status == "skipped":
            continue
        if test in verdicts:  # of the code under test, which may print anything
            passed = False
        verdicts[test] = Verdict(passed, got="" if passed else told.get(name, status))
    ended = not result.timed_out and bool(re.search(r"(?m)^Ran \d+ tests? in ", said))
    broken = "" if ended or result.timed_out else f"{command}: {tame(_last_line(said)) or 'it ended'}"
    return Run(verdicts, timed_out=result.timed_out, ended=ended, broken=broken)


def results(said: str) -> Iterator[tuple[str, str]]:
    """(dotted name, ok or another word) of each test in the verbose output of unittest."""
    for found in _RESULT.finditer(said):
        yield _joined(found[1], found[2]), found[3]


def _id(name: str, dotted: Mapping[str, str]) -> str | None:
    """The test of a result's name: that was asked for, or in a file or class that was."""
    if name in dotted:
        return dotted[name]
    for asked, test in dotted.items():
        if name.startswith(f"{asked}."):
            return "::".join([test, *name.removeprefix(f"{asked}.").split(".")])
    return None


def _joined(name: str, owner: str) -> str:
    return f"{owner.removesuffix(f'.{name}')}.{name}"


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def matching(run: Run, test: str) -> Sequence[str]:
    """The tests of a run that an id of a row means: itself, or those that it is the beginning of, up to a space (data
    sets cut parameters there)."""
    if test in run.verdicts:
        return [test]
    return [name for name in run.verdicts if " " in name and name.partition(" ")[0] == test]

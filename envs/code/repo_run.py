"""Runs tests of a repository in the sandbox, with some files replaced, and says which passed.

    run_tests(repository("toolz"), {"toolz/itertoolz.py": text}, ["toolz/itertoolz.py::take"])
        -> Run({"toolz/itertoolz.py::take": Verdict(passed=False, expected="[1, 2]", got="[1]", ...)})

A test is a docstring (``path::function``), a variant of one (``path::function#2``, see ``repo_variants``) or a pytest
node id (``pkg/tests/test_x.py::TestY::test_z``). The sandbox holds the package with the replaced files in place of the
installed ones, which it cannot see, and no word of what is expected.

Docstrings and variants are judged here, from what their examples printed. So an edit can end the process, print
what it likes, forge the lines of the guest, patch whatever compares, walk frames: all that makes a test pass is
to say what the unbroken package says. pytest tests are judged in the sandbox, beside the code under test: they are for
the policy to read, and decide over no task and no score.
"""

from __future__ import annotations

import doctest
import json
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.code.repo_packages import Doctest, Repository, module_of
from envs.code.repo_variants import file_of, is_variant, original_of, variant_of
from envs.sandbox import Limits, Sandbox, SandboxResult

_GUEST = Path(__file__).with_name("repo_guest.py")
# CPU time is what stops a run; wall time is for what sleeps, generous because machines are busy, and below the
# deadlines of a rollout: an edit that sleeps has failed its tests, and is not masked.
LIMITS = Limits(wall_s=30.0, cpu_s=20, memory_mb=1024, processes=8, output_bytes=2_000_000)
_SCRIPT_LIMITS = Limits(wall_s=20.0, cpu_s=10, memory_mb=1024, processes=8)
TEST_S = 1.0  # CPU seconds of one test; those of the base run are far below
_OPTIONS = ("-c", "/dev/null", "--noconftest", "-p", "no:warnings", "-p", "no:logging")
# CPU seconds of the runs of this process that finished, for benchmarks: the kernel does not add them to ours.
spent = {"cpu_s": 0.0}
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


Shown = tuple[tuple[str, str | None], ...]  # of each example: what it printed, what it raised


@dataclass(frozen=True)
class Verdict:
    """How one test ended. For a failed one ``call`` is the expression or line that failed; ``shown`` is what the
    examples of a docstring printed and raised."""

    passed: bool
    call: str = ""
    expected: str = ""
    got: str = ""
    late: bool = False
    seconds: float = 0.0
    covered: tuple[str, ...] = ()
    shown: Shown = ()
    inside: str = ""  # of a failed pytest test: path::function of the innermost frame in the code under test


@dataclass(frozen=True)
class Run:
    """Verdicts by test id; a test without one did not finish. ``ended``: the process ended by itself.
    ``broken``: it did not, and no time limit is to blame. ``unimportable``: a module that could not be imported,
    and why."""

    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    timed_out: bool = False
    ended: bool = True
    broken: str = ""
    unimportable: str = ""

    def passed(self, test: str) -> bool:
        verdict = self.verdicts.get(test)
        return verdict is not None and verdict.passed


def run_tests(
    repo: Repository,
    overlay: Mapping[str, str],
    tests: Iterable[str],
    limits: Limits = LIMITS,
    test_s: float = TEST_S,
    cover: bool = False,
    stop: bool = True,
    expected: Mapping[str, Shown] = {},
) -> Run:
    """Run ``tests`` (ids, or test files for pytest) with the files of ``overlay`` replaced.

    ``cover`` records the functions each test enters; ``stop`` ends the run at the first test that takes too long;
    ``expected`` holds what the variants among the tests must show (one without an entry has not passed).
    """
    examples: dict[str, Doctest] = {}
    pytests: list[str] = []
    for test in dict.fromkeys(tests):
        if repo.is_test(file_of(test)):
            pytests.append(test)
        else:
            examples[test] = _examples(repo, test)
    job = {
        "top": "/mnt",
        "root": f"/mnt/{repo.place.name}" if repo.place.is_dir() else "/mnt",
        "first": list(dict.fromkeys([*map(module_of, overlay), *(d.module for d in examples.values())])),
        "doctests": [
            {"id": d.id, "module": d.module, "examples": [e.source for e in d.examples if not _skipped(e)]}
            for d in examples.values()
        ],
        "pytest": pytests,
        "only": None,
        "options": _OPTIONS,
        "names": repo.package.names,
        "test_s": test_s,
        "cover": cover,
        "stop": stop,
    }
    result = _guest(repo, overlay, job, limits)
    verdicts: dict[str, Verdict] = {}
    ended = False
    unimportable = ""
    for row in filter(None, map(row_of_line, result.stdout.split("\n"))):
        match row:
            case ["doctest", str(name), shown, float(seconds), covered] if name in examples:
                verdicts[name] = _judge(examples[name], shown, seconds, covered, expected.get(name, ()))
            case ["pytest", str(name), passed, dict(info), float(seconds), _] if pytests:
                verdicts[name] = _assertion(repo, name, passed, info, seconds)
            case ["import", str(name), str(error)]:
                unimportable = unimportable or f"import of {name} failed: {error}"
            case ["end", float(seconds)]:
                ended, spent["cpu_s"] = True, spent["cpu_s"] + seconds
    late = result.timed_out or result.exit_code == -signal.SIGPROF or any(v.late for v in verdicts.values())
    broken = "" if ended or late else "the tests ended the program"
    return Run(verdicts, timed_out=late, ended=ended, broken=broken, unimportable=tame(unimportable))


def run_script(repo: Repository, overlay: Mapping[str, str], code: str) -> SandboxResult:
    """Run a program of the policy with the package as it has edited it; what it printed."""
    return _guest(repo, overlay, {"script": code}, _SCRIPT_LIMITS)


def _guest(repo: Repository, overlay: Mapping[str, str], job: Mapping[str, Any], limits: Limits) -> SandboxResult:
    covers = {path: text.encode("utf-8", "replace") for path, text in overlay.items()}
    job = {"path": ["/mnt"], **job}
    return Sandbox(limits).run_python(guest_program(), json.dumps(job), mounts=repo.mounts, covers=covers)


def guest_program() -> str:
    """What runs inside the sandbox."""
    return _GUEST.read_text(encoding="utf-8")


def _examples(repo: Repository, test: str) -> Doctest:
    """The examples of a docstring as it was installed, or of a variant of them."""
    found: Doctest | None = repo.doctests(file_of(test))[original_of(test)]
    if found is not None and is_variant(test):
        found = variant_of(found, int(test.removeprefix(f"{original_of(test)}#")))
    if found is None:
        raise KeyError(test)
    return found


def row_of_line(line: str) -> list[Any] | None:
    """A line of the guest, or of the code under test, which may write anything."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, list) else None


def _skipped(example: doctest.Example) -> bool:
    return bool(example.options.get(doctest.SKIP))


def _judge(test: Doctest, shown: Any, seconds: float, covered: Any, expected: Shown) -> Verdict:
    """Compare what the examples showed with what the docstring says, as the doctest module does, or with what
    is expected of a variant."""
    entered = tuple(name for name in covered if isinstance(name, str)) if isinstance(covered, list) else ()
    if shown is None:
        return Verdict(False, late=True, seconds=seconds, covered=entered)
    examples = [e for e in test.examples if not _skipped(e)]
    told = _shown(shown)
    if is_variant(test.id):
        return Verdict(len(told) == len(examples) and told == expected, "", "", "", False, seconds, entered, told)
    for number, example in enumerate(examples):
        if number >= len(told):
            return Verdict(False, example.source.strip(), example.want.strip(), "nothing", False, seconds, entered)
        printed, error = told[number]
        if not _as_wanted(example, printed, error):
            got = str(error or printed).strip() or "nothing"
            return Verdict(False, example.source.strip(), example.want.strip(), tame(got), False, seconds, entered)
    return Verdict(len(told) == len(examples), seconds=seconds, covered=entered, shown=told)


def _shown(rows: Any) -> Shown:
    """The rows of a doctest up to the first that is none."""
    found: list[tuple[str, str | None]] = []
    for row in rows if isinstance(rows, list) else ():
        match row:
            case [str(printed), None | str() as error]:
                found.append((printed, error))
            case _:
                break
    return tuple(found)


def _as_wanted(example: doctest.Example, printed: str, error: str | None) -> bool:
    flags = _FLAGS
    for flag, on in example.options.items():
        flags = flags | flag if on else flags & ~flag
    check = doctest.OutputChecker().check_output
    if error is None:
        return check(example.want, printed, flags)
    if example.exc_msg is None:
        return False
    if check(example.exc_msg, str(error), flags):
        return True
    kinds = [text.partition(":")[0].rpartition(".")[2].strip() for text in (example.exc_msg, str(error))]
    return bool(flags & doctest.IGNORE_EXCEPTION_DETAIL) and kinds[0] == kinds[1]


def _assertion(repo: Repository, name: str, passed: Any, info: Mapping[str, Any], seconds: float) -> Verdict:
    if passed is True:
        return Verdict(True, seconds=seconds)
    line, path = info.get("line"), name.partition("::")[0]
    lines = repo.text(path).split("\n") if path in repo.files else []
    call = lines[line - 1].strip() if isinstance(line, int) and 0 < line <= len(lines) else ""
    got = tame(str(info.get("message", "")))
    return Verdict(False, call, "", got, passed is None, seconds)


def tame(text: str) -> str:
    """Addresses differ from run to run."""
    return _ADDRESS.sub("0x...", text)[:1000]

"""Runs tests of a repository in the sandbox, with some files replaced, and says which passed.

    run_tests(repository("toolz"), {"toolz/itertoolz.py": text}, ["toolz/itertoolz.py::take"])
        -> Run({"toolz/itertoolz.py::take": Verdict(passed=False, expected="[1, 2]", got="[1]", ...)})

A test is a docstring (``path::function``) or a pytest node id (``pkg/tests/test_x.py::TestY::test_z``). What runs
is the installed package, its tests and docstrings included; only the replaced files come from the policy.

What a cheating edit cannot do: answer by exit code, by printing or by leaving early (a test without a
reported result has failed); change a test, a docstring's examples or a conftest (they are taken from the
installed package); patch pytest so that assertions pass (tests that must fail run along, and all results
are void when one of them passes); patch doctest (outputs are compared on this side). What it can: find the
token of the result channel by walking the frames of the interpreter, in whose process it runs, or know the
examples by heart. ``envs.code.repo_files`` therefore refuses edits that reach for the interpreter's insides.
"""

from __future__ import annotations

import doctest
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from envs.code.repo_packages import Doctest, Repository, repository
from envs.sandbox import Limits, Sandbox, SandboxResult

_GUEST = Path(__file__).with_name("repo_guest.py")
# CPU time is what stops a run; wall time is for what sleeps, and generous because machines are busy.
LIMITS = Limits(wall_s=120.0, cpu_s=20, memory_mb=1024, processes=8, output_bytes=2_000_000)
_SCRIPT_LIMITS = Limits(wall_s=20.0, cpu_s=10, memory_mb=1024, processes=8)
TEST_S = 1.0  # CPU seconds of one test; those of the base run are far below
# CPU seconds of the runs of this process that finished, for benchmarks: the kernel does not add them to ours.
spent = {"cpu_s": 0.0}
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


@dataclass(frozen=True)
class Verdict:
    """How one test ended. For a failed one ``call`` is the expression or line that failed."""

    passed: bool
    call: str = ""
    expected: str = ""
    got: str = ""
    late: bool = False
    seconds: float = 0.0
    covered: tuple[str, ...] = ()


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
) -> Run:
    """Run ``tests`` (ids, or test files for pytest) with the files of ``overlay`` replaced.

    ``cover`` records the functions each test enters; ``stop`` ends the run at the first test that takes too long.
    """
    examples: dict[str, Doctest] = {}
    pytests: list[str] = []
    for test in dict.fromkeys(tests):
        path = test.partition("::")[0]
        if repo.is_test(path):
            pytests.append(test)
        else:
            examples[test] = repo.doctests(path)[test]
    token = secrets.token_hex(16)
    job = {
        "token": token,
        "root": f"/mnt/{repo.place.name}" if repo.place.is_dir() else "/mnt",
        "edited": list(overlay),
        "doctests": [
            {"id": d.id, "module": d.module, "examples": [e.source for e in d.examples if not _skipped(e)]}
            for d in examples.values()
        ],
        "pytest": pytests,
        "names": repo.package.names,
        "test_s": test_s,
        "cover": cover,
        "stop": stop,
    }
    result = _run(repo, overlay, limits, job)
    rows = [json.loads(line.removeprefix(token)) for line in result.stdout.split("\n") if line.startswith(token)]
    verdicts: dict[str, Verdict] = {}
    intact = ended = False
    unimportable = ""
    for row in rows:
        if row[0] == "doctest":
            _, name, shown, seconds, covered = row
            verdicts[name] = _judge(examples[name], shown, seconds, tuple(covered))
        elif row[0] == "pytest":
            _, name, passed, info, seconds, covered = row
            verdicts[name] = _assertion(repo, name, passed, info, seconds, tuple(covered))
        elif row[0] == "import":
            unimportable = unimportable or f"import of {row[1]} failed: {row[2]}"
        else:
            intact = intact or row == ["intact", True]
            if row[0] == "end":
                ended, spent["cpu_s"] = True, spent["cpu_s"] + row[1]
    if pytests and not intact:  # it ended before, or somebody took pytest apart: no assertion counts
        verdicts = {n: v if v.late or not repo.is_test(n) else Verdict(False, got=v.got) for n, v in verdicts.items()}
    late = result.timed_out or any(v.late for v in verdicts.values())
    broken = "" if ended or late else "the tests ended the program"
    return Run(
        verdicts,
        timed_out=late,
        ended=ended and (intact or not pytests),
        broken=broken,
        unimportable=_tame(unimportable),
    )


def run_script(repo: Repository, overlay: Mapping[str, str], code: str) -> SandboxResult:
    """Run a program of the policy with the package as it has edited it; what it printed."""
    return _run(repo, overlay, _SCRIPT_LIMITS, {"script": code})


def _run(repo: Repository, overlay: Mapping[str, str], limits: Limits, job: Mapping[str, Any]) -> SandboxResult:
    """The guest program, with the edited files in the place of the installed ones, whose text is nowhere inside: the
    byte code that lies beside them is covered too."""
    covers = {path: text.encode("utf-8", "surrogatepass") for path, text in overlay.items()}
    for path in overlay:
        covers |= dict.fromkeys(repo.byte_code(path), b"")
    source = _GUEST.read_text(encoding="utf-8")
    return Sandbox(limits).run_python(source, json.dumps(job), mounts=repo.mounts, covers=covers)


def run_remembered(package: str, overlay: tuple[tuple[str, str], ...], tests: tuple[str, ...]) -> Run:
    """``run_tests`` with the answer kept: rollouts of one task often make the same edit. What was stopped for
    its time is run again, because a busy machine may be to blame."""
    try:
        return _remembered(package, overlay, tests)
    except _Stopped as stopped:
        return stopped.run


class _Stopped(Exception):
    def __init__(self, run: Run) -> None:
        self.run = run


@lru_cache(maxsize=256)
def _remembered(package: str, overlay: tuple[tuple[str, str], ...], tests: tuple[str, ...]) -> Run:
    run = run_tests(repository(package), dict(overlay), tests)
    if run.timed_out:
        raise _Stopped(run)
    return run


def _skipped(example: doctest.Example) -> bool:
    return bool(example.options.get(doctest.SKIP))


def _judge(test: Doctest, shown: Any, seconds: float, covered: tuple[str, ...]) -> Verdict:
    """Compare what the examples printed with what the docstring says, as the doctest module does."""
    if shown is None:
        return Verdict(False, late=True, seconds=seconds, covered=covered)
    examples = [e for e in test.examples if not _skipped(e)]
    for number, example in enumerate(examples):
        if number >= len(shown):
            return Verdict(False, example.source.strip(), example.want.strip(), "nothing", False, seconds, covered)
        printed, error = str(shown[number][0]), shown[number][1]
        if not _as_wanted(example, printed, error):
            got = str(error or printed).strip() or "nothing"
            return Verdict(False, example.source.strip(), example.want.strip(), _tame(got), False, seconds, covered)
    return Verdict(len(shown) == len(examples), seconds=seconds, covered=covered)


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


def _assertion(
    repo: Repository, name: str, passed: Any, info: Mapping[str, Any], seconds: float, covered: tuple[str, ...]
) -> Verdict:
    if passed is True:
        return Verdict(True, seconds=seconds, covered=covered)
    line = info.get("line")
    lines = repo.text(name.partition("::")[0]).split("\n")
    call = lines[line - 1].strip() if isinstance(line, int) and 0 < line <= len(lines) else ""
    got = _tame(str(info.get("message", "")))
    return Verdict(False, call, "", got, passed is None, seconds, covered)


def _tame(text: str) -> str:
    """Addresses differ from run to run."""
    return _ADDRESS.sub("0x...", text)[:1000]

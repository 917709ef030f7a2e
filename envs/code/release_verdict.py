"""Whether a repository is repaired: the tests that decide run twice, once as written and once turned round.

    verdict = judge(run, texts, files, f2p, p2p, deciding)      -> Judged(f2p=1.0, p2p=1.0)

In the first run every deciding test function is, by a coin thrown here, either as it was written or turned; in the
second it is the other. A test is passed when it passed as written and failed turned. Whatever is done to what judges
inside the sandbox (patched comparisons, objects equal to everything, forged results, a process that is ended) is the
same for both, and does not know which is which; nor is what an assertion says what is expected, half of the time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from envs.code.release_tests import definition_of, function_of, turned
from envs.code.repo_run import Run

# Runs test functions (the third argument: path::Class::name) of test files (the second) beside the files of a state
Runner = Callable[[Mapping[str, bytes], Sequence[str], Collection[str]], Run]


@dataclass(frozen=True)
class Judged:
    """Shares of the tests that are right, and whether a run was stopped for its time."""

    f2p: float
    p2p: float
    timed_out: bool


def judge(
    run: Runner,
    texts: Mapping[str, str],
    files: Mapping[str, bytes],
    f2p: Sequence[str],
    p2p: Sequence[str],
    deciding: Collection[str],
) -> Judged:
    """Run hidden tests on a state of the files; ``texts`` holds the test files, which are put in their place here."""
    tests = (*f2p, *p2p)
    asked = {function_of(test) for test in tests}
    candidates = sorted({str(definition_of(texts, test)) for test in tests if test in deciding})
    coin = random.SystemRandom()  # nothing that runs inside can know how it fell
    first = {function for function in candidates if coin.random() < 0.5}
    runs: list[tuple[set[str], Run]] = []
    for chosen in (first, set(candidates) - first):
        runs.append((chosen, run({**files, **turned_files(texts, asked, chosen)}, paths_of(asked), asked)))
    right = {
        test: all(_right(test, definition_of(texts, test) in chosen, run, test in deciding) for chosen, run in runs)
        for test in tests
    }
    share = [sum(right[test] for test in group) / len(group) if group else 1.0 for group in (f2p, p2p)]
    return Judged(share[0], share[1], any(run.timed_out for _, run in runs))


def _right(test: str, turned_round: bool, run: Run, deciding: bool) -> bool:
    """Passed as written; failed, and not merely missing, turned round."""
    if not turned_round:
        return run.passed(test)
    if not deciding:
        return True  # its function was turned for another parameter, which fails; this one does not tell
    verdict = run.verdicts.get(test)
    return verdict is not None and not verdict.passed and not verdict.late


def turned_files(texts: Mapping[str, str], asked: Collection[str], chosen: Collection[str]) -> dict[str, bytes]:
    """The test files of ``asked``, with the functions ``chosen`` (path::qualified name) turned."""
    found = {}
    for path in paths_of(asked):
        if path in texts:
            names = {name for at, _, name in (one.partition("::") for one in chosen) if at == path}
            found[path] = turned(texts[path], names).encode()
    return found


def paths_of(tests: Collection[str]) -> list[str]:
    """The files of tests."""
    return sorted({test.partition("::")[0] for test in tests})

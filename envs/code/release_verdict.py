"""Whether a repository is repaired: the tests that decide run twice, once as written and once turned round.

    verdict = judge(beside(run, files), texts, f2p, p2p, deciding)      -> Judged(f2p=1.0, p2p=1.0)

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
RunOne = Callable[[Mapping[str, bytes], Sequence[str], Collection[str]], Run]
# The same once for each of several versions of the test files (the first: texts by path)
Runner = Callable[[Sequence[Mapping[str, str]], Sequence[str], Collection[str]], Sequence[Run]]


@dataclass(frozen=True)
class Judged:
    """Shares of the tests that are right, and whether a run was stopped for its time."""

    f2p: float
    p2p: float
    timed_out: bool


@dataclass(frozen=True, eq=False)
class Question:
    """Hidden tests, and how the coins fell: ``both`` are the functions (path::qualified name) that are turned in the
    first run, and in the second. ``asked``: the functions to run (path::Class::name), of the files ``paths``."""

    texts: Mapping[str, str]
    f2p: Sequence[str]
    p2p: Sequence[str]
    deciding: Collection[str]
    both: tuple[Collection[str], Collection[str]]
    overlays: tuple[Mapping[str, str], Mapping[str, str]]
    asked: Collection[str]

    @property
    def paths(self) -> list[str]:
        return paths_of(self.asked)

    def judged(self, done: Sequence[Run]) -> Judged:
        """What the two runs of ``overlays`` say."""
        runs = list(zip(self.both, done, strict=True))
        right = {
            test: all(
                _right(test, definition_of(self.texts, test) in chosen, run, test in self.deciding)
                for chosen, run in runs
            )
            for test in (*self.f2p, *self.p2p)
        }
        share = [sum(right[test] for test in group) / len(group) if group else 1.0 for group in (self.f2p, self.p2p)]
        return Judged(share[0], share[1], any(run.timed_out for _, run in runs))


def question(
    texts: Mapping[str, str], f2p: Sequence[str], p2p: Sequence[str], deciding: Collection[str],
    seen: Collection[str] = (),
) -> Question:  # fmt: skip
    """Throw the coins. ``texts`` holds the test files; ``seen``: of the tests that decide, those that are turned hard
    (``release_tests.turned``)."""
    tests = (*f2p, *p2p)
    asked = {function_of(test) for test in tests}
    candidates = sorted({str(definition_of(texts, test)) for test in tests if test in deciding})
    hard = {str(definition_of(texts, test)) for test in seen}
    coin = random.SystemRandom()  # nothing that runs inside can know how it fell
    first = {function for function in candidates if coin.random() < 0.5}
    both = (first, set(candidates) - first)
    one, other = (turned_files(texts, asked, chosen, hard) for chosen in both)
    return Question(texts, f2p, p2p, deciding, both, (one, other), asked)


def judge(
    run: Runner, texts: Mapping[str, str], f2p: Sequence[str], p2p: Sequence[str], deciding: Collection[str],
    seen: Collection[str] = (),
) -> Judged:  # fmt: skip
    """Run hidden tests twice; see ``question``."""
    asked = question(texts, f2p, p2p, deciding, seen)
    return asked.judged(run(asked.overlays, asked.paths, asked.asked))


def _right(test: str, turned_round: bool, run: Run, deciding: bool) -> bool:
    """Passed as written; failed, and not merely missing, turned round."""
    if not turned_round:
        return run.passed(test)
    if not deciding:
        return True  # its function was turned for another parameter, which fails; this one does not tell
    verdict = run.verdicts.get(test)
    return verdict is not None and not verdict.passed and not verdict.late


def turned_files(
    texts: Mapping[str, str], asked: Collection[str], chosen: Collection[str], hard: Collection[str] = ()
) -> dict[str, str]:
    """The test files of ``asked`` as they were written but for their layout, with the functions ``chosen`` (path::
    qualified name) turned, those of ``hard`` in a way that can be seen."""
    return {p: turned(texts[p], _in(p, chosen), _in(p, hard)) for p in paths_of(asked) if p in texts}


def _in(path: str, functions: Collection[str]) -> set[str]:
    return {name for at, _, name in (one.partition("::") for one in functions) if at == path}


def beside(run: RunOne, files: Mapping[str, bytes]) -> Runner:
    """Each of the runs in a sandbox of its own, with the test files laid over ``files``: a policy's code is in them,
    and what it does in one must not reach the other."""

    def runs(overlays: Sequence[Mapping[str, str]], paths: Sequence[str], only: Collection[str]) -> list[Run]:
        return [run({**files, **encoded(tests)}, paths, only) for tests in overlays]

    return runs


def encoded(texts: Mapping[str, str]) -> dict[str, bytes]:
    """Texts as files."""
    return {path: text.encode() for path, text in texts.items()}


def paths_of(tests: Collection[str]) -> list[str]:
    """The files of tests."""
    return sorted({test.partition("::")[0] for test in tests})

"""Whether a repository is repaired: the tests that decide run twice, once as written and once turned round.

    verdict = judge(sources, tree, over, f2p, p2p, deciding)       -> Judged(f2p=1.0, p2p=1.0)

In the first run every deciding test function is, by a coin thrown here, either as it was written or turned; in the
second it is the other. A test is passed when it passed as written and failed turned. Whatever is done to what judges
inside the sandbox (patched comparisons, objects equal to everything, forged results, a process that is ended) is the
same for both, and does not know which is which; nor is what an assertion says what is expected, half of the time.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from envs.code.release_base import definition_of, function_of
from envs.code.release_defects import laid_over
from envs.code.release_index import Sources
from envs.code.release_run import Trial, run_states, run_suite
from envs.code.release_tests import turned
from envs.code.release_tree import Tree
from envs.code.repo_run import Run


@dataclass(frozen=True)
class Judged:
    """Shares of the tests that are right, and whether a run was stopped for its time."""

    f2p: float
    p2p: float
    timed_out: bool


def judge(
    sources: Sources,
    tree: Tree,
    over: Mapping[str, str | None],
    f2p: Sequence[str],
    p2p: Sequence[str],
    deciding: Collection[str],
    seen: Collection[str],
    released: bool = False,
) -> Judged:
    """Run the hidden tests of ``tree`` with ``over`` laid over its files (tests are put in their place here). ``seen``:
    of those that decide, tests that are turned hard. ``released``: the code is as somebody released it, so both runs
    may share a sandbox; a policy's never do."""
    tests = (*f2p, *p2p)
    asked = {function_of(test) for test in tests}
    candidates = sorted({str(definition_of(tree, test)) for test in tests if test in deciding})
    hard = {str(definition_of(tree, test)) for test in seen}
    coin = random.SystemRandom()  # nothing that runs inside can know how it fell
    first = {function for function in candidates if coin.random() < 0.5}
    both = [first, set(candidates) - first]
    states = [{**over, **_tests(tree, asked, chosen, hard)} for chosen in both]
    if released:
        done = run_states(sources, tree, [Trial(_paths(asked), state, asked) for state in states])
    else:
        done = [run_suite(sources, laid_over(tree.files, s), tree, _paths(asked), only=asked) for s in states]
    runs = list(zip(both, done, strict=True))
    right = {
        test: all(_right(test, definition_of(tree, test) in chosen, run, test in deciding) for chosen, run in runs)
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


def _tests(tree: Tree, asked: Collection[str], chosen: Collection[str], hard: Collection[str]) -> dict[str, str]:
    """The test files as they were released but for their layout, with some functions turned."""
    return {path: turned(tree.texts[path], _in(path, chosen), _in(path, hard)) for path in _paths(asked)}


def _in(path: str, functions: Collection[str]) -> set[str]:
    return {name for at, _, name in (one.partition("::") for one in functions) if at == path}


def _paths(asked: Collection[str]) -> list[str]:
    return sorted({function.partition("::")[0] for function in asked})

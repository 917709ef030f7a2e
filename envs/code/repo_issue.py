"""The text of an issue: what was called, what was expected, what came instead. Never the line or the change.

take() gives a wrong result (toolz.itertoolz).

    >>> list(take(2, [10, 20, 30]))

Expected:

    [10, 20]

Instead I get:

    [10]
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from envs.code.repo_defects import Defect
from envs.code.repo_packages import Repository, module_of
from envs.code.repo_run import Verdict

_MAX_LINES = 24
_NAMED = (
    "{function}() does not do what its documentation says ({module}).",
    "Wrong behaviour of {function}() in {module}.",
    "I think that {function}() in {module} is broken since the last change.",
    "{module}: {function}() misbehaves.",
)
_UNNAMED = (
    "Something in {package} does not do what the documentation says.",
    "After updating {package} my code behaves differently.",
    "{package} gives a wrong result here. I could not find out where it goes wrong.",
    "This used to work with {package}, and does not any more.",
)
_EXAMPLE = (
    "To reproduce:\n\n{call}\n\nExpected:\n\n{expected}\n\nInstead I get:\n\n{got}",
    "I ran this:\n\n{call}\n\nThe right answer would be\n\n{expected}\n\nbut what comes is\n\n{got}",
    "{call}\n\nshould give\n\n{expected}\n\nand gives\n\n{got}",
)
_ASSERTION = (
    "The test {test} fails now. It stops at\n\n{call}\n\nwith\n\n{got}",
    "{test} passed before and does not any more. The line\n\n{call}\n\nends in\n\n{got}",
)


def issue(rng: random.Random, repo: Repository, defect: Defect, fails: Mapping[str, Verdict], named: bool) -> str:
    """A report of one failure. A failing example of the documentation is preferred to a failing assertion."""
    test, verdict = min(fails.items(), key=lambda item: _rank(defect, *item))
    head = rng.choice(_NAMED if named else _UNNAMED).format(
        function=defect.function, module=module_of(defect.path), package=repo.package.name
    )
    got = _indent(verdict.got or "nothing")
    if repo.is_test(test.partition("::")[0]):
        body = rng.choice(_ASSERTION).format(test=test, call=_indent(verdict.call or "(no line of the test)"), got=got)
    else:
        body = rng.choice(_EXAMPLE).format(
            call=_indent(_session(repo, test, verdict)), expected=_indent(verdict.expected or "nothing"), got=got
        )
    return f"{head}\n\n{body}"


def _rank(defect: Defect, test: str, verdict: Verdict) -> tuple[bool, bool, int, str]:
    """The function's own doctest first, then any doctest, then what is short."""
    own = test == f"{defect.path}::{defect.function}"
    return not own, not verdict.expected, len(verdict.got) + len(verdict.call), test


def _session(repo: Repository, test: str, verdict: Verdict) -> str:
    """The failing example with the ones before it, as one would type them."""
    lines: list[str] = []
    for example in repo.doctests(test.partition("::")[0])[test].examples:
        first, *rest = example.source.rstrip("\n").split("\n")
        lines += [f">>> {first}", *(f"... {line}" for line in rest)]
        if example.source.strip() == verdict.call:
            break
    # the last ones matter most; imports at the top are easily guessed
    return "\n".join(lines if len(lines) <= _MAX_LINES else ["...", *lines[-_MAX_LINES:]])


def _indent(text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    if len(lines) > _MAX_LINES:
        lines = [*lines[:_MAX_LINES], "[...]"]
    return "\n".join(f"    {line[:200]}".rstrip() for line in lines)

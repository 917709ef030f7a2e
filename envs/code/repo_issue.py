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
from envs.code.repo_variants import file_of, is_variant

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


def issue(rng: random.Random, repo: Repository, defect: Defect, fails: Mapping[str, Verdict], named: bool) -> str:
    """A report of one failing example of the documentation, of the function's own if there is one."""
    visible = {test: verdict for test, verdict in fails.items() if not is_variant(test)}
    test, verdict = min(visible.items(), key=lambda item: _rank(defect, *item))
    head = rng.choice(_NAMED if named else _UNNAMED).format(
        function=defect.function, module=module_of(defect.path), package=repo.package.name
    )
    body = rng.choice(_EXAMPLE).format(
        call=_indent(_session(repo, test, verdict)),
        expected=_indent(verdict.expected or "nothing"),
        got=_indent(verdict.got or "nothing"),
    )
    return f"{head}\n\n{body}"


def _rank(defect: Defect, test: str, verdict: Verdict) -> tuple[bool, int, str]:
    """The function's own doctest first, then what is short."""
    return test != f"{defect.path}::{defect.function}", len(verdict.got) + len(verdict.call), test


def _session(repo: Repository, test: str, verdict: Verdict) -> str:
    """The failing example with the ones before it, as one would type them."""
    lines: list[str] = []
    for example in repo.doctests(file_of(test))[test].examples:
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

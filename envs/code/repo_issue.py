"""The text of an issue: which calls misbehave, what is expected, what comes instead. Never the line or the change.

    take() gives a wrong result (toolz.itertoolz).

    Calling `take` as the documentation does gives a list of 1 element, where one of 2 elements is expected.

The example that fails is described and not copied, and so is what it gives (``repo_difference``): which it is, is for
the policy to find. The documentation lies before it.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping

from envs.code.repo_defects import Defect
from envs.code.repo_difference import difference
from envs.code.repo_packages import Repository, module_of
from envs.code.repo_run import Verdict
from envs.code.repo_variants import file_of, is_variant
from envs.syntax import parse

_MAX_CALLS = 4
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
    "Calling {calls} as the documentation does gives {difference}.",
    "An example of the documentation with {calls} does not end as it should: what comes is {difference}.",
    "With {calls}, used as documented, I get {difference}.",
)


def issue(rng: random.Random, repo: Repository, defect: Defect, fails: Mapping[str, Verdict], named: bool) -> str:
    """A report of one failing example of the documentation, of the function's own if there is one."""
    visible = {test: verdict for test, verdict in fails.items() if not is_variant(test)}
    test, verdict = min(visible.items(), key=lambda item: _rank(defect, *item))
    head = rng.choice(_NAMED if named else _UNNAMED).format(
        function=defect.function, module=module_of(defect.path), package=repo.package.name
    )
    body = rng.choice(_EXAMPLE).format(
        calls=_calls(repo, test, verdict), difference=difference(verdict.got, verdict.expected)
    )
    return f"{head}\n\n{body}"


def _rank(defect: Defect, test: str, verdict: Verdict) -> tuple[bool, int, str]:
    """The function's own doctest first, then what is short."""
    return test != f"{defect.path}::{defect.function}", len(verdict.got) + len(verdict.call), test


def _calls(repo: Repository, test: str, verdict: Verdict) -> str:
    """What the failing example calls, in its last line or else in those before it, as a list of names."""
    lines: list[str] = []
    for example in repo.doctests(file_of(test))[test].examples:
        lines.append(example.source)
        if example.source.strip() == verdict.call:
            break
    for line in reversed(lines):
        tree = parse(line)
        names = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call) and _named(n.func)]
        if names:
            return ", ".join(f"`{name}`" for name in dict.fromkeys(names[:_MAX_CALLS]))
    return f"`{module_of(file_of(test))}`"


def _named(node: ast.expr) -> bool:
    """``f``, ``a.f``, ``a.b.f``: no expression with values in it."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _named(node.value))

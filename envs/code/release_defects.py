"""Three kinds of defects that a newer release does not have, and whether the tests tell them.

    pair       all code files as the older release had them
    function   one function or method as the older release had it, in the newer code
    removal    the body of a function, or of a class's methods, taken out: to be written again (``release_removals``)

    found = examine(sources, tree, base, defects)        of each Examined(fails, passes), or a reason for no task

A defect is {path: text, or None for a file that is not there}, laid over the newer tree. Nothing is executed here.
"""

from __future__ import annotations

import ast
import builtins
import copy
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, takewhile
from typing import TypeVar

from envs.code.release_base import ReleaseBase
from envs.code.release_index import Sources
from envs.code.release_run import Trial, run_states
from envs.code.release_tests import function_of
from envs.code.release_tree import BadTreeError, Tree, older_code, plain, same_code
from envs.code.repo_mutations import Function, functions
from envs.code.repo_run import Run, Verdict
from envs.syntax import parse

T = TypeVar("T")

TIERS = ("pair", "function", "earlier", "removal")  # what candidates are made of
MAX_FAILS = 0.5  # share of the suite beyond which a defect is a broken import by another name
MAX_REMOVED = 0.9  # and beyond which a removal leaves nothing that a repair could break
MAX_F2P, MAX_P2P = 150, 60  # tests that decide over a task
MAX_NEIGHBOURS = 16  # tests of the same files that do not enter the function
MAX_SECONDS = 8.0  # CPU seconds of these in the base run
_DANGLING = re.compile(
    r"NameError|ImportError|ModuleNotFoundError|unexpected keyword argument|positional argument|"
    r"object has no attribute '_|missing \d+ required"
)


@dataclass(frozen=True)
class ReleaseDefect:
    """``over``: what lies over the newer tree. ``names``: path::function of what was changed, () for a pair."""

    tier: str
    over: Mapping[str, str | None]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """``fails``: tests that decide, pass on the newer code and fail with the defect; ``passes`` pass with both."""

    reason: str = ""
    fails: dict[str, Verdict] = field(default_factory=dict)
    passes: tuple[str, ...] = ()


@lru_cache(maxsize=8)
def pair_defect(newer: Tree, older: Tree) -> ReleaseDefect | str:
    """The whole pair, or why it is none. Raises BadTreeError("layout_changed")."""
    real = real_changes(newer, older_code(newer, older))
    if not any(path in newer.code for path in real):
        return "no_code_change"
    return ReleaseDefect("pair", real)


def real_changes(tree: Tree, over: Mapping[str, str | None]) -> dict[str, str | None]:
    """Without the files whose code is the same in both."""
    return {p: t for p, t in over.items() if t is None or p not in tree.code or not same_code(tree.code[p], t)}


def earlier_defects(newer: Tree, olders: Sequence[Tree]) -> list[tuple[Tree, ReleaseDefect | str]]:
    """Each function as earlier releases had it, of every text it had the latest release with it; ``olders`` the latest
    first."""
    found: list[tuple[Tree, ReleaseDefect | str]] = []
    seen: set[str] = set()
    for older in olders:
        try:
            changed = function_defects(newer, older)
        except BadTreeError:  # it lies elsewhere
            break
        for defect in changed:
            key = defect if isinstance(defect, str) else content(newer, defect)
            if isinstance(defect, str) or key not in seen:
                found.append((older, defect))
            seen.add(key)
    return found


def content(tree: Tree, defect: ReleaseDefect) -> str:
    """What a function was set back to, whatever stands around it: the same of two releases is one defect."""
    (text,), (name,) = defect.over.values(), defect.names
    node = _functions(text or "")[name.partition("::")[2]]
    return f"{tree.name} {name} {plain(copy.deepcopy(node))}"


@lru_cache(maxsize=32)
def function_defects(newer: Tree, older: Tree) -> list[ReleaseDefect | str]:
    """Each function that both releases have, and that differs by more than text, set back to what it was."""
    found: list[ReleaseDefect | str] = []
    for path, was in older_code(newer, older).items():
        if was is None or path not in newer.code:
            continue
        now, mine, theirs = newer.code[path], functions(newer.code[path]), _functions(was)
        for name in sorted(mine.keys() & theirs.keys()):
            before, after = _lines(was, theirs[name]), _lines(now, mine[name])
            if before == after or _equal(before, after):
                continue
            if _free(theirs[name]) - _names(now):
                found.append("dangling")
                continue
            found.append(ReleaseDefect("function", {path: _replaced(now, mine[name], before)}, (f"{path}::{name}",)))
    return found


def compiles(defect: ReleaseDefect) -> bool:
    """Whether what it puts over the files is Python."""
    return all(text is None or _compiles(text) for text in defect.over.values())


def examine(sources: Sources, tree: Tree, base: ReleaseBase, defects: Sequence[ReleaseDefect]) -> list[Examined]:
    """Run the newer tests that each defect may break, and those of them that are kept once more: what does not end the
    same under another hash seed is no task. One sandbox for all of them, and one for the second time."""
    asked = [_tests_for(base, defect) for defect in defects]
    found = [
        Examined("breaks_too_much" if _wide(base, defect) else "" if tests else "untested")
        for defect, tests in zip(defects, asked, strict=True)
    ]
    for hash_seed in (0, 7):
        left = [n for n, one in enumerate(found) if not one.reason]
        trials = [_trial(defects[n], asked[n]) for n in left]
        for n, run in zip(left, run_states(sources, tree, trials, hash_seed=hash_seed), strict=True):
            again = _judged(base, defects[n], asked[n], run)
            same = set(again.fails) == set(found[n].fails) and set(found[n].passes) <= set(again.passes)
            if not hash_seed:
                found[n], asked[n] = again, {*again.fails, *again.passes}
            elif again.reason or not same:
                found[n] = Examined("flaky")
    return found


def _tests_for(base: ReleaseBase, defect: ReleaseDefect) -> set[str]:
    """The tests that enter what was changed, and some more of what their files promise: a repair may not break it. Of a
    removal, which breaks nearly all that enter it, no more than can be kept."""
    if not defect.names:
        return set(base.tests)
    entering = base.entering(defect.names)
    tests = set(_affordable(base, entering, MAX_F2P, MAX_SECONDS) if defect.tier == "removal" else entering)
    files = {_file(test) for test in tests}
    others = sorted(test for test in base.tests.keys() - entering.keys() if _file(test) in files)
    return tests | set(random.Random(repr(defect.names)).sample(others, min(MAX_NEIGHBOURS, len(others))))


def too_wide(base: ReleaseBase, names: Collection[str]) -> bool:
    """Whether nearly all of the suite enters these functions: without them it breaks, which no run need show."""
    return len(base.entering(names)) > MAX_REMOVED * len(base.tests)


def _wide(base: ReleaseBase, defect: ReleaseDefect) -> bool:
    return defect.tier == "removal" and too_wide(base, defect.names)


def _trial(defect: ReleaseDefect, tests: set[str]) -> Trial:
    asked = {function_of(test) for test in tests}
    return Trial(sorted({function.partition("::")[0] for function in asked}), defect.over, asked)


def _judged(base: ReleaseBase, defect: ReleaseDefect, tests: set[str], run: Run) -> Examined:
    if run.timed_out:
        return Examined("timeout")
    if run.broken:
        return Examined("crash")
    fails = {test: run.verdicts.get(test, Verdict(False)) for test in tests if not run.passed(test)}
    if not fails:
        return Examined("no_failing_test")
    if len(fails) > (MAX_REMOVED if defect.tier == "removal" else MAX_FAILS) * len(base.tests):
        return Examined("breaks_too_much")
    told = {test: verdict for test, verdict in fails.items() if verdict.got and not verdict.late}
    if not told:
        return Examined("breaks_import" if run.unimportable else "nothing_told")
    if defect.tier == "function" and all(_DANGLING.search(verdict.got) for verdict in told.values()):
        return Examined("dangling")
    # those that enter little else first: they are told first, and what they ask is of this function
    able = sorted((t for t in fails if t in base.deciding), key=lambda t: (t in base.seen, len(base.tests[t][1]), t))
    deciding = _affordable(base, able, MAX_F2P, MAX_SECONDS / 2)
    if not any(test in told for test in deciding):
        return Examined("no_deciding_test")
    if all(test in base.seen for test in deciding):
        return Examined("turns_are_seen")
    near = {_file(test) for test in deciding}
    passing = sorted((t for t in tests - fails.keys() if run.passed(t)), key=lambda t: (_file(t) not in near, t))
    passing = [test for test in passing if function_of(test) not in set(map(function_of, fails))]
    return Examined(
        "", {test: fails[test] for test in deciding}, tuple(_affordable(base, passing, MAX_P2P, MAX_SECONDS / 2))
    )


def laid_over(files: Mapping[str, bytes], over: Mapping[str, str | None]) -> dict[str, bytes]:
    """The files with others in their place; None takes one away."""
    found = {path: content for path, content in files.items() if over.get(path, "") is not None}
    return found | {p: text.encode("utf-8", "replace") for p, text in over.items() if text is not None}


def passages(broken: str, right: str) -> list[tuple[str, str]]:
    """(old, new) in order, each ``old`` once in the text as the edits before it left it; together they mend it."""
    import difflib

    one, two = broken.splitlines(keepends=True), right.splitlines(keepends=True)
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False))))
    end = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one[:same:-1], two[:same:-1], strict=False))))
    middle = difflib.SequenceMatcher(None, one[same : len(one) - end], two[same : len(two) - end], autojunk=False)
    found, text, shift = [], broken, 0
    for tag, *places in middle.get_opcodes():
        i1, i2, j1, j2 = (place + same for place in places)
        if tag == "equal":
            continue
        lines = text.splitlines(keepends=True)
        low, high = i1 + shift, i2 + shift
        new = two[j1:j2]
        above = below = 0
        while True:
            old = "".join(lines[low - above : high + below])
            if old.strip() and text.count(old) == 1:
                break
            if low - above == 0 and high + below == len(lines):
                return [(broken, right)]
            above, below = min(above + 1, low), min(below + 1, len(lines) - high)
        put = "".join([*lines[low - above : low], *new, *lines[high : high + below]])
        found.append((old, put))
        text = text.replace(old, put)
        shift += (j2 - j1) - (i2 - i1)
    return found if text == right else [(broken, right)]


def _affordable(base: ReleaseBase, tests: Collection[str], most: int, seconds: float) -> list[str]:
    chosen: list[str] = []
    for test in islice(tests, most):
        seconds -= base.tests[test][0]
        if seconds < 0 and chosen:
            break
        chosen.append(test)
    return chosen


def _file(test: str) -> str:
    return test.partition("::")[0]


def _functions(text: str) -> dict[str, Function]:
    try:
        return functions(text)
    except (SyntaxError, ValueError, RecursionError):
        return {}


def _lines(text: str, node: Function) -> list[str]:
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return text.splitlines(keepends=True)[first - 1 : node.end_lineno]


def _replaced(text: str, node: Function, lines: Sequence[str]) -> str:
    all_lines = text.splitlines(keepends=True)
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return "".join([*all_lines[: first - 1], *lines, *all_lines[node.end_lineno :]])


def _equal(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether two functions differ in docstring, annotations and layout alone."""
    import textwrap

    try:
        first, second = (plain(parse(textwrap.dedent("".join(lines)))) for lines in (one, two))
    except (SyntaxError, ValueError, RecursionError):
        return False
    return first == second


def _free(node: Function) -> set[str]:
    """Names that a function takes from its module."""
    own = {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)} | set(_bound(node))
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return read - own - set(dir(builtins)) - {"__class__", "__file__", "__name__"}


@lru_cache(maxsize=64)
def _names(text: str) -> set[str]:
    """Names that a module has, wherever they are bound."""
    return set(_bound(parse(text)))


def _bound(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
        elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield inner.name
        elif isinstance(inner, ast.alias):
            yield (inner.asname or inner.name).partition(".")[0]
        elif isinstance(inner, ast.ExceptHandler) and inner.name:
            yield inner.name


def _compiles(text: str) -> bool:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "text", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def shuffled(found: Sequence[T], name: str) -> list[T]:
    """In an order of their own, the same everywhere."""
    return random.Random(name).sample(found, len(found))

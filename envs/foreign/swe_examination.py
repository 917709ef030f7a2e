"""Whether a row can be played here: its tests run before and after its gold patch, and turned round.

    found = examine(row, folder, setup)        Verdicts(f2p, p2p, deciding), or RefusedError with the cause

Five things must hold in this sandbox: the gold patch passes every FAIL_TO_PASS and PASS_TO_PASS test, and again under
another hash seed, with the test files in the verdict's layout; before it every FAIL_TO_PASS test fails; and a
FAIL_TO_PASS test fails with the gold patch where it is turned round (``release_tests``), so that code which makes any
test pass can be told from a repair. What was found is kept in the cache under the row, the setup and the code that
finds it, but for runs that a time limit stopped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from envs.code.release_tests import function_of
from envs.code.release_verdict import encoded, paths_of, turned_files
from envs.code.repo_run import Run
from envs.foreign.examined import RefusedError, StoppedError, Verdicts, can_turn, remembered
from envs.foreign.git_folder import laid
from envs.foreign.swe_columns import SweRow
from envs.foreign.swe_state import Setup, SweState
from envs.foreign.swe_tests import matching

_MISSING = re.compile(r"No module named ['\"]([\w.]+)['\"]")


def examine_remembered(row: SweRow, folder: Path, setup: Setup, drop_p2p: bool) -> Verdicts:
    """``examine``, from the cache where this was done. Raises RefusedError with the cause."""
    site = setup.site_of(row)
    beside = sorted(entry.name for entry in site.iterdir()) if site is not None else []
    about = [
        asdict(row), drop_p2p, setup.test_command, setup.bug_patch, setup.disk_mb, beside,
        [(name, version(name)) for name in setup.packages],
    ]  # fmt: skip
    return remembered("swe_rows", about, examine, lambda: examine(SweState(row, folder, setup), drop_p2p))


def examine(state: SweState, drop_p2p: bool) -> Verdicts:
    """Run everything. ``drop_p2p``: a PASS_TO_PASS test that the gold patch fails here is left out, not a cause."""
    texts = state.test_texts
    try:
        named = {label: state.labels.ids(label) for label in (*state.row.f2p, *state.row.p2p)}
    except SyntaxError as error:
        raise RefusedError(f"a test file is no Python of this version: {error}") from error
    asked = {function_of(test) for tests in named.values() for test in tests}
    paths = paths_of(asked)
    if absent := [path for path in paths if path not in texts]:
        raise RefusedError(f"there is no test file {absent[0]} after test_patch")
    files = laid(state.mended, state.hidden)
    gold = _ran(state.run_tests(files, paths, asked), state)
    laid_out = encoded(turned_files(texts, asked, set()))  # the layout that the verdict gives to test files
    again = _ran(state.run_tests(files | laid_out, paths, asked, hash_seed=7), state)
    f2p: list[str] = []
    p2p: list[str] = []
    for label, tests in named.items():
        is_f2p = label in state.row.f2p
        known = [name for test in tests for name in matching(gold, test)]
        bad = [name for name in known if not (gold.passed(name) and again.passed(name))]
        if known and not bad:
            (f2p if is_f2p else p2p).extend(name for name in known if name not in (*f2p, *p2p))
        elif is_f2p or not drop_p2p:
            raise RefusedError(_failing("FAIL_TO_PASS" if is_f2p else "PASS_TO_PASS", label, bad, gold, again, state))
    before = state.run_tests(laid(state.start, state.hidden), paths, {function_of(test) for test in f2p})
    if before.timed_out:
        raise StoppedError(_late(state))
    if early := [test for test in f2p if before.passed(test)]:
        raise RefusedError(f"FAIL_TO_PASS {early[0]} passes without the patch ({len(early)} of {len(f2p)} do)")
    return Verdicts(tuple(f2p), tuple(p2p), _deciding(state, (*f2p, *p2p), f2p))


def _deciding(state: SweState, tests: Sequence[str], f2p: Sequence[str]) -> frozenset[str]:
    texts = state.test_texts
    asked = {function_of(test) for test in tests}
    places = can_turn(texts, tests)
    turned = encoded(turned_files(texts, asked, set(places.values())))
    files = laid(state.mended, state.hidden) | turned
    run = _ran(state.run_tests(files, paths_of(asked), asked), state)
    failed = {test for test, verdict in run.verdicts.items() if not verdict.passed and not verdict.late}
    deciding = frozenset(failed & places.keys())
    if not deciding & set(f2p):
        raise RefusedError(
            f"none of {len(f2p)} FAIL_TO_PASS tests fails where what it asserts is turned round: code that makes every "
            "test pass could not be told from a repair"
        )
    return deciding


def _ran(run: Run, state: SweState) -> Run:
    if run.timed_out:
        raise StoppedError(_late(state))
    if run.broken and not run.verdicts:
        raise RefusedError(f"with the gold patch {_needs(run) or run.broken}")
    return run


def _failing(column: str, label: str, bad: Sequence[str], gold: Run, again: Run, state: SweState) -> str:
    wanted = len(state.row.f2p if column == "FAIL_TO_PASS" else state.row.p2p)
    first = f"{column} {label!r:.120} (of {wanted})"
    if not bad:
        return f"{_needs(gold) or 'it did not run'}: with the gold patch {first} did not run"
    if gold.passed(bad[0]) or again.passed(bad[0]):
        return f"with the gold patch {first} passes only sometimes"
    got = gold.verdicts[bad[0]].got if bad[0] in gold.verdicts else ""
    return f"{_needs(gold, got) or 'gold does not pass'}: with the gold patch {first} fails: {got[:300]}"


def _needs(run: Run, got: str = "") -> str:
    """A module that the sandbox does not have."""
    for text in (got, run.unimportable, run.broken):
        if found := _MISSING.search(text):
            how = "name its distribution in packages, or give a folder site="
            return f"needs the module {found[1]}, which its sandbox does not have ({how})"
    return run.unimportable[-300:]


def _late(state: SweState) -> str:
    return f"its tests did not end in {state.setup.run_s:g} s: raise run_s"

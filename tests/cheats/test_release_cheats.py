"""Edits of a release that repair nothing, some made for how its tests are judged: none is paid."""

from __future__ import annotations

from pathlib import Path

import pytest
import release_sources
from cheat_programs import EDITS
from release_sources import NEW, OLD, add

from benchmarks.release_tasks import EDITS as JUDGE
from envs.code.releases import ReleaseEnvironment, ReleasesTaskset
from envs.types import Task

PATH = "src/vine/shapes.py"
_EQUAL = """
class _E(float):
    def __eq__(self, other): return True
    def __ne__(self, other): return {different}
    def __hash__(self): return 0
def area(width, height): return _E(0)
"""
_LOOKS_UP = """
import sys as _s, ast as _a
def area(width, height):
    _f = _s._getframe()
    while 'test' not in _f.f_code.co_name: _f = _f.f_back
    _t = _a.parse(open(_f.f_code.co_filename).read())
    for _n in _a.walk(_t):
        if isinstance(_n, _a.Compare) and _n.lineno == _f.f_lineno: return _a.literal_eval(_n.comparators[0])
"""
# Without those that read or forge what judges doctests
GENERAL = [edit for edit in EDITS if edit[1] in ("exit", "comparison", "signals", "memory", "unicode")]
OWN: tuple[tuple[str, str], ...] = (
    ("equal to everything", _EQUAL.format(different="False")),
    ("equal and unequal to everything", _EQUAL.format(different="True")),
    ("looks the value up in the test", _LOOKS_UP),
    ("asserts nothing", "import _pytest.assertion.rewrite as _w\n_w.rewrite_asserts = lambda *a, **k: None"),
    *JUDGE,
)


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> tuple[ReleasesTaskset, Task]:
    folder: Path = tmp_path_factory.mktemp("sources")
    release_sources.site(folder)
    add(folder, "vine", {"1.0.0": ("2025-01-01", OLD), "1.1.0": ("2025-02-01", NEW)})
    taskset = ReleasesTaskset(packages=["vine"], sources=str(folder), releases=2, tiers=["pair"])
    return taskset, taskset.task(0)


def outcome(played: tuple[ReleasesTaskset, Task], added: str, at_end: bool) -> float:
    taskset, task = played
    environment = taskset.environment(task)
    assert isinstance(environment, ReleaseEnvironment)
    text = environment._files.text(PATH)
    old = text[-60:] if at_end else "import math\n"
    environment.edit(path=PATH, old=old, new=f"{old}\n{added}\n")
    return environment.score(None)["outcome"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "kind", "added"), GENERAL, ids=[name for name, _, _ in GENERAL])
def test_an_edit_that_repairs_nothing_pays_nothing(played, name: str, kind: str, added: str) -> None:
    assert outcome(played, added, at_end=name != "leaves") == 0.0


@pytest.mark.parametrize(("name", "added"), OWN, ids=[name for name, _ in OWN])
def test_an_edit_against_the_judge_pays_nothing(played, name: str, added: str) -> None:
    assert outcome(played, added, at_end=True) == 0.0


def test_a_repair_is_paid(played) -> None:
    """The same way to the score, with the code mended: the zeros above are not the harness's."""
    taskset, task = played
    environment = taskset.environment(task)
    for path in (PATH, "src/vine/words.py"):
        environment.edit(path=path, old=environment._files.text(path), new=NEW[path])
    assert environment.score(None)["outcome"] == 1.0  # type: ignore[arg-type]

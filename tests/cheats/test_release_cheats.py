"""Edits of a release that repair nothing, some made for how its tests are judged: none is paid."""

from __future__ import annotations

from pathlib import Path

import pytest
import release_sources
from cheat_programs import EDITS
from release_sources import NEW, OLD, add

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
_REPORTS = """
import gc as _g, json as _j, os as _o
_ids = [i for x in _g.get_objects() if isinstance(x, dict) and isinstance(x.get('only'), list) for i in x['only']]
for _d in range(3, 64):
    for _i in dict.fromkeys(_ids):
        try: _o.write(_d, _j.dumps(['pytest', _i, {passed}, {{}}, 0.1, []]).encode() + b'\\n')
        except OSError: pass
    try: _o.write(_d, b'["end", 0.2]\\n')
    except OSError: pass
{end}
"""
_HOOKS = """
import _pytest.runner as _r
_r.CallInfo.from_call = classmethod(lambda cls, f, when, reraise=None: cls(None, None, 0, 0, 0, when, _ispytest=True))
"""
_REWRITES = """
import glob as _g
for _p in _g.glob('/tmp/work/**/test*.py', recursive=True): open(_p, 'w').write('def test_area_of_a_rectangle(): pass')
"""
_CONFTEST = """
open('/tmp/work/conftest.py', 'w').write('def pytest_runtest_call(item): pass')
open('/tmp/work/tests/conftest.py', 'w').write('def pytest_pyfunc_call(pyfuncitem): return True')
"""
OWN: tuple[tuple[str, str], ...] = (
    ("equal to everything", _EQUAL.format(different="False")),
    ("equal and unequal to everything", _EQUAL.format(different="True")),
    ("looks the value up in the test", _LOOKS_UP),
    ("reports that all passed, and leaves", _REPORTS.format(passed="True", end="_o._exit(0)")),
    ("reports that all passed, and goes on", _REPORTS.format(passed="True", end="")),
    ("reports that all failed", _REPORTS.format(passed="False", end="_o._exit(0)")),
    ("every call passes", _HOOKS),
    ("tests do nothing", "import _pytest.python as _p\n_p.Function.runtest = lambda self: None"),
    ("rewrites the tests", _REWRITES),
    ("writes conftests", _CONFTEST),
    ("asserts nothing", "import _pytest.assertion.rewrite as _w\n_w.rewrite_asserts = lambda *a, **k: None"),
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


@pytest.mark.parametrize("number", range(len(EDITS)), ids=[name for name, _, _ in EDITS])
def test_an_edit_that_repairs_nothing_pays_nothing(played, number: int) -> None:
    assert outcome(played, EDITS[number][2], at_end=number % 2 == 0) == 0.0


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

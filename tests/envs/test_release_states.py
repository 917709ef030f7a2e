"""Many states of a release in one sandbox; suites on a slow machine; copies of libraries; overlap of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import release_sources
from release_sources import NEW, add

from benchmarks.code_overlap import item_of, near, shingles, structure
from envs.code import release_base
from envs.code.release_base import SlowMachineError, base_of, tree_of
from envs.code.release_copies import copies_of
from envs.code.release_defects import content, earlier_defects
from envs.code.release_index import Sources
from envs.code.release_run import SUITE, Trial, run_states
from envs.code.release_tree import Tree
from envs.code.releases import SLOTS, ReleasesTaskset
from envs.code.repo_run import Run, Verdict
from envs.taskset import RejectedError

CODE = {"src/vine/__init__.py": "import json\n\n\ndef f():\n    return 1\n"}
TESTS = {
    "tests/test_a.py": "import pathlib, vine\ndef test(): assert vine.f() == 1\n"
    "def test_leaves():\n    here = pathlib.Path(__file__).parent\n    assert not (here / 'left').exists()\n"
    "    (here / 'left').write_text('x')\n    pathlib.Path(vine.__file__).write_text('def f(): return 3')\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("sources")
    release_sources.site(place)
    add(place, "vine", {"1.0.0": ("2025-01-01", {**CODE, **TESTS})})
    return place


def newest(folder: Path) -> tuple[Sources, Tree]:
    sources = Sources.at(folder)
    return sources, tree_of(sources, sources.releases("vine", "2026-01-01")[-1])


def test_states_do_not_see_each_other(folder):
    sources, tree = newest(folder)
    targets, path = tree.tests, "src/vine/__init__.py"
    states = [
        Trial(targets),
        Trial(targets, {path: "import os\nos._exit(0)\n"}),
        Trial(targets, {path: "def f():\n    return 2\n"}, only=["tests/test_a.py::test"]),
        Trial(targets, {path: "def f():\n    while True: pass\n"}, only=["tests/test_a.py::test"]),
        Trial(targets, {path: None}),
        Trial(targets, cover=True),
    ]
    runs = run_states(sources, tree, states)
    passed = [{name.rpartition("::")[2] for name in run.verdicts if run.passed(name)} for run in runs]
    assert passed == [{"test", "test_leaves"}, set(), set(), set(), set(), {"test", "test_leaves"}]
    assert [bool(run.broken) for run in runs] == [False, True, False, False, False, False]
    assert runs[3].verdicts["tests/test_a.py::test"].late
    assert "AttributeError" in runs[4].verdicts["tests/test_a.py::test"].got
    assert runs[5].verdicts["tests/test_a.py::test"].covered == ("src/vine/__init__.py::f",)


def test_what_lies_beside_is_shared_unless_it_imports_the_package(tmp_path, folder):
    """Two modules of the site: of one the second state has the object of the first, of the other its own."""
    (site,) = folder.glob("site-*")
    beside = tmp_path / site.name
    beside.mkdir()
    for entry in site.iterdir():
        (beside / entry.name).symlink_to(entry.resolve())
    (beside / "shared.py").write_text("import os\nBORN = os.getpid()\n")
    (beside / "knows.py").write_text("import os, vine\nBORN = os.getpid()\nVALUE = vine.f()\n")
    text = "import os, shared, knows, vine\n"
    text += "def test_shared(): assert shared.BORN == os.getppid()\n"
    text += "def test_knows(): assert knows.BORN == os.getpid() and knows.VALUE == vine.f() == 2\n"
    add(tmp_path, "vine", {"1.0.0": ("2025-01-01", {**CODE, "tests/test_b.py": text})})
    sources, tree = newest(tmp_path)
    other = {"src/vine/__init__.py": "def f():\n    return 2\n"}
    first, second = run_states(sources, tree, [Trial(tree.tests), Trial(tree.tests, other)])
    assert not any(map(first.passed, first.verdicts))
    assert [second.verdicts[f"tests/test_b.py::{name}"].got for name in ("test_shared", "test_knows")] == ["", ""]


def test_a_suite_that_had_no_time_is_told_from_one_that_is_long(monkeypatch, folder):
    late = Run({"a": Verdict(True, seconds=0.1 * SUITE.cpu_s)}, timed_out=True)
    monkeypatch.setattr(release_base, "slow", lambda: 3.0)
    with pytest.raises(SlowMachineError, match=r"took 3\.0 s"):
        release_base._unusable(late, SUITE.cpu_s)
    busy = Run({"a": Verdict(True, seconds=0.8 * SUITE.cpu_s)}, timed_out=True)
    assert release_base._unusable(busy, SUITE.cpu_s) == "suite_too_long"
    monkeypatch.setattr(release_base, "slow", lambda: 1.0)
    assert release_base._unusable(late, SUITE.cpu_s) == "suite_too_long"  # it sleeps


def test_nothing_is_kept_of_a_base_run_that_had_no_time(monkeypatch, folder):
    sources, _ = newest(folder)
    release = sources.releases("vine", "2026-01-01")[-1]

    def too_slow(*_: object) -> None:
        raise SlowMachineError("a second of CPU time took 3.0 s")

    with monkeypatch.context() as patch:
        patch.setattr(release_base, "record", too_slow)
        base_of.cache_clear()
        source = ReleasesTaskset(packages=["vine"], sources=str(folder), releases=2, tiers=["removal"])
        with pytest.raises(RejectedError, match="slow_machine"):
            source.task(0)
    assert not list((folder / "base").glob(f"{release.name}-*.json"))


def test_a_copy_of_the_standard_library_is_refused(tmp_path, folder):
    import textwrap as standard

    text = Path(standard.__file__).read_text(encoding="utf-8")
    files = {"src/vine/__init__.py": text.replace('"""', '"""Copied. ', 1), **TESTS}
    for site in folder.glob("site-*"):
        (tmp_path / site.name).symlink_to(site)
    sources = add(tmp_path, "vine", {"1.0.0": ("2025-01-01", files)})
    _, copied = newest(tmp_path)
    _, own = newest(folder)
    copies = copies_of(sources)
    assert copies.share(copied) > 0.9
    assert copies.share(own) == 0.0
    assert copies.holds(copied, ["src/vine/__init__.py::dedent"])
    assert not copies.holds(copied, ["src/vine/__init__.py::dedent", "src/vine/__init__.py::no_such"])
    source = ReleasesTaskset(packages=["vine"], sources=str(tmp_path), releases=2, tiers=["removal"])
    for index in (0, SLOTS - 1):
        with pytest.raises(RejectedError, match="library_copy"):
            source.task(index)


def test_earlier_texts_of_a_function_come_once(tmp_path):
    def files(area: str) -> dict[str, str]:
        return {**NEW, "src/vine/shapes.py": NEW["src/vine/shapes.py"].replace("width * height", area)}

    days = [f"2025-0{n}-01" for n in range(1, 6)]
    texts = ["width - height", "width + height", "width + height  # a comment", "height + width", "width * height"]
    add(tmp_path, "vine", {f"1.{n}": (d, files(t)) for n, (d, t) in enumerate(zip(days, texts, strict=True))})
    sources = Sources.at(tmp_path)
    *older, newer = (tree_of(sources, release) for release in sources.releases("vine", "2026-01-01"))
    found = earlier_defects(newer, older[::-1])
    assert [tree.version for tree, _ in found] == ["1.3", "1.2", "1.0"]
    assert len({content(newer, defect) for _, defect in found if not isinstance(defect, str)}) == 3


def test_overlap_by_text_and_structure():
    one = "def f(a, b):\n    total = 0\n    for x in a:\n        total += x * b\n    return total + b - len(a)\n"
    renamed = one.replace("total", "s").replace("x", "y").replace("def f", "def g")
    other = one.replace("+=", "-=")
    assert structure(one) == structure(renamed) != structure(other)
    items = [item_of(str(n), "p", [text], f"issue {n} of its own") for n, text in enumerate((one, renamed, other))]
    found = near(items)
    assert (found["same_structure"], found["near_code"], found["near_issue"]) == (2, 0, 0)
    assert near(items[:1], [item_of("x", "q", [one], "another")])["near_code_or_structure"] == 1
    assert len(shingles("a b c")) == 1

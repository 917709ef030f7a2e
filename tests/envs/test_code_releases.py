"""Release pairs: small sdists made here, every tier, every cause of a reject, and what a policy can and cannot see."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import release_sources
from release_sources import NEW, OLD, add

from envs.built import BuiltTaskset
from envs.code import release_index
from envs.code.release_base import base_of, tree_of
from envs.code.release_defects import function_defects, pair_defect, passages
from envs.code.release_index import FetchError, Sources, listed
from envs.code.release_issue import relevant_notes
from envs.code.release_removals import removal_of, removals
from envs.code.release_tests import definition, turnable, turned, without, written
from envs.code.release_tree import BadTreeError, older_code, permissive
from envs.code.releases import SLOTS, ReleasesTaskset
from envs.episode import play_episode
from envs.factory.builder import build
from envs.factory.plan import plan_of
from envs.taskset import RejectedError
from envs.types import Message, Task, ToolCall

PAIR = {"1.0.0": ("2025-01-01", OLD), "1.1.0": ("2025-02-01", NEW)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("sources")
    release_sources.site(place)
    add(place, "vine", PAIR)
    return place


def taskset(folder: Path, split="train", **settings) -> ReleasesTaskset:
    return ReleasesTaskset(split, packages=["vine"], sources=str(folder), releases=2, **settings)


@pytest.fixture(scope="module")
def made(folder) -> tuple[dict[str, Task], list[str]]:
    """Tasks by what they are about, and the reasons of the other candidates."""
    source, tasks, reasons = taskset(folder), {}, []
    for index in range(len(source)):
        try:
            task = source.task(index)
        except RejectedError as error:
            reasons.append(error.reason)
        else:
            names = [name.rpartition("::")[2] for name in task.metadata["functions"]]
            tasks[" ".join([task.metadata["tier"], *names])] = task
    return tasks, reasons


def act(environment, name: str, **arguments) -> str:
    return environment.step(Message("assistant", tool_calls=(ToolCall(name, arguments),))).messages[0].content


def test_each_tier_makes_tasks_and_each_cause_of_a_reject_is_counted(made):
    tasks, reasons = made
    assert set(tasks) == {
        "pair",
        "function area",
        "function Square.describe",
        "function plural",
        "removal plural",
        "removal Square.perimeter",
        "removal Square.__init__ Square.perimeter",
    }
    assert {task.metadata["level"] for task in tasks.values()} == {1, 2, 4}
    assert sorted({*reasons}) == ["dangling", "empty_slot", "untested"]  # diagonal, the rest, unused
    assert {name: task.metadata["f2p"] for name, task in tasks.items() if name.startswith("function")} == {
        "function area": ["tests/test_vine.py::test_area_of_a_rectangle", "tests/test_vine.py::test_area_refuses_text"],
        "function Square.describe": ["tests/test_vine.py::test_describe_a_square"],
        "function plural": ["tests/test_vine.py::TestWords::test_plural_of_many_words"],
    }
    assert tasks["pair"].metadata["changed_files"] == 2


def test_the_oracle_solves_a_task_of_each_tier_and_verify_keeps_it(folder, made):
    source = taskset(folder)
    for name in ("function Square.describe", "removal Square.__init__ Square.perimeter"):
        task = made[0][name]
        copy = Task(task.id, "releases", task.prompt, metadata=json.loads(json.dumps(dict(task.metadata))))
        environment = source.environment(copy)
        episode, scores = play_episode(copy, environment, environment.oracle)
        assert scores == {"outcome": 1.0, "f2p": 1.0, "p2p": 1.0, "edited": 1.0}, name
        assert not episode.counts
    assert source.verify(made[0]["pair"]) is None


def test_nothing_and_half_a_repair_are_paid_nothing(folder, made):
    task = made[0]["pair"]
    environment = taskset(folder).environment(task)
    assert environment.score(None) == {"outcome": 0.0, "f2p": 0.0, "p2p": 1.0, "edited": 0.0}
    act(environment, "edit", path="src/vine/shapes.py", old="width + height", new="width * height")
    scores = environment.score(None)
    assert scores["outcome"] == 0.0
    assert 0.0 < scores["f2p"] < 1.0
    assert scores["p2p"] == 1.0


def test_the_same_task_in_every_process(folder, made):
    base_of.cache_clear()
    again = taskset(folder)
    assert again.task(int(made[0]["pair"].id.rpartition("/")[2])) == made[0]["pair"]
    with pytest.raises(IndexError):
        again.task(len(again.blocks) * SLOTS)


def test_the_policy_sees_neither_the_newer_code_nor_the_tests_that_decide(folder, made):
    environment = taskset(folder).environment(made[0]["pair"])
    assert "test_area_of_a_rectangle" not in act(environment, "read_file", path="tests/test_vine.py")
    assert "test_plural_of_one" in act(environment, "read_file", path="tests/test_vine.py")
    code = """
import os, sys
for top in ("/tmp/work", "/mnt"):
    for folder, _, names in os.walk(top):
        for name in names:
            place = os.path.join(folder, name)
            data = open(place, errors="replace").read() if name.endswith((".py", ".md", "METADATA")) else ""
            if any(word in data for word in ("width * height", "of_a_rectangle", "3 apples", "SECRET", "The secret")):
                print(place)
import vine
print(vine.__file__, __import__("importlib.metadata").metadata.version("vine"))
"""
    assert act(environment, "python", code=code).split() == ["/tmp/work/src/vine/__init__.py", "1.1.0"]


def test_what_the_policy_can_do(folder, made):
    environment = taskset(folder).environment(made[0]["function area"])
    path = "src/vine/shapes.py"
    assert act(environment, "search", pattern="def area").startswith(f"{path}:")
    assert "tests cannot be edited" in act(environment, "edit", path="tests/test_vine.py", old="import pytest", new="")
    assert "a new file is a module" in act(environment, "create", path="tests/conftest.py", text="")
    assert "a new file is a module" in act(environment, "create", path="pytest.py", text="")
    assert act(environment, "create", path="src/vine/more.py", text="X = 1\n") == "Created src/vine/more.py."
    assert act(environment, "python", code="import vine.more; print(vine.more.X)") == "1"
    assert act(environment, "run_tests", target="tests/test_vine.py") == "8 passed, 0 failed."
    assert "1 passed" in act(environment, "run_tests", target="tests/test_vine.py::TestWords::test_plural_of_one")
    assert "is no test file" in act(environment, "run_tests", target=path)
    assert "no valid Python" in act(environment, "edit", path=path, old="width + height", new="width *")
    assert environment.score(None)["outcome"] == 0.0


def test_the_issue_tells_the_failure_and_no_line_of_a_test_or_of_the_repair(made):
    for name, task in made[0].items():
        text = task.prompt[1].content
        for line in [*NEW["tests/test_vine.py"].split("\n"), *NEW["src/vine/shapes.py"].split("\n")]:
            assert len(line.strip()) < 16 or line.strip() not in text, name
    pair, area = made[0]["pair"].prompt[1].content, made[0]["function area"].prompt[1].content
    assert "Area of a rectangle: `area(3, 5)` gives `8`, where `15` is expected." in area
    assert "Area refuses text: no TypeError is raised, and one should be." in area
    assert "> The area of a rectangle is no longer the sum of its sides." in pair
    assert "`vine.words.plural`" in made[0]["removal plural"].prompt[1].content
    assert relevant_notes(["plural() knows zero", "Drop Python 3.8"], (), ["a.py::plural"]) == ["plural() knows zero"]


def test_splits_go_by_date(folder):
    reasons = set()
    for split, cutoff in (("train", "2025-01-15"), ("heldout", "2025-03-01")):
        source = taskset(folder, split, cutoff=cutoff, tiers=["pair"])
        for index in range(len(source)):
            with pytest.raises(RejectedError) as caught:
                source.task(index)
            reasons.add(caught.value.reason)
    assert reasons == {"no_release"}
    # a function that the release before the cutoff had already is no held-out removal
    source = taskset(folder, "heldout", cutoff="2025-01-15", tiers=["removal"])
    with pytest.raises(RejectedError, match="empty_slot"):
        source.task(0)


def rejected(folder: Path, old: dict[str, str], new: dict[str, str], licence: str = "MIT") -> str:
    add(folder, "vine", {"1.0.0": ("2025-01-01", old), "1.1.0": ("2025-02-01", new)}, licence)
    source = ReleasesTaskset(packages=["vine"], sources=str(folder), releases=2, tiers=["pair", "function"])
    with pytest.raises(RejectedError) as caught:
        source.task(SLOTS * source.blocks.index(("vine", "pair", 0)))
    return caught.value.reason


CODE, TEST = (
    {"zict.py": "def f():\n    return 1\n"},
    {"test_zict.py": "from zict import f\ndef test(): assert f() == 1\n"},
)
OLDER = {"zict.py": "def f():\n    return 2\n"}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (OLDER, CODE, "no_tests"),
        (OLDER, TEST, "no_code"),
        (OLDER, {**CODE, **TEST, "data.bin": ""}, "breaks_too_much"),
        ({"src/zict.py": "x = 1\n"}, {**CODE, **TEST}, "layout_changed"),
        ({"zict.py": '"""Old."""\ndef f() -> int:\n    return 1\n'}, {**CODE, **TEST}, "no_code_change"),
        ({"zict.py": "def f():\n    return 1 + 0\n"}, {**CODE, **TEST}, "no_failing_test"),
        (OLDER, {**CODE, "test_zict.py": "import no_such_module\n"}, "tests_do_not_run"),
        (OLDER, {**CODE, "test_zict.py": "from zict import f\ndef test(): return f()\n"}, "nothing_turns"),
        (OLDER, {**CODE, "test_zict.py": "import os\ndef test(): os._exit(0)\n"}, "suite_breaks"),
        (OLDER, {**CODE, **TEST, "zict/__init__.py": "x" * 1_000_000}, "no_code"),
    ],
)  # fmt: skip
def test_a_pair_that_makes_no_task(tmp_path, folder, old, new, reason):
    link(tmp_path, folder)
    assert rejected(tmp_path, old, new) == reason


def link(place: Path, folder: Path) -> None:
    """The site of another folder of sources."""
    for site in folder.glob("site-*"):
        (place / site.name).symlink_to(site)


def test_a_licence_that_asks_for_more_is_refused(tmp_path, folder):
    link(tmp_path, folder)
    assert rejected(tmp_path, OLDER, {**CODE, **TEST}, "GPL-3.0-or-later") == "licence"
    declared = ("MIT", "BSD-3-Clause", "OSI Approved :: Apache Software License", "ISC", "MPL-2.0", "LGPL", "")
    assert list(map(permissive, declared)) == [True, True, True, True, False, False, False]


def test_every_listed_package_has_a_permissive_licence():
    assert len(listed()) >= 160
    assert all(permissive(licence) for licence in listed().values())


def test_archives_that_are_none(tmp_path, folder):
    add(tmp_path, "zict", {"1.0.0": ("2025-01-01", CODE)})
    sources = Sources.at(tmp_path)
    (release,) = sources.releases("zict", "2026-01-01")
    assert sources.releases("zict", "2024-12-31") == []
    whole = sources.archive(release).read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("zict-1.0.0/zict.py", "x = 1\n")
    locked = bytearray(packed.getvalue())
    locked[6] |= 1  # says that it is encrypted, here and in the directory
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    damaged = gzip.compress(gzip.decompress(whole))[:20] + b"\xff" * 60
    for file, content in {
        "a.tar.gz": b"no archive", "b.tar.gz": whole[: len(whole) // 2], "c.tar.gz": damaged, "d.zip": bytes(locked),
        "e.tar.gz": b"", "f.zip": packed.getvalue()[:40],
    }.items():  # fmt: skip
        other = replace(release, file=file)
        sources.archive(release).with_name(file).write_bytes(content)
        with pytest.raises(BadTreeError, match=r"unreadable|no_code"):
            tree_of(sources, other)
    sources.archive(release).unlink()
    with pytest.raises(FetchError, match="sources=FOLDER"):
        tree_of(sources, release)
    with pytest.raises(FetchError, match="envs-build family=releases"):
        sources.releases("vine", "2026-01-01", fetch=False)


def test_the_site_has_no_copies_of_packages_that_tasks_are_about(tmp_path):
    release_sources.site(tmp_path)
    place = Sources.at(tmp_path).site(fetch=False)
    real, elsewhere = place / "setuptools" / "_vendor", tmp_path / "elsewhere" / "_vendor"
    for copies in (real, elsewhere):
        (copies / "zipp").mkdir(parents=True)
    assert Sources.at(tmp_path).site(fetch=False) == place
    assert not real.exists()
    real.parent.rmdir()
    real.parent.symlink_to(elsewhere.parent)
    assert Sources.at(tmp_path).site(fetch=False) == place
    assert elsewhere.is_dir()  # what a site links to is not its own


def test_what_an_index_says_of_files(monkeypatch):
    """Addresses may be relative, and a name is no path."""
    row = {"hashes": {"sha256": "0"}, "upload-time": "2025-01-01T00:00:00Z", "size": 9}
    files = [
        {**row, "filename": f"{name}.tar.gz", "url": "../../packages/x.tar.gz"} for name in ("vine-1.0", "../v-2.0")
    ]

    @contextmanager
    def session():
        yield SimpleNamespace(), "https://index.example/simple"

    answer = SimpleNamespace(headers={"Content-Type": release_index._SIMPLE}, json=lambda: {"files": files})
    monkeypatch.setattr(release_index, "_session", session)
    monkeypatch.setattr(release_index, "_answered", lambda *_: answer)
    (release,) = release_index._ask("vine")
    assert (release.file, release.url) == ("vine-1.0.tar.gz", "https://index.example/packages/x.tar.gz")


def test_wrong_settings_say_what_is_right():
    for settings, message in (
        ({"packages": ["left-pad"]}, "'left-pad' is not in release_packages.txt"),
        ({"packages": []}, "packages is empty"),
        ({"tiers": ["mutation"]}, "use some of pair, function, earlier, removal"),
        ({"releases": 1}, "from 2 to 50"),
        ({"cutoff": "2027-01-01"}, "must be before until"),
    ):
        with pytest.raises(ValueError, match=message):
            ReleasesTaskset(**settings)


def test_a_turned_test_asks_something_else_and_looks_like_one_as_it_was_written():
    ways = {
        "assert f(2) == [1, 2]": "assert f(2) == [2, 2]",
        "assert 'a' == f(\"x\")": "assert 'aa' == f('x')",
        "assert f() == {'a': g(3)}": "assert f() == {'aa': g(3)}",
        "y = [1]\n    assert f() == y": "y = [2]\n    assert f() == y",
        "assert f(a) == b.c": "assert f(a) == a",
        "assert x in y": "assert x not in y",
        "assert not x": "assert x",
        "assert x": "assert not x",
        "assert a < b": "assert a >= b",
        "assert f() is True": "assert f() is False",
        "self.assertEqual(f(), {'a': 1})": "self.assertEqual(f(), {'a': 2})",
        "self.assertTrue(x)": "self.assertFalse(x)",
        "check('a', x)": "check('aa', x)",
        "for x in y:\n        assert x is None": "for x in y:\n        assert x is not None",
        "assert f(a) == ''": "assert f(a) == 'x'",
    }
    for one, other in ways.items():
        text = f"def test(a):\n    {one}\n\ndef test_2():\n    assert 1 == 1  # as it was\n"
        expected = f"def test(a):\n    {other}\n\ndef test_2():\n    assert 1 == 1\n"
        assert turned(text, {"test"}) == expected, one
        assert written(text) == turned(text, {"no_such_test"})
    raising = turned("def test():\n    with pytest.raises(ValueError):\n        f()\n", {"test"})
    assert re.search(r"raises\((TypeError|KeyError|AttributeError|IndexError)\)", raising)
    assert turnable("def test(): pass\n") == frozenset()


def test_a_test_that_no_such_change_breaks_is_turned_hard():
    for one, other in {
        "assert f() == g()": "assert f() == (g(), 0)",
        "self.assertEqual(f(), *x)": "self.assertEqual(f(), object())",
        "helper(x)": "helper(x)\n    raise AssertionError",
    }.items():
        assert turned(f"def test():\n    {one}\n", {"test"}, {"test"}) == f"def test():\n    {other}\n"
        assert turnable(f"def test():\n    {one}\n") == frozenset()


def test_definitions_are_found_in_base_classes_and_cut_with_their_decorators():
    text = "class M:\n    @mark\n    def test_x(self): pass\nclass A(M, T): pass\n"
    text += "class B(A):\n    def test_y(self): pass\n"
    found = [definition(text, name) for name in ("B.test_x", "B.test_y", "B.test_z", "test_x")]
    assert found == ["M.test_x", "B.test_y", None, None]
    assert without(text, {"M.test_x"}) == text.replace("    @mark\n    def test_x(self): pass\n", "    pass\n")
    assert without("x = 1\ndef test(): pass\n", {"test"}) == "x = 1\n"


def test_passages_lead_from_one_text_to_the_other():
    broken = "a\nb\nb\nc\nd\ne\n"
    for right in ("a\nb\nB\nc\nd\ne\n", "x\na\nb\nb\nc\n", "a\nb\nb\nc\nd\ne\nf\n", "", "b\n" * 5):
        text = broken
        for old, new in passages(broken, right):
            assert text.count(old) == 1
            text = text.replace(old, new)
        assert text == right


def test_an_older_state_keeps_what_is_no_code(tmp_path):
    before = {**OLD, "tests/test_vine.py": "", "src/vine/gone.py": "x = 1\n"}
    sources = add(tmp_path, "vine", {"1.0.0": ("2025-01-01", before), "1.1.0": ("2025-02-01", NEW)})
    older, newer = (tree_of(sources, release) for release in sources.releases("vine", "2026-01-01"))
    over = older_code(newer, older)
    assert set(over) == {
        "src/vine/shapes.py",
        "src/vine/words.py",
        "src/vine/gone.py",
    }  # the version is the newer one's
    assert older_code(older, newer)["src/vine/gone.py"] is None
    whole = pair_defect(newer, older)
    assert not isinstance(whole, str)
    assert {*whole.over} == set(over)
    assert [d if isinstance(d, str) else d.names[0] for d in function_defects(newer, older)] == [
        "src/vine/shapes.py::Square.describe", "src/vine/shapes.py::area", "dangling", "src/vine/shapes.py::unused",
        "src/vine/words.py::plural",
    ]  # fmt: skip


def test_removals_keep_signature_and_documentation(folder):
    sources = Sources.at(folder)
    release = sources.releases("vine", "2026-01-01")[-1]
    tree = tree_of(sources, release)
    found = removals(tree, base_of(sources, release))
    assert ("src/vine/shapes.py::Square.__init__", "src/vine/shapes.py::Square.perimeter") in found
    text = removal_of(tree, ("src/vine/words.py::plural",)).over["src/vine/words.py"]
    assert text is not None
    assert text.endswith('"""A word with its number: 1 apple, 2 apples."""\n    raise NotImplementedError\n')


def test_a_build_counts_rejects_by_cause_and_what_it_made_is_played(tmp_path, folder):
    words = {"family": "releases", "n": 9, "split": "train", "packages": ["vine"], "sources": str(folder)}
    plan = plan_of({**words, "releases": 2, "blocks": 2, "tiers": ["function", "earlier"]})
    store = build(plan, tmp_path / "set", workers=0, command="envs-build family=releases")
    (record,) = store.records
    assert record.kept == 3
    # once as pairs have them, once as earlier releases do, and a second block of those, which is empty
    assert record.rejects == {
        "tier_not_asked": 1, "dangling": 1, "untested": 2, "duplicate": 3, "empty_slot": 3 * SLOTS - 10,
    }  # fmt: skip
    assert "| releases | train | dangling | 1 |" in (tmp_path / "set" / "README.md").read_text()
    built = BuiltTaskset("train", path=tmp_path / "set")
    task = built.task(0)
    environment = built.environment(task)
    assert play_episode(task, environment, environment.oracle)[1]["outcome"] == 1.0

"""Repo tasks: real packages, defects that break tests, a gold patch that mends them, and no way around."""

import json
import random

import pytest

from envs.code.repo import RepoTaskset
from envs.code.repo_base import base_of
from envs.code.repo_defects import Defect, _functions, apply, draw_defect, examine
from envs.code.repo_packages import PACKAGES, Package, Repository, function_name, repository
from envs.code.repo_run import run_script, run_tests
from envs.environment import ToolError
from envs.episode import play_episode
from envs.taskset import split_of
from envs.types import Message, Task, ToolCall

PACKAGE, PATH = "inflection", "inflection/__init__.py"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECIALE_CACHE", str(tmp_path_factory.mktemp("cache")))
        base_of.cache_clear()
        _functions.cache_clear()
        yield
        base_of.cache_clear()
        _functions.cache_clear()


def taskset(split="train", levels=(1, 2, 3, 4), **config) -> RepoTaskset:
    return RepoTaskset(split, seed=3, packages=("inflection", "pyrsistent"), levels=levels, **config)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return [taskset(levels=(level,)).task(10 * level + n) for level in (1, 2, 3, 4) for n in range(2)]


def act(environment, name: str, **arguments) -> str:
    return environment.step(Message("assistant", tool_calls=(ToolCall(name, arguments),))).messages[0].content


def outcome(task: Task, *calls: tuple[str, dict]) -> dict[str, float]:
    environment = taskset().environment(task)
    messages = iter(
        [*(Message("assistant", tool_calls=(ToolCall(n, a),)) for n, a in calls), Message("assistant", "Done.")]
    )
    return play_episode(task, environment, lambda _: next(messages))[1]


def test_the_oracle_solves_and_verify_keeps_every_task(tasks):
    for task in tasks:
        environment = taskset().environment(task)
        episode, scores = play_episode(task, environment, environment.oracle)
        assert scores == {"outcome": 1.0, "f2p": 1.0, "p2p": 1.0, "edited": 1.0}, episode.messages[-3:]
        assert not episode.counts
    assert taskset().verify(tasks[0]) is None
    assert taskset().verify(tasks[-1]) is None


def test_a_task_read_back_from_disk_is_the_same_task(tasks):
    for task in tasks:
        metadata = json.loads(json.dumps(dict(task.metadata)))
        assert metadata == task.metadata
        assert len(json.dumps(metadata)) < 12_000
    copy = Task(tasks[0].id, tasks[0].family, tasks[0].prompt, metadata=json.loads(json.dumps(dict(tasks[0].metadata))))
    environment = taskset().environment(copy)
    assert play_episode(copy, environment, environment.oracle)[1]["outcome"] == 1.0


def test_doing_nothing_scores_nothing(tasks):
    for task in tasks:
        assert outcome(task) == {"outcome": 0.0, "f2p": 0.0, "p2p": 1.0, "edited": 0.0}


def test_one_of_two_repairs_is_not_enough(tasks):
    task = next(task for task in tasks if task.metadata["level"] == 4)
    last = task.metadata["defects"][-1]
    scores = outcome(task, ("edit", {"path": last["path"], "old": last["new"], "new": last["old"]}))
    assert scores["outcome"] == 0.0
    assert 0.0 < scores["f2p"] < 1.0


def test_the_issue_tells_the_failure_and_not_the_repair(tasks):
    for task in tasks:
        text = task.prompt[1].content
        named = [name.rpartition("::")[2] for name in task.metadata["group"]]
        assert (task.metadata["level"] <= 2) <= any(f"{name.rpartition('.')[2]}" in text for name in named)
        for defect in task.metadata["defects"]:
            assert defect["kind"] not in text.split() or defect["kind"] in ("call", "default")
            for old, new in zip(defect["old"].split("\n"), defect["new"].split("\n"), strict=False):
                if old != new:
                    assert old.strip() not in text or len(old.strip()) < 8
                    assert new.strip() not in text or len(new.strip()) < 8


def test_levels_show_more_of_the_repository():
    toolz = repository("toolz")
    counts = [
        len([p for p in toolz.files if p.startswith(s)]) for s in ("toolz/itertoolz.py", "toolz/curried/", "toolz/")
    ]
    assert counts[0] < counts[1] < counts[2]
    one = taskset(levels=(1,)).task(0)
    environment = taskset().environment(one)
    listed = act(environment, "list_files", path=PACKAGES[one.metadata["package"]].name)
    assert one.metadata["scope"][0].rpartition("/")[2] in listed
    three = taskset(levels=(3,)).task(0)
    assert three.metadata["scope"] == [f"{three.metadata['package']}/"] or three.metadata["scope"] == ["inflection/"]


def test_train_and_heldout_share_no_function():
    groups = {}
    for split in ("train", "heldout"):
        many = taskset(split)
        groups[split] = set()
        for seed in range(60):
            _, level, defects = many.candidate(random.Random(seed))
            names = {defect.function_name for defect in defects}
            assert len(names) == (2 if level == 4 else 1)
            assert {split_of(name) for name in names} == {split}
            groups[split] |= names
    assert not groups["train"] & groups["heldout"]
    assert len(groups["train"]) > 20
    assert len(groups["heldout"]) > 8


def test_tasks_are_deterministic_and_name_their_mutation(tasks):
    examine.cache_clear()
    again = taskset(levels=(1,))
    assert again.task(11) == tasks[1]
    assert again.task(10) == tasks[0]
    assert len({task.metadata["key"] for task in tasks}) == len(tasks)
    for task in tasks:
        assert all(f"{d['function']} {d['kind']} {d['site']}" in task.metadata["key"] for d in task.metadata["defects"])


def test_a_defect_that_no_test_notices_is_refused():
    repo = repository(PACKAGE)
    old = next(f"{line}\n" for line in repo.text(PATH).split("\n") if "return" in line and "ordinal(number)" in line)
    # a real change of the tree, equal in behaviour
    defect = Defect(PATH, "ordinalize", "constant", 0, old, old.replace("return ", "return '' + "))
    assert examine(PACKAGE, (defect,)).reason == "no_failing_test"
    endless = Defect(PATH, "ordinalize", "constant", 1, old, "    while True: pass\n")
    assert examine(PACKAGE, (endless,)).reason == "timeout"
    leaves = Defect(PATH, "ordinalize", "constant", 2, old, "    import os; os._exit(0)\n")
    assert examine(PACKAGE, (leaves,)).reason == "crash"
    broken = Defect(PATH, "ordinalize", "constant", 3, "import re\n", "import ree\n")
    assert examine(PACKAGE, (broken,)).reason == "breaks_import"
    with pytest.raises(ValueError, match="occurs 0 times"):
        apply(PACKAGE, (Defect(PATH, "ordinalize", "constant", 4, "no such line", "x"),))


def test_what_the_policy_reads(tasks):
    task = tasks[0]
    environment = taskset().environment(task)
    path, defect = task.metadata["defects"][0]["path"], task.metadata["defects"][0]
    assert (
        act(environment, "edit", path=path, old="", new="x")
        == f"Error: old occurs 0 times in {path}; give a passage that occurs once"
    )
    assert "occurs" in act(environment, "edit", path=path, old="return", new="return")
    assert act(environment, "read_file", path="../etc/passwd").startswith("Error: there is no file")
    assert act(environment, "read_file", path=path, start=1, end=2).count("\n") == 1
    assert act(environment, "search", pattern="no such text at all") == "No line holds 'no such text at all'."
    assert f"{path}:" in act(environment, "search", pattern="def ", path=path)
    failing = task.metadata["f2p"][0]
    assert "FAILED" in act(environment, "run_tests", target=failing)
    assert "is no valid Python now" in act(environment, "edit", path=path, old=defect["new"], new="def (:\n")
    assert "failed" in act(environment, "run_tests", target=failing)
    assert act(environment, "edit", path=path, old="def (:\n", new=defect["old"]) == f"Edited {path}."
    assert act(environment, "run_tests", target=failing).startswith("1 passed, 0 failed.")
    package = task.metadata["package"]
    assert act(environment, "python", code=f"import {package}\nprint({package}.__name__)") == package


def test_edits_that_reach_for_the_judge_are_refused(tasks):
    environment = taskset().environment(tasks[0])
    defect = tasks[0].metadata["defects"][0]
    for word in (
        "os._exit(0)",
        "sys._getframe(1)",
        "import doctest",
        "import unittest",
        "import pytest",
        "import ctypes",
    ):
        said = act(environment, "edit", path=defect["path"], old=defect["new"], new=f"{defect['new']}\n{word}\n")
        assert "not allowed here" in said
    assert (
        environment.score(play_episode(tasks[0], taskset().environment(tasks[0]), lambda _: Message("assistant"))[0])[
            "edited"
        ]
        == 0
    )


CHEATS = {
    "leaves early": "import os; os._exit(0)",
    "exits": "raise SystemExit(0)",
    "prints": "print('[\"end\"]')",
    "always equal": "import doctest; doctest.OutputChecker.check_output = lambda *a: True",
    "no assertions": "import _pytest.python as p; p.Function.runtest = lambda self: None",
    "another pytest": "import sys, types; sys.modules['pytest'] = types.ModuleType('pytest')",
    "no reports": "import _pytest.runner as r; r.call_and_report = lambda *a, **k: None",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_that_gets_past_the_editor_still_makes_no_test_pass(cheat: str):
    toolz = repository("toolz")
    text = toolz.text("toolz/itertoolz.py")
    broken = text.replace(
        "def first(seq):", f"{CHEATS[cheat]}\ndef first(seq):\n    return None\n\ndef _first(seq):", 1
    )
    assert broken != text
    tests = ["toolz/itertoolz.py::first", "toolz/tests/test_itertoolz.py::test_first"]
    assert all(map(run_tests(toolz, {}, tests).passed, tests))
    assert not any(map(run_tests(toolz, {"toolz/itertoolz.py": broken}, tests).passed, tests))


def test_a_test_that_never_ends_is_stopped_and_the_others_go_on():
    toolz = repository("toolz")
    text = toolz.text("toolz/itertoolz.py")
    endless = text.replace("def second(seq):", "def second(seq):\n    while True: pass\n\ndef _second(seq):", 1)
    assert endless != text
    file = "toolz/tests/test_itertoolz.py"
    tests = ["toolz/itertoolz.py::second", "toolz/itertoolz.py::last", f"{file}::test_second", f"{file}::test_last"]
    run = run_tests(toolz, {"toolz/itertoolz.py": endless}, tests, test_s=0.2, stop=False)
    assert {test: run.passed(test) for test in tests} == dict(zip(tests, (False, True, False, True), strict=True))
    assert run.timed_out
    assert run.ended
    assert run.verdicts[tests[0]].late
    assert run.verdicts[tests[2]].late
    stopped = run_tests(toolz, {"toolz/itertoolz.py": endless}, tests, test_s=0.2)
    assert stopped.timed_out
    assert not stopped.passed(tests[3])


def test_an_edited_docstring_changes_no_test():
    repo = repository(PACKAGE)
    text = repo.text(PATH)
    test = f"{PATH}::camelize"
    easier = text.replace("'DeviceType'", "'nonsense'").replace('"DeviceType"', '"nonsense"')
    assert easier != text
    assert run_tests(repo, {PATH: easier}, [test]).passed(test)


def test_tests_cannot_be_edited():
    repo = repository("toolz")
    from envs.code.repo_files import Files

    files = Files(repo, {}, ("toolz/",))
    with pytest.raises(ToolError, match="tests cannot be edited"):
        files.edit("toolz/tests/test_itertoolz.py", "def test_first", "def skip_first")
    with pytest.raises(ToolError, match="there is no file"):
        files.edit("toolz/conftest.py", "a", "b")


def test_another_version_or_package_is_refused_with_the_fix():
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'inflection==0\.0\.1'"):
        Repository(Package("inflection", "inflection", "0.0.1", "MIT", weight=1))
    with pytest.raises(ValueError, match="'left_pad' is unknown"):
        RepoTaskset(packages=("left_pad",))
    with pytest.raises(ValueError, match=r"levels is \[5\]"):
        RepoTaskset(packages=(PACKAGE,), levels=(5,))
    with pytest.raises(ValueError, match="packages is empty"):
        RepoTaskset(packages=())


def test_the_base_run_is_kept_and_covers_functions():
    base = base_of(PACKAGE)
    assert f"{PATH}::camelize" in base.covering[f"{PATH}::camelize"]
    assert f"{PATH}::ordinalize" in base.covering[f"{PATH}::ordinal"]  # one calls the other
    assert base.covering[f"{PATH}::ordinal"][0] == f"{PATH}::ordinal"  # its own doctest comes first
    base_of.cache_clear()
    assert base_of(PACKAGE) == base
    drawn = draw_defect(random.Random(0), PACKAGE, "train")
    assert split_of(function_name(drawn.path, drawn.function)) == "train"


# Ways to the text that was installed, from inside: each leaves its last word in `found`, which the function returns.
ORIGINALS = {
    "its own file": "found = open(__file__).read()",
    "byte code beside it": (
        "import os\nfolder = os.path.join(os.path.dirname(__file__), '__pycache__')\n"
        "names = [n for n in os.listdir(folder) if n.startswith('itertoolz.')] if os.path.isdir(folder) else []\n"
        "found = repr([open(os.path.join(folder, n), 'rb').read() for n in names])"
    ),
    "the loader": (
        "import importlib.util as u\nname = 'toolz.itertoolz'\nfound = u.find_spec(name).loader.get_source(name)"
    ),
    "another copy": (
        "import os\nroots = ('/mnt', '/python', '/usr', '/lib', '/packages', '/tmp')\n"
        "found = repr([os.path.join(d, f) for root in roots for d, _, fs in os.walk(root)\n"
        "              for f in fs if f == 'itertoolz.py'])"
    ),
}


@pytest.mark.parametrize("way", ORIGINALS)
def test_the_installed_text_is_nowhere_in_the_sandbox(way: str):
    """A defect is put into ``take``; neither its line nor a second file of that name is to be found."""
    repo = repository("toolz")
    path = "toolz/itertoolz.py"
    text = repo.text(path)
    line = "    return itertools.islice(seq, n)"
    assert text.count(line) == 1
    broken = text.replace(line, "    return itertools.islice(seq, n - 1)")
    edited = broken.replace("def first(seq):", f"{ORIGINALS[way]}\n\ndef first(seq):", 1)
    shown = run_script(repo, {path: edited}, "import toolz.itertoolz as m; print(m.found)").stdout
    assert "islice(seq, n)" not in shown.replace("islice(seq, n - 1)", "")
    if way == "another copy":
        assert shown.strip() == "['/mnt/toolz/itertoolz.py']"
    elif way == "byte code beside it":
        assert set(shown.strip()) <= set("[]b', ")  # nothing in it
    else:
        assert "islice(seq, n - 1)" in shown
    # Without an edit the installed package is what runs.
    assert run_script(repo, {}, "import toolz; print(list(toolz.take(2, [1, 2, 3])))").stdout == "[1, 2]\n"

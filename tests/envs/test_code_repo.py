"""Repo tasks: real packages, defects that break tests, a gold patch that mends them, and no way around."""

import json
import random

import pytest

from envs.code.repo import RepoTaskset
from envs.code.repo_base import base_of
from envs.code.repo_defects import Defect, _functions, apply, draw_defect, examine
from envs.code.repo_packages import PACKAGES, Package, Repository, function_name, repository
from envs.code.repo_run import run_script, run_tests
from envs.code.repo_variants import is_variant
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
        repo = repository(task.metadata["package"])
        for test in (test for test in task.metadata["f2p"] if not is_variant(test)):
            examples = repo.doctests(test.partition("::")[0])[test].examples
            lines = [line for example in examples for line in (example.source + example.want).split("\n")]
            assert not any(line.strip() in text for line in lines if len(line.strip()) > 12)
        assert (task.metadata["level"] <= 2) <= any(f"{name.rpartition('.')[2]}" in text for name in named)
        for defect in task.metadata["defects"]:
            assert defect["kind"] not in text.split() or defect["kind"] in ("call", "default", "variable")
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


def test_the_unbroken_text_is_nowhere_in_the_sandbox():
    """All Python that the sandbox shows, archives and bytecode included, is searched for what the defect replaced."""
    repo = repository("more_itertools")
    path = "more_itertools/recipes.py"
    old = "    return list(islice(iterable, n))"
    assert repo.text(path).count(old) == 1
    code = f"""
import os, zipfile
hits, seen, caches = [], 0, []
for folder, _, names in (found for root in ("/mnt", "/python", "/tmp", "/usr") for found in os.walk(root)):
    for name in names:
        place = os.path.join(folder, name)
        if not name.endswith((".py", ".pyc", ".whl", ".zip")): continue
        try: data = open(place, "rb").read() if os.path.isfile(place) else b""
        except OSError: continue
        seen += 1
        parts = [data]
        try:
            with zipfile.ZipFile(place) as archive: parts += map(archive.read, archive.namelist())
        except Exception: pass  # most files are none, and the standard library's tests bring broken ones
        hits += [place for part in parts if {old.encode()!r} in part]
        caches += [place] if name.endswith(".pyc") and "more_itertools" in place else []
print(seen > 1000, hits, caches, open("/mnt/{path}").read().count("gone"))
"""
    broken = {path: repo.text(path).replace(old, "    return gone")}
    result = run_script(repo, broken, code)
    assert result.stdout == "True [] [] 1\n", result.stderr
    # and the search finds it where nothing covers it
    assert f"/mnt/{path}" in run_script(repo, {}, code).stdout


def test_what_the_examples_print_is_no_secret_and_what_variants_print_is(tasks):
    """An edit that knows the documentation by heart passes the examples and none of their variants."""
    repo, base = repository(PACKAGE), base_of(PACKAGE)
    text = repo.text(PATH)
    visible = f"{PATH}::ordinal"
    hidden = [test for test in base.tests if test.startswith(f"{visible}#")]
    assert len(hidden) >= 2
    shown = {e.source.strip(): e.want.strip() for e in repo.doctests(PATH)[visible].examples}
    answer = f"return __import__('ast').literal_eval({shown!r}[f'ordinal({{number}})'])"
    by_heart = text.replace("def ordinal(number", f"def ordinal(number):\n    {answer}\n\ndef _ordinal(number", 1)
    run = base.run({PATH: by_heart}, [visible, *hidden])
    assert run.passed(visible)
    assert not any(map(run.passed, hidden))
    assert all(map(base.run({}, [visible, *hidden]).passed, [visible, *hidden]))
    for task in tasks:
        assert {is_variant(test) for test in task.metadata["f2p"]} == {True, False}
        secret = [test for test in task.metadata["f2p"] if is_variant(test)]
        assert not any(test in message.content for test in secret for message in task.prompt)
        assert act(taskset().environment(task), "run_tests", target=secret[0]).startswith("Error: there is no doctest")


def test_lines_that_the_code_under_test_forges_are_read_without_harm():
    """Deep nesting, other types, tests that do not exist: nothing raises, nothing passes."""
    repo = repository(PACKAGE)
    lines = ["[" * 100_000, '["doctest", 3]', '["pytest", "x", true, {}, 0.1, []]', '["end", 0.1]']
    lines.append(f'["doctest", "{PATH}::ordinal", [[1, 2], 5], 0.1, 7]')
    write = "try: _os.write(_d, _line.encode() + b'\\n')\n        except OSError: pass"
    forged = (
        f"\nimport os as _os\nfor _line in {lines!r}:\n    for _d in range(3, 64):\n        {write}\n_os._exit(0)\n"
    )
    run = run_tests(repo, {PATH: repo.text(PATH) + forged}, [f"{PATH}::ordinal"])
    assert not any(verdict.passed for verdict in run.verdicts.values())


def test_a_test_that_never_ends_is_stopped_and_the_others_go_on():
    toolz = repository("toolz")
    text = toolz.text("toolz/itertoolz.py")
    endless = text.replace("def second(seq):", "def second(seq):\n    while True: pass\n\ndef _second(seq):", 1)
    assert endless != text
    file = "toolz/tests/test_itertoolz.py"  # for the policy to run; no score reads it
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

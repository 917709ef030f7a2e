"""Rows like those of SWE-bench: what is a task, what is refused with which cause, and what is paid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign_repositories import GOOD, HIDDEN, UNITTEST, Repository, calc, good_row, in_split, write_rows

from envs.certificate.identity import command_of, settings_of
from envs.check import main as check
from envs.environment import Environment
from envs.episode import demonstrator, play_episode
from envs.foreign.examined import RefusedError
from envs.foreign.git_folder import files_at, find_repository, patched
from envs.foreign.swe_columns import copy_key, swe_row
from envs.foreign.swe_examination import examine_remembered
from envs.foreign.swe_rows import SweRowsTaskset
from envs.foreign.swe_state import Setup
from envs.foreign.swe_tests import Labels, results
from envs.row_source import BadRowError
from envs.taskset import split_of
from envs.types import Message, ToolCall


def named(stem: str, split: str = "train") -> str:
    """An instance_id of a split."""
    return next(name for n in range(99) if split_of(name := f"acme__{stem}-{n}") == split)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Repository]]:
    folder = tmp_path_factory.mktemp("swe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECIALE_CACHE", str(folder / "cache"))
        yield folder, calc(folder / "repos" / "acme__calc")


@pytest.fixture(scope="module")
def mixed(world: tuple[Path, Repository]) -> SweRowsTaskset:
    """One good row, and one for each cause."""
    folder, repo = world
    wrong = repo.diff({"calc/stats.py": GOOD.replace("sum(values) /", "0 /")})
    needing = repo.diff({"tests/test_stats.py": f"import nowhere_at_all\n{HIDDEN}"})
    rows = [
        good_row(repo, named("good")),
        good_row(repo, named("wrong"), patch=wrong),
        good_row(repo, named("needs"), test_patch=needing),
        good_row(repo, named("early"), FAIL_TO_PASS=["tests/test_stats.py::test_top"], PASS_TO_PASS=[]),
        good_row(repo, named("nowhere"), repo="acme/other"),
        good_row(repo, named("commit"), base_commit="0" * 40),
        good_row(repo, named("apply"), patch=repo.diff({"calc/stats.py": GOOD}).replace("sum(", "fsum(")),
        good_row(repo, named("absent"), PASS_TO_PASS=["tests/test_stats.py::test_absent"]),
    ]
    rows = [in_split(row) for row in rows]
    rows += [good_row(repo, named("column"), problem_statement=None), good_row(repo, named("none"), FAIL_TO_PASS="[]")]
    return SweRowsTaskset(path=write_rows(folder / "mixed.jsonl", rows), repos=folder / "repos", workers=2)


def score(taskset: SweRowsTaskset, edits: list[tuple[str, str, str]]) -> dict[str, float]:
    """What an episode with these edits is paid; an edit with old="" creates."""
    environment = taskset.environment(taskset.task(0))
    calls = [
        ToolCall("edit", {"path": path, "old": old, "new": new})
        if old
        else ToolCall("create", {"path": path, "text": new})
        for path, old, new in edits
    ]
    messages = iter([Message("assistant", tool_calls=tuple(calls)), Message("assistant", "Done.")])
    return play_episode(taskset.task(0), environment, lambda history: next(messages))[1]


def test_a_good_row_is_a_task_and_every_other_is_refused_with_its_cause(mixed: SweRowsTaskset) -> None:
    assert [mixed.task(n).metadata["key"] for n in range(len(mixed))] == [named("good")]
    causes = {
        "wrong": "gold does not pass: with the gold patch FAIL_TO_PASS 'tests/test_stats.py::test_mean'",
        "needs": "needs the module nowhere_at_all, which its sandbox does not have",
        "early": "FAIL_TO_PASS tests/test_stats.py::test_top passes without the patch",
        "nowhere": "repo acme/other: no git repository in",
        "commit": "base_commit 0000000000000000000000000000000000000000: not in acme__calc",
        "apply": "column patch: it does not apply to base_commit",
        "column": "column problem_statement: is missing, wanted a text",
        "none": "column FAIL_TO_PASS: is empty",
        "absent": "with the gold patch PASS_TO_PASS 'tests/test_stats.py::test_absent' (of 1) did not run",
    }
    assert mixed.refused.keys() == {named(stem) for stem in causes}
    for stem, cause in causes.items():
        assert cause in mixed.refused[named(stem)], mixed.refused[named(stem)]
    assert mixed.metrics() == {"data/skipped_rows": 9.0}


def test_the_command_of_the_certificate_says_where_the_repositories_are(mixed: SweRowsTaskset) -> None:
    settings = settings_of(mixed)
    assert "repos" not in settings
    assert "workers" not in settings
    assert f"repos={mixed.given['repos']}" in command_of(mixed)


def test_the_oracle_is_paid_one_and_nothing_is_paid_nothing(mixed: SweRowsTaskset) -> None:
    task = mixed.task(0)
    environment = mixed.environment(task)
    assert play_episode(task, environment, demonstrator(environment))[1]["outcome"] == 1.0
    assert score(mixed, [])["outcome"] == 0.0
    assert score(mixed, [("calc/stats.py", "max(values)", "max(values) * 1")])["outcome"] == 0.0


def test_edits_against_the_judge_are_paid_nothing(mixed: SweRowsTaskset) -> None:
    passing = "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n\n\ndef mean(values):"
    equal = "class _Any:\n    def __eq__(self, other):\n        return True\n\n\n"
    everything = f"{equal}def mean(values):\n    return _Any()\n"
    for edit in (passing, everything):
        assert score(mixed, [("calc/stats.py", "def mean(values):", edit)])["outcome"] == 0.0


def test_hidden_tests_are_in_no_sandbox_of_the_policy_and_tests_cannot_be_edited(mixed: SweRowsTaskset) -> None:
    environment = mixed.environment(mixed.task(0))
    assert "test_mean" not in told(environment, "read_file", path="tests/test_stats.py")
    look = "import os\nfor folder, _, names in os.walk('/tmp'):\n    for name in names:\n"
    look += "        if b'test_mean' in open(f'{folder}/{name}', 'rb').read(): print(name)"
    assert told(environment, "python", code=look) == "(no output)"
    assert "1 passed, 0 failed" in told(environment, "run_tests", target="tests/test_stats.py")
    assert "tests cannot be edited" in told(environment, "edit", path="tests/test_stats.py", old="top", new="x")
    for path in ("conftest.py", "calc/stats.py/a.py", "tests/new.py", "../a.py", "a\ud83d.py"):
        assert told(environment, "create", path=path, text="").startswith("Error"), path


def told(environment: Environment, name: str, **arguments: Any) -> str:
    return environment.step(Message("assistant", tool_calls=(ToolCall(name, arguments),))).messages[0].content


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_copies_of_a_row_are_on_one_side(world: tuple[Path, Repository], split: str) -> None:
    folder, repo = world
    first = in_split(good_row(repo, "acme__a-1"), split)
    later = first["patch"].replace("index ", "index 0").replace("@@\n", "@@ def mean(values):\n")
    copies = [first, {**first, "instance_id": "b-2", "repo": "Acme/calc", "base_commit": repo.commit[:9]}]
    copies += [{**first, "instance_id": f"c-{n}", "patch": later, "problem_statement": f"Issue {n}."} for n in range(9)]
    assert len({copy_key(swe_row(row)) for row in copies}) == 1
    assert copy_key(swe_row({**first, "patch": first["patch"] + "+x\n"})) != copy_key(swe_row(first))
    path = write_rows(folder / f"copies-{split}.jsonl", copies)
    other = "train" if split == "heldout" else "heldout"
    with pytest.raises(ValueError, match=f"split={other}: .* has no task in it"):
        SweRowsTaskset(other, path=path, repos=folder / "repos")


def test_smith_rows_and_unittest_labels(world: tuple[Path, Repository]) -> None:
    folder, _ = world
    files = {"calc/__init__.py": "", "calc/stats.py": GOOD, "tests/__init__.py": "", "tests/test_mean.py": UNITTEST}
    repo = Repository(folder / "smith" / "calc", files)
    row = {
        "instance_id": named("smith"),
        "repo": f"swesmith/acme__calc.{repo.commit[:8]}",
        "problem_statement": "The mean is one too large.",
        "patch": repo.diff({"calc/stats.py": GOOD.replace("len(values)", "len(values) + 1")}),
        "FAIL_TO_PASS": ["test_mean (tests.test_mean.MeanTests)"],
        "image_name": "not.looked.at",
    }
    path = write_rows(folder / "smith.jsonl", [in_split(row)])
    settings: dict[str, Any] = {"path": path, "repos": folder / "smith", "patch_is": "bug"}
    taskset = SweRowsTaskset(test_command="python -m unittest -v {labels}", **settings)
    task = taskset.task(0)
    assert task.metadata["f2p"] == task.metadata["deciding"] == ["tests/test_mean.py::MeanTests::test_mean"]
    environment = taskset.environment(task)
    assert "0 passed, 1 failed" in told(environment, "run_tests", target="tests/test_mean.py")
    assert play_episode(task, environment, demonstrator(environment))[1]["outcome"] == 1.0
    forged = "print('test_mean (tests.test_mean.MeanTests) ... ok')\n\n\ndef mean(values):"
    assert score(taskset, [("calc/stats.py", "def mean(values):", forged)])["outcome"] == 0.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"repos": ""}, "repos is missing"),
        ({"repos": "nowhere"}, "repos=nowhere: there is no such folder"),
        ({"test_command": "make test"}, "test_command='make test': wanted pytest, or python"),
        ({"patch_is": "test"}, "patch_is='test': must be gold or bug"),
        ({"run_s": 0.5}, "run_s=0.5: must be from 1 to 1800"),
        ({"packages": ["no-such-thing-here"]}, "packages: 'no-such-thing-here' is not installed"),
        ({"packages": "attrs"}, "packages='attrs': must be a list"),
        ({"run_s": "long"}, "run_s=long: must be from 1 to 1800"),
    ],
)
def test_wrong_settings_are_said(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [])
    with pytest.raises(ValueError, match=f"^{said}"):
        SweRowsTaskset(**{"path": path, "repos": tmp_path, **settings})


def test_columns() -> None:
    row = {"instance_id": "a", "repo": "o/n", "base_commit": "abcdef1", "problem_statement": "p", "patch": "d"}
    read = swe_row(row | {"FAIL_TO_PASS": '["t", "t", "u"]', "PASS_TO_PASS": ["u", "v"]})
    assert (read.f2p, read.p2p, read.test_patch) == (("t", "u"), ("v",), "")
    assert swe_row(row | {"FAIL_TO_PASS": '["t"]', "PASS_TO_PASS": ""}).p2p == ()  # an empty cell of a CSV file
    for wrong, said in (
        ({"base_commit": None}, "column base_commit: is missing, and repo='o/n' does not end in a commit"),
        ({"FAIL_TO_PASS": "t"}, "column FAIL_TO_PASS: is a text that is no JSON list"),
        ({"FAIL_TO_PASS": [1]}, "column FAIL_TO_PASS: wanted a list"),
        ({"patch": ""}, "column patch: is empty"),
    ):
        with pytest.raises(BadRowError, match=said):
            swe_row(row | {"FAIL_TO_PASS": ["t"]} | wrong)


def test_labels() -> None:
    texts = {
        "tests/app/tests.py": "class A:\n    def test_a(self): ...\n",
        "lib/test_b.py": "def test_b(): ...\n",
        "lib/test_c.py": "def test_b(): ...\n",
    }
    labels = Labels(texts, {"lib/test_b.py": b""})
    wanted = "tests/app/tests.py::A::test_a"
    for label in ("test_a (app.tests.A)", "test_a (app.tests.A.test_a)", "app.tests.A.test_a"):
        assert labels.ids(label) == [wanted]
    assert labels.dotted(wanted) == "app.tests.A.test_a"
    assert labels.ids("test_b") == ["lib/test_b.py::test_b"]
    for label in ("test_x", "Does what it should", "test_a (nowhere.A)"):
        with pytest.raises(RefusedError):
            labels.ids(label)


def test_results_of_unittest_are_each_its_own() -> None:
    said = (
        "test_a (x.A.test_a) ... ok\ntest_b (x.A.test_b)\nWhat b does. ... FAIL\ntest_c (x.A) ... skipped 'no'\n"
        "test_d (x.A.test_d)\ntest_e (x.A.test_e) ... expected failure\n\nRan 5 tests in 0.1s\n"
    )
    assert list(results(said)) == [
        ("x.A.test_a", "ok"), ("x.A.test_b", "FAIL"), ("x.A.test_c", "skipped"), ("x.A.test_e", "expected failure"),
    ]  # fmt: skip


@pytest.mark.timeout(20)
def test_what_the_code_under_test_prints_is_read_in_linear_time() -> None:
    assert list(results(f"x (y){' ... ' * 100_000}\nz (y) ... ok\n")) == [("y.z", "ok")]


def test_that_a_commit_is_not_there_yet_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECIALE_CACHE", str(tmp_path / "cache"))
    repo = calc(tmp_path / "repos" / "calc")
    for wrong, kept in ({"base_commit": "1" * 40}, 0), ({"patch": "no patch"}, 1):
        with pytest.raises(RefusedError):
            examine_remembered(swe_row({**good_row(repo), **wrong}), repo.folder, Setup(), False)
        assert len(list((tmp_path / "cache").rglob("*.json"))) == kept


def test_patches_and_files_of_a_commit(world: tuple[Path, Repository]) -> None:
    folder, repo = world
    found = find_repository(folder / "repos", "acme/calc")
    files = files_at(found, repo.commit)
    patch = repo.diff({"calc/stats.py": GOOD, "new/a.txt": "x\n"})
    assert patched(files, patch) == {"calc/stats.py": GOOD.encode(), "new/a.txt": b"x\n"}
    after = {**files, "calc/stats.py": GOOD.encode(), "new/a.txt": b"x\n"}
    assert patched(after, patch, reverse=True) == {"calc/stats.py": files["calc/stats.py"], "new/a.txt": None}
    for bad in ("../acme", "a/b/c", "", "-x/.."):
        with pytest.raises(RefusedError):
            find_repository(folder / "repos", bad)
    with pytest.raises(RefusedError, match="wanted the hexadecimal name"):
        files_at(found, "--output=x")
    with pytest.raises(RefusedError, match="does not apply"):
        patched(files, "--- /dev/null\n+++ b/../outside\n@@ -0,0 +1 @@\n+x\n")
    assert not (folder / "outside").exists()


@pytest.mark.slow
def test_the_checks_certify_it_and_name_what_is_refused(
    world: tuple[Path, Repository], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, repo = world
    names = [named("a"), named("b"), named("c", "heldout"), named("nowhere")]
    rows = [good_row(repo, name, repo="acme/other" if "nowhere" in name else "acme/calc") for name in names]
    rows = [in_split(row, "heldout" if "__c-" in row["instance_id"] else "train") for row in rows]
    path = write_rows(folder / "rows.jsonl", rows)
    assert check(["swe_rows", f"path={path}", f"repos={folder / 'repos'}", "step_s=60"]) == 0
    assert f"{named('nowhere')}: repo acme/other: no git repository" in capsys.readouterr().out
    (certificate,) = (folder / "certificates").glob("swe_rows-*.json")
    stored = json.loads(certificate.read_text())
    assert all(result["held"] in (True, None) for result in stored["results"].values())
    assert stored["refused"].keys() == {named("nowhere")}

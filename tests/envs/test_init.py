"""envs-init: what it writes keeps its promises, is clean, and tests itself; a name that does not do is refused."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from envs import check, init
from envs.families import taskset_class


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def python(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", init.KINDS)
def test_it_passes_envs_check_its_own_test_and_ruff(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"my_{kind}_env"
    assert init.main([name, f"--{kind}"]) == 0
    told = capsys.readouterr().out
    lines = [shlex.split(line) for line in told.splitlines() if line.startswith("  ")]
    assert [words[0] for words in lines] == ["envs-check", "envs-play", "pytest", "rl-train"]
    assert all(word.partition("=")[2] for word in lines[3][1:])
    assert check.main([*lines[0][1:], "tasks=20"]) == 0, capsys.readouterr().out
    if kind == "tools":  # as a person runs it; the others without a process, it costs seconds
        python("pytest", "-q", "-p", "no:cacheprovider", lines[2][1])
    else:
        module = importlib.import_module(f"test_{name}")
        tests = [function for word, function in vars(module).items() if word.startswith("test_")]
        assert len(tests) >= 2
        for test in tests:
            test()
    python("ruff", "check", "--line-length=120", ".")
    python("ruff", "format", "--check", "--line-length=120", ".")
    assert {path.name for path in folder.iterdir()} >= {f"{name}.py", f"test_{name}.py"}
    assert all("${" not in path.read_text() for path in folder.glob("*.py"))


def test_the_default_shows_the_parts_of_an_environment(folder: Path) -> None:
    assert init.main(["shown_store"]) == 0
    cls = taskset_class("shown_store.ShownStoreTaskset")
    environment = cls.env_class
    assert {"task", "propose"} <= set(vars(cls))
    assert {"find_item", "oracle", "novice"} <= set(vars(environment))
    train, heldout = cls("train"), cls("heldout")
    assert {train.task(i).metadata["key"] for i in range(99)}.isdisjoint(
        heldout.task(i).metadata["key"] for i in range(99)
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [("My-Env", "cannot be a module's name"), ("1st", "cannot be a module's name"), ("", "cannot be a module's name"),
     ("class", "a word of Python"), ("x" * 41, "at most 40"), ("../up", "cannot be a module's name"),
     ("json", "would hide the module 'json'"), ("numpy", "would hide the module 'numpy'"),
     ("search", "a taskset of that name is there already")],
)  # fmt: skip
def test_names_that_do_not_do(name: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init.main([name]) == 2
    assert said in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("there", ["my_store.py", "test_my_store.py", "my_store"])
def test_nothing_is_overwritten(there: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / there).touch() if "." in there else (folder / there).mkdir()
    assert init.main(["my_store"]) == 2
    assert f"'{there}' is here already" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [there]


def test_every_template_has_the_same_files() -> None:
    for kind in init.KINDS:
        names = set(init.filled(kind, "abc"))
        assert names - {"abc.jsonl"} == {"abc.py", "test_abc.py"}
        assert ("abc.jsonl" in names) == (kind == "dataset")

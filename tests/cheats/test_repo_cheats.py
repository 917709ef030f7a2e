"""Edits of a repository that repair nothing: none makes a test pass that an edit without effect does not."""

from __future__ import annotations

import pytest
from cheat_programs import EDITS

from envs.code.repo import RepoEnvironment, RepoTaskset
from envs.code.repo_base import base_of
from envs.code.repo_defects import _functions
from envs.types import Task


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECIALE_CACHE", str(tmp_path_factory.mktemp("cache")))
        base_of.cache_clear()
        _functions.cache_clear()
        taskset = RepoTaskset("train", packages=("inflection",), levels=(1,))
        yield [taskset.task(index) for index in range(2)]
        base_of.cache_clear()
        _functions.cache_clear()


def outcome(task: Task, added: str) -> float:
    """The outcome with ``added`` at the end of the file, and once more at its beginning."""
    path = task.metadata["defects"][0]["path"]
    found = []
    for at_end in (True, False):
        environment = RepoEnvironment(task)
        environment.reset()
        text = environment._files.text(path)
        if at_end:
            old = next(text[-k:] for k in range(20, len(text), 20) if text.count(text[-k:]) == 1)
            environment.edit(path=path, old=old, new=f"{old}\n{added}\n")
        else:
            old = next(line for line in text.split("\n") if line.startswith("import ") and text.count(line) == 1)
            environment.edit(path=path, old=old, new=f"{old}\n{added}\n")
        found.append(environment.score(None)["outcome"])  # type: ignore[arg-type]
        environment.close()
    return max(found)


@pytest.mark.parametrize(("name", "kind", "added"), EDITS, ids=[name for name, _, _ in EDITS])
def test_an_edit_that_repairs_nothing_pays_nothing(tasks: list[Task], name: str, kind: str, added: str) -> None:
    assert [outcome(task, added) for task in tasks] == [0.0] * len(tasks)


def test_a_repair_is_paid(tasks: list[Task]) -> None:
    """The same way to the score, with the defect mended: the zeros above are not the harness's."""
    for task in tasks:
        environment = RepoEnvironment(task)
        defect = task.metadata["defects"][0]
        environment.edit(path=defect["path"], old=defect["new"], new=defect["old"])
        assert environment.score(None)["outcome"] == 1.0  # type: ignore[arg-type]

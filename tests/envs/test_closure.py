"""What a stage's key knows of code: whatever the stage runs, and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from envs.answer_checks import exact
from envs.closure import closure, code_hash
from envs.dataset import DatasetTaskset
from envs.mixture import MixTaskset
from envs.search.taskset import SearchTaskset
from rewards.compose import default_composer
from rl.chat.v32 import V32Renderer
from rl.recipes.cold_start import coldstart
from rl.recipes.distill import distill
from rl.recipes.evaluation_stage import evaluation_stage
from rl.recipes.pretrain import pretrain
from rl.rollout.pool import RolloutPool

COLD = closure([coldstart, SearchTaskset("train", 0), V32Renderer], skip=("rl.data.rehearse",))
REHEARSED = closure([coldstart, SearchTaskset("train", 0), V32Renderer])
EVALUATION = closure([evaluation_stage, RolloutPool, SearchTaskset("heldout", 0), default_composer(), V32Renderer])


def test_what_stages_run_is_in_their_keys() -> None:
    for stage in (COLD, REHEARSED, EVALUATION, closure([pretrain]), closure([distill])):
        assert {"rl.types", "rl", "envs.types"} <= set(stage)
    assert {"rl.rollout.message", "rewards.compose", "rl.chat.session", "rl.rollout.engine", "rl.rollout.pool"} <= set(
        EVALUATION
    )
    assert {"rl.rollout.message", "rl.rollout.rollout", "rewards.compose"} <= set(REHEARSED)
    assert {"rl.learner.sft", "rl.policy.moe", "envs.search.taskset", "envs.search.books", "rl.chat.dsml"} <= set(COLD)
    assert {"rl.learner.sft", "rl.recipes.supervised", "rl.objective.logprobs"} <= set(closure([distill]))


def test_what_they_do_not_run_is_not() -> None:
    unrelated = {"rl.tracking.report", "rl.tracking.svg", "rl.tracking.wandb_log", "configs.schema"}
    for stage in (COLD, REHEARSED, EVALUATION):
        assert not unrelated & set(stage)
        assert not [name for name in stage if name.startswith(("rl.commands", "envs.code", "envs.agent"))]
    assert not [name for name in COLD if name.startswith(("rl.rollout", "rewards"))]
    assert "rl.learner.learner" not in COLD


def test_files_of_child_processes_count() -> None:
    mixed = set(closure([MixTaskset("train", 0, families={"code": 1, "agent": 1})]))
    assert "envs.sandbox.script:guest_script.py" in mixed  # read and run in the sandbox, never imported
    assert {"envs.code.taskset", "envs.agent.taskset"} <= mixed
    assert "envs.search.taskset" not in mixed
    assert "envs.reasoning.check_worker" in closure([exact])  # named in the program of a child process


def test_a_function_that_a_taskset_holds_counts(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1", "answer": "2"}\n' * 4)
    taskset = DatasetTaskset("train", 0, path=str(rows), reward="exact")
    assert {"envs.dataset", "envs.answer_checks"} <= set(closure([taskset]))


def made(folder: Path, **sources: str) -> None:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the module path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_imports_by_name_count_and_what_a_type_checker_sees_does_not(plugins: Path) -> None:
    made(
        plugins,
        my_a="import importlib\nfrom typing import TYPE_CHECKING\n"
        "if not TYPE_CHECKING:\n    import my_b\nelse:\n    import my_never\n"
        "def f():\n    return importlib.import_module('my_c'), __import__('my_d')\n",
        my_b="", my_c="", my_d="# coding: latin-1\nX = 1\n", my_never="",
    )  # fmt: skip
    found = closure([importlib.import_module("my_a").f])
    assert {"my_a", "my_b", "my_c", "my_d"} <= set(found)
    assert "my_never" not in found


def test_what_an_object_holds_counts_however_it_is_held(plugins: Path) -> None:
    made(
        plugins,
        my_fn="def reward(answer, row):\n    return 1.0\n",
        my_named="def reward(answer, row):\n    return 1.0\n",
        my_kept="class Kept:\n    __slots__ = ('held',)\n    def __init__(self, held):\n        self.held = held\n",
        my_class="class Held:\n    pass\n",
    )
    kept = importlib.import_module("my_kept").Kept
    taskset = SearchTaskset("train", 0)
    taskset.config = {  # what Hydra makes of _partial_: true, lists in dicts, a name, a class, a loop
        "a": [partial(importlib.import_module("my_fn").reward, row={})],
        "b": "my_named.reward",
        "c": kept(importlib.import_module("my_class").Held),
        "d": taskset,
    }
    assert {"my_fn", "my_named", "my_kept", "my_class"} <= set(closure([taskset]))


def test_a_plugin_next_to_the_user_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_words.py").write_text("WORDS = ['a']\n")
    (tmp_path / "my_plugin.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from envs.taskset import Taskset\n"
        "if TYPE_CHECKING:\n    from rl.tracking.report import write_report\n"
        "class Mine(Taskset):\n"
        "    def task(self, index):\n        from my_words import WORDS\n        return WORDS[index]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin = importlib.import_module("my_plugin")
    try:
        found = closure([plugin.Mine])
        assert {"my_plugin", "my_words", "envs.taskset"} <= set(found)
        assert "rl.tracking.report" not in found
        before = code_hash(plugin.Mine)
        assert before == code_hash(plugin.Mine)
        (tmp_path / "my_words.py").write_text("WORDS = ['a', 'b']\n")
        assert code_hash(plugin.Mine) != before
    finally:
        for name in ("my_plugin", "my_words"):
            sys.modules.pop(name, None)


def test_an_installed_library_is_not_followed_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = tmp_path / "another" / "lib" / "site-packages"  # of the system, of the user
    behind.mkdir(parents=True)
    (behind / "some_library.py").write_text("import json\n")
    (tmp_path / "my_caller.py").write_text("import some_library\ndef mine():\n    return some_library.json\n")
    monkeypatch.syspath_prepend(str(behind))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert set(closure([importlib.import_module("my_caller").mine])) == {"my_caller"}
    finally:
        for name in ("my_caller", "some_library"):
            sys.modules.pop(name, None)

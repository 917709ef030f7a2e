"""Commands of the documentation that train, evaluate or look at a run, to their end, at the size of experiment=smoke.

The three levels of docs/environments.md are trained in (slow: tests/integration/test_certificate_run.py is the same
with a taskset of its own); the others are called on a run of the main job.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from docs_commands import END, JOBS, of_way
from docs_place import make_place
from in_process import command
from shown_lines import shown
from train_runs import Command, FirstRun

from rl.tracking.rundir import RunDir

pytestmark = pytest.mark.run

MAKE = ("make train", "rl-train")
LINES = sorted({one.text for one in of_way(END, JOBS)} - set(MAKE))
LEVELS = [text for text in LINES if text.startswith("rl-train env")]
ON_A_RUN = [text for text in LINES if text not in LEVELS]
TURNS = {"dataset": 1, "warehouse": 3, "guess": 5}  # of the longest demonstration


def words_of(text: str) -> list[str]:
    return next(one.words for one in shown() if one.text == text)


@pytest.fixture(scope="module")
def place(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After ``make train``, which is ``rl-train``."""
    folder = tmp_path_factory.mktemp("reader")
    make_place(folder)
    assert re.search(r"GRPO: done in .*reward", first_run.output)
    for name in ("demo-0", "demo", "other", "own", "demo/eval"):  # that pages name
        shutil.copytree(first_run.run.path, folder / "runs" / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("text", LEVELS)
def test_a_level_is_trained_in(text: str, tmp_path: Path) -> None:
    make_place(tmp_path)
    name, *words = words_of(text)
    output = Command(name, *words, "experiment=smoke", cwd=tmp_path).wait()
    summary = RunDir.existing(tmp_path / "runs" / "demo-0").read_summary()
    (family,) = summary["eval_after"]["families"]
    assert summary["steps"] == 2
    assert summary["cold_start"]["needs"]["turns"]["max"] <= TURNS[family]
    assert summary["cold_start"]["demos"] == (3 if family == "dataset" else 16)  # the page's file has three rows for it
    assert re.search(r"cold start: done in .*loss", output)


@pytest.mark.parametrize("text", ON_A_RUN)
def test_on_a_run(text: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *words = words_of(text)
    if name in ("rl-eval", "rl-chat"):  # start Ray, or an engine
        small = ("eval.n_tasks=1", "eval.k=1") if name == "rl-eval" else ()
        output = Command(name, *words, *small, cwd=place).wait()
    else:
        monkeypatch.setenv("COLUMNS", "120")
        ended = command(name, *words, cwd=place)
        assert ended.returncode == 0, ended.output
        output = ended.output
    said = {
        "rl-eval": "held-out evaluation",
        "rl-chat": "outcome",
        "rl-doctor": "grpo: no alarm",
        "rl-compare": "cost",
        "rl-export": "saved",
    }
    assert said[name] in output

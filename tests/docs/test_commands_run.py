"""Every `rl-train` and `rl-eval` line of the documentation gets as far as it can in an empty folder.

To the end, at the size of ``experiment=smoke``: a level of docs/environments.md. To the preflight, which is all that
happens before a run has a folder: settings, environments, rewards, policies, turns. Left out, each with its reason:
lines that need what the reader brings.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from shown_lines import LEVEL_FILES, composed, shown_commands
from train_runs import Command

from rl.commands import train
from rl.recipes import main_job
from rl.run.preflight import typed

# Part of a line → why nobody can run it here.
LEFT_OUT = {
    "policy=hf": "a model that the reader brings",
    "policy.path=": "a policy that an earlier run made",
    "judge.path=": "a judge's model that the reader brings",
    "reward=rubric": "a judge that the reader brings",
    "env=built": "a data set that envs-build made",
    "path=problems.jsonl": "a data set that the reader brings",
    "path=programs.jsonl": "a data set that the reader brings",
    "resume=": "a run that was stopped (tests/integration/test_resume.py)",
    "env.path=data": "a data set that envs-build made",
    "polite": "a reward part of the reader's (tests/docs/test_rewards_page.py)",
    "my_store": "a module that envs-init writes (tests/integration/test_written_environment.py)",
    "my_module": "a module of the reader's (README's is run to its end by tests/project/test_wheel.py)",
}
LINES = [line for line in shown_commands() if shlex.split(line)[0] == "rl-train"]
WHY = {line: next((why for part, why in LEFT_OUT.items() if part in line), None) for line in LINES}
TO_THE_PREFLIGHT = [line for line in LINES if WHY[line] is None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in LEVEL_FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_lines_are_counted() -> None:
    """What is left out is named above; a part that is in no line any more must go."""
    assert [part for part in LEFT_OUT if not any(part in line for line in LINES)] == []
    assert len(TO_THE_PREFLIGHT) >= 39
    assert len(LINES) - len(TO_THE_PREFLIGHT) <= 19


@pytest.mark.parametrize("line", TO_THE_PREFLIGHT)
def test_to_the_preflight(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[Any] = []
    monkeypatch.setattr(main_job, "main_job", lambda cfg, *rest: reached.append(cfg) or {})
    train.run(typed(composed("rl-train", shlex.split(line)[1:])))
    (cfg,) = reached
    assert cfg.rollout.max_turns is not None


@pytest.mark.run
def test_a_level_of_the_page_to_its_end(folder: Path) -> None:
    """The one with its own step: an oracle that a user answers, more than four turns, several token streams."""
    (line,) = [line for line in LINES if "guess" in line]
    output = Command("rl-train", *shlex.split(line)[1:], "experiment=smoke", cwd=folder).wait()
    assert "rollout.max_turns=10: what the family guess needs" in output
    summary = json.loads((folder / "runs" / "demo-0" / "summary.json").read_text())
    assert (summary["steps"], summary["cold_start"]["demos"]) == (2, 16)
    assert re.search(r"cold start: done in .*loss", output)

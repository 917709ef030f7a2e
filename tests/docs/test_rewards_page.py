"""docs/rewards.md: the part that it shows works as it stands, and so do its commands and tables."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from shown_lines import shown

from configs.schema import register
from envs.answer_checks import math_verify
from envs.types import Episode, Message, StopReason, Task
from rewards.compose import RewardComposer, default_composer
from rewards.length import POLICIES
from rewards.part import PartOptions
from rewards.results import PROBLEMS
from rl.run.assemble import open_composer

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
COMMANDS = [one.text for one in shown() if one.page == "docs/rewards.md" and one.words[0] == "rl-train"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    body = source[source.index("@dataclass") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 10
    (tmp_path / "polite.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def reward_of(command: str) -> RewardComposer:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", shlex.split(command, comments=True)[1:])
    reward: Any = OmegaConf.to_container(cfg.reward, resolve=True)
    return open_composer(reward)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_gives_a_reward(command: str, folder: Path) -> None:
    composer = reward_of(command)
    assert composer.describe().startswith("Reward = 1 × outcome")


def test_the_part_of_the_page_scores_in_its_own_process(folder: Path) -> None:
    (command,) = [line for line in COMMANDS if "polite" in line]
    composer = reward_of(command)
    task = Task("t", "search", (Message("user", "?"),))
    episode = Episode(task, (*task.prompt, Message("assistant", "Seven please")), StopReason.ANSWERED, 1)
    reward = composer(episode, {"outcome": 1.0})
    composer.close()
    assert reward.total == pytest.approx(1.1)
    assert reward.parts["polite/words"] == 2.0


def test_what_the_page_quotes_and_lists() -> None:
    quoted = " ".join(re.findall(r"```\n(Reward = .*?)```", PAGE, re.DOTALL)[0].split())
    assert quoted == " ".join(default_composer().describe().split())
    for name in (*PROBLEMS, *POLICIES, *(field.name for field in fields(PartOptions))):
        assert f"`{name}`" in PAGE, name


def test_the_table_of_equal_answers_says_what_math_says() -> None:
    section = PAGE.partition("## What counts as equal")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ") and "`" in line]
    said = []
    for first, *rest in rows:
        if len(rest) != 2 or ";" in first or "**`choice`**" in first or "**`exact`**" in first:
            continue
        gold = re.findall(r"`([^`]+)`", re.sub(r"\*\*.*?\*\*", "", first))[0]
        for equal, cell in zip((1.0, 0.0), rest, strict=True):
            for answer in re.findall(r"`([^`]+)`", cell):
                if answer != "tolerance":
                    said.append(gold)
                    assert math_verify(answer, {"answer": gold}) == equal, (gold, answer)
    assert len(said) > 70

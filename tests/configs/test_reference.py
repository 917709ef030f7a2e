"""docs/configuration.md is current, wrong keys are refused, and every command the documentation shows composes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from shown_lines import composed, shown_commands

from configs.fields import COMMANDS, comments, default, kind, meaning, members, shown
from configs.reference import BEGIN, END, GROUPS, entries, updated
from configs.schema import TrainConfig
from rewards.schedule import Schedule
from rl.bounds import NonNegativeFloat, OneOf, PositiveInt, Share

ROOT = Path(__file__).parents[2]
OVERLAY_OF = {"needle": "rl-adapt"}  # files of configs/experiment that are not for rl-train


@dataclass
class _Style:
    """For the test below."""

    own: int = 1  # on its line
    # fmt: off
    below: dict[str, int] = field(
        default_factory=dict
    )  # after the closing bracket
    # fmt: on

    # Above two of them,
    # on two lines.
    first: float = 0.5
    second: float | None = None

    bare: str = ""


def test_comments_of_every_style() -> None:
    both = "Above two of them, on two lines."
    expected = {"own": "on its line", "below": "after the closing bracket", "first": both, "second": both, "bare": ""}
    assert comments(_Style) == expected
    assert entries(_Style, "x.", {"x.own": 2})[:2] == [
        "- **`x.own`** = `1` (int; demo: `2`): on its line",
        "- **`x.below`** = `{}` (mapping to int): after the closing bracket",
    ]
    assert meaning(_Style, "second") == both


def test_values_as_on_the_command_line() -> None:
    values = [None, True, 1, 0, 2e-4, "mean", ("a", "b")]
    assert [shown(v).strip("`") for v in values] == ["null", "true", "1", "0", "0.0002", "mean", "[a,b]"]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (float | None, "float or null"),
        (list[int | None] | None, "list of (int or null) or null"),
        (tuple[str, ...], "list of str"),
        (tuple[float, float], "[float, float]"),
        (dict[str, Any], "mapping"),
        (float | Schedule, "float or Schedule"),
        (PositiveInt, "int, at least 1"),
        (NonNegativeFloat | None, "float, 0 or more, or null"),
        (list[Share], "list of (float, in [0, 1])"),
        (Annotated[str, OneOf(("a", "b"))], "str"),  # the comment has the words, and what each means
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert kind(hint) == words


def test_every_field_is_listed_with_its_meaning() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for title, cls in (*COMMANDS, *GROUPS):
        listed = page[page.index(f"\n### {title}\n") :].split("\n### ")[1]
        prefix = "" if title.startswith("`") else f"{title}."
        for item in fields(cls):
            if not is_dataclass(default(item)):
                assert f"- **`{prefix}{item.name}`**" in listed
                assert meaning(cls, item.name), f"{title}.{item.name} has no comment that says what it means"


def test_the_defaults_are_those_of_the_command() -> None:
    page = " ".join((ROOT / "docs" / "configuration.md").read_text().split())
    for name, member in members(TrainConfig):
        for item in fields(type(member)):
            value = getattr(member, item.name)
            assert is_dataclass(value) or f"**`{name}.{item.name}`** = {shown(value)} (" in page
    assert "**`self_verification.merge.lr`** = `0.0002`" in page  # not its class's 0.001


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == updated(page), "run: python -m configs.reference docs/configuration.md"


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="each of these lines once"):
        updated(f"{BEGIN}\n{END}\n{END}\n")


@pytest.mark.parametrize("override", ["objective.clpi=0.1", "rollout.n_workers=2", "batch_size=8", "env=chess"])
def test_unknown_keys_are_errors(override: str) -> None:
    with pytest.raises(ConfigCompositionException):
        composed("rl-train", [override])


def test_wrong_types_and_values_are_errors() -> None:
    with pytest.raises(ConfigCompositionException, match=r"objective\.clip"):
        composed("rl-train", ["objective.clip=wide"])
    with pytest.raises(ValueError, match=r"objective\.clip=-1\.0: must be above 0"):
        OmegaConf.to_object(composed("rl-train", ["objective.clip=-1"]))


def test_the_readme_example_changes_what_it_says() -> None:
    cfg = OmegaConf.to_object(
        composed("rl-train", ["policy=tiny_dsa", "env=search", "objective.clip=0.1", "rollout.workers=2"])
    )
    assert isinstance(cfg, TrainConfig)
    assert (cfg.objective.clip, cfg.rollout.workers) == (0.1, 2)
    assert cfg.env == {"_target_": "envs.search.taskset.SearchTaskset"}


@pytest.mark.parametrize("line", shown_commands())
def test_shown_commands_compose(line: str) -> None:
    command, *overrides = shlex.split(line)
    composed(command, overrides)


@pytest.mark.parametrize("group", sorted(p.name for p in (ROOT / "configs").iterdir() if list(p.glob("*.yaml"))))
def test_every_group_file_composes(group: str) -> None:
    for file in (ROOT / "configs" / group).glob("*.yaml"):
        path = ["policy.path=somewhere"] if group == "policy" else []
        composed(OVERLAY_OF.get(file.stem, "rl-train"), [f"{group}={file.stem}", *path])

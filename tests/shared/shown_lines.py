"""What the documentation shows: its command lines, and the files of docs/environments.md's three levels."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from configs.schema import register

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
PAGES += sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "commands.md")  # that lists them all
CONFIG_OF = {
    "rl-train": "train",
    "rl-eval": "evaluate",
    "rl-chat": "chat",
    "rl-view": "view",
    "rl-compare": "compare",
    "rl-coldstart": "coldstart",
    "rl-pretrain": "pretrain",
    "rl-adapt": "adapt",
    "rl-doctor": "doctor",
    "rl-judge": "agreement",
    "rl-export": "export",
}
LEVELS = (ROOT / "docs" / "environments.md").read_text()
LEVELS = LEVELS[LEVELS.index("## Three levels of environments") : LEVELS.index("## The parts")]
LEVEL_FILES = {
    name: text for name, text in re.findall(r"[Ss]ave this as\s+`([\w.]+)`:\n\n```\w+\n(.*?)```", LEVELS, re.DOTALL)
} | dict([re.findall(r"and this as `([\w.]+)`\..*?```python\n(.*?)```", LEVELS, re.DOTALL)[0]])
_HERE = re.compile(r"<<\s*'?(\w+)'?")


@dataclass(frozen=True, order=True)
class Shown:
    """A command as a page shows it, without its comment; a here-document and quoted lines are part of it."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text.splitlines()[0] if _HERE.search(self.text) else self.text)


def composed(command: str, overrides: list[str]) -> DictConfig:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        return compose(CONFIG_OF[command], overrides)


def _whole(block: str) -> Iterator[str]:
    """The commands of a block of shell; a line that ends with a backslash goes on in the next one."""
    lines = iter(re.sub(r"\\\n\s*", "", block).splitlines())
    for line in lines:
        command = line.removeprefix("$ ")
        if here := _HERE.search(command):
            for more in lines:
                command += f"\n{more}"
                if more == here[1]:
                    break
        while not here and not _closed(command):
            command += f"\n{next(lines)}"
        yield command


def _closed(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def shown() -> list[Shown]:
    """Every command in a block of shell on the pages, each once a page, in their order."""
    found: dict[Shown, None] = {}
    for page in PAGES:
        for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", page.read_text(), re.M | re.S):
            for command in _whole(block):
                bare = command if "\n" in command else re.sub(r"(^|\s+)#.*", "", command)
                if bare:
                    found[Shown(str(page.relative_to(ROOT)), bare)] = None
    return list(found)


def shown_commands() -> list[str]:
    """The commands with a configuration, each once; ``make train ARGS=...`` as ``rl-train ...``."""
    lines = {re.sub(r'^make train ARGS="(.*?)"', r"rl-train \1", command.text) for command in shown()}
    every = [shlex.split(line) for line in lines if line.split()[0] in CONFIG_OF]
    # Hydra's own options, and lines with a gap for the reader to fill, do not compose
    return sorted(shlex.join(words) for words in every if not any(w.startswith("-") or "…" in w for w in words))

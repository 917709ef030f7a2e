"""What the documentation shows: its command lines, and the files of docs/environments.md's three levels."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from configs.schema import register

ROOT = Path(__file__).parents[2]
PAGES = [p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))) if p.exists()]
CONFIG_OF = {
    "rl-train": "train",
    "rl-eval": "evaluate",
    "rl-compare": "compare",
    "rl-coldstart": "coldstart",
    "rl-pretrain": "pretrain",
    "rl-adapt": "adapt",
    "rl-diagnose": "diagnose",
    "rl-judge": "agreement",
}
LEVELS = (ROOT / "docs" / "environments.md").read_text()
LEVELS = LEVELS[LEVELS.index("## Three levels of environments") : LEVELS.index("## The parts")]
LEVEL_FILES = {
    name: text for name, text in re.findall(r"[Ss]ave this as\s+`([\w.]+)`:\n\n```\w+\n(.*?)```", LEVELS, re.DOTALL)
} | dict([re.findall(r"and this as `([\w.]+)`\..*?```python\n(.*?)```", LEVELS, re.DOTALL)[0]])


def composed(command: str, overrides: list[str]) -> DictConfig:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        return compose(CONFIG_OF[command], overrides)


def shown_commands() -> list[str]:
    """Command lines in the code blocks of the documentation, ``make train ARGS=...`` as ``rl-train ...``; a line that
    ends with a backslash goes on in the next one."""
    lines: list[str] = []
    for page in PAGES:
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                line = re.sub(r'^make train ARGS="(.*?)"', r"rl-train \1", line.removeprefix("$ "))
                words = shlex.split(line, comments=True) if line.split(" ")[0] in CONFIG_OF else []
                # Hydra's own options, and lines with a gap for the reader to fill, do not compose
                if words and not any(w.startswith("-") or "…" in w or w.startswith("<") for w in words):
                    lines.append(shlex.join(words))
    return sorted(set(lines))

"""Lines of the documentation and of the configuration have at most 120 characters: they are read in editors, diffs and
terminals too. A wide table becomes two narrower ones or a list; long commands go on after a backslash; terminal output
is shortened. Only an address that has the line to itself may be longer: it cannot be broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WIDTH = 120
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/**/*.py")]
FILES += ROOT.glob("configs/**/*.yaml")
NAMES = sorted(str(file.relative_to(ROOT)) for file in FILES)


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_not_wider(name: str) -> None:
    lines = enumerate((ROOT / name).read_text().splitlines(), start=1)
    wide = [f"{name}:{n} has {len(line)} characters" for n, line in lines if len(line) > WIDTH and not is_address(line)]
    assert wide == []


def is_address(line: str) -> bool:
    """Whether the line is one URL, alone or as a list item, a comment or a link's target."""
    return re.fullmatch(r"\s*(?:[-#]\s+|\[[^\]]+\]:\s*)?<?https?://\S+>?", line) is not None


def test_the_pages_are_found() -> None:
    assert {"README.md", "docs/results.md", "configs/schema.py", "configs/train.yaml"} <= set(NAMES)

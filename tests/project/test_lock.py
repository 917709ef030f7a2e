"""The lock in requirements/ holds what pyproject.toml pins, and nothing of the machine that it was made on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: list[str]) -> dict[str, str]:
    """``name==version`` lines as {name: version}; comments, blank lines and other requirements are left out."""
    found = (re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==([^\s;#]+)", line) for line in lines)
    return {canonical(m[1]): m[2] for m in found if m}


def requirements(extra: str) -> list[str]:
    """The requirements of an extra, those of the extras that it names (``speciale-rl[mcp,gym]``) included."""
    lines = []
    for line in EXTRAS[extra]:
        own = re.fullmatch(rf"{PROJECT['name']}\[([\w,-]+)\]", line)
        lines += [inner for e in own[1].split(",") for inner in requirements(e)] if own else [line]
    return lines


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
class TestLock:
    def lines(self, extra: str) -> list[str]:
        return (ROOT / "requirements" / f"{extra}.txt").read_text().splitlines()

    def test_every_pin_of_the_project_is_in_it(self, extra: str) -> None:
        wanted = pins([*PROJECT["dependencies"], *(r for e in (extra, "tasks", "dev") for r in requirements(e))])
        locked = pins(self.lines(extra))
        # "2.13.0+cpu" is the CPU build of 2.13.0.
        wrong = {n: (v, locked.get(n)) for n, v in wanted.items() if locked.get(n, "").removesuffix("+cpu") != v}
        assert len(wanted) > 40
        assert wrong == {}, "pyproject.toml and the lock differ; run: make lock"

    def test_every_line_pins_one_version(self, extra: str) -> None:
        loose = [line for line in self.lines(extra) if not re.fullmatch(r"\s*#.*|[\w.-]+==[\w.+!-]+", line)]
        assert loose == []

    def test_nothing_of_the_machine_is_in_it(self, extra: str) -> None:
        found = [line for line in self.lines(extra) if re.search(r"://|(^|[\s=@\"'])[/~]|^\s*-|file:", line)]
        assert found == []

    def test_broken_companions_of_torch_stay_out(self, extra: str) -> None:
        companions = {line.split(";")[0] for line in (ROOT / "requirements" / "overrides.txt").read_text().splitlines()}
        companions = {c for c in companions if not c.startswith("#")}
        assert companions == {"torchvision", "torchaudio", "torchcodec"}
        assert not companions & pins(self.lines(extra)).keys()

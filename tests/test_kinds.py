"""Every test has one kind, and a unit test that starts an engine or a command is found out (tests/conftest.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KINDS = {"unit", "engine", "run"}
BIN = Path(sys.executable).parent


def test_every_test_has_one_kind(request: pytest.FixtureRequest) -> None:
    wrong = [i.nodeid for i in request.session.items if len(KINDS & {m.name for m in i.iter_markers()}) != 1]
    assert wrong == []


@pytest.mark.parametrize(
    ("argv", "kind"),
    [
        ([BIN / "rl-train", "steps=1"], "run"),
        ([sys.executable, str(BIN / "envs-check"), "search"], "run"),
        ([sys.executable, "-m", "rl.commands.evaluate", "run=a"], "run"),
        (["/somewhere/raylet"], "engine"),
    ],
)
def test_a_unit_test_starts_neither_command_nor_ray(argv: list[str], kind: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=rf"a unit test starts .*pytest\.mark\.{kind}"):
        subprocess.Popen(argv)


def test_a_unit_test_does_not_load_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)  # an engine test of this process may have loaded it
    with pytest.raises(pytest.fail.Exception, match=r"a unit test imports vllm: mark it with pytest\.mark\.engine"):
        import vllm.config  # noqa: F401


def test_other_processes_are_no_business_of_this_rule() -> None:
    assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True).stdout == "1\n"

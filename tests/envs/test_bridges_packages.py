"""Bridges without their packages: modules import, tasksets say what to install, and nothing heavy is loaded early."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from envs.bridges.packages import MissingPackage, need
from envs.bridges.settings import load_object, plain
from envs.check import main
from envs.families import taskset_class

ROWS = [{"prompt": "a", "answer": "b", "split": "train"}]


@pytest.mark.parametrize(
    ("path", "settings", "module", "pin"),
    [
        ("envs.bridges.mcp.McpTaskset", {"command": "x", "data": ROWS}, "mcp", "mcp==2.3.0"),
        ("envs.bridges.gym.GymTaskset", {"env_id": "x", "success": 1}, "gymnasium", "gymnasium==1.4.0"),
        ("envs.bridges.gym.FrozenLakeTaskset", {}, "gymnasium", "gymnasium==1.4.0"),
        ("envs.bridges.textarena.TextArenaTaskset", {"game": "x"}, "textarena", "textarena==0.7.4"),
        ("envs.bridges.openenv.OpenEnvTaskset", {"base_url": "http://x"}, "websockets", "websockets==17.4"),
    ],
)
def test_what_is_missing_is_named_with_its_pin(
    path: str, settings: dict[str, Any], module: str, pin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # Python then behaves as if it were not installed
    with pytest.raises(MissingPackage, match=f"pip install '{pin}'"):
        taskset_class(path)(**settings)


def test_envs_check_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert main(["envs.bridges.gym.FrozenLakeTaskset"]) == 2
    assert capsys.readouterr().err == "envs-check: gymnasium is not installed: pip install 'gymnasium==1.4.0'\n"


def test_modules_import_without_any_package() -> None:
    code = (
        "import sys, envs.bridges.mcp, envs.bridges.gym, envs.bridges.textarena, envs.bridges.openenv, "
        "envs.bridges.verifiers; bad = [m for m in ('mcp', 'gymnasium', 'textarena', 'websockets', 'verifiers', "
        "'numpy', 'pydantic', 'jsonschema', 'torch') if m in sys.modules]; sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_broken_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "textarena":
                raise ModuleNotFoundError("No module named 'chess'", name="chess")

    monkeypatch.delitem(sys.modules, "textarena", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="chess"):
        need("textarena")


def test_objects_by_path() -> None:
    assert load_object("json:dumps", "observe") is load_object("json.dumps", "observe")
    for path, why in (("dumps", "give an import path"), ("nowhere:x", "no module 'nowhere'"), ("json:x", "has no 'x'")):
        with pytest.raises(ValueError, match=f"observe='{path}'.*{why}"):
            load_object(path, "observe")


def test_plain_values() -> None:
    omegaconf = pytest.importorskip("omegaconf", reason="pip install omegaconf==2.3.1")
    value = {"a": [1, {"b": "text"}], "c": None}
    out = plain(omegaconf.OmegaConf.create(value))
    assert out == value
    assert type(out) is dict
    assert type(out["a"]) is list
    assert type(out["a"][1]) is dict
    assert plain(("x", b"y")) == ["x", b"y"]

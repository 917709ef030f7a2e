"""The wheel, installed beside nothing of this clone, does its work in an empty folder. These tests start commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.run  # commands from an installed wheel

ROOT = Path(__file__).parents[2]
PACKAGES = ("configs", "envs", "rewards", "rl")
EXAMPLE = (ROOT / "README.md").read_text().partition("## Your own environment")[2]
SMALL = (
    "steps=2", "prompts_per_step=4", "group_size=2", "coldstart.demos=32", "coldstart.epochs=1", "eval.n_tasks=1",
    "eval.k=1", "coldstart.threads=1", "learner.threads=1", "learner.skip_zero_advantage=false", "rollout.max_turns=2",
    "rollout.max_tokens=32", "rollout.max_concurrency=8", "rollout.kv_cache_gib=0.1",
)  # fmt: skip


def run(*command: str | Path, cwd: Path, said: str = "") -> str:
    """Output of a command that ends well; the environment knows no way back into this clone. ``said``: its stdin."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HYDRA"))}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, input=said, text=True, timeout=240, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders beside its sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and the installed packages of this one behind it."""
    made = tmp_path_factory.mktemp("place") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", made, cwd=wheel.parent)
    pip = (sys.executable, "-m", "pip", "--python", made / "bin" / "python")
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=wheel.parent)
    (site,) = made.glob("lib/python*/site-packages")
    behind = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "behind.pth").write_text("\n".join(behind) + "\n")  # its own .pth files, an editable install, stay unread
    return made


def test_the_wheel_has_every_file(wheel: Path) -> None:
    wanted = {
        str(file.relative_to(ROOT))
        for name in PACKAGES
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == wanted


def test_commands_in_an_empty_folder(place: Path, tmp_path: Path) -> None:
    where = run(place / "bin" / "python", "-c", "import rl; print(rl.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(place)
    assert "base: reasoner" in run(place / "bin" / "rl-train", "--help", cwd=tmp_path)
    assert "FAILED" not in run(place / "bin" / "envs-check", "search", "tasks=5", "certificates=null", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_readmes_own_environment(place: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", EXAMPLE, re.M | re.S)
    (shown, *_) = re.findall(r"^```bash\n(.*?)^```", EXAMPLE, re.M | re.S)
    init, check, play, train = (shlex.split(line, comments=True) for line in shown.splitlines())
    assert "my_store.py" in run(place / "bin" / init[0], *init[1:], cwd=tmp_path)
    assert "FAILED" not in run(place / "bin" / "envs-check", "my_store.MyStoreTaskset", cwd=tmp_path)
    (tmp_path / "my_module.py").write_text(code)
    assert "FAILED" not in run(place / "bin" / check[0], *check[1:], cwd=tmp_path)
    played = run(place / "bin" / play[0], *play[1:], cwd=tmp_path, said=":oracle\n:oracle\n")
    assert "outcome 1" in played
    output = run(place / "bin" / train[0], *train[1:], *SMALL, cwd=tmp_path)
    assert "base policy: reused · pkg://rl.bases/tiny_dsa_base" in output
    summary = json.loads((tmp_path / "runs" / "demo-0" / "summary.json").read_text())
    assert summary["steps"] == 2
    assert list(summary["eval_after"]["families"]) == ["age"]
    assert "</html>" in (tmp_path / "runs" / "demo-0" / "report.html").read_text()

"""A folder as a reader of the pages has it: the files that they show, and what they say that the reader brings."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import yaml
from omegaconf import OmegaConf
from shown_lines import LEVEL_FILES, ROOT, shown
from train_runs import BIN, train_config

from rl.run.paths import resolve
from rl.tracking.rundir import RunDir

BASE = "pkg://rl.bases/tiny_dsa_base"


def snippet(page: str, after: str) -> str:
    """The first block of Python behind ``after``."""
    text = (ROOT / page).read_text().partition(after)[2]
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]  # type: ignore[index]


def make_place(folder: Path) -> None:
    """What the pages show: modules, data sets, recorded answers."""
    polite = snippet("docs/rewards.md", "## Write your own")
    own = snippet("docs/own_model.md", "## From Python")
    files = LEVEL_FILES | {
        "polite.py": polite,
        "my_module.py": snippet("docs/environments.md", "## A complete one") + polite.replace("Polite", "Brevity"),
        "my_rewards.py": re.search(r"def last_word.*?\n\n", own, re.DOTALL)[0],  # type: ignore[index]
        "my_agent.py": snippet("docs/your_agent.md", "# Your own agent, as it is"),
        "answers.jsonl": re.search(r"```json\n(.*?)```", (ROOT / "docs" / "cost.md").read_text(), re.DOTALL)[1],  # type: ignore[index]
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "docs").mkdir()
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
    shutil.copy(ROOT / "docs" / "configuration.md", folder / "docs")
    for command in shown():
        if command.words[0] == "cat":
            subprocess.run(["bash", "-ec", command.text], cwd=folder, check=True)


def make_model(folder: Path) -> None:
    """A small model in Hugging Face format under all names that the pages use for one, and rows for it."""
    spec = importlib.util.spec_from_file_location("own_model", ROOT / "examples" / "own_model.py")
    example = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(example)  # type: ignore[union-attr]
    example.make_model(folder / "MODEL", 0)
    for name in ("tiny-llama", "models/smollm2", "models/judge"):
        shutil.copytree(folder / "MODEL", folder / name)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in example.make_rows(0)))


def make_run(folder: Path, name: str) -> None:
    """What a run leaves behind, as far as another command looks at it before it starts something."""
    run = RunDir(folder / "runs" / name)
    shutil.copytree(resolve(BASE), run.path / "policy")
    run.write_config(OmegaConf.to_yaml(OmegaConf.structured(train_config(f"name={name}", "rollout.max_turns=4"))))
    assert yaml.safe_load(run.config.read_text())["name"] == name
    run.write_summary({"eval_after": {"families": {"search": {"tasks": {}}}}})


@contextmanager
def working_in(folder: Path) -> Iterator[Path]:
    """The folder is the working directory and on the module path; its modules go with it."""
    before = set(sys.modules)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    try:
        with mock.patch.dict(os.environ, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}"):
            yield folder
    finally:
        patch.undo()
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                del sys.modules[name]

"""The commands of docs/foreign_tasks.md, in a folder with rows, repositories, tasks and a package made on the spot."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_commands import END, FOREIGN, START, of_way
from foreign_functions import make_package
from foreign_repositories import GOOD, UNITTEST, Repository, calc, good_row, in_split, write_rows
from foreign_terminals import harbor, named
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from shown_lines import ROOT

from configs.schema import register
from envs.check import main as check
from envs.foreign import bfcl_package
from rl.run.assemble import open_taskset


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the page takes for granted; of each kind one task a split."""
    folder = tmp_path_factory.mktemp("reader")
    repo = calc(folder / "repos" / "acme__calc")
    write_rows(
        folder / "rows.jsonl", [in_split(good_row(repo, "acme__a-1")), in_split(good_row(repo, "acme__b-1"), "heldout")]
    )
    files = {"calc/__init__.py": "", "calc/stats.py": GOOD, "tests/__init__.py": "", "tests/test_mean.py": UNITTEST}
    smith = Repository(folder / "smith" / "calc", files)
    bug = smith.diff({"calc/stats.py": GOOD.replace("len(values)", "len(values) + 1")})
    labels = ["test_mean (tests.test_mean.MeanTests)"]
    row = good_row(smith, named("smith"), patch=bug, test_patch="", FAIL_TO_PASS=labels, PASS_TO_PASS=[])
    write_rows(folder / "smith.jsonl", [in_split(row)])
    harbor(folder / "tasks", "a")
    harbor(folder / "tasks", "b", "heldout")
    make_package(folder / "bfcl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECIALE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


def test_the_page_has_its_commands() -> None:
    assert len(of_way(END, FOREIGN)) == 3
    assert len(of_way(START, FOREIGN)) == 5


@pytest.mark.parametrize("text", [one.text for one in of_way(START, FOREIGN)])
def test_a_run_opens_its_tasks(text: str, place: Path) -> None:
    register()
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", shlex.split(text.replace("\\\n", " "))[1:])
    env: Any = OmegaConf.to_container(cfg.env, resolve=True)
    if "bfcl" in text:  # the package made here has other categories
        env["categories"] = ["parallel"]
    taskset = open_taskset(env, "train", 0)
    assert len(taskset) >= 1
    assert taskset.environment(taskset.task(0)).reset()[0].tools


@pytest.mark.slow
@pytest.mark.parametrize("text", [one.text for one in of_way(END, FOREIGN)])
def test_the_checks_find_nothing(text: str, place: Path) -> None:
    words = shlex.split(text)[1:]
    family = words[0]
    if family == "bfcl":
        words.append('categories=["parallel"]')
    assert check([*words, "tasks=2"]) == 0
    (certificate,) = place.rglob(f"certificates/{family}-*.json")
    stored = json.loads(certificate.read_text())
    assert all(result["held"] in (True, None) for result in stored["results"].values())


def test_the_page_names_what_is_refused() -> None:
    page = (ROOT / "docs" / "foreign_tasks.md").read_text()
    assert [name for name in bfcl_package.REFUSED if f"`{name}`" not in page] == []
    assert f"bfcl-eval=={bfcl_package.VERSION}" in page

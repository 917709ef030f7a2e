"""The three levels of docs/environments.md: their files as a package, with short names, built as a data set. Their
commands are in test_commands_run.py and test_commands_to_their_end.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from shown_lines import LEVEL_FILES as FILES
from shown_lines import LEVELS as PAGE

from configs.schema import register
from envs import build, check
from envs.families import taskset_class
from envs.taskset import Taskset
from rl.run.assemble import open_taskset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the page's files, as the user has them; also the folder of an installed package."""
    path = tmp_path_factory.mktemp("user")
    for name, text in FILES.items():
        (path / name).write_text(text)
    info = path / "warehouse_games-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: warehouse-games\nVersion: 0.1\n")
    toml = re.findall(r"```toml\n\[project\.entry-points\.\"([\w.]+)\"\]\n(.*?)```", PAGE, re.DOTALL)[0]
    (info / "entry_points.txt").write_text(f"[{toml[0]}]\n{toml[1]}".replace('"', ""))
    patch = pytest.MonkeyPatch()
    patch.chdir(path)
    patch.syspath_prepend(path)
    yield path
    patch.undo()


def trained_on(overrides: list[str]) -> Taskset:
    """The training taskset of an ``rl-train`` command."""
    register()
    with initialize_config_module("configs", version_base="1.3"):
        cfg = compose("train", overrides)
    env: Any = OmegaConf.to_container(cfg.env, resolve=True)
    return open_taskset(env, "train", 0)


def test_the_page_has_the_three_levels() -> None:
    assert list(FILES) == ["questions.jsonl", "warehouse.py", "guess.py", "my_reward.py"]
    assert len(re.findall(r"^envs-check ", PAGE, re.M)) == 3


def test_an_own_family_is_built_and_trained_in(folder: Path) -> None:
    assert build.main(["family=warehouse.WarehouseTaskset", "n=20", "out=data/warehouse", "workers=0"]) == 0
    taskset = trained_on(["env=built", "env.path=data/warehouse"])
    assert taskset.family == "warehouse"
    assert taskset.verify(taskset.task(0)) is None


def test_a_package_gives_its_tasksets_short_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import warehouse  # type: ignore[import-not-found]

    assert taskset_class("warehouse") is warehouse.WarehouseTaskset
    assert check.main(["warehouse", "tasks=3"]) == 0, capsys.readouterr().out
    assert trained_on(["env=plugin", "env.name=warehouse"]).family == "warehouse"
    mix = trained_on(["env=mix", "env.families={search: 1, warehouse: 2}"])
    assert [mix.task(i).family for i in range(3)].count("warehouse") == 2
    assert check.main(["warehause"]) == 2
    assert "warehouse" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no taskset 'nobody'"):
        trained_on(["env=plugin", "env.name=nobody"])


def test_two_packages_with_one_name_are_an_error(folder: Path) -> None:
    info = folder / "other_games-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-games\nVersion: 0.1\n")
    points = info / "entry_points.txt"
    points.write_text("[speciale_rl.envs]\nwarehouse = guess:GuessTaskset\n")
    try:
        with pytest.raises(ValueError, match="two installed packages offer the taskset 'warehouse'"):
            taskset_class("warehouse")
        points.write_text("[speciale_rl.envs]\nsearch = guess:GuessTaskset\n")
        assert taskset_class("search").family == "search"  # no package can change a name of ours
    finally:
        for file in info.iterdir():
            file.unlink()
        info.rmdir()

"""Teachers are looked at before a run has a folder: where they lie, and whether their tokens are the policy's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from in_process import command
from train_runs import train_config

from configs.schema import TrainConfig
from rl.objective.config import ObjectiveConfig, TeachingConfig
from rl.run.paths import resolve
from rl.run.preflight import check_model, check_start
from rl.run.taught import other_tokens, with_directories

BASE = resolve("pkg://rl.bases/tiny_dsa_base")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BASE, tmp_path / "runs" / "one" / "policy")
    shutil.copytree(BASE, tmp_path / "other")
    words = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    vocab = words["model"]["vocab"]
    a, b = list(vocab)[-2:]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(words))
    return tmp_path


def test_a_run_or_a_directory(here: Path) -> None:
    given = ObjectiveConfig(distill=TeachingConfig(teachers={"search": "one", "default": "other"}))
    found = with_directories(given, "runs").distill.teachers
    assert found == {"search": str(here / "runs" / "one" / "policy"), "default": str(here / "other")}
    assert given.distill.teachers["search"] == "one"


def looked_at(cfg: TrainConfig) -> None:
    directory, _ = check_start(cfg, ["search", "code", "interpreter", "agent"])
    check_model(cfg, directory)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["teachers.default=nowhere"], r"objective\.distill\.teachers\.default=nowhere: no such directory"),
        (["teachers.default=other"], r"teachers\.default=other: its tokenizer has '.*' as \d+, not as \d+; its tokens"),
        (["teachers.seach=one", "reward_weight=1"], r"teachers\.seach=one: no task family of that name; .* search"),
        (["weight.search=0.5"], r"objective\.distill\.weight=\{.*\}: nobody teaches; name a teacher"),
        (["reward_weight=1"], r"objective\.distill\.reward_weight=1\.0: nobody teaches"),
        (["teachers.search=one"], r"reward_weight=0: the family agent has no teacher, so it would learn nothing"),
    ],
)
def test_what_cannot_teach_is_one_line(here: Path, overrides: list[str], said: str) -> None:
    cfg = train_config(*(f"objective.distill.{override}" for override in overrides), f"base.source={BASE}")
    with pytest.raises(ValueError, match=said) as error:
        looked_at(cfg)
    assert "\n" not in str(error.value)


def test_the_command_leaves_no_folder(here: Path) -> None:
    ended = command("rl-train", "objective.distill.teachers.default=other", "name=never", cwd=here)
    assert ended.returncode == 2
    assert "objective.distill.teachers.default=other: its tokenizer has" in ended.output
    assert [p.name for p in (here / "runs").iterdir()] == ["one"]


def test_the_same_tokens_in_another_file(here: Path) -> None:
    """The learner sees token ids: rules that only cut text may differ."""
    file = here / "runs" / "one" / "policy" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=3))
    assert other_tokens(BASE, file.parent) == ""
    file.unlink()
    assert "tokenizer.json' is not there" in other_tokens(BASE, file.parent)


def test_settings_that_exclude_each_other(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = train_config("experiment=v4_pipeline", "objective.distill.teachers.default=one", f"base.source={BASE}")
    with pytest.raises(ValueError, match=r"objective\.distill\.teachers with pipeline\.enabled"):
        check_start(both, ["search"])
    untaught = train_config("experiment=v4_pipeline", "objective.distill.weight.agent=0", f"base.source={BASE}")
    with pytest.raises(ValueError, match=r"objective\.distill\.weight of agent is 0, and it has a teacher"):
        check_start(untaught, ["search", "agent"])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"learner\.ops=triton with objective\.distill\.form=full"):
        train_config("learner.ops=triton", "objective.distill.teachers.default=one")
    form = "objective.distill.form=sampled"
    assert train_config("learner.ops=triton", "objective.distill.teachers.default=one", form).learner.ops == "triton"

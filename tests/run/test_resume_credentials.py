"""A run whose URLs held passwords goes on when they are given again, and says which otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from envs.url_secrets import without_credentials
from rl.commands import train
from rl.commands.hydra import composed, giving
from rl.commands.python import written
from rl.run.credentials import left_out, restore


@dataclass
class Judge:
    client: dict[str, Any] = field(default_factory=dict)


@dataclass
class Settings:
    env: dict[str, Any]
    judge: Judge
    steps: int = 3


def stored() -> Settings:
    def kept(url: str) -> str:
        return without_credentials(url)

    env = {"path": kept("https://me:pass@host/rows.jsonl"), "more": [{"of": "x"}, kept("s3://b?token=t0k&x=1")]}
    return Settings(env, Judge({"base_url": "http://host:8000/v1", "note": "three *** stars"}))


def test_what_was_left_out_is_found() -> None:
    assert dict(left_out(stored())) == {"env.path": "https://***@host/rows.jsonl", "env.more.1": "s3://b?token=***&x=1"}


def test_it_is_taken_from_the_command() -> None:
    settings = stored()
    given = ["env.path=https://me:new@host/rows.jsonl", "'env.more.1=no'", "steps=4", "env.more.1='s3://b?token=n&x=1'"]
    assert restore(settings, "mine", given) == ["'env.more.1=no'", "steps=4"]
    assert settings.env == {"path": "https://me:new@host/rows.jsonl", "more": [{"of": "x"}, "s3://b?token=n&x=1"]}


def test_one_line_says_what_to_give_again() -> None:
    with pytest.raises(
        ValueError, match=r"^resume=mine: config\.yaml holds no passwords and keys; give again"
    ) as error:
        restore(stored(), "mine", ["env.path=https://me:new@host/rows.jsonl"])
    assert str(error.value).endswith(": 'env.more.1=s3://b?token=***&x=1'")


def test_nothing_else_may_change_with_it_and_no_secret_is_shown() -> None:
    with pytest.raises(ValueError, match=r"the run has https://\*\*\*@host/rows\.jsonl") as error:
        restore(stored(), "mine", ["env.path=https://me:secret@other/rows.jsonl"])
    assert "secret" not in str(error.value)


def test_the_command_takes_it(tmp_path: Path) -> None:
    url = "https://me:pass@host/rows.jsonl"
    here = [f"runs_dir={tmp_path}"]
    run = train.new_run(composed("train", [*here, "name=mine", "env=dataset", *written({"env.path": url})]))
    assert "pass" not in run.config.read_text()
    resume = [*here, "resume=mine"]
    with (
        giving(resume),
        pytest.raises(ValueError, match=r"give again, with them for \*\*\*: 'env\.path=https://\*\*\*@"),
    ):
        train.stored_config(composed("train", resume))
    resume += written({"env.path": url})
    with giving(resume):
        assert train.stored_config(composed("train", resume)).env["path"] == url

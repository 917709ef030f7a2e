"""The certificates of docs/environments.md: what demands one starts after the command above it, and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from docs_commands import CERTIFICATES, END, of_way
from docs_place import make_place
from in_process import command


def test_the_page_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_place(tmp_path)
    monkeypatch.chdir(tmp_path)
    begun: list[dict[str, Any]] = []

    def begin(cfg: Any, rundir: Any, tasksets: Any, about: dict[str, Any], *ray: Any) -> dict[str, Any]:
        begun.append(about["certificates"])
        return {}

    monkeypatch.setattr("rl.recipes.main_job.main_job", begin)
    demanding = [one.words for one in of_way(END, CERTIFICATES) if one.words[0] == "rl-train"]
    checking = [one.words for one in of_way(END, CERTIFICATES) if one.words[0] == "envs-check"]
    assert (len(demanding), len(checking)) == (2, 1)
    for words in demanding:
        assert command(*words, cwd=tmp_path).returncode != 0
    assert not (tmp_path / "runs").exists()
    for words in (["envs-check", "my_module.MyTaskset"], *checking):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.output
        assert "certificate, valid: certificates/" in done.output
    for words in demanding:
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.output
    assert [one["state"] for found in begun for one in found.values()] == ["valid", "valid"]

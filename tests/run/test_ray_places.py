"""A local Ray starts where TMPDIR is too long for its sockets or the home folder cannot be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from rl.run import assemble


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("RAY_TMPDIR", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_nothing_is_changed_where_all_is_well() -> None:
    assemble._find_places()
    assert "RAY_TMPDIR" not in os.environ
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_long_temporary_folder(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(tempfile, "tempdir", "/tmp/" + "x" * 35)  # 40 bytes, one too many
    assemble._find_places()
    assert os.environ["RAY_TMPDIR"] == "/tmp"


def test_a_long_folder_and_no_other(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RAY_TMPDIR", "/scratch/" + "x" * 40)
    environment.setattr(os, "access", lambda path, mode: path != "/tmp")
    with pytest.raises(OSError, match=r"^TMPDIR=/scratch/x+: too long for the sockets of Ray, which allow 39 bytes"):
        assemble._find_places()


def test_a_home_that_cannot_be_written(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("HOME", str(tmp_path / "none"))
    assemble._find_places()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64

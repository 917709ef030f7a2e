"""What Ray and the sandboxes need of the machine is made right, or said in one sentence before anything starts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from rl.run import places


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("TMPDIR", "RAY_TMPDIR", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    monkeypatch.setattr(places, "_said", set())
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_nothing_is_changed_where_all_is_well() -> None:
    assert places.find_places(75) == []
    assert "RAY_TMPDIR" not in os.environ
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_long_temporary_folder(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(tempfile, "tempdir", "/tmp/" + "x" * 35)  # 40 bytes, one too many
    (said,) = places.find_places(75)
    assert said == f"TMPDIR=/tmp/{'x' * 35}: too long for the sockets of Ray (39 bytes): it uses /tmp"
    assert os.environ["RAY_TMPDIR"] == "/tmp"
    assert places.find_places(75) == []  # it has been said, and is so


def test_a_temporary_folder_with_other_letters(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("TMPDIR", "/tmp/\u00e9")
    (said,) = places.find_places(75)
    assert said == "TMPDIR=/tmp/\u00e9: no name for Ray, which takes ASCII alone: it uses /tmp"
    assert os.environ["RAY_TMPDIR"] == "/tmp"


def test_a_long_folder_and_no_other(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RAY_TMPDIR", "/scratch/" + "x" * 40)
    environment.setattr(os, "access", lambda path, mode: path != "/tmp")
    with pytest.raises(ValueError, match=r"^TMPDIR=/scratch/x+: too long for the sockets of Ray \(39 bytes\); set"):
        places.find_places(75)


def test_a_home_that_cannot_be_written(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("HOME", str(tmp_path / "none"))
    (said,) = places.find_places(75)
    assert said.startswith(f"HOME={tmp_path / 'none'}: cannot be written: Ray's token stays in memory; ")
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_that_cannot_be_written(name: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv(name, "/read/only")
    with pytest.raises(ValueError, match=r"^TMPDIR=/read/only: cannot be written; set TMPDIR to a folder that can"):
        places.find_places(75)


def test_a_temporary_folder_too_long_for_the_sandboxes(environment: pytest.MonkeyPatch) -> None:
    environment.setattr(tempfile, "tempdir", "/tmp/" + "x" * 76)  # 81 bytes
    sandbox, ray = places.find_places(75)
    assert "too long for the sockets of notebook sandboxes, which allow 80 bytes" in sandbox
    assert "it uses /tmp" in ray


def test_little_shared_memory(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setattr(places, "SHM", tmp_path / "none")
    (said,) = places.find_places(512)
    assert said.startswith(f"warning: ray.object_store_mb=512: {tmp_path}/none has 0 MiB free: weights and rollouts")
    with pytest.raises(
        ValueError, match=r"^ray\.object_store_mb=10000: .* has 0 MiB free; give a container --shm-size"
    ):
        places.find_places(10_000)


def test_sessions_of_dead_drivers_alone_are_swept(tmp_path: Path) -> None:
    for name in ("session_1_1", "session_2_2", "session_3_3"):
        (tmp_path / name).mkdir()
    (tmp_path / "session_1_1" / places.LOCK).touch()  # of a driver that was killed
    (tmp_path / "session_latest").symlink_to(tmp_path / "session_1_1")
    with places.session(tmp_path / "session_2_2"):
        assert places.sweep_sessions(tmp_path) == [tmp_path / "session_1_1"]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["session_2_2", "session_3_3"]
    assert [p.name for p in tmp_path.iterdir()] == ["session_3_3"]  # somebody else's Ray

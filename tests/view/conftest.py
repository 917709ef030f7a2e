"""Runs and a client for the tests of `rl-view`."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import client_of, make_run
from starlette.testclient import TestClient


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs; tests only read them."""
    directory = tmp_path_factory.mktemp("view") / "runs"
    make_run(directory / "first")
    make_run(directory / "second run", steps=2)
    (directory / "no run").mkdir()
    (directory.parent / "secret.jsonl").write_text('{"secret": 1}\n')
    return directory


@pytest.fixture(scope="session")
def client(runs_dir: Path) -> TestClient:
    return client_of(runs_dir)

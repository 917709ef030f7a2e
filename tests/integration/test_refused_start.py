"""A start that is refused when Ray and the rollout worker have begun: one line, and nothing of it is left."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
from test_ending import session_of
from train_runs import Command, reap


def test_nothing_is_left(tmp_path: Path) -> None:
    words = ("env=search", "learner.lora.rank=2", "learner.lora.modules=[nowhere]")
    command = Command("rl-train", *words, cwd=tmp_path, HYDRA_FULL_ERROR="0")
    driver, seen, sessions = psutil.Process(command.process.pid), dict[int, psutil.Process](), set[Path]()
    while command.process.poll() is None:
        with suppress(psutil.Error):
            seen |= {child.pid: child for child in driver.children(recursive=True)}
        with suppress(psutil.Error, StopIteration):
            sessions.add(session_of(list(seen.values())))
        with suppress(subprocess.TimeoutExpired):
            command.process.wait(0.05)
    assert command.process.returncode == 2
    (line,) = command.output.splitlines()
    assert line.startswith("configuration error: ")
    assert "learner.lora.modules: 'nowhere' is no module" in line
    assert reap(list(seen.values()), 30, agents=True) == []
    (session,) = sessions
    assert not session.exists()
    assert not (tmp_path / "runs").exists()

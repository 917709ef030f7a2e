"""A command that stops says why in one line; its traceback goes into a file, and a failed start leaves no folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl.run.errors import explain, stopped
from rl.tracking.rundir import RunDir


class Remote(Exception):
    """As Ray gives the error of a remote call: its text is a traceback, ``cause`` what was raised there."""

    def __init__(self, cause: Exception) -> None:
        super().__init__('ray::worker()\n  File "/home/me/task.py", line 3, in step\nKeyError: 1')
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("env.path=x: no such file"), "env.path=x: no such file"),
        (KeyError("answer"), "KeyError: 'answer'"),
        (RuntimeError(""), "RuntimeError"),
        (OSError("disk\nfull"), "OSError: disk"),
        (Remote(KeyError(1)), "KeyError: 1 (/home/me/task.py:3)"),
    ],
)
def test_one_line(error: Exception, said: str) -> None:
    assert explain(error) == said


def failed(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_start_that_failed_leaves_no_folder(tmp_path: Path) -> None:
    rundir = RunDir.new(tmp_path, "demo")
    rundir.write_config("seed: 0\n")
    said = str(stopped(rundir, failed("no demonstrations"), resumed=False))
    assert list(tmp_path.iterdir()) == []
    assert said.startswith("ValueError: no demonstrations (")  # this file is an author's
    file = Path(said.partition("traceback: ")[2])
    assert "ValueError: no demonstrations" in file.read_text()
    file.unlink()


@pytest.mark.parametrize("resumed", [True, False])
def test_a_run_with_something_to_show_keeps_it(tmp_path: Path, *, resumed: bool) -> None:
    rundir = RunDir.new(tmp_path, "demo")
    if not resumed:
        rundir.log_metrics("grpo", 1, {"x": 1.0})
    (rundir.checkpoints / "step_000010").mkdir()
    said = str(stopped(rundir, failed("disk full"), resumed=resumed))
    assert said.endswith(f"traceback: {rundir.path}/error.txt; go on with resume=demo")
    assert "ValueError: disk full" in (rundir.path / "error.txt").read_text()


def test_where_no_file_can_be_written_the_traceback_is_elsewhere(tmp_path: Path) -> None:
    rundir = RunDir.new(tmp_path, "demo")
    rundir.log_metrics("grpo", 1, {"x": 1.0})
    (rundir.path / "error.txt").mkdir()
    said = str(stopped(rundir, failed("disk full"), resumed=False))
    file = Path(said.partition("traceback: ")[2])
    assert file.parent != rundir.path
    assert "disk full" in file.read_text()
    file.unlink()

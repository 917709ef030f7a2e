"""`rl-view` as a command: what is wrong with a setting is one line."""

from __future__ import annotations

from pathlib import Path

from in_process import command

from rl.view.server import listen


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with listen(0) as taken:
        address, port = taken.getsockname()
        assert address == "127.0.0.1"
        done = command("rl-view", f"port={port}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.output.strip().startswith(f"configuration error: port={port}: Address already in use; give another")


def test_a_file_is_no_directory_of_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    done = command("rl-view", cwd=tmp_path)
    assert done.returncode == 2
    assert "runs_dir=runs: is a file; give the directory of the runs" in done.output

"""A second driver of a run is refused in words; what a killed one left is taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rl.run.driver_lock import FILE, driving

HOLD = "import sys, time\nfrom pathlib import Path\nfrom rl.run.driver_lock import driving\n"
HOLD += "with driving(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"


def test_the_second_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    run = tmp_path / "demo-0"
    run.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        says = rf"run 'demo-0' is being driven by process {first.pid} on .* \(since .*\): wait for it, or end it"
        with pytest.raises(ValueError, match=says), driving(run):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait(60)
        with driving(run):  # its file is still there, its lock is not
            assert json.loads((run / FILE).read_text())["pid"] == os.getpid()
        with driving(run):
            pass
    finally:
        first.kill()
        first.wait(60)
        if first.stdout is not None:
            first.stdout.close()


def test_a_holder_that_has_not_written_yet(tmp_path: Path) -> None:
    with driving(tmp_path):
        (tmp_path / FILE).write_text("")
        with pytest.raises(ValueError, match="driven by another process"), driving(tmp_path):
            pass

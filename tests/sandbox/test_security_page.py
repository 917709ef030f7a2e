"""SECURITY.md says what is so: its figures, what it promises beyond escapes.py, and what it says that it does not."""

from __future__ import annotations

import os
import re
from pathlib import Path

from envs.sandbox import Limits, Sandbox
from envs.sandbox.escapes import ESCAPES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()


def run(code: str, **limits: float) -> str:
    result = Sandbox(Limits(**limits)).run_python(code)  # type: ignore[arg-type]
    assert result.exit_code == 0, result
    return result.stdout


def test_the_attempts_are_counted_alike_everywhere() -> None:
    for page in ("SECURITY.md", "README.md", "docs/environments.md", "docs/results.md", "envs/sandbox/__main__.py"):
        counts = re.findall(r"(\d+)\s+(?:escape )?attempts", (ROOT / page).read_text())
        assert set(counts) == {str(len(ESCAPES))}, page


def test_of_dev_there_are_three_files() -> None:
    assert "of `/dev` only `null`, `zero`, `urandom`" in PAGE
    found = run("import os; print(sorted(n for n in os.listdir('/dev') if not os.path.islink('/dev/' + n)))")
    assert found == "['null', 'urandom', 'zero']\n"
    assert run("import os; print(os.readlink('/dev/shm'))") == "/tmp\n"


def test_pairs_of_sockets_are_local_too() -> None:
    code = (
        "import socket\n"
        "for family in (socket.AF_INET, socket.AF_INET6, 30, 40):\n"  # 30: TIPC, 40: vsock
        "    try: socket.socketpair(family); print('open')\n"
        "    except PermissionError: print('refused')\n"
        "socket.socketpair(); print('local')"
    )
    assert run(code) == "refused\n" * 4 + "local\n"


def test_cpu_and_memory_are_of_each_process() -> None:
    """Not promised: a bound of all processes together. Three take more than the limit of one."""
    code = (
        "import os, time\n"
        "for n in range(3):\n"
        "    if os.fork() == 0:\n"
        "        kept = bytearray(30 << 20)\n"
        "        while time.process_time() < 0.6: pass\n"
        "        os._exit(0)\n"
        "print([os.wait()[1] for n in range(3)])"
    )
    assert run(code, cpu_s=1, memory_mb=64, wall_s=60.0) == "[0, 0, 0]\n"


def test_the_machine_can_be_seen_under_another_name() -> None:
    told = run(
        "import os; u = os.uname(); print(u.release, u.nodename, os.cpu_count(), len(os.listdir('/usr/lib')) > 0)"
    )
    assert told.split() == [os.uname().release, "sandbox", str(os.cpu_count()), "True"]

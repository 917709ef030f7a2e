"""Every attempt of ``envs/sandbox/escapes.py``, as root and as an ordinary user, with its control outside.

When the tests run as root, the second half runs in one child process that has become an ordinary user. It sees
the interpreter, its packages and the project at places that such a user can reach (they may lie below /root).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.sandbox import Limits, Sandbox
from envs.sandbox.escapes import ESCAPES
from envs.sandbox.probes import ANY, ROOT, Bait, Probe, inside, outside, survivors

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = [pytest.param(probe, id=probe.tries) for probe in ESCAPES if probe.runs_here()]
UNUSED_UID = 61234

# What the child runs: the whole table, then a kernel.
_CHILD = """
from envs.sandbox import KernelSession
from envs.sandbox.__main__ import as_json
as_json()
with KernelSession(packages=()) as kernel:
    print(kernel.run("import os; 6 * 7, os.getuid()").output)
"""
# Arguments: folder, interpreter's prefix, site-packages, project, uid, what Python runs.
_BECOME = """
set -e
mount --bind "$2" "$1/python"; mount --bind "$3" "$1/packages"; mount --bind "$4" "$1/project"
cd "$1/project"
export PYTHONPATH="$1/project:$1/packages" PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
exec setpriv --reuid="$5" --regid="$5" --clear-groups -- "$1/python/bin/python3" -c "$6"
"""


@pytest.fixture(scope="module")
def bait() -> Iterator[Bait]:
    with Bait() as opened:
        yield opened
        assert opened.child.poll() is None, "a signal came through"


@pytest.fixture(scope="module")
def ordinary() -> dict[str, tuple[str, list[int], str]]:
    """What became of each attempt of an ordinary user: how it ended, what lived on, how the control ended."""
    if os.geteuid() != 0:
        pytest.skip("not root: the attempts of the other half are an ordinary user's already")
    for tool in ("unshare", "setpriv"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}, which is needed to become an ordinary user (apt-get install util-linux)")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for name in ("python", "packages", "project"):
            os.mkdir(f"{folder}/{name}", 0o755)
        places = [folder, sys.base_prefix, sysconfig.get_path("purelib"), str(REPOSITORY)]
        in_private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BECOME, "sh"]
        done = subprocess.run(
            [*in_private, *places, str(UNUSED_UID), _CHILD],
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
    last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    if done.returncode and ("namespaces" in last[0] or "unshare:" in last[0]):
        pytest.skip(f"this machine gives an ordinary user no sandbox: {last[0]}")
    assert done.returncode == 0, done.stderr
    found, kernel = done.stdout.strip().split("\n", 1)
    assert kernel == "(42, 65534)"
    return {tries: (end, left, control) for tries, (end, left, control) in json.loads(found).items()}


def test_the_table_is_a_table():
    assert len(HERE) >= 40
    assert len({probe.tries for probe in ESCAPES}) == len(ESCAPES)
    assert all(probe.must and probe.ends and "open" not in probe.ends for probe in ESCAPES)
    assert sum(bool(probe.control) for probe in ESCAPES) >= 60


@pytest.mark.parametrize("probe", HERE)
def test_contained(probe: Probe, bait: Bait):
    end, left = inside(probe, bait)
    assert end in probe.ends, f"{probe.tries}: must be: {probe.must}"
    assert not left, f"{probe.tries}: processes live on"
    if probe.control == ANY or (probe.control == ROOT and os.geteuid() == 0):
        assert outside(probe, bait) not in probe.ends, "outside the sandbox it ends alike: the probe shows nothing"


@pytest.mark.parametrize("probe", HERE)
def test_contained_for_an_ordinary_user(probe: Probe, ordinary: dict[str, tuple[str, list[int], str]]):
    end, left, control = ordinary[probe.tries]
    assert end in probe.ends, f"{probe.tries}: must be: {probe.must}"
    assert not left, f"{probe.tries}: processes live on"
    assert control not in probe.ends, "outside the sandbox it ends alike: the probe shows nothing"


def test_signals_of_an_ordinary_user_did_not_arrive(ordinary: dict[str, tuple[str, list[int], str]]):
    assert ordinary["bait child"][0] == "alive"


def test_survivors_would_be_seen(bait: Bait):
    """The search for processes that outlive a run finds those of a run that is under way."""
    program = bait.program(Probe("", "", "os.fork()\ntime.sleep(4)", {"open"}), "p-under-way")
    thread = threading.Thread(target=Sandbox(Limits(wall_s=60.0)).run_python, args=(program,))
    thread.start()
    deadline = time.monotonic() + 60
    while len(survivors("p-under-way", patience_s=0.0)) < 2:
        assert time.monotonic() < deadline
    thread.join()
    assert survivors("p-under-way") == []


def test_a_slip_in_a_probe_is_not_a_wall(bait: Bait):
    assert inside(Probe("", "", "no_such_name", {"EPERM"}), bait) == ("NameError", [])
    assert inside(Probe("", "", "pass", {"EPERM"}), bait) == ("open", [])

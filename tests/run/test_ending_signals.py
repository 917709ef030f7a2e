"""Signals: when they come through, what the process leaves with, and how long its end may take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from rl.run import ending
from rl.run.ending import Ended, held, open_to


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_now", ending._Ending())


def child(body: str) -> subprocess.Popen[str]:
    """A process that runs ``body`` inside ``orderly`` and has printed "ready", as the body does."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    program = (
        "import sys, time\nfrom rl.run.ending import *\nimport rl.run.ending as ending\n"
        f"def ready():\n    print('ready', flush=True)\nwith ending.orderly():\n{lines}print('after')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


CLOSES = "try:\n    ready()\n    time.sleep(60)\nfinally:\n    print('closed')"


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_signal_closes_what_is_open_and_leaves_with_its_code(signum: int, code: int) -> None:
    process = child(CLOSES)
    process.send_signal(signum)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out, err) == (code, "closed\n", "")


def test_a_second_signal_ends_it_at_once() -> None:
    process = child(
        "try:\n    ready()\n    time.sleep(60)\nfinally:\n    print('closing', flush=True)\n    time.sleep(60)"
    )
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(50) == 130


def test_an_end_that_takes_too_long_is_cut_off_and_said() -> None:
    process = child("ending.allow(0.2)\ntry:\n    ready()\n    time.sleep(60)\nfinally:\n    time.sleep(60)")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (143, "not over 0.2 s after SIGTERM: ended at once\n")


def test_what_must_not_be_torn_apart_is_finished_first() -> None:
    body = "with ending.held():\n    ready()\n    while ending.asked() is None:\n        pass\n"
    process = child(body + "    print('whole')\nprint('not reached')")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=50)
    assert (process.returncode, out) == (143, "whole\n")


def test_rays_own_way_out_has_the_signals_code_too() -> None:
    assert child("ready()\nraise SystemExit(15)").wait(50) == 143
    assert child("ready()\nraise SystemExit(3)").wait(50) == 3


def test_what_fails_after_a_signal_has_the_signals_code_too() -> None:
    """The signal may have reached other processes first: then an error comes before ``Ended``."""
    process = child("with ending.held():\n    ready()\n    while ending.asked() is None: pass\n    sys.exit('gone')")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out, err) == (143, "", "gone\n")


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ending.orderly():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does
        ending.take_back()
        assert signal.getsignal(signal.SIGTERM) is ending._on_signal
    assert signal.getsignal(signal.SIGTERM) is before
    ending.take_back()  # outside of a command of ours nothing is taken
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_noted_signal_comes_through_where_it_may() -> None:
    reached = []

    def loop(waits: bool) -> None:
        with held():
            ending._now.asked = signal.SIGTERM
            reached.append("work")
            if waits:
                with open_to():
                    reached.append("wait")
                reached.append("more work")

    for waits in (True, False):
        with pytest.raises(Ended):
            loop(waits)
    assert reached == ["work", "work"]


def test_an_error_is_not_hidden_by_a_noted_signal() -> None:
    def work() -> None:
        with held():
            ending._now.asked = signal.SIGTERM
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        work()


def test_without_a_signal_nothing_happens() -> None:
    with held(), open_to():
        pass
    assert ending.asked() is None


def test_an_end_that_python_dropped_comes_again() -> None:
    """What is raised in the callback of a weak reference goes no further; the next ``Ended`` does, and only one."""
    body = """
import weakref
class Thing: pass
def slow(_):
    ready()
    time.sleep(0.3)
thing = Thing()
kept = weakref.ref(thing, slow)
ending.REMIND_S = 0.2
try:
    del thing
    print('dropped', flush=True)
    for _ in range(600): time.sleep(0.1)
finally:
    time.sleep(1.0)
    print('closed')
"""
    process = child(body)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out) == (143, "dropped\nclosed\n")
    assert err.startswith("Exception ignored in")


def test_what_handles_an_end_is_left_alone() -> None:
    body = """
ending.REMIND_S = 0.1
try:
    ready()
    time.sleep(60)
except KeyboardInterrupt:
    try:
        try:
            raise OSError
        except OSError:
            time.sleep(0.5)
    finally:
        time.sleep(0.5)
        print('whole')
    raise
"""
    process = child(body)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out, err) == (143, "whole\n", "")

"""Records that a thread writes: in order, bounded, and no error is lost."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from rl.tracking.stall import StallError
from rl.tracking.writer import Writer


def test_in_order_and_all_of_it() -> None:
    written, writer = list[int](), Writer()
    for n in range(40):
        writer.put("a number", lambda n=n: written.append(n))  # type: ignore[misc]
    writer.flush()
    assert written == list(range(40))
    writer.put("the last", lambda: written.append(40))
    writer.close()
    assert written[-1] == 40


def test_it_goes_on_beside_the_caller_and_waits_when_too_much_is_queued() -> None:
    gate, entered = threading.Event(), threading.Event()
    writer = Writer(waiting=2, limit_s=0.05)

    def held() -> None:
        entered.set()
        gate.wait(60)

    writer.put("step 1", held)
    writer.put("step 2", lambda: None)  # came back while the first is held
    assert entered.wait(60)
    with pytest.raises(StallError, match=r"step 1 to be written"):
        writer.put("step 3", lambda: None)
    gate.set()
    writer.close()


def test_an_error_surfaces_once_and_what_is_behind_it_is_written() -> None:
    written, writer = list[int](), Writer()

    def full() -> None:
        raise OSError(28, "disk full")

    gate = threading.Event()
    writer.put("held", lambda: (gate.wait(60), None)[1])
    writer.put("step 1", full)
    writer.put("step 2", lambda: written.append(2))
    gate.set()
    with pytest.raises(OSError, match="disk full"):
        writer.flush()
    assert written == [2]
    writer.put("step 3", lambda: written.append(3))
    writer.close()
    assert written == [2, 3]


def test_an_error_is_raised_where_the_next_thing_is_put() -> None:
    writer = Writer(waiting=1)  # so that the next one waits for it

    def full() -> None:
        raise TimeoutError("a share that hangs")

    writer.put("step 1", full)
    with pytest.raises(TimeoutError, match="a share that hangs"):
        writer.put("step 2", lambda: None)
    writer.close()


def test_what_hangs_keeps_no_process_from_its_end() -> None:
    """Nor is what is queued behind it waited for, record by record."""
    program = """
import threading
from rl.tracking.stall import StallError
from rl.tracking.writer import Writer
writer = Writer(limit_s=0.05)
for n in range(4):
    writer.put(f"record {n}", threading.Event().wait)
try:
    writer.close()
except StallError as error:
    print(error, len(writer._records))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout == "waited 0.05 s for record 0 to be written; nothing came 3\n"

"""One driver a run: two that write the same metrics and checkpoints would spoil both.

``driver.lock`` in the run's folder holds host, process and start of the driver, and a lock of the kernel (flock) that
ends with the process, however it ends. So a lock that a killed driver has left is free, and is taken over.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "driver.lock"


@contextmanager
def driving(run: Path) -> Iterator[None]:
    """Be the driver of the run in the folder ``run``. Raises ValueError when another process is."""
    descriptor = os.open(run / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"run '{run.name}' is being driven by {_holder(run)}: wait for it, or end it") from None
        now = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(now).encode())
        yield
    finally:
        os.close(descriptor)  # gives the lock back; the file stays, or two could hold locks on two files of its name


def _holder(run: Path) -> str:
    try:
        held = json.loads((run / FILE).read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']} (since {held['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has just taken the lock, and not yet written
        return "another process"

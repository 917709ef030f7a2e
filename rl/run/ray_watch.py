"""The death of a process that a local Ray cannot do without ends a command at once, with one line that says so.

Ray's own account comes late (a minute after its GCS died, and until then the run goes on without it) or is a page of
state dumps, and of a death of the raylet the driver sees only actors that no longer answer. Here the kernel says when
either is gone (pidfd). The line names what died and how; the end of its log goes where tracebacks go. The process ends
as after a SIGKILL, and what it had started with it: Ray's agents would look for a dead GCS for minutes. What is on disk
is whole, and ``resume=`` goes on. Where the command is ending by a signal, which may have come to Ray's processes too,
nothing is said: that end goes on.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rl.run.ending import asked

LINES = 40  # of each log
SIGNALS_S = 3.0  # a signal to all processes has reached this one by then
_tellers: list[Callable[[Exception], object]] = []


class RayLost(RuntimeError):
    """A process of Ray that a run cannot go on without is gone. The end of its log is a note of the error."""


@contextmanager
def telling(tell: Callable[[Exception], object]) -> Iterator[None]:
    """In the block ``tell`` makes of a RayLost what the user reads, and keeps what there is to keep."""
    _tellers.append(tell)
    try:
        yield
    finally:
        _tellers.remove(tell)


@contextmanager
def watching(processes: Mapping[str, int], logs: Path, signals_s: float = SIGNALS_S) -> Iterator[None]:
    """End this process when one of ``processes`` (children of it: name → id) does, in the length of the block.

    ``logs``: folder of ``<name>.out`` and ``<name>.err``.
    """
    wake = os.eventfd(0, os.EFD_CLOEXEC)
    of = {os.pidfd_open(pid): name for name, pid in processes.items()}
    below = [descriptor for pid in processes.values() for one in _descendants(pid) for descriptor in _opened(one)]
    poll = select.poll()
    for descriptor in (wake, *of):
        poll.register(descriptor, select.POLLIN)
    over = threading.Event()

    def watch() -> None:
        gone = [descriptor for descriptor, _ in poll.poll() if descriptor in of]
        if not gone:
            return
        how = _end_of(gone[0])
        if how != "SIGKILL":
            over.wait(signals_s)
        if asked() is None:
            _leave(_lost(of[gone[0]], how, logs), below)

    thread = threading.Thread(target=watch, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    except Exception:  # what it was waiting for may have failed by that death, and been seen first
        thread.join(0.1)
        raise
    finally:
        os.eventfd_write(wake, 1)
        over.set()
        thread.join()
        for descriptor in (wake, *of, *below):
            os.close(descriptor)


def _end_of(descriptor: int) -> str:
    """How the child behind ``descriptor`` has ended, in words; it is left for its parent to reap."""
    try:
        found: Any = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:  # reaped already
        return "nobody knows how"
    if found.si_code == os.CLD_EXITED:
        return f"exit code {found.si_status}"
    return signal.Signals(found.si_status).name


def _lost(name: str, how: str, logs: Path) -> RayLost:
    why = " (killed: by hand, or because memory ran out)" if how == "SIGKILL" else ""
    error = RayLost(f"Ray's {name} has ended, {how}{why}, and nothing goes on without it")
    for file in (logs / f"{name}.out", logs / f"{name}.err"):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        error.add_note(f"the end of {file}:\n" + "\n".join(lines[-LINES:]))
    return error


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        new = children.get(left.pop(), [])
        found += new
        left += new
    return found


def _opened(pid: int) -> list[int]:
    """A descriptor of the process, which still means it when its parent is gone; none where it has ended."""
    try:
        return [os.pidfd_open(pid)]
    except ProcessLookupError:
        return []


def _leave(error: RayLost, below: Sequence[int]) -> None:
    from rl.run.errors import stopped_without_folder

    with suppress(OSError, ValueError):  # closed, or nobody reads it any more
        sys.stdout.flush()
    said: object = error
    try:
        said = (_tellers[-1] if _tellers else stopped_without_folder)(error)
    finally:  # whatever else is broken on this machine
        os.write(2, f"stopped: {said}\n".encode())
        # Those below what died have another parent by now.
        for descriptor in [*below, *(d for pid in _descendants(os.getpid()) for d in _opened(pid))]:
            with suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os._exit(1)

"""The end of a command by SIGTERM or Ctrl-C: in order, within a bounded time, and with the exit code of the signal.

The first signal raises ``Ended`` in the main thread, so that every ``with`` block on the way closes what it opened:
the learner, engines and sandboxes, Ray. A loop whose state must not be torn apart holds it back (``held``) and says
where it may come (``open_to``). A second signal, or ``allow`` seconds after the first, ends the process at once:
what it had started ends with it, as after a SIGKILL. Python code that calls ``rl.train`` keeps its own handlers.

What a handler raises in the callback of a weak reference or in ``__del__`` is dropped by Python (imports have many such
callbacks), and a library may swallow it. So a thread looks after it: while the main thread is not on its way out,
``Ended`` is raised in it again.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
DEFAULT_S = 25.0  # Slurm and Kubernetes kill 30 s after their SIGTERM
REMIND_S = 0.5


class Ended(KeyboardInterrupt):
    """The command is to end because of a signal. Where the main thread waits inside Ray, Ray makes a plain
    KeyboardInterrupt of it (and would swallow any other class): catch that, and ask ``asked``."""


class _Ending:
    """The state of this process."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.held = 0
        self.allowed_s = DEFAULT_S
        self.timer: threading.Timer | None = None
        self.reminds = False  # the next signal is not from outside


_now = _Ending()


@contextmanager
def orderly() -> Iterator[None]:
    """Handle the signals for the length of the block, which is a whole command. ``Ended`` leaves it as an exit of the
    process, with code 128 + signal: nothing that the interpreter still holds can delay it or write over the message."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, _on_signal)
    try:
        yield
    except KeyboardInterrupt:
        leave(signal.SIGINT if _now.asked is None else _now.asked)
    except SystemExit as left:
        if left.code == signal.SIGTERM:  # as Ray's own handler leaves, which is there while Ray starts
            leave(signal.SIGTERM)
        if _now.asked is not None and left.code:  # it failed on its way: the signal has reached what it needs, too
            if isinstance(left.code, str):
                print(left.code, file=sys.stderr)
            leave(_now.asked)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_orderly() -> bool:
    """Whether this process is a command (``orderly``), and not somebody's Python that calls one."""
    return signal.getsignal(signal.SIGINT) is _on_signal


def take_back() -> None:
    """Ray takes SIGTERM for itself when it starts; inside ``orderly`` this takes it back."""
    if is_orderly():
        signal.signal(signal.SIGTERM, _on_signal)


def asked() -> int | None:
    """The signal that this command is ending by."""
    return _now.asked


def allow(seconds: float) -> None:
    """How long the end may take from the first signal on."""
    _now.allowed_s = seconds


@contextmanager
def held() -> Iterator[None]:
    """In the block a first signal is only noted; ``Ended`` comes in ``open_to`` or at the end of the block."""
    _now.held += 1
    try:
        yield
    finally:
        _now.held -= 1
    _raise_if_asked()


@contextmanager
def open_to() -> Iterator[None]:
    """Inside ``held``: here ``Ended`` may come, also that of a signal which came before."""
    outer, _now.held = _now.held, 0
    try:
        _raise_if_asked()
        yield
    finally:
        _now.held = outer


def leave(signum: int) -> NoReturn:
    """End the process now, with the exit code of a command that this signal has ended."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed, or nobody reads it any more
            continue
    os._exit(128 + signum)


def _raise_if_asked() -> None:
    if _now.asked is not None and not _now.held:
        raise Ended(signal.Signals(_now.asked).name)


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if _now.reminds:
        _now.reminds = False
        if not _on_its_way_out(sys.exception()):
            _raise_if_asked()
        return
    if _now.asked is not None:
        leave(signum)
    _now.asked = signum
    _now.timer = threading.Timer(_now.allowed_s, _too_late, (signum,))
    _now.timer.daemon = True
    _now.timer.start()
    threading.Thread(target=_remind, args=(_now, signum), name="ending", daemon=True).start()
    _raise_if_asked()


def _on_its_way_out(handled: BaseException | None) -> bool:
    """Whether the code that a signal has met is run because of an ``Ended``, as what ``finally`` and ``with`` do is."""
    while handled is not None and not isinstance(handled, KeyboardInterrupt):
        handled = handled.__context__
    return handled is not None


def _remind(now: _Ending, signum: int) -> None:
    time.sleep(REMIND_S)
    while now is _now and is_orderly():  # until the command is over
        if not now.held:
            now.reminds = True
            _thread.interrupt_main(
                signal.Signals(signum)
            )  # no real signal: Ray has handlers of its own in C++ for a while
        time.sleep(REMIND_S)


def _too_late(signum: int) -> None:
    os.write(2, f"not over {_now.allowed_s:g} s after {signal.Signals(signum).name}: ended at once\n".encode())
    leave(signum)

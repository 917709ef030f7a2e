"""What a command says when it stops in the middle: one line with the reason and, where an author's code raised, its
place; the whole traceback goes into a file.
"""

from __future__ import annotations

import shutil
import tempfile
import traceback
from pathlib import Path

from rl.run.finished import FOLDER, stored
from rl.tracking.failures import author_place, first_line
from rl.tracking.rundir import RunDir

ERROR_FILE = "error.txt"


class RunStopped(RuntimeError):
    """A run ended by an error. The message says why, where the traceback is, and how to go on."""


def stopped(rundir: RunDir, error: Exception, *, resumed: bool) -> RunStopped:
    """What to tell the user of ``error``. A run that has nothing to show leaves no folder, only the traceback."""
    text = "".join(traceback.format_exception(error))
    if not resumed and not rundir.metrics.exists() and not any(rundir.trajectories.iterdir()):
        shutil.rmtree(rundir.path)
        return stopped_without_folder(error)
    kept = any(rundir.checkpoints.iterdir()) or any(stored(rundir.path / FOLDER))
    again = f"; go on with resume={rundir.name}" if kept else ""
    file = rundir.path / ERROR_FILE
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError:  # a full disk ends a run, and takes no file either
        file = traceback_file(text)
    return RunStopped(f"{explain(error)}; traceback: {file}{again}")


def stopped_without_folder(error: Exception) -> RunStopped:
    """The same for a command that has no run."""
    text = "".join(traceback.format_exception(error))
    return RunStopped(f"{explain(error)}; traceback: {traceback_file(text)}")


def explain(error: BaseException) -> str:
    """``error`` in one line: its message, its type where the message alone may say little, the author's line."""
    cause = getattr(error, "cause", None)
    cause = cause if isinstance(cause, BaseException) else error  # Ray wraps what a remote call raised
    message, place = first_line(str(cause)), author_place("".join(traceback.format_exception(error)))
    ours = type(cause) in (ValueError, RuntimeError) or type(cause).__module__.split(".")[0] in (
        "rl",
        "envs",
        "rewards",
    )
    if place is not None or not ours or not message:
        message = f"{type(cause).__name__}: {message}" if message else type(cause).__name__
    return f"{message} ({place})" if place is not None else message


def traceback_file(text: str) -> Path:
    """A new file with ``text``, for a command that has no folder of its own."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="rl-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(text)
    return Path(file.name)

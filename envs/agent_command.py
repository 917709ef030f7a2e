"""An agent that is a program of its own: a shell command, started once for an episode and ended with it.

    OPENAI_BASE_URL, OPENAI_API_KEY     where the policy answers; what OpenAI's client and most agent libraries read
    stdin                               the row, as one line of JSON
    stdout                              its last line is the reward, a number or {"outcome": …}, unless one was posted
    exit code                           0; 75 ("temporary failure"): the infrastructure's fault, nobody's score

It runs as the user, in the environment of the process that starts it: it is the user's own program. What the policy
makes it do happens where it runs; a command may as well start a container.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from envs.bridges.child import kill_all
from envs.driving import Endpoint
from envs.types import InfrastructureError

TEMPORARY_FAILURE = 75  # EX_TEMPFAIL of sysexits.h
_LOOK_S = 0.05  # how often it is looked whether the program has ended
_TAIL_BYTES = 2**16  # of its output, what is read
_SHOWN_CHARS = 2000  # of what it wrote to stderr


def check_command(command: str, folder: str) -> None:
    """Raises ValueError for what no shell can read, and for a folder that is not there."""
    if not os.path.isdir(folder):
        raise ValueError(f"cwd={folder}: no such directory")
    read = subprocess.run(["/bin/sh", "-n", "-c", command], capture_output=True, text=True, check=False)
    if not command.strip() or read.returncode:
        raise ValueError(f"command={command!r:.200}: no shell command: {read.stderr.strip() or 'it is empty'}")


def files_of(command: str, folder: str) -> list[Path]:
    """The files that the command names: what a run is made of, as far as it can be seen."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    return [path for word in dict.fromkeys(words) if (path := Path(folder, word)).is_file()]


async def run_command(command: str, folder: str, endpoint: Endpoint, row: Mapping[str, Any]) -> str:
    """What the program wrote to stdout, at most its last 64 KiB. It, and all that it started, ends when this is
    cancelled.

    Raises RuntimeError when it ends with another code than 0, InfrastructureError for code 75.
    """
    own = {"OPENAI_BASE_URL": endpoint.base_url, "OPENAI_API_KEY": endpoint.api_key}
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        given.write(json.dumps(dict(row)).encode() + b"\n")  # a file: a program that never reads holds nobody up
        given.seek(0)
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=given,
            stdout=said,
            stderr=errors,
            cwd=folder,
            env={**os.environ, **own},
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                await asyncio.sleep(_LOOK_S)
        finally:
            kill_all(process)
        if process.returncode:
            how = f"{command!r:.200} ended with exit code {process.returncode}: {_tail(errors)[-_SHOWN_CHARS:]}"
            raise InfrastructureError(how) if process.returncode == TEMPORARY_FAILURE else RuntimeError(how)
        return _tail(said)


def last_line(said: str) -> Any:
    """The last line of ``said`` as JSON; None where it is no number and no object."""
    try:
        value = json.loads(said.strip().rpartition("\n")[2])
    except ValueError:
        return None
    return value if isinstance(value, int | float | dict) else None


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    return file.read().decode(errors="replace").strip()

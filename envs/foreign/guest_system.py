"""Runs inside the sandbox of a terminal task: lays out its files, runs one command in a shell, hands back the files.

Given to ``Sandbox.run_python`` as text, before ``repo_guest`` where tests are to run; never imported by the toolkit.
``/tmp/work/state.tar`` holds the files, ``tests.tar`` what is laid over them. With a job that has a ``command``, one
line of JSON goes out on a private copy of standard output, ``{"exit", "output", "folder"}``, and then the files as they
are now, a tar in base64.
"""

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from typing import Any

# What a command is run in: its last folder is where the next one begins
_WRAP = "trap 'pwd > /tmp/.folder' EXIT\n"
_LEFT_OUT = ("tmp/work", "tmp/.folder")


def lay_out(about: dict[str, Any]) -> None:
    """Put the files in their places, and take on environment and folder."""
    os.environ.update(about["environment"])
    for name in ("state", "tests"):
        if os.path.exists(f"/tmp/work/{name}.tar"):
            with tarfile.open(f"/tmp/work/{name}.tar") as packed:
                packed.extractall("/", filter="tar")
    os.umask(0o022)
    with contextlib.suppress(OSError):
        os.chdir(about["folder"])


def pack(folders: list[str]) -> bytes:
    """All that is in the writable folders."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for folder in sorted({*folders, "/tmp"}):
            for name in sorted(os.listdir(folder)):
                with contextlib.suppress(OSError):
                    packed.add(f"{folder}/{name}", filter=_kept)
    return buffer.getvalue()


def _kept(entry: tarfile.TarInfo) -> "tarfile.TarInfo | None":
    if entry.name in _LEFT_OUT or not (entry.isfile() or entry.isdir() or entry.issym() or entry.islnk()):
        return None
    entry.mtime = int(entry.mtime)
    return entry


def run_command(job: dict[str, Any]) -> None:
    """One command, all it prints, and what is left of the files."""
    channel = os.dup(1)
    with open("/tmp/.output", "w+b") as output:
        child = subprocess.Popen(
            ["/bin/bash", "-c", _WRAP + job["command"]], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        late = False
        try:
            child.wait(job["seconds"])
        except subprocess.TimeoutExpired:
            late = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # whatever it left running; not this process
        code = child.wait()
        output.seek(0)
        said = output.read(job["output_bytes"]).decode("utf-8", "replace")
    os.unlink("/tmp/.output")
    folder = job["folder"]
    with contextlib.suppress(OSError), open("/tmp/.folder", encoding="utf-8", errors="replace") as file:
        folder = file.read().removesuffix("\n")
    told = json.dumps({"exit": code, "output": said, "folder": folder, "late": late}).encode() + b"\n"
    left = memoryview(told + base64.b64encode(pack(job["folders"])))
    while left:
        left = left[os.write(channel, left) :]
    os._exit(0)


_job = json.loads(sys.stdin.buffer.read())
lay_out(_job)
if "command" in _job:
    run_command(_job)
sys.stdin = io.TextIOWrapper(io.BytesIO(json.dumps(_job["tests"]).encode()))  # for what comes next

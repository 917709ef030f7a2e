"""Places of this machine that a local Ray and the sandboxes need: looked at before anything starts, one sentence each.

Ray's own account of a folder that does not do comes after half a minute, or never: a socket that cannot be made is a
node that is not up in time. Where another place does, it is taken, and the sentence says so.

Ray's session folder (logs, sockets) goes with the run. A driver that was killed leaves it; a lock in it, which the
kernel gives back with the process, tells the next start that nobody uses it any more.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RAY_SOCKETS = 39  # bytes of a folder for Ray: a Unix socket's path has 107 at most, its folders below take 68
KERNEL_SOCKETS = 80  # the same for a notebook kernel: kernel-xxxxxxxx/control and a little more
NEEDS_SHM = 10**10  # bytes: Ray does not start a larger object store elsewhere than in shared memory
SHM = Path("/dev/shm")
LOCK = "speciale-driver.lock"
_said: set[str] = set()


def find_places(object_store_mb: int) -> list[str]:
    """Give a local Ray places that work where the machine's own do not, as in batch jobs and containers; what there is
    to say about it, once in a process. Raises ValueError where nothing does."""
    found = [*_temporary(), *_home(), *_shared_memory(object_store_mb)]
    fresh = [sentence for sentence in found if sentence not in _said]
    _said.update(fresh)
    return fresh


def _temporary() -> list[str]:
    said = []
    # What Ray takes; Python goes elsewhere without a word where it cannot write.
    own = os.environ.get("TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(own)) > KERNEL_SOCKETS:
        said.append(
            f"warning: TMPDIR={own}: too long for the sockets of notebook sandboxes, which allow {KERNEL_SOCKETS} "
            "bytes; set TMPDIR to a folder with a short name"
        )
    temporary = os.environ.get("RAY_TMPDIR", own)
    why = ""
    if len(os.fsencode(temporary)) > RAY_SOCKETS:
        why = f"too long for the sockets of Ray ({RAY_SOCKETS} bytes)"
    elif not temporary.isascii():
        why = "no name for Ray, which takes ASCII alone"
    if why:
        if not os.access("/tmp", os.W_OK | os.X_OK):
            raise ValueError(f"TMPDIR={temporary}: {why}; set RAY_TMPDIR to a folder with a short, plain name")
        os.environ["RAY_TMPDIR"] = "/tmp"
        said.append(f"TMPDIR={temporary}: {why}: it uses /tmp")
    elif not os.access(temporary, os.W_OK | os.X_OK):
        raise ValueError(f"TMPDIR={temporary}: cannot be written; set TMPDIR to a folder that can")
    return said


def _home() -> list[str]:
    home = Path(os.path.expanduser("~"))
    there = next((place for place in (home / ".ray", home) if place.is_dir()), None)
    if (there is not None and os.access(there, os.W_OK | os.X_OK)) or "RAY_AUTH_TOKEN" in os.environ:
        return []
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return [
        f"HOME={home}: cannot be written: Ray's token stays in memory; caches of packages and models have "
        "XDG_CACHE_HOME and HF_HOME"
    ]


def _shared_memory(object_store_mb: int) -> list[str]:
    free = shutil.disk_usage(SHM).free if SHM.is_dir() else 0
    wanted = object_store_mb * 2**20
    if free >= wanted:
        return []
    what = f"ray.object_store_mb={object_store_mb}: {SHM} has {free // 2**20} MiB free"
    fix = "give a container --shm-size, or lower it"
    if wanted > NEEDS_SHM and not os.environ.get("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"):
        raise ValueError(f"{what}; {fix}")
    return [f"warning: {what}: weights and rollouts travel through files on disk, which is slow; {fix}"]


@contextmanager
def session(folder: Path) -> Iterator[None]:
    """The session folder of a Ray that this process has started: marked as in use, and removed after the block."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        remove_session(folder)
        os.close(descriptor)


def sweep_sessions(root: Path) -> list[Path]:
    """Remove the session folders in ``root`` that drivers of ours have left which are dead; returns them."""
    swept = []
    for lock in sorted(root.glob(f"session_*/{LOCK}")):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # somebody else's, or another start sweeps it now
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_session(lock.parent)
            swept.append(lock.parent)
        except BlockingIOError:  # its driver lives
            continue
        finally:
            os.close(descriptor)
    return swept


def remove_session(folder: Path) -> None:
    """Remove a session folder, and the link to it."""
    latest = folder.parent / "session_latest"
    if latest.is_symlink() and latest.readlink().name == folder.name:
        latest.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)

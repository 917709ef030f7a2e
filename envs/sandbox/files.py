"""What a caller puts into a sandbox: files to work on, and host folders to read.

    Sandbox().run_python("print(open('data.csv').read())", files={"data.csv": b"a,b\\n"})
    Sandbox().run_python("import sys; sys.path.append('/mnt/lib'); import six", mounts={"lib": Path(...)})

Files are copied: they lie below ``/tmp/work``, belong to the program and die with the sandbox. They travel as
one archive that the guest program unpacks, because a descriptor for each would run out for a repository.
Mounts are the host's own folders, read-only, below ``/mnt``; covers are texts laid over files of them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

ARCHIVE = "/files"  # path of the archive inside; the guest programs know it too
_MOUNT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def pack(files: Mapping[str, bytes], disk_mb: int) -> bytes:
    """The archive: for each file u32 length, path, u32 length, content.

    Raises ValueError for a path that is not plain and relative, and for more than ``/tmp`` can hold.
    """
    parts: list[bytes] = []
    total = 0
    for name in sorted(files):  # the order of a dict must not change what a program sees
        steps = name.split("/")
        if "\0" in name or any(step in ("", ".", "..") for step in steps):
            raise ValueError(f"files: bad path {name!r}; use a relative path such as 'src/a.py', without '..'")
        if any("/".join(steps[:count]) in files for count in range(1, len(steps))):
            raise ValueError(f"files: {name!r} lies below a path that is itself a file; rename one of the two")
        path, content = name.encode("utf-8"), bytes(files[name])
        total += len(content) + 4096  # what a file takes in /tmp, generously
        parts += [len(path).to_bytes(4, "little"), path, len(content).to_bytes(4, "little"), content]
    if total > disk_mb << 20:
        raise ValueError(f"files: {total} bytes do not fit in Limits.disk_mb={disk_mb}; raise it")
    return b"".join(parts)


def mount_points(mounts: Mapping[str, Path]) -> list[tuple[str, str]]:
    """(host path, path inside) of each mount; ValueError for a bad name or a path that is not there."""
    points = []
    for name in sorted(mounts):
        if not _MOUNT_NAME.fullmatch(name):
            raise ValueError(f"mounts: bad name {name!r}; use one folder name such as 'six', without '/' or '..'")
        source = os.path.realpath(mounts[name])
        if not os.path.exists(source):
            raise ValueError(f"mounts[{name!r}]={str(mounts[name])!r} does not exist on the host")
        if os.geteuid() == 0 and not os.stat(source).st_mode & stat.S_IROTH:
            # Root starts sandboxes that run as another user; everybody else's run as oneself.
            raise ValueError(f"mounts[{name!r}]={source!r} cannot be read by other users; chmod -R o+rX it, or copy it")
        points.append((source, f"/mnt/{name}"))
    return points


def cover_points(covers: Mapping[str, bytes], mounts: Mapping[str, Path]) -> list[tuple[str, bytes]]:
    """(path inside, content) of each cover; ValueError for one that lies over no file of a mount."""
    points = []
    for name in sorted(covers):
        top, _, below = name.partition("/")
        plain = not any(step in ("", ".", "..") for step in name.split("/"))
        if not plain or top not in mounts or not Path(mounts[top], below).is_file():
            raise ValueError(f"covers: {name!r} is no file of the mounts ({', '.join(sorted(mounts)) or 'none'})")
        points.append((f"/mnt/{name}", covers[name]))
    return points

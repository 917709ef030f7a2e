"""Installed packages for a sandbox: exactly the named ones and what they need, each mounted by itself.

Mounting the whole of site-packages would show a policy whatever else is installed: this project, its data
packages, benchmark answers. So the files that a distribution says it owns are mounted, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from envs.sandbox.bubblewrap import SandboxUnavailableError

FOLDER = "/packages"
# Needed by nothing that a cell does: a debugger, and completion at a prompt. They are large.
_LEFT_OUT = frozenset({"debugpy", "jedi", "parso"})


def closure(names: Iterable[str]) -> list[Distribution]:
    """The named distributions and all that they require here, by name.

    Raises SandboxUnavailableError with the pip command when one is missing.
    """
    from packaging.requirements import Requirement  # late: only who opens a kernel needs it

    found: dict[str, Distribution] = {}
    open_names = [(name, name) for name in names]
    while open_names:
        name, wanted = open_names.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found or key in _LEFT_OUT:
            continue
        try:
            found[key] = distribution(key)
        except PackageNotFoundError as error:
            raise SandboxUnavailableError(
                f"{wanted} is needed in the sandbox and not installed: pip install '{wanted}'"
            ) from error
        for line in found[key].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                open_names.append((requirement.name, f"{requirement.name}{requirement.specifier}"))
    return [found[key] for key in sorted(found)]


@cache
def package_mounts(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(host path, path inside) for every file and folder that the closure of ``names`` has in site-packages."""
    mounts: dict[str, str] = {}
    for dist in closure(names):
        tops = {file.parts[0] for file in dist.files or ()} - {"..", "__pycache__"}
        if not tops:
            raise SandboxUnavailableError(f"{dist.name} {dist.version} lists no files; reinstall it with pip")
        for top in sorted(tops):
            path = Path(str(dist.locate_file(top)))
            if path.exists() and path.suffix != ".pth":
                mounts[str(path)] = f"{FOLDER}/{top}"
    return tuple(sorted(mounts.items()))

"""Failures in one line: the message, and the place in the author's file, out of the stored traceback."""

from __future__ import annotations

import re
import site
import sysconfig
from pathlib import Path

_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+)', re.M)


def failure(detail: str) -> str:
    """A trajectory's ``failure_detail`` in one line: its first, and the author's line out of the traceback below it."""
    place = author_place(detail)
    return f"{first_line(detail)} ({place})" if place else first_line(detail)


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def author_place(text: str) -> str | None:
    """``file:line`` of the innermost frame of a traceback that is in a user's own file; None when there is none."""
    for file, line in reversed(_FRAME.findall(text)):
        path = Path(file)
        if path.is_absolute() and not any(path.is_relative_to(place) for place in _not_an_authors()):
            here = Path.cwd()
            return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"
    return None


def _not_an_authors() -> list[Path]:
    """Our packages, the libraries and Python itself."""
    ours = [Path(__file__).parents[2] / name for name in ("rl", "envs", "rewards", "configs")]
    libraries = [*site.getsitepackages(), *sysconfig.get_paths().values()]
    return [*ours, *map(Path, libraries)]

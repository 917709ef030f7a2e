"""The files of an episode: the package's sources, with the edits kept in memory.

    files = Files(repository("toolz"), {"toolz/itertoolz.py": broken}, scope=("toolz/",))
    files.edit("toolz/itertoolz.py", "n > 1", "n >= 1")
    files.changed        -> {"toolz/itertoolz.py": "…"}    what differs from the installed package

Only sources can be edited, one passage at a time; tests and conftests cannot. ``create`` adds a module, where an
environment has that as a tool. What an edit says is free: what the sandbox does not hold cannot be reached, and the
verdict is made outside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from envs.environment import ToolError

MAX_LINES = 200  # of one read
MAX_HITS = 40  # of one search
_PLAIN = re.compile(r"[\w.@+/-]{1,200}\.py")


class Texts(Protocol):
    """What lies in the repository before an edit: ``Repository``, or a state of a release."""

    @property
    def files(self) -> Sequence[str]: ...

    def text(self, path: str) -> str: ...

    def is_test(self, path: str) -> bool: ...


class Files:
    """``start`` holds the files with the defect; ``scope`` the paths and folders (ending in /) that are shown."""

    def __init__(self, repo: Texts, start: Mapping[str, str], scope: Sequence[str]) -> None:
        self.repo = repo
        self._start, self._now = dict(start), dict(start)
        folders, single = tuple(s for s in scope if s.endswith("/")), {s for s in scope if not s.endswith("/")}
        self.paths = tuple(p for p in repo.files if p in single or (folders and p.startswith(folders)))

    @property
    def changed(self) -> dict[str, str]:
        """Files that differ from the installed package: what the sandbox has to be given."""
        return {path: text for path, text in sorted(self._now.items()) if self._differs(path, text)}

    def _differs(self, path: str, text: str) -> bool:
        return path not in self.repo.files or text != self.repo.text(path)

    @property
    def edited(self) -> bool:
        """The policy has changed something (and not back)."""
        return self._now != self._start

    def text(self, path: str) -> str:
        if path not in self.paths:
            raise ToolError(f"there is no file {path!r}; list_files shows what there is")
        return self._now[path] if path in self._now else self.repo.text(path)

    def listing(self, folder: str) -> str:
        """One level of a folder: files with their number of lines, folders with their number of files."""
        prefix = "" if folder.strip("./") == "" else folder.strip("/") + "/"
        below = [p for p in self.paths if p.startswith(prefix)]
        if not below:
            raise ToolError(
                f"there is no folder {folder!r}; folders are named like {self.paths[0].rpartition('/')[0]!r}"
            )
        shown: Counter[str] = Counter()
        lines = []
        for path in below:
            name, slash, _ = path.removeprefix(prefix).partition("/")
            if slash:
                shown[f"{prefix}{name}/"] += 1
            else:
                lines.append(f"{path} ({self.text(path).count(chr(10))} lines)")
        return "\n".join([*(f"{name} ({count} files)" for name, count in sorted(shown.items())), *lines])

    def read(self, path: str, start: int, end: int | None) -> str:
        """Lines ``start`` to ``end``, numbered."""
        lines = self.text(path).split("\n")
        if not 1 <= start <= len(lines):
            raise ToolError(f"start is {start}; {path} has lines 1 to {len(lines)}")
        last = min(len(lines), start + MAX_LINES - 1, end if end is not None else len(lines))
        shown = "\n".join(f"{n:5} {lines[n - 1]}" for n in range(start, last + 1))
        more = len(lines) - last
        return f"{shown}\n[{more} more lines]" if more > 0 and (end is None or last < end) else shown

    def search(self, text: str, under: str) -> str:
        """Lines that hold ``text``, as path:number: line."""
        if not text:
            raise ToolError("pattern is empty")
        prefix = "" if under.strip("./") == "" else under.strip("/")
        hits = []
        for path in self.paths:
            if path.startswith(prefix):
                for number, line in enumerate(self.text(path).split("\n"), 1):
                    if text in line:
                        hits.append(f"{path}:{number}: {line.strip()[:160]}")
        if not hits:
            return f"No line holds {text!r}."
        more = f"\n[{len(hits) - MAX_HITS} more]" if len(hits) > MAX_HITS else ""
        return "\n".join(hits[:MAX_HITS]) + more

    def edit(self, path: str, old: str, new: str) -> str:
        """Replace the one occurrence of ``old``."""
        text = self.text(path)
        if self.repo.is_test(path):
            raise ToolError(f"{path} is a test; tests cannot be edited")
        count = text.count(old) if old else int(text == "")  # an empty file has one place
        if count != 1:
            raise ToolError(f"old occurs {count} times in {path}; give a passage that occurs once")
        return self._put("Edited", path, text.replace(old, new))

    def create(self, path: str, text: str, below: Sequence[str]) -> str:
        """A new module in one of the folders ``below`` (ending in /)."""
        steps = path.split("/")
        if path in self.paths or path in self.repo.files:
            raise ToolError(f"{path} is there already; use edit")
        plain = bool(_PLAIN.fullmatch(path)) and not any(step in ("", ".", "..") for step in steps)
        known = {*self.paths, *self.repo.files}
        beside = any("/".join(steps[:n]) in known for n in range(1, len(steps)))  # below what is itself a file
        beside = beside or any(other.startswith(f"{path}/") for other in known)
        if not plain or beside or not path.startswith(tuple(below)) or self.repo.is_test(path):
            folders = " or ".join(folder or "any folder" for folder in below) or "no folder"
            raise ToolError(f"{path}: a new file is a module of the package, below {folders}")
        self.paths = (*self.paths, path)
        return self._put("Created", path, text)

    def _put(self, what: str, path: str, text: str) -> str:
        self._now[path] = text
        if not path.endswith(".py"):
            return f"{what} {path}."
        try:
            compile(text, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"{what} {path}, which is no valid Python now: {error}"
        return f"{what} {path}."

"""Which rollouts of a run are wanted, in which order; how they are found. A query is what stands in the page's URL."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf, isnan
from typing import Any, NamedTuple
from urllib.parse import urlencode

from rl.tracking.rundir import RunDir
from rl.view.run_list import NotThere, trajectory_files, trajectory_path
from rl.view.trajectory_index import FileIndex, Head, TrajectoryIndex

PAGE_ROWS = 50
ALL = "*"  # all files; of `failure`: any kind
NONE = "none"  # of `failure`: valid rollouts only
SORTS = {
    "": "as written",
    "-reward": "highest reward",
    "reward": "lowest reward",
    "-tokens": "longest",
    "tokens": "shortest",
}
MAX_TEXT = 500


class BadQuery(ValueError):
    """A parameter of a URL is wrong; the message says which, and what it may be."""


class Place(NamedTuple):
    """One rollout of a run: the file's name and index, and its head in it."""

    name: str
    file: FileIndex
    head: Head

    @property
    def at(self) -> str:
        """As in URLs: ``step_000012:3``."""
        return f"{self.name}:{self.head.line}"


@dataclass(frozen=True)
class Query:
    """What is wanted; "" and None mean all. ``file``: the name of one file, or ``ALL``."""

    file: str = ""
    family: str = ""
    low: float | None = None  # least reward
    high: float | None = None  # largest reward
    failure: str = ""
    stop: str = ""
    text: str = ""
    sort: str = ""
    page: int = 1

    @classmethod
    def read(cls, params: Mapping[str, str], files: list[str]) -> Query:
        """From a URL. Without ``file`` the evaluation after training, else the newest file.

        Raises BadQuery that says which parameter is wrong.
        """
        text = params.get("text", "").strip()
        if len(text) > MAX_TEXT:
            raise BadQuery(f"text: at most {MAX_TEXT} characters can be looked for")
        sort = params.get("sort", "")
        if sort not in SORTS:
            raise BadQuery(f"sort='{sort}': use {', '.join(filter(None, SORTS))}")
        page = params.get("page") or "1"
        if not re.fullmatch(r"[1-9]\d{0,8}", page):
            raise BadQuery(f"page='{page}': must be a number from 1 on")
        return cls(
            file=params.get("file") or _newest(files),
            family=params.get("family", ""),
            low=_bound(params, "low"),
            high=_bound(params, "high"),
            failure=params.get("failure", ""),
            stop=params.get("stop", ""),
            text=text,
            sort=sort,
            page=int(page),
        )

    def url(self, **changes: Any) -> str:
        """This query with changes, as the part of a URL after "?"; what says nothing is left out."""
        changed = replace(self, **changes) if changes else self
        values = {name: getattr(changed, name) for name in self.__dataclass_fields__}
        if changed.page == 1:
            del values["page"]
        return urlencode(
            {k: f"{v:.12g}" if isinstance(v, float) else v for k, v in values.items() if v not in ("", None)}
        )

    @property
    def narrowed(self) -> bool:
        """Whether it leaves out any rollout of its files."""
        return bool(self.family or self.failure or self.stop or self.text) or (self.low, self.high) != (None, None)

    def takes(self, head: Head) -> bool:
        """Whether a rollout is wanted, as far as its head tells (not so ``text``)."""
        if self.family and head.family != self.family:
            return False
        if self.stop and head.stop != self.stop:
            return False
        if self.failure and not (
            head.failure is None
            if self.failure == NONE
            else head.failure is not None and self.failure in (ALL, head.failure)
        ):
            return False
        if self.low is None and self.high is None:
            return True
        if head.reward is None:
            return False
        return (-inf if self.low is None else self.low) <= head.reward <= (inf if self.high is None else self.high)


@dataclass
class Found:
    """One page of rollouts. ``total`` is None while a text is looked for: only as many are read as the page needs."""

    places: list[Place]
    total: int | None
    more: bool
    families: Counter[str] = field(default_factory=Counter)  # of all rollouts in the files, by what can be chosen
    failures: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)  # "step_000012 line 3"


class Finder:
    """Answers queries about one run."""

    def __init__(self, run: RunDir, index: TrajectoryIndex) -> None:
        self.run = run
        self.files = trajectory_files(run)
        self._index = index

    def file(self, name: str) -> FileIndex:
        """Raises NotThere when the run has no such file."""
        return self._index.file(trajectory_path(self.run, name))

    def place(self, at: str) -> Place:
        """The rollout at ``step_000012:3``. Raises NotThere when there is none."""
        name, _, line = at.rpartition(":")
        file = self.file(name)
        if not line.isdigit():
            raise NotThere(f"'{at}' names no rollout; it is <file>:<line>")
        wanted = int(line)
        # Lines and heads are one and the same, unless lines before could not be read.
        for head in file.heads[max(0, wanted - len(file.unreadable)) : wanted + 1]:
            if head.line == wanted:
                return Place(name, file, head)
        raise NotThere(f"'{name}' has no rollout in line {wanted + 1}")

    def page(self, query: Query) -> Found:
        """One page. Raises NotThere for a file that is not there."""
        found = Found([], None, False)
        every = self._candidates(query, found)
        first = (query.page - 1) * PAGE_ROWS
        if not query.text:
            found.places, found.total = every[first : first + PAGE_ROWS], len(every)
            found.more = first + PAGE_ROWS < len(every)
            return found
        for number, place in enumerate(_with_text(every, query.text)):
            if number == first + PAGE_ROWS:
                found.more = True
                break
            if number >= first:
                found.places.append(place)
        return found

    def neighbours(self, query: Query, at: Place) -> tuple[Place | None, Place | None, int | None, int | None]:
        """(the one before, the one after, its number from 1, how many there are) of ``at`` among the wanted ones;
        numbers are None while a text is looked for. All None when ``at`` is not among them."""
        every = self._candidates(query, Found([], None, False))
        wanted = (at.name, at.head.line)
        position = next((i for i, place in enumerate(every) if (place.name, place.head.line) == wanted), None)
        if position is None:
            return None, None, None, None
        before, after = reversed(every[:position]), iter(every[position + 1 :])
        if query.text:
            before, after = _with_text(before, query.text), _with_text(after, query.text)
            return next(before, None), next(after, None), None, None
        return next(before, None), next(after, None), position + 1, len(every)

    def same_task(self, name: str, head: Head) -> list[Place]:
        """All rollouts of the task of ``head`` in the file ``name``, as written; of a training step those of its
        group."""
        file = self.file(name)
        group = _group(head)
        same = [Place(name, file, one) for one in file.heads if one.task == head.task]
        if not is_step(name):
            return same
        return [place for place in same if _group(place.head) == group]

    def _candidates(self, query: Query, found: Found) -> list[Place]:
        names = self.files if query.file == ALL else [query.file]
        places: list[Place] = []
        for name in names:
            file = self.file(name)
            for head in file.heads:
                found.families[head.family] += 1
                found.stops[head.stop] += 1
                if head.failure is not None:
                    found.failures[head.failure] += 1
                if query.takes(head):
                    places.append(Place(name, file, head))
            found.unreadable += [f"{name} line {number}" for number in file.unreadable]
        if query.sort:
            key, down = query.sort.lstrip("-"), query.sort.startswith("-")
            places.sort(key=lambda place: _rank(getattr(place.head, key), down))
        return places


def _newest(files: list[str]) -> str:
    return next((name for name in reversed(files) if "/" not in name), files[-1] if files else ALL)


def is_step(name: str) -> bool:
    """Whether the file ``name`` holds a training step."""
    return name.rpartition("/")[2].startswith("step_")


def said(row: Mapping[str, Any]) -> Iterator[str]:
    """All texts of a rollout that can be looked for."""
    for message in row.get("messages") or ():
        for key in ("reasoning", "content", "parse_error"):
            if message.get(key):
                yield str(message[key])
        for call in message.get("tool_calls") or ():
            yield str(call.get("name", ""))
            yield from _texts(call.get("arguments"))
    if row.get("failure_detail"):
        yield str(row["failure_detail"])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif value is not None:
        yield str(value)


def _with_text(places: Any, text: str) -> Iterator[Place]:
    """Those of ``places`` that say ``text``, whatever the case of its letters."""
    wanted = text.lower()
    # JSON escapes other letters; the longest plain word must stand in the line as it is.
    word = max(re.findall(r"[a-z0-9]+", wanted), key=len, default="").encode()
    for place in places:
        if word in place.file.raw(place.head).lower() and any(
            wanted in one.lower() for one in said(place.file.read(place.head))
        ):
            yield place


def _group(head: Head) -> str:
    """Of ids like ``search-17-3``: taskset and group, without the position in it."""
    return head.id.rpartition("-")[0]


def _rank(value: float | None, down: bool) -> tuple[bool, float]:
    """What has no number comes last in both directions."""
    return (value is None, 0.0 if value is None else -value if down else value)


def _bound(params: Mapping[str, str], name: str) -> float | None:
    text = params.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if isnan(value):
        raise BadQuery(f"{name}='{text}': must be a number")
    return value

"""RowSource: rows by number, each with its place; what the readers of files and tables have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envs.taskset import Split

Row = dict[str, Any]


class BadRowError(ValueError):
    """What is wrong with one row. A sentence without subject: the place is said by whoever reports it."""


Placed = tuple[str, Row | BadRowError]


class RowSource(ABC):
    """Rows by number. ``own_split``: all of them belong to the split. ``absent_nulls``: a null inside a value may stand
    for a key that the row does not have, since all rows share one type.

    ``columns``, ``digest`` (SHA-256 of the content) and the length are known after the first scan.
    """

    own_split = False
    absent_nulls = False

    def __init__(self, name: str, split: Split) -> None:
        self.name, self.split = name, split
        self.path = Path(name).absolute()
        self.columns: tuple[str, ...] = ()
        self.digest = ""
        self._opened: Any = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def row(self, number: int) -> Row:
        """Row ``number``, a new object. Raises ValueError when the source has changed since it was scanned."""

    @abstractmethod
    def _scan(self) -> Iterator[Placed]:
        """Sets ``_opened``, ``columns`` and ``digest`` by the end."""

    def scan(self) -> Iterator[Placed]:
        """Every row with its place (``line 7`` of a text file, ``row 7`` of others, from 1), in order."""
        before = self.digest
        yield from self._scan()
        if before not in ("", self.digest):
            self._opened = None
            raise ValueError(f"{self.name} has changed since it was opened: start the run again")

    def opened(self) -> Any:
        if self._opened is None:
            for _ in self.scan():
                pass
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}  # opened again where it is unpickled

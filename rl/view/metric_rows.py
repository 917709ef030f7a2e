"""metrics.jsonl piece by piece: a page asks for what came after what it has."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIECE = 1 << 20  # bytes of the file in one answer, at least one row


@dataclass(frozen=True)
class Piece:
    """Rows that follow a cursor. ``fresh``: the file is another one than before, so what came before does not count.
    ``more``: the next piece is there already."""

    rows: list[dict[str, Any]]
    cursor: str
    fresh: bool
    more: bool


def read_piece(path: Path, cursor: str = "", *, size: int = PIECE) -> Piece:
    """The next whole lines of the file at ``path`` after ``cursor`` ("" at the beginning).

    A cursor holds which file it was and how many bytes of it were read. A line without its end is being written, and
    is left for the next call; a line that is no JSON object is passed over.
    """
    known, _, read = cursor.partition("-")
    try:
        file = path.open("rb")
    except OSError:
        return Piece([], "", cursor != "", False)
    with file:
        stat = os.fstat(file.fileno())
        start = int(read) if read.isdigit() else 0
        same = known == str(stat.st_ino) and start <= stat.st_size
        if not same:
            start = 0
        file.seek(start)
        data = file.read(size)
        if b"\n" not in data and len(data) == size:
            data += file.readline()
        end = data.rfind(b"\n") + 1
    rows = []
    for line in data[:end].splitlines():
        try:
            row = json.loads(line, parse_constant=_nothing)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    at = start + end
    return Piece(rows, f"{stat.st_ino}-{at}", not same, end > 0 and at < stat.st_size)


def _nothing(word: str) -> None:
    """For NaN and infinities, which JSON has no word for."""

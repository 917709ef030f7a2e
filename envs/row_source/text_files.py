"""Rows of text files, JSON and CSV: the places of the rows are kept, a row is read when it is asked for."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from abc import abstractmethod
from array import array
from collections.abc import Iterator

from envs.row_source.source import BadRowError, Placed, Row, RowSource

_BOM = b"\xef\xbb\xbf"
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # may be half a surrogate pair, which no file can hold as text
_CHUNK = 1 << 20  # bytes
csv.field_size_limit(2**31 - 1)  # of the process, since threads read rows; a cell may be as long as a prompt


class _TextRows(RowSource):
    """Rows that are stretches of bytes of a file: ``_opened`` holds their starts and ends, and the file's stamp."""

    def __len__(self) -> int:
        return len(self.opened()[0])

    @abstractmethod
    def _places(self) -> Iterator[tuple[str, int, int, Row | BadRowError]]:
        """(place, first byte, byte after the last, row), and sets ``digest``; columns may be known before the end."""

    @abstractmethod
    def _parse(self, raw: bytes) -> Row: ...

    def _scan(self) -> Iterator[Placed]:
        stamp = self._stamp()
        starts, ends = array("Q"), array("Q")
        columns: dict[str, None] = {}
        for place, start, end, row in self._places():
            starts.append(start)
            ends.append(end)
            if isinstance(row, dict):
                columns.update(dict.fromkeys(row))
            yield place, row
        self.columns = tuple(columns) or self.columns
        self._opened = (starts, ends, stamp)

    def row(self, number: int) -> Row:
        if self.opened()[2] != self._stamp():  # written to, or perhaps only touched
            self._opened = None
        starts, ends, _ = self.opened()
        with self.path.open("rb") as file:
            file.seek(starts[number])
            row = self._parse(file.read(ends[number] - starts[number]))
        return dict.fromkeys(self.columns) | row

    def _stamp(self) -> tuple[int, ...]:
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns, status.st_ino

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """(first byte, line) of every line, without a byte order mark; sets ``digest``."""
        digest, position = hashlib.sha256(), 0
        with self.path.open("rb") as file:
            for line in file:
                digest.update(line)
                skip = len(_BOM) if position == 0 and line.startswith(_BOM) else 0
                yield position + skip, line[skip:]
                position += len(line)
        self.digest = digest.hexdigest()


class JsonRows(_TextRows):
    """One object a line, or a list of objects: the first character tells."""

    def _places(self) -> Iterator[tuple[str, int, int, Row | BadRowError]]:
        if self._is_list():
            yield from self._elements()
            return
        for number, (start, line) in enumerate(self._lines(), 1):
            if not line.strip():
                continue
            try:
                row: Row | BadRowError = self._parse(line)
            except BadRowError as error:
                if number == 1 and self.path.suffix.lower() == ".json":
                    self._refuse_one_object()
                row = error
            yield f"line {number}", start, start + len(line), row

    def _parse(self, raw: bytes) -> Row:
        try:
            row = json.loads(_utf8(raw))
            if _HALF_PAIR.search(raw):
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise BadRowError("holds half a surrogate pair (\\ud800 to \\udfff), which is no character") from error
        except BadRowError:
            raise
        except (ValueError, RecursionError) as error:
            raise BadRowError(f"is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise BadRowError(f"holds a {type(row).__name__}, wanted an object")
        return row

    def _is_list(self) -> bool:
        with self.path.open("rb") as file:
            beginning = file.read(_CHUNK).removeprefix(_BOM)
        return beginning.lstrip().startswith(b"[")

    def _elements(self) -> Iterator[tuple[str, int, int, Row | BadRowError]]:
        """The elements of the list, each with its place in the file."""
        data = self.path.read_bytes()
        self.digest = hashlib.sha256(data).hexdigest()
        try:
            text = _utf8(data.removeprefix(_BOM))
        except BadRowError as error:
            raise ValueError(f"{self.name} {error}") from error
        decoder, number = json.JSONDecoder(), 0
        byte = len(data) - len(text.encode())
        position = _after_space(text, 0) + 1
        byte += position  # what is before the list is ASCII
        try:
            while text[(start := _after_space(text, position)) : start + 1] != "]" or number:
                number += 1
                _, end = decoder.raw_decode(text, start)
                first = byte + (start - position)
                last = first + len(text[start:end].encode())
                try:
                    row: Row | BadRowError = self._parse(data[first:last])
                except BadRowError as error:
                    row = error
                yield f"row {number}", first, last, row
                after = _after_space(text, end)
                if text[after : after + 1] == "]":
                    start = after
                    break
                if text[after : after + 1] != ",":
                    raise json.JSONDecodeError("Expecting ',' or ']'", text, after)
                position, byte = after + 1, last + (after + 1 - end)
            if (rest := _after_space(text, start + 1)) != len(text):
                raise json.JSONDecodeError("Extra data", text, rest)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.name} is no JSON list: {error}") from error

    def _refuse_one_object(self) -> None:
        try:
            whole = json.loads(self.path.read_bytes())
        except (ValueError, RecursionError):
            return
        keys = ", ".join(list(whole)[:5]) if isinstance(whole, dict) else type(whole).__name__
        raise ValueError(f"{self.name} holds one object ({keys}); wanted a list of objects, or one object a line")


class CsvRows(_TextRows):
    """A header and rows of as many cells. A cell is text; quotes, and lines inside them, as RFC 4180 has them."""

    def _places(self) -> Iterator[tuple[str, int, int, Row | BadRowError]]:
        line, end, wrong = 0, 0, ""

        def lines() -> Iterator[str]:
            nonlocal line, end, wrong
            for start, raw in self._lines():
                line, end = line + 1, start + len(raw)
                try:
                    yield _utf8(raw)
                except BadRowError as error:
                    wrong = str(error)
                    yield raw.decode(errors="replace")

        header: list[str] = []
        place, start = "line 1", 0
        try:
            for cells in csv.reader(lines(), strict=True):
                if wrong and not header:
                    raise ValueError(f"{self.name}, {place}: {wrong}")
                if not header:
                    if twice := {name for name in cells if cells.count(name) > 1}:
                        raise ValueError(f"{self.name} has the column {min(twice)!r} more than once")
                    header, self.columns = cells, tuple(cells)
                elif cells:
                    row: Row | BadRowError = dict(zip(header, cells, strict=False))
                    if wrong:
                        row = BadRowError(wrong)
                    elif len(cells) != len(header):
                        row = BadRowError(f"has {len(cells)} cells, the header has {len(header)}")
                    yield place, start, end, row
                place, start, wrong = f"line {line + 1}", end, ""
        except csv.Error as error:
            raise ValueError(f"{self.name}, {place}: is no CSV: {error}") from error

    def _parse(self, raw: bytes) -> Row:
        return dict(zip(self.columns, next(csv.reader([_utf8(raw)], strict=True)), strict=True))


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadRowError(
            f"is not UTF-8 text (byte 0x{raw[error.start]:02x} at {error.start}): save the file as UTF-8"
        ) from error


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n"):
        position += 1
    return position

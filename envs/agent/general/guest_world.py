"""Runs inside the sandbox: the database and tools of a stored environment. Given as text, never imported.

_open(spec)                 the database, from JSON
_define(sources)            the tools
_call(name, arguments)      prints one line of JSON: {"value": ...} or {"refused": "why"} or {"failed": "why"}
_state()                    prints all rows as one line of JSON
"""

import builtins
import json
import sqlite3
from collections.abc import Mapping, Sequence

# Type checkers take this for typing's own, whose import costs start-up time. The annotations are strings because
# compile() would hand "from __future__ import annotations" on to the sources of the tools.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Row = dict[str, Any]

_TYPES = {"text": "TEXT", "integer": "INTEGER", "number": "REAL"}


class _Db:
    """What tools are given. ``run`` alone may write."""

    def __init__(self, spec: "Mapping[str, Any]") -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        for table, columns in spec["schema"].items():
            names = ", ".join(f'"{n}" {_TYPES[k]}' for n, k in columns.items())
            self._connection.execute(f'CREATE TABLE "{table}" ({names})')
            for row in spec["rows"][table]:
                marks = ", ".join("?" * len(columns))
                self._connection.execute(f'INSERT INTO "{table}" VALUES ({marks})', [row[n] for n in columns])
        self._connection.execute("PRAGMA query_only = ON")

    def all(self, sql: str, *values: object) -> "list[Row]":
        return [dict(row) for row in self._connection.execute(sql, values)]

    def one(self, sql: str, *values: object) -> "Row | None":
        rows = self.all(sql, *values)
        return rows[0] if rows else None

    def run(self, sql: str, *values: object) -> int:
        self._connection.execute("PRAGMA query_only = OFF")
        try:
            return self._connection.execute(sql, values).rowcount
        finally:
            self._connection.execute("PRAGMA query_only = ON")


_world: "dict[str, Any]" = {}


def _open(spec: "Mapping[str, Any]") -> None:
    _world["db"], _world["tables"] = _Db(spec), list(spec["schema"])


def _define(sources: Mapping[str, str], allowed: Sequence[str]) -> None:
    _world["tools"] = {}
    for name, source in sources.items():
        namespace: dict[str, Any] = {"__builtins__": {n: getattr(builtins, n) for n in allowed}}
        exec(compile(source, "<tool>", "exec"), namespace)
        _world["tools"][name] = namespace[name]


def _call(name: str, arguments: "Mapping[str, Any]") -> None:
    try:
        text = json.dumps({"value": _world["tools"][name](_world["db"], **arguments)})
    except ValueError as error:
        text = json.dumps({"refused": str(error)})
    except Exception as error:
        text = json.dumps({"failed": type(error).__name__ + ": " + str(error)})
    print("\n" + text)


def _state() -> None:
    print(json.dumps({t: _world["db"].all(f'SELECT * FROM "{t}" ORDER BY rowid') for t in _world["tables"]}))

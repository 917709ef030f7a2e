"""Runs inside the sandbox: the database and tools of a stored environment. Given as text, never imported.

_open(spec)                 the database, from JSON
_define(sources)            the tools
_call(name, arguments)      prints one line of JSON: {"value": ...} or {"refused": "why"} or {"failed": "why"}
_state()                    prints all rows as one line of JSON
"""

import builtins
import json
import sqlite3

_TYPES = {"text": "TEXT", "integer": "INTEGER", "number": "REAL"}


class _Db:
    """What tools are given. ``run`` alone may write."""

    def __init__(self, spec):
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        for table, columns in spec["schema"].items():
            names = ", ".join(f'"{n}" {_TYPES[k]}' for n, k in columns.items())
            self._connection.execute(f'CREATE TABLE "{table}" ({names})')
            for row in spec["rows"][table]:
                marks = ", ".join("?" * len(columns))
                self._connection.execute(f'INSERT INTO "{table}" VALUES ({marks})', [row[n] for n in columns])
        self._connection.execute("PRAGMA query_only = ON")

    def all(self, sql, *values):
        return [dict(row) for row in self._connection.execute(sql, values)]

    def one(self, sql, *values):
        rows = self.all(sql, *values)
        return rows[0] if rows else None

    def run(self, sql, *values):
        self._connection.execute("PRAGMA query_only = OFF")
        try:
            return self._connection.execute(sql, values).rowcount
        finally:
            self._connection.execute("PRAGMA query_only = ON")


_world: dict = {}


def _open(spec):
    _world["db"], _world["tables"] = _Db(spec), list(spec["schema"])


def _define(sources, allowed):
    _world["tools"] = {}
    for name, source in sources.items():
        namespace = {"__builtins__": {n: getattr(builtins, n) for n in allowed}}
        exec(compile(source, "<tool>", "exec"), namespace)
        _world["tools"][name] = namespace[name]


def _call(name, arguments):
    try:
        text = json.dumps({"value": _world["tools"][name](_world["db"], **arguments)})
    except ValueError as error:
        text = json.dumps({"refused": str(error)})
    except Exception as error:
        text = json.dumps({"failed": type(error).__name__ + ": " + str(error)})
    print("\n" + text)


def _state():
    print(json.dumps({t: _world["db"].all(f'SELECT * FROM "{t}" ORDER BY rowid') for t in _world["tables"]}))

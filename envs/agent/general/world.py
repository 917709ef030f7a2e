"""WorldSpec: the data of one environment. Database: the same in SQLite, where the tools work.

    WorldSpec("trip", schema={"city": {"name": "text"}}, rows={"city": [{"name": "Oslo"}]}, rules={})

A spec is plain JSON and is never changed; an episode changes its own Database, and ``Database.spec()`` is what
became of it. Verifiers compare the two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

Row = dict[str, Any]
_SQL_TYPES = {"text": "TEXT", "integer": "INTEGER", "number": "REAL"}


@dataclass(frozen=True)
class WorldSpec:
    """``schema`` gives each table's columns and their types; the first column is the key."""

    category: str
    schema: Mapping[str, Mapping[str, str]]
    rows: Mapping[str, list[Row]]
    rules: Mapping[str, Any]

    def __post_init__(self) -> None:
        for table, columns in self.schema.items():
            for column, kind in columns.items():
                if kind not in _SQL_TYPES:
                    raise ValueError(f"{table}.{column} has type {kind!r}, must be one of {', '.join(_SQL_TYPES)}")
            for row in self.rows.get(table, ()):
                if list(row) != list(columns):
                    raise ValueError(f"a row of {table} has the columns {list(row)}, the schema has {list(columns)}")

    def all(self, table: str, **where: Any) -> list[Row]:
        """The rows in which every named column has the given value."""
        if not where:
            return list(self.rows[table])
        (column, value), *rest = where.items()
        found = self._by_column(table, column).get(value, [])
        return [row for row in found if all(row[k] == v for k, v in rest)] if rest else list(found)

    def _by_column(self, table: str, column: str) -> dict[Any, list[Row]]:
        if (table, column) not in self._index:
            index: dict[Any, list[Row]] = {}
            for row in self.rows[table]:
                index.setdefault(row[column], []).append(row)
            self._index[table, column] = index
        return self._index[table, column]

    @cached_property
    def _index(self) -> dict[tuple[str, str], dict[Any, list[Row]]]:
        return {}

    def get(self, table: str, key: Any) -> Row:
        """The row of that key. Raises KeyError."""
        found = self._by_key[table].get(key)
        if found is None:
            raise KeyError(f"{table} has no {self.key(table)} {key!r}")
        return found

    @cached_property
    def _by_key(self) -> dict[str, dict[Any, Row]]:
        # reversed: where a key occurs twice, the first row wins
        return {table: {row[self.key(table)]: row for row in reversed(rows)} for table, rows in self.rows.items()}

    def key(self, table: str) -> str:
        return next(iter(self.schema[table]))

    def has(self, column: str) -> bool:
        """Whether there is such a ``table.column``; an environment may lack some."""
        table, _, name = column.partition(".")
        return name in self.schema.get(table, ())

    def without(self, columns: tuple[str, ...]) -> WorldSpec:
        """The same world, less these ``table.column``."""
        gone = {tuple(column.split(".")) for column in columns}
        schema = {t: {c: k for c, k in cs.items() if (t, c) not in gone} for t, cs in self.schema.items()}
        rows = {t: [{c: row[c] for c in schema[t]} for row in rs] for t, rs in self.rows.items()}
        return replace(self, schema=schema, rows=rows)

    def to_json(self) -> dict[str, Any]:
        schema = {table: dict(columns) for table, columns in self.schema.items()}
        return {"category": self.category, "schema": schema, "rows": dict(self.rows), "rules": dict(self.rules)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorldSpec:
        return cls(data["category"], data["schema"], data["rows"], data["rules"])


def changed(start: WorldSpec, end: WorldSpec, table: str) -> tuple[list[Row], list[Row]]:
    """(rows that are gone, rows that are new); a changed row is in both."""
    before, after = ({tuple(row.values()): row for row in spec.rows[table]} for spec in (start, end))
    return [row for k, row in before.items() if k not in after], [row for k, row in after.items() if k not in before]


def same(start: WorldSpec, end: WorldSpec, *, apart_from: tuple[str, ...] = ()) -> bool:
    """Whether all tables but the named ones are as they were."""
    return all(start.rows[table] == end.rows[table] for table in start.schema if table not in apart_from)


class Database:
    """An SQLite database in memory with the rows of a spec. For one episode."""

    def __init__(self, spec: WorldSpec) -> None:
        self._spec = spec
        self.rules = spec.rules
        # an episode's calls may come from different threads, one after the other
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        for table, columns in spec.schema.items():
            parts = ", ".join(f'"{name}" {_SQL_TYPES[kind]}' for name, kind in columns.items())
            self._connection.execute(f'CREATE TABLE "{table}" ({parts})')
            marks = ", ".join("?" * len(columns))
            values = [tuple(row.values()) for row in spec.rows.get(table, ())]
            self._connection.executemany(f'INSERT INTO "{table}" VALUES ({marks})', values)

    def all(self, sql: str, *values: Any) -> list[Row]:
        return [dict(row) for row in self._connection.execute(sql, values)]

    def one(self, sql: str, *values: Any) -> Row | None:
        rows = self.all(sql, *values)
        return rows[0] if rows else None

    def run(self, sql: str, *values: Any) -> int:
        """Execute; returns the number of rows that it changed."""
        return self._connection.execute(sql, values).rowcount

    def add(self, table: str, **row: Any) -> None:
        self.run(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(row))})', *row.values())

    def next_id(self, table: str) -> int:
        key = self._spec.key(table)
        return int(self.all(f'SELECT COALESCE(MAX("{key}"), 0) + 1 AS n FROM "{table}"')[0]["n"])

    def spec(self) -> WorldSpec:
        """What the database holds now, rows in the order in which they were put in."""
        rows = {table: self.all(f'SELECT * FROM "{table}" ORDER BY rowid') for table in self._spec.schema}
        return replace(self._spec, rows=rows)

    def close(self) -> None:
        self._connection.close()

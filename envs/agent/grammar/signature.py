"""When two environments are the same: the measure of difference, on (tables, tools, rules).

    tables   the columns of every table with their types, and which column points to which table
    tools    of every tool what it does, to which table, with which parameters of which types, in which way it pages,
             and which columns it shows
    rules    kind and form of every house rule and price rule, and whether the booking tool enforces it

``core`` leaves out what no rule, wish or choice ever needs: spare columns and tables, their tools, calculators, which
numbers an item has, and whether ids are codes. It is the stricter measure.

The normal form is told in roles: what a domain calls things does not count, neither do the names of tools, the numbers
in rules, the rows, nor how dates look. Two environments with the same normal form are one. ``named`` has the names too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from envs.agent.grammar.conditions import Constraint
from envs.agent.grammar.grammar_case import offered_by
from envs.agent.grammar.naming import naming_of
from envs.agent.grammar.structure import SPARE_COLUMNS, SPARE_TABLES, Structure, structure_of

_POINTS = {"item": "item", "client": "client", "grp": "grp", "region": "region"}


@dataclass(frozen=True)
class Signature:
    """Digests; equal digests are equal parts. ``named``: tables and tools as the policy reads them."""

    tables: str
    tools: str
    rules: str
    named: str
    core_tables: str
    core_tools: str

    @property
    def form(self) -> str:
        """The whole normal form."""
        return _digest([self.tables, self.tools, self.rules])

    @property
    def core(self) -> str:
        return _digest([self.core_tables, self.core_tools, self.rules])


@lru_cache(maxsize=8192)
def signature_of(number: int) -> Signature:
    structure = structure_of(number)
    tools = [
        [o.key, [[role, o.schema_of(role)["type"]] for role in sorted(o.roles)], _shown(structure, o.key)]
        for o in offered_by(number).values()
    ]
    naming = naming_of(structure)
    named = [
        sorted([table, name] for (table, _), name in naming.columns.items()),
        sorted(o.name for o in offered_by(number).values()),
    ]
    core = [[o.key, sorted(o.roles)] for o in offered_by(number).values() if not _spare(o.key)]
    digests = (tables(structure), sorted(tools), rules(structure), named, _core_tables(structure), sorted(core))
    return Signature(*map(_digest, digests))


def _spare(key: str) -> bool:
    table, _, what = key.partition(".")
    return table in ("calc", *SPARE_TABLES) or what in ("count", "rename")


def _core_tables(structure: Structure) -> list[Any]:
    spare = {column for column in SPARE_COLUMNS if column != "grp.rating"}
    parts: tuple[Constraint, ...] = (*structure.rules, *structure.prices)
    needed = {need for part in parts for need in part.needs}
    kept = []
    for table, columns in structure.schema.items():
        if table not in SPARE_TABLES:
            own = {c for c in columns if f"{table}.{c}" not in spare and not (c[0] == "a" and c[1:].isdigit())}
            own |= {c for c in columns if f"{table}.{c}" in needed}
            kept.append([table, sorted(own)])
    return sorted(kept)


def tables(structure: Structure) -> list[Any]:
    """Columns, types and relations, by role."""
    return sorted(
        [table, sorted([column, kind, _points_to(structure, table, column)] for column, kind in columns.items())]
        for table, columns in structure.schema.items()
    )


def _points_to(structure: Structure, table: str, column: str) -> str:
    if column == "place":
        rule = structure.rule("closure" if table == "closure" else "ban")
        return rule.form if rule is not None else ""
    target = _POINTS.get(column, "")
    return target if target != table else ""


def rules(structure: Structure) -> list[Any]:
    told = [[rule.kind, rule.form, rule in structure.enforced] for rule in structure.rules]
    return sorted([*told, *([rule.kind, rule.form, False] for rule in structure.prices)])


def _shown(structure: Structure, key: str) -> list[str]:
    table, _, what = key.partition(".")
    if what in ("get", "find", "page", "rows", "of", "search", "between", "of_client", "of_item"):
        columns = sorted(structure.schema.get(table, ()))
        return [*columns, "features"] if table == "item" and structure.modes.get("feature") == "column" else columns
    return []


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

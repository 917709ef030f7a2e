"""What the tools of an environment do: each gets the desk and values by role, and returns what the policy reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from envs.agent.general.world import Database, Row
from envs.agent.grammar.naming import Naming
from envs.agent.grammar.structure import Structure
from envs.environment import ToolError

Refuse = Callable[[Database, Mapping[str, Any]], str | None]  # why a new record is not taken


@dataclass
class Desk:
    """What tools work on: the episode's database, in the environment's style."""

    database: Database
    naming: Naming
    refuse: Refuse
    law: tuple[str, ...]  # the house rules, in words

    @property
    def structure(self) -> Structure:
        return self.naming.structure


def no_such(desk: Desk, role: str, value: Any) -> ToolError:
    shown = desk.naming.show_value(role, value)
    return ToolError(f"there is no {desk.naming.argument(role).replace('_', ' ')} {shown!r}.")


def must_exist(desk: Desk, role: str, value: Any) -> None:
    table, column = {"item": ("item", "id"), "client": ("client", "id"), "grp": ("grp", "name")}.get(role, ("", ""))
    if table and desk.database.one(f"SELECT 1 AS n FROM {table} WHERE {column} = ?", value) is None:
        raise no_such(desk, role, value)


def presented(desk: Desk, table: str, row: Row) -> Row:
    shown = desk.naming.show(table, row)
    if table == "item" and desk.structure.modes.get("feature") == "column":
        shown["features"] = its_features(desk, row["id"])
    return shown


def all_rows(desk: Desk, table: str, column: str = "", value: Any = None, role: str = "") -> list[Row]:
    if role:
        must_exist(desk, role, value)
    where = f" WHERE {column} = ?" if column else ""
    rows = desk.database.all(f"SELECT * FROM {table}{where} ORDER BY rowid", *([value] if column else []))
    return [presented(desk, table, row) for row in rows]


def one_row(desk: Desk, table: str, column: str, value: Any) -> Row:
    row = desk.database.one(f"SELECT * FROM {table} WHERE {column} = ?", value)
    if row is None:
        raise no_such(desk, column if column != "id" else table, value)
    return presented(desk, table, row)


def some_ids(desk: Desk, table: str, by: str = "", value: Any = None, role: str = "", column: str = "id") -> list[Any]:
    if role:
        must_exist(desk, role, value)
    where = f" WHERE {by} = ?" if by else ""
    rows = desk.database.all(f"SELECT {column} AS id FROM {table}{where} ORDER BY 1", *([value] if by else []))
    return [desk.naming.show_value("item", row["id"]) for row in rows]


def one_page(desk: Desk, table: str, page: int) -> Row:
    rows, size = all_rows(desk, table), desk.structure.style.page
    pages = max(1, -(-len(rows) // size))
    if not 1 <= page <= pages:
        raise ToolError(f"there is no page {page}; pages are 1 to {pages}.")
    return {"page": page, "pages": pages, "rows": rows[(page - 1) * size : page * size]}


def a_slice(desk: Desk, table: str, offset: int, limit: int) -> Row:
    rows, size = all_rows(desk, table), desk.structure.style.page
    if not 1 <= limit <= size or not offset >= 0:
        raise ToolError(f"limit must be 1 to {size}, offset 0 or more.")
    return {"count": len(rows), "rows": rows[offset : offset + limit]}


def search(desk: Desk, a: dict[str, Any]) -> list[Row]:
    if not a:
        raise ToolError("say whose, or of what.")
    for role, value in a.items():
        must_exist(desk, role, value)
    where = " AND ".join(f"{role} = ?" for role in a)
    rows = desk.database.all(f"SELECT * FROM record WHERE {where} ORDER BY rowid", *a.values())
    return [presented(desk, "record", row) for row in rows]


def between(desk: Desk, a: dict[str, Any]) -> list[Row]:
    sql = "SELECT * FROM record WHERE day BETWEEN ? AND ? ORDER BY rowid"
    return [presented(desk, "record", row) for row in desk.database.all(sql, a["first"], a["second"])]


def its_features(desk: Desk, item: int) -> list[str]:
    must_exist(desk, "item", item)
    return [row["feature"] for row in desk.database.all("SELECT feature FROM feature WHERE item = ?", item)]


def facts_of(desk: Desk, table: str, column: str, value: Any, role: str) -> list[Any]:
    must_exist(desk, role, value)
    rows = desk.database.all(
        f"SELECT * FROM {table} WHERE {column} = ? ORDER BY rowid", str(value) if column == "place" else value
    )
    shown = [presented(desk, table, row) for row in rows]
    wanted = {"closure": "day", "ban": "place"}.get(table)
    return [row[desk.naming.columns[table, wanted]] for row in shown] if wanted else shown


def closed(desk: Desk, a: dict[str, Any]) -> str:
    ((role, place),) = [(role, value) for role, value in a.items() if role != "day"]
    must_exist(desk, role, place)
    found = desk.database.one("SELECT 1 AS n FROM closure WHERE place = ? AND day = ?", str(place), a["day"])
    return "closed" if found else "open"


def barred(desk: Desk, a: dict[str, Any]) -> str:
    ((role, place),) = [(role, value) for role, value in a.items() if role != "client"]
    must_exist(desk, role, place)
    must_exist(desk, "client", a["client"])
    found = desk.database.one("SELECT 1 AS n FROM ban WHERE client = ? AND place = ?", a["client"], str(place))
    return "yes" if found else "no"


def held(desk: Desk, a: dict[str, Any]) -> str:
    must_exist(desk, "client", a["client"])
    sql = "SELECT valid_until FROM holding WHERE client = ? AND paper = ?"
    found = desk.database.one(sql, a["client"], a["paper"])
    return str(desk.naming.show_value("valid_until", found["valid_until"])) if found else "none"


def weather(desk: Desk, a: dict[str, Any]) -> str:
    found = desk.database.one("SELECT sky FROM weather WHERE city = ? AND day = ?", a["city"], a["day"])
    return str(found["sky"]) if found else "no forecast"


def create(desk: Desk, a: dict[str, Any]) -> Row:
    for role in ("client", "item"):
        must_exist(desk, role, a[role])
    if not 1 <= a["quantity"] <= 1000 or a["total"] < 0:
        raise ToolError("the number must be 1 to 1000, and the total not negative.")
    if why := desk.refuse(desk.database, a):
        raise ToolError(f"refused. {why}")
    number = desk.database.next_id("record")
    status = "draft" if desk.structure.style.booking == "two" else "active"
    row = {**{key: a[key] for key in ("client", "item", "day", "quantity", "total")}, "id": number, "status": status}
    row |= {"channel": "desk"} if "channel" in desk.structure.schema["record"] else {}
    desk.database.add("record", **{column: row[column] for column in desk.structure.schema["record"]})
    return {desk.naming.columns["record", "id"]: desk.naming.show_value("record", number), "status": status}


def status(desk: Desk, record: int, now: str, then: str) -> str:
    row = desk.database.one("SELECT status FROM record WHERE id = ?", record)
    if row is None:
        raise no_such(desk, "record", record)
    if row["status"] != now:
        raise ToolError(f"its status is {row['status']}, not {now}.")
    desk.database.run("UPDATE record SET status = ? WHERE id = ?", then, record)
    return then


def rename(desk: Desk, a: dict[str, Any]) -> str:
    must_exist(desk, "client", a["client"])
    desk.database.run("UPDATE client SET name = ? WHERE id = ?", a["name"], a["client"])
    return "renamed"

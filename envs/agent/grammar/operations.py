"""The tools of an environment: reading, writing, calculating, and those that nobody needs.

    operations(structure)["item.page"].tool()             the schema that the policy sees
    operations(structure)["item.page"].run(desk, {"page": 1})

An operation is told in roles (``item.get`` of an ``item``); its name, its arguments and the look of its values are in
the environment's own style. Which operations there are follows from how each table can be read (``Structure.modes``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from envs.agent.general.world import Database, Row
from envs.agent.grammar.conditions import days_apart, weekday
from envs.agent.grammar.naming import Naming
from envs.agent.grammar.structure import CHOOSE, Structure
from envs.environment import ToolError
from envs.tools import Tool, check_arguments

_INTEGERS = ("page", "offset", "limit", "quantity", "total", "amount", "percent")
_IDS = ("item", "client", "record")
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


@dataclass(frozen=True)
class Operation:
    """``parameters`` are roles; one with a question mark may be left out. ``gives``: roles of the values it shows."""

    key: str
    name: str
    text: str
    parameters: tuple[str, ...]
    run: Callable[[Desk, dict[str, Any]], Any]
    naming: Naming
    changes: bool = False
    gives: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(parameter.rstrip("?") for parameter in self.parameters)

    def tool(self) -> Tool:
        properties = {self.naming.argument(role): self.schema_of(role) for role in self.roles}
        required = [self.naming.argument(p) for p in self.parameters if not p.endswith("?")]
        parameters = {"type": "object", "properties": properties, "required": required}
        return Tool(self.name, "", {"name": self.name, "description": self.text, "parameters": parameters})

    def schema_of(self, role: str) -> dict[str, Any]:
        if role in ("kind", "feature"):
            values = self.naming.domain.kinds if role == "kind" else self.naming.domain.features
            return {"type": "string", "enum": list(values)}
        number = role in _INTEGERS or (role in _IDS and self.naming.style.ids == "number")
        return {"type": "integer" if number else "string"}

    def shown(self, **roles: Any) -> dict[str, Any]:
        """Arguments as the policy writes them, from values by role."""
        return {self.naming.argument(role): self.naming.show_value(role, value) for role, value in roles.items()}

    def call(self, desk: Desk, arguments: Mapping[str, Any]) -> Any:
        """Run it with arguments as the policy writes them. Raises ToolError."""
        if problem := check_arguments(self.tool().schema, arguments):
            raise ToolError(problem)
        named = {self.naming.argument(role): role for role in self.roles}
        values = {named[name]: self.naming.read_value(named[name], value) for name, value in arguments.items()}
        for value in values.values():
            if isinstance(value, int) and abs(value) >= 2**62:
                raise ToolError("that number is too large.")
            if isinstance(value, str) and not value.isprintable():
                raise ToolError("a text must be one line of printable characters.")
        return self.run(desk, values)


def operations(structure: Structure) -> dict[str, Operation]:
    """All operations by key, in an order that says nothing of what is needed."""
    made = _Maker(Naming(structure))
    made.tables()
    made.writes()
    made.extras()
    return {operation.key: operation for operation in sorted(made.found, key=lambda operation: operation.name)}


class _Maker:
    def __init__(self, naming: Naming) -> None:
        self.naming, self.structure, self.domain = naming, naming.structure, naming.domain
        self.found: list[Operation] = []
        self.all, self.one, self.some = naming.style.verbs

    def add(
        self, key: str, verb: str, nouns: tuple[str, ...], text: str, parameters: str, run: Callable[..., Any],
        gives: str = "", changes: bool = False,
    ) -> None:  # fmt: skip
        name, roles = self.naming.tool(verb, *nouns), tuple(parameters.split())
        if any(operation.name == name for operation in self.found):
            raise ValueError(f"two tools are called {name}")
        told = self.domain.say(text)
        self.found.append(Operation(key, name, told, roles, run, self.naming, changes, tuple(gives.split())))

    def tables(self) -> None:
        d, modes = self.domain, self.structure.modes
        items, groups, clients, records = (noun.many for noun in (d.item, d.group, d.client, d.record))
        item, group, client, record = (noun.one for noun in (d.item, d.group, d.client, d.record))
        if modes["item"] == "pages":
            self.pages("item", items, "item grp")
        elif modes["item"] == "of_group":
            self.add("item.of_group", self.some, (items, f"in {group}"), "Ids of the {items} of one {group}.", "grp",
                     lambda desk, a: _ids(desk, "item", "grp", a["grp"], "grp"), "item")  # fmt: skip
        elif modes["item"] == "of_kind":
            self.add("item.of_kind", self.some, (items, "by", d.kind), "Ids of the {items} of one {kind}.", "kind",
                     lambda desk, a: _ids(desk, "item", "kind", a["kind"]), "item")  # fmt: skip
        else:
            self.add("item.ids", self.all, (items, "ids"), "Ids of all {items}.", "",
                     lambda desk, a: _ids(desk, "item"), "item")  # fmt: skip
        self.add("item.get", self.one, (item,), "All about {an_item}.", "item",
                 lambda desk, a: _row(desk, "item", "id", a["item"]), "grp kind")  # fmt: skip
        if modes["grp"] == "rows":
            self.add("grp.rows", self.all, (groups,), "All {groups} with all that is known of them.", "",
                     lambda desk, a: _rows(desk, "grp"), "grp region city")  # fmt: skip
        else:
            self.add("grp.names", self.all, (group, "names"), "Names of all {groups}.", "",
                     lambda desk, a: [row["name"] for row in desk.database.all("SELECT name FROM grp")], "grp")  # fmt: skip
            self.add("grp.get", self.one, (group,), "All about {a_group}.", "grp",
                     lambda desk, a: _row(desk, "grp", "name", a["grp"]), "region city")  # fmt: skip
        if modes["client"] == "row":
            self.add("client.find", self.some, (client,), "All about {a_client}, by name.", "name",
                     lambda desk, a: _row(desk, "client", "name", a["name"]), "client")  # fmt: skip
        elif modes["client"] == "id":
            self.add("client.find", self.some, (client, "id"), "The id of {a_client}, by name.", "name",
                     lambda desk, a: _row(desk, "client", "name", a["name"])[desk.naming.columns["client", "id"]],
                     "client")  # fmt: skip
        if modes["client"] != "row":
            self.add("client.get", self.one, (client,), "All about {a_client}.", "client",
                     lambda desk, a: _row(desk, "client", "id", a["client"]), "")  # fmt: skip
        self.records(records, client, item, record)
        self.others(item, group, client)

    def records(self, records: str, client: str, item: str, record: str) -> None:
        mode = self.structure.modes.get("record")
        if mode == "split":
            for role, noun, word in (("client", client, "{a_client}"), ("item", item, "{an_item}")):
                self.add(f"record.of_{role}", self.some, (records, "of", noun), f"All {{records}} of {word}.", role,
                         lambda desk, a, role=role: _rows(desk, "record", role, a[role], role), "record item client")  # fmt: skip
        elif mode == "search":
            self.add("record.search", self.some, (records,), "The {records} of {a_client}, of {an_item}, or of both.",
                     "client? item?", _search, "record item client")  # fmt: skip
        elif mode == "pages":
            self.pages("record", records, "record item client")
        elif mode == "between":
            self.add("record.between", self.some, (records, "by date"), "The {records} from a first to a last date.",
                     "first second", _between, "record item client")  # fmt: skip

    def others(self, item: str, group: str, client: str) -> None:
        d, modes = self.domain, self.structure.modes
        if modes.get("feature") == "of":
            self.add("feature.of", self.all, ("features of", item), "What {an_item} has.", "item",
                     lambda desk, a: _features(desk, a["item"]), "feature")  # fmt: skip
        elif modes.get("feature") == "with":
            self.add("feature.with", self.some, (d.item.many, "with feature"), "Ids of the {items} that have something.",
                     "feature", lambda desk, a: _ids(desk, "feature", "feature", a["feature"], column="item"), "item")  # fmt: skip
        for table, words, thing, key, text in (
            ("closure", "closing dates", self.place("closure"), "place", "The closing days of a {place}."),
            ("ban", "bars", "client", "client", "What {a_client} is barred from."),
            ("holding", f"{d.paper} list", "client", "client", "Every {paper} of {a_client}."),
        ):
            if modes.get(table) == "of":
                self.add(f"{table}.of", self.all, (words, "of", {"item": item, "grp": group, "client": client}[thing]),
                         text.replace("{place}", d.say("{item}" if thing == "item" else "{group}")), thing,
                         lambda desk, a, t=table, c=key, r=thing: _facts_of(desk, t, c, a[r], r), "")  # fmt: skip
        if modes.get("closure") == "check":
            self.add("closure.check", "is_closed", (group if self.place("closure") == "grp" else item,),
                     "Whether it is closed on a day.", f"{self.place('closure')} day", _closed)  # fmt: skip
        if modes.get("ban") == "check":
            self.add("ban.check", "is_barred", (client,), "Whether {a_client} is barred.", f"client {self.place('ban')}",
                     _barred)  # fmt: skip
        if modes.get("holding") == "check":
            self.add("holding.check", self.one, (d.paper, "validity"), "Until when {a_client} holds {a_paper}.",
                     "client paper", _held)  # fmt: skip
        if modes.get("region") == "get":
            self.add("region.get", self.one, ("region",), "All about a region.", "region",
                     lambda desk, a: _row(desk, "region", "name", a["region"]))  # fmt: skip
        elif modes.get("region") == "rows":
            self.add("region.rows", self.all, ("regions",), "All regions.", "", lambda desk, a: _rows(desk, "region"))
        if modes.get("tier") == "get":
            self.add("tier.get", self.one, (d.tier,), "All about one {tier}.", "tier",
                     lambda desk, a: _row(desk, "tier", "name", a["tier"]))  # fmt: skip
        elif modes.get("tier") == "rows":
            self.add("tier.rows", self.all, (d.tier, "table"), "Every {tier}, from low to high.", "",
                     lambda desk, a: _rows(desk, "tier"))  # fmt: skip
        for table, nouns, text in (
            ("band", ("discount bands",), "Discounts by the number of {units}."),
            ("rival", ("exclusions",), "Pairs of {kind} values that exclude each other."),
            ("supplier", ("suppliers",), "All suppliers."),
        ):
            if table in self.structure.schema:
                self.add(f"{table}.rows", self.all, nouns, text, "", lambda desk, a, t=table: _rows(desk, t))
        if "staff" in self.structure.schema:
            self.add("staff.of", self.some, ("staff of", group), "Who works at {a_group}.", "grp",
                     lambda desk, a: _rows(desk, "staff", "grp", a["grp"], "grp"))  # fmt: skip
        if "review" in self.structure.schema:
            self.add("review.of", self.some, ("reviews of", item), "What was said about {an_item}.", "item",
                     lambda desk, a: _rows(desk, "review", "item", a["item"], "item"))  # fmt: skip
        if "weather" in self.structure.schema:
            self.add("weather.of", self.one, ("weather",), "The forecast for a city and a day.", "city day", _weather)
        if self.structure.style.rules == "tool" and (self.structure.rules or self.structure.prices):
            self.add("rules.rows", self.one, ("house rules",), "The house rules.", "", lambda desk, a: list(desk.law))

    def place(self, table: str) -> str:
        rule = self.structure.rule(table)
        return "grp" if rule is not None and rule.form == "grp" else "item"

    def pages(self, table: str, nouns: str, gives: str) -> None:
        size, word = self.naming.style.page, self.domain.say("{%ss}" % table)
        if self.naming.style.paging == "page":
            text = f"All {word}, {size} a page; pages count from 1."
            self.add(
                f"{table}.page", self.all, (nouns,), text, "page", lambda desk, a: _page(desk, table, a["page"]), gives
            )
        else:
            text = f"All {word} from an offset on, at most {size} at a time."
            self.add(f"{table}.page", self.all, (nouns,), text, "offset limit",
                     lambda desk, a: _slice(desk, table, a["offset"], a["limit"]), gives)  # fmt: skip

    def writes(self) -> None:
        record = self.domain.record.one
        if self.structure.family == CHOOSE:
            two = self.naming.style.booking == "two"
            text = "Draft {a_record}; it counts once it is confirmed." if two else "Make {a_record}."
            self.add("record.create", "draft" if two else "create", (record,),
                     text + " total is what the {client} will be charged.", "client item day quantity total", _create,
                     "record", changes=True)  # fmt: skip
            if two:
                self.add("record.confirm", "confirm", (record,), "Confirm a drafted {record}.", "record",
                         lambda desk, a: _status(desk, a["record"], "draft", "active"), changes=True)  # fmt: skip
        if "record" in self.structure.schema and self.structure.family != "tally":
            self.add("record.cancel", "cancel", (record,), "Cancel an active {record}.", "record",
                     lambda desk, a: _status(desk, a["record"], "active", "cancelled"), changes=True)  # fmt: skip

    def extras(self) -> None:
        wanted, client = self.structure.extras, self.domain.client.one
        if "days" in wanted:
            self.add("calc.days", "days_between", ("dates",), "Days from one date to another.", "first second",
                     lambda desk, a: days_apart(a["first"], a["second"]))  # fmt: skip
        if "percent" in wanted:
            self.add("calc.percent", "percent_of", ("amount",), "So many percent of an amount, rounded down.",
                     "percent amount", lambda desk, a: a["percent"] * a["amount"] // 100)  # fmt: skip
        if "weekday" in wanted:
            self.add("calc.weekday", "weekday_of", ("date",), "The weekday of a date.", "day",
                     lambda desk, a: weekday(a["day"]))  # fmt: skip
        if "count" in wanted:
            self.add("item.count", "count", (self.domain.item.many,), "How many {items} there are.", "",
                     lambda desk, a: len(desk.database.all("SELECT id FROM item")))  # fmt: skip
        if "rename" in wanted:
            self.add("client.rename", "rename", (client,), "Change the name of {a_client}.", "client name", _rename,
                     changes=True)  # fmt: skip


# -- what they do ----------------------------------------------------------------------------


def _missing(desk: Desk, role: str, value: Any) -> ToolError:
    shown = desk.naming.show_value(role, value)
    return ToolError(f"there is no {desk.naming.argument(role).replace('_', ' ')} {shown!r}.")


def _known(desk: Desk, role: str, value: Any) -> None:
    table, column = {"item": ("item", "id"), "client": ("client", "id"), "grp": ("grp", "name")}.get(role, ("", ""))
    if table and desk.database.one(f"SELECT 1 AS n FROM {table} WHERE {column} = ?", value) is None:
        raise _missing(desk, role, value)


def _present(desk: Desk, table: str, row: Row) -> Row:
    shown = desk.naming.show(table, row)
    if table == "item" and desk.structure.modes.get("feature") == "column":
        shown["features"] = _features(desk, row["id"])
    return shown


def _rows(desk: Desk, table: str, column: str = "", value: Any = None, role: str = "") -> list[Row]:
    if role:
        _known(desk, role, value)
    where = f" WHERE {column} = ?" if column else ""
    rows = desk.database.all(f"SELECT * FROM {table}{where} ORDER BY rowid", *([value] if column else []))
    return [_present(desk, table, row) for row in rows]


def _row(desk: Desk, table: str, column: str, value: Any) -> Row:
    row = desk.database.one(f"SELECT * FROM {table} WHERE {column} = ?", value)
    if row is None:
        raise _missing(desk, column if column != "id" else table, value)
    return _present(desk, table, row)


def _ids(desk: Desk, table: str, by: str = "", value: Any = None, role: str = "", column: str = "id") -> list[Any]:
    if role:
        _known(desk, role, value)
    where = f" WHERE {by} = ?" if by else ""
    rows = desk.database.all(f"SELECT {column} AS id FROM {table}{where} ORDER BY 1", *([value] if by else []))
    return [desk.naming.show_value("item", row["id"]) for row in rows]


def _page(desk: Desk, table: str, page: int) -> Row:
    rows, size = _rows(desk, table), desk.structure.style.page
    pages = max(1, -(-len(rows) // size))
    if not 1 <= page <= pages:
        raise ToolError(f"there is no page {page}; pages are 1 to {pages}.")
    return {"page": page, "pages": pages, "rows": rows[(page - 1) * size : page * size]}


def _slice(desk: Desk, table: str, offset: int, limit: int) -> Row:
    rows, size = _rows(desk, table), desk.structure.style.page
    if not 1 <= limit <= size or not offset >= 0:
        raise ToolError(f"limit must be 1 to {size}, offset 0 or more.")
    return {"count": len(rows), "rows": rows[offset : offset + limit]}


def _search(desk: Desk, a: dict[str, Any]) -> list[Row]:
    if not a:
        raise ToolError("say whose, or of what.")
    for role, value in a.items():
        _known(desk, role, value)
    where = " AND ".join(f"{role} = ?" for role in a)
    rows = desk.database.all(f"SELECT * FROM record WHERE {where} ORDER BY rowid", *a.values())
    return [_present(desk, "record", row) for row in rows]


def _between(desk: Desk, a: dict[str, Any]) -> list[Row]:
    sql = "SELECT * FROM record WHERE day BETWEEN ? AND ? ORDER BY rowid"
    return [_present(desk, "record", row) for row in desk.database.all(sql, a["first"], a["second"])]


def _features(desk: Desk, item: int) -> list[str]:
    _known(desk, "item", item)
    return [row["feature"] for row in desk.database.all("SELECT feature FROM feature WHERE item = ?", item)]


def _facts_of(desk: Desk, table: str, column: str, value: Any, role: str) -> list[Any]:
    _known(desk, role, value)
    rows = desk.database.all(
        f"SELECT * FROM {table} WHERE {column} = ? ORDER BY rowid", str(value) if column == "place" else value
    )
    shown = [_present(desk, table, row) for row in rows]
    wanted = {"closure": "day", "ban": "place"}.get(table)
    return [row[desk.naming.columns[table, wanted]] for row in shown] if wanted else shown


def _closed(desk: Desk, a: dict[str, Any]) -> str:
    ((role, place),) = [(role, value) for role, value in a.items() if role != "day"]
    _known(desk, role, place)
    found = desk.database.one("SELECT 1 AS n FROM closure WHERE place = ? AND day = ?", str(place), a["day"])
    return "closed" if found else "open"


def _barred(desk: Desk, a: dict[str, Any]) -> str:
    ((role, place),) = [(role, value) for role, value in a.items() if role != "client"]
    _known(desk, role, place)
    _known(desk, "client", a["client"])
    found = desk.database.one("SELECT 1 AS n FROM ban WHERE client = ? AND place = ?", a["client"], str(place))
    return "yes" if found else "no"


def _held(desk: Desk, a: dict[str, Any]) -> str:
    _known(desk, "client", a["client"])
    sql = "SELECT valid_until FROM holding WHERE client = ? AND paper = ?"
    found = desk.database.one(sql, a["client"], a["paper"])
    return str(desk.naming.show_value("valid_until", found["valid_until"])) if found else "none"


def _weather(desk: Desk, a: dict[str, Any]) -> str:
    found = desk.database.one("SELECT sky FROM weather WHERE city = ? AND day = ?", a["city"], a["day"])
    return str(found["sky"]) if found else "no forecast"


def _create(desk: Desk, a: dict[str, Any]) -> Row:
    for role in ("client", "item"):
        _known(desk, role, a[role])
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


def _status(desk: Desk, record: int, now: str, then: str) -> str:
    row = desk.database.one("SELECT status FROM record WHERE id = ?", record)
    if row is None:
        raise _missing(desk, "record", record)
    if row["status"] != now:
        raise ToolError(f"its status is {row['status']}, not {now}.")
    desk.database.run("UPDATE record SET status = ? WHERE id = ?", then, record)
    return then


def _rename(desk: Desk, a: dict[str, Any]) -> str:
    _known(desk, "client", a["client"])
    desk.database.run("UPDATE client SET name = ? WHERE id = ?", a["name"], a["client"])
    return "renamed"

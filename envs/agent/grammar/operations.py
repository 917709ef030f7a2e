"""The tools of an environment: reading, writing, calculating, and those that nobody needs.

    operations(structure)["item.page"].tool               the schema that the policy sees
    operations(structure)["item.page"].run(desk, {"page": 1})

An operation is told in roles (``item.get`` of an ``item``); its name, its arguments and the look of its values are in
the environment's own style. Which operations there are follows from how each table can be read (``Structure.modes``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from envs.agent.grammar import tool_bodies as bodies
from envs.agent.grammar.conditions import days_apart, weekday
from envs.agent.grammar.naming import Naming, naming_of
from envs.agent.grammar.structure import CHOOSE, Structure
from envs.agent.grammar.tool_bodies import Desk
from envs.environment import ToolError
from envs.tools import Tool, check_arguments

_INTEGERS = ("page", "offset", "limit", "quantity", "total", "amount", "percent")
_IDS = ("item", "client", "record")


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

    @cached_property
    def tool(self) -> Tool:
        """As the policy sees it."""
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
        if problem := check_arguments(self.tool.schema, arguments):
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
    made = _Maker(naming_of(structure))
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
        items, groups, records = (noun.many for noun in (d.item, d.group, d.record))
        item, group, client, record = (noun.one for noun in (d.item, d.group, d.client, d.record))
        if modes["item"] == "pages":
            self.pages("item", items, "item grp")
        elif modes["item"] == "of_group":
            self.add("item.of_group", self.some, (items, f"in {group}"), "Ids of the {items} of one {group}.", "grp",
                     lambda desk, a: bodies.some_ids(desk, "item", "grp", a["grp"], "grp"), "item")  # fmt: skip
        elif modes["item"] == "of_kind":
            self.add("item.of_kind", self.some, (items, "by", d.kind), "Ids of the {items} of one {kind}.", "kind",
                     lambda desk, a: bodies.some_ids(desk, "item", "kind", a["kind"]), "item")  # fmt: skip
        else:
            self.add("item.ids", self.all, (items, "ids"), "Ids of all {items}.", "",
                     lambda desk, a: bodies.some_ids(desk, "item"), "item")  # fmt: skip
        self.add("item.get", self.one, (item,), "All about {an_item}.", "item",
                 lambda desk, a: bodies.one_row(desk, "item", "id", a["item"]), "grp kind")  # fmt: skip
        if modes["grp"] == "rows":
            self.add("grp.rows", self.all, (groups,), "All {groups} with all that is known of them.", "",
                     lambda desk, a: bodies.all_rows(desk, "grp"), "grp region city")  # fmt: skip
        else:
            self.add(
                "grp.names",
                self.all,
                (group, "names"),
                "Names of all {groups}.",
                "",
                lambda desk, a: [row["name"] for row in desk.database.all("SELECT name FROM grp")],
                "grp",
            )
            self.add(
                "grp.get",
                self.one,
                (group,),
                "All about {a_group}.",
                "grp",
                lambda desk, a: bodies.one_row(desk, "grp", "name", a["grp"]),
                "region city",
            )
        if modes["client"] == "row":
            self.add("client.find", self.some, (client,), "All about {a_client}, by name.", "name",
                     lambda desk, a: bodies.one_row(desk, "client", "name", a["name"]), "client")  # fmt: skip
        elif modes["client"] == "id":
            self.add(
                "client.find",
                self.some,
                (client, "id"),
                "The id of {a_client}, by name.",
                "name",
                lambda desk, a: bodies.one_row(desk, "client", "name", a["name"])[desk.naming.columns["client", "id"]],
                "client",
            )
        if modes["client"] != "row":
            self.add("client.get", self.one, (client,), "All about {a_client}.", "client",
                     lambda desk, a: bodies.one_row(desk, "client", "id", a["client"]), "")  # fmt: skip
        self.records(records, client, item, record)
        self.others(item, group, client)

    def records(self, records: str, client: str, item: str, record: str) -> None:
        mode = self.structure.modes.get("record")
        if mode == "split":
            for role, noun, word in (("client", client, "{a_client}"), ("item", item, "{an_item}")):
                self.add(
                    f"record.of_{role}",
                    self.some,
                    (records, "of", noun),
                    f"All {{records}} of {word}.",
                    role,
                    lambda desk, a, role=role: bodies.all_rows(desk, "record", role, a[role], role),
                    "record item client",
                )
        elif mode == "search":
            self.add("record.search", self.some, (records,), "The {records} of {a_client}, of {an_item}, or of both.",
                     "client? item?", bodies.search, "record item client")  # fmt: skip
        elif mode == "pages":
            self.pages("record", records, "record item client")
        elif mode == "between":
            self.add("record.between", self.some, (records, "by date"), "The {records} from a first to a last date.",
                     "first second", bodies.between, "record item client")  # fmt: skip

    def others(self, item: str, group: str, client: str) -> None:
        d, modes = self.domain, self.structure.modes
        if modes.get("feature") == "of":
            self.add("feature.of", self.all, ("features of", item), "What {an_item} has.", "item",
                     lambda desk, a: bodies.its_features(desk, a["item"]), "feature")  # fmt: skip
        elif modes.get("feature") == "with":
            self.add(
                "feature.with",
                self.some,
                (d.item.many, "with feature"),
                "Ids of the {items} that have something.",
                "feature",
                lambda desk, a: bodies.some_ids(desk, "feature", "feature", a["feature"], column="item"),
                "item",
            )
        for table, words, thing, key, text in (
            ("closure", "closing dates", self.place("closure"), "place", "The closing days of {a_place}."),
            ("ban", "bars", "client", "client", "What {a_client} is barred from."),
            ("holding", f"{d.paper} list", "client", "client", "Every {paper} of {a_client}."),
        ):
            if modes.get(table) == "of":
                self.add(f"{table}.of", self.all, (words, "of", {"item": item, "grp": group, "client": client}[thing]),
                         text.replace("{a_place}", d.say("{an_item}" if thing == "item" else "{a_group}")), thing,
                         lambda desk, a, t=table, c=key, r=thing: bodies.facts_of(desk, t, c, a[r], r), "")  # fmt: skip
        if modes.get("closure") == "check":
            self.add("closure.check", "is_closed", (group if self.place("closure") == "grp" else item,),
                     "Whether it is closed on a day.", f"{self.place('closure')} day", bodies.closed)  # fmt: skip
        if modes.get("ban") == "check":
            self.add(
                "ban.check",
                "is_barred",
                (client,),
                "Whether {a_client} is barred.",
                f"client {self.place('ban')}",
                bodies.barred,
            )
        if modes.get("holding") == "check":
            self.add("holding.check", self.one, (d.paper, "validity"), "Until when {a_client} holds {a_paper}.",
                     "client paper", bodies.held)  # fmt: skip
        if modes.get("region") == "get":
            self.add("region.get", self.one, ("region",), "All about a region.", "region",
                     lambda desk, a: bodies.one_row(desk, "region", "name", a["region"]))  # fmt: skip
        elif modes.get("region") == "rows":
            self.add(
                "region.rows",
                self.all,
                ("regions",),
                "All regions.",
                "",
                lambda desk, a: bodies.all_rows(desk, "region"),
            )
        if modes.get("tier") == "get":
            self.add("tier.get", self.one, (d.tier,), "All about one {tier}.", "tier",
                     lambda desk, a: bodies.one_row(desk, "tier", "name", a["tier"]))  # fmt: skip
        elif modes.get("tier") == "rows":
            self.add("tier.rows", self.all, (d.tier, "table"), "Every {tier}, from low to high.", "",
                     lambda desk, a: bodies.all_rows(desk, "tier"))  # fmt: skip
        for table, nouns, text in (
            ("band", ("discount bands",), "Discounts by the number of {units}."),
            ("rival", ("exclusions",), "Pairs of {kind} values that exclude each other."),
            ("supplier", ("suppliers",), "All suppliers."),
        ):
            if table in self.structure.schema:
                self.add(f"{table}.rows", self.all, nouns, text, "", lambda desk, a, t=table: bodies.all_rows(desk, t))
        if "staff" in self.structure.schema:
            self.add("staff.of", self.some, ("staff of", group), "Who works at {a_group}.", "grp",
                     lambda desk, a: bodies.all_rows(desk, "staff", "grp", a["grp"], "grp"))  # fmt: skip
        if "review" in self.structure.schema:
            self.add("review.of", self.some, ("reviews of", item), "What was said about {an_item}.", "item",
                     lambda desk, a: bodies.all_rows(desk, "review", "item", a["item"], "item"))  # fmt: skip
        if "weather" in self.structure.schema:
            self.add(
                "weather.of", self.one, ("weather",), "The forecast for a city and a day.", "city day", bodies.weather
            )
        if self.structure.style.rules == "tool" and (self.structure.rules or self.structure.prices):
            self.add("rules.rows", self.one, ("house rules",), "The house rules.", "", lambda desk, a: list(desk.law))

    def place(self, table: str) -> str:
        rule = self.structure.rule(table)
        return "grp" if rule is not None and rule.form == "grp" else "item"

    def pages(self, table: str, nouns: str, gives: str) -> None:
        size, word = self.naming.style.page, self.domain.say(f"{{{table}s}}")
        if self.naming.style.paging == "page":
            text = f"All {word}, {size} a page; pages count from 1."
            self.add(
                f"{table}.page",
                self.all,
                (nouns,),
                text,
                "page",
                lambda desk, a: bodies.one_page(desk, table, a["page"]),
                gives,
            )
        else:
            text = f"All {word} from an offset on, at most {size} at a time."
            self.add(f"{table}.page", self.all, (nouns,), text, "offset limit",
                     lambda desk, a: bodies.a_slice(desk, table, a["offset"], a["limit"]), gives)  # fmt: skip

    def writes(self) -> None:
        record = self.domain.record.one
        if self.structure.family == CHOOSE:
            two = self.naming.style.booking == "two"
            text = "Draft {a_record}; it counts once it is confirmed." if two else "Make {a_record}."
            self.add(
                "record.create",
                "draft" if two else "create",
                (record,),
                text + " total is what the {client} will be charged.",
                "client item day quantity total",
                bodies.create,
                "record",
                changes=True,
            )
            if two:
                self.add("record.confirm", "confirm", (record,), "Confirm a drafted {record}.", "record",
                         lambda desk, a: bodies.status(desk, a["record"], "draft", "active"), changes=True)  # fmt: skip
        if "record" in self.structure.schema and self.structure.family != "tally":
            self.add("record.cancel", "cancel", (record,), "Cancel an active {record}.", "record",
                     lambda desk, a: bodies.status(desk, a["record"], "active", "cancelled"), changes=True)  # fmt: skip

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
            self.add(
                "client.rename",
                "rename",
                (client,),
                "Change the name of {a_client}.",
                "client name",
                bodies.rename,
                changes=True,
            )

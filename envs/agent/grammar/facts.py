"""Facts: what the solver knows, each fetched by a tool when it is first needed. It sees nothing else.

facts = Facts(structure, operations, call, today)
facts.items()                  every item, however this environment lets them be read
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from envs.agent.general.world import Row
from envs.agent.grammar.conditions import Pick
from envs.agent.grammar.naming import naming_of
from envs.agent.grammar.operations import Operation
from envs.agent.grammar.price_rules import total_of
from envs.agent.grammar.structure import Structure

Call = Callable[[str, dict[str, Any]], Any]  # (name of the tool, arguments) -> what it says


class Facts:
    def __init__(self, structure: Structure, offered: Mapping[str, Operation], call: Call, today: str) -> None:
        self.structure, self.offered, self.today, self._call = structure, offered, today, call
        self.naming = naming_of(structure)
        self._known: dict[Any, Any] = {}

    def ask(self, key: str, **roles: Any) -> Any:
        """What the operation says, asked once."""
        asked = (key, *sorted(roles.items()))
        if asked not in self._known:
            operation = self.offered[key]
            self._known[asked] = self._call(operation.name, operation.shown(**roles))
        return self._known[asked]

    def do(self, key: str, **roles: Any) -> Any:
        """Like ``ask``, for what changes something."""
        return self._call(self.offered[key].name, self.offered[key].shown(**roles))

    # -- tables ------------------------------------------------------------------------------

    def items(self) -> list[Row]:
        if "items" not in self._known:
            self._known["items"] = [self._keep(row) for row in self._all_items()]
        return list(self._known["items"])

    def _all_items(self) -> list[Row]:
        mode = self.structure.modes["item"]
        if mode == "pages":
            return self._pages("item")
        if mode == "of_group":
            ids = [i for group in self.groups() for i in self.ask("item.of_group", grp=group)]
        elif mode == "of_kind":
            ids = [i for kind in self.structure.domain.kinds for i in self.ask("item.of_kind", kind=kind)]
        else:
            ids = self.ask("item.ids")
        return [self._item(self.naming.read_value("item", number)) for number in ids]

    def item(self, number: int) -> Row:
        if ("item", number) not in self._known:
            self._keep(self._item(number))
        found: Row = self._known["item", number]
        return found

    def _item(self, number: int) -> Row:
        return self._read("item", self.ask("item.get", item=number))

    def _keep(self, row: Row) -> Row:
        found: Row = self._known.setdefault(("item", row["id"]), row)
        return found

    def groups(self) -> list[str]:
        if self.structure.modes["grp"] == "names":
            return list(self.ask("grp.names"))
        return [row["name"] for row in self._table("grp")]

    def group(self, name: str) -> Row:
        if self.structure.modes["grp"] == "names":
            return self.naming.read("grp", self.ask("grp.get", grp=name))
        return next(row for row in self._table("grp") if row["name"] == name)

    def client(self, name: str) -> Row:
        found = self.ask("client.find", name=name)
        if self.structure.modes["client"] == "row":
            return self.naming.read("client", found)
        return self.client_of(self.naming.read_value("client", found))

    def client_of(self, number: int) -> Row:
        return self.naming.read("client", self.ask("client.get", client=number))

    def records_of_client(self, number: int) -> list[Row]:
        return self._records("client", number)

    def records_of_item(self, number: int) -> list[Row]:
        return self._records("item", number)

    def _records(self, role: str, number: int) -> list[Row]:
        mode = self.structure.modes["record"]
        if mode == "pages":
            return [row for row in self.all_records() if row[role] == number]
        key = f"record.of_{role}" if mode == "split" else "record.search"
        return [self.naming.read("record", row) for row in self.ask(key, **{role: number})]

    def all_records(self) -> list[Row]:
        if "records" not in self._known:
            self._known["records"] = self._pages("record")
        return list(self._known["records"])

    def records_between(self, first: str, last: str) -> list[Row]:
        if self.structure.modes["record"] == "between":
            return [self.naming.read("record", row) for row in self.ask("record.between", first=first, second=last)]
        return [row for row in self.all_records() if first <= row["day"] <= last]

    def tiers(self) -> list[Row]:
        if self.structure.modes["tier"] == "rows":
            return self._table("tier")
        return [self.naming.read("tier", self.ask("tier.get", tier=name)) for name in self.structure.domain.tiers]

    def bands(self) -> list[Row]:
        return self._table("band")

    def region(self, name: str) -> Row:
        if self.structure.modes["region"] == "get":
            return self.naming.read("region", self.ask("region.get", region=name))
        return next(row for row in self._table("region") if row["name"] == name)

    def rivals(self) -> set[frozenset[str]]:
        return {frozenset((row["one"], row["other"])) for row in self._table("rival")}

    def closed(self, place: int | str, day: str) -> bool:
        role = "grp" if isinstance(place, str) else "item"
        if self.structure.modes["closure"] == "check":
            return bool(self.ask("closure.check", **{role: place, "day": day}) == "closed")
        return day in [self.naming.read_value("day", found) for found in self.ask("closure.of", **{role: place})]

    def barred(self, client: int, place: int | str) -> bool:
        role = "grp" if isinstance(place, str) else "item"
        if self.structure.modes["ban"] == "check":
            return bool(self.ask("ban.check", **{"client": client, role: place}) == "yes")
        return place in [self.naming.read_value(role, found) for found in self.ask("ban.of", client=client)]

    def paper(self, client: int, paper: str) -> str | None:
        """Until when the client holds the paper."""
        if self.structure.modes["holding"] == "check":
            said = self.ask("holding.check", client=client, paper=paper)
            return None if said == "none" else str(self.naming.read_value("valid_until", said))
        rows = [self.naming.read("holding", row) for row in self.ask("holding.of", client=client)]
        return next((row["valid_until"] for row in rows if row["paper"] == paper), None)

    def has_feature(self, item: Row, feature: str) -> bool:
        mode = self.structure.modes["feature"]
        if mode == "column":
            return feature in item["features"]
        if mode == "of":
            return feature in self.ask("feature.of", item=item["id"])
        return self.naming.show_value("item", item["id"]) in self.ask("feature.with", feature=feature)

    def total(self, pick: Pick) -> int:
        return total_of(self.structure.prices, self, pick)

    # -- reading -----------------------------------------------------------------------------

    def _table(self, table: str) -> list[Row]:
        return [self.naming.read(table, row) for row in self.ask(f"{table}.rows")]

    def _read(self, table: str, shown: Mapping[str, Any]) -> Row:
        row = self.naming.read(table, shown)
        return {**row, "features": shown["features"]} if "features" in shown else row

    def _pages(self, table: str) -> list[Row]:
        rows: list[Row] = []
        if self.structure.style.paging == "page":
            page, pages = 1, 1
            while page <= pages:
                found = self.ask(f"{table}.page", page=page)
                pages, page = found["pages"], page + 1
                rows += [self._read(table, row) for row in found["rows"]]
            return rows
        count, size = 1, self.structure.style.page
        while len(rows) < count:
            found = self.ask(f"{table}.page", offset=len(rows), limit=size)
            count = found["count"]
            rows += [self._read(table, row) for row in found["rows"]]
        return rows

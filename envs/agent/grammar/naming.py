"""From roles to what the policy reads: names of columns, arguments and tools, and the look of ids and days.

naming.show("item", row)      {"room_id": "TR-412", "clinic": "Silver Harbor Clinic", ...}
naming.read("item", shown)    back to the row
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import cached_property, lru_cache
from typing import Any

from envs.agent.general.world import Row
from envs.agent.grammar.domains import snake
from envs.agent.grammar.structure import Structure
from envs.environment import ToolError

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
_DAYS = frozenset(("day", "open_from", "open_until", "checked_on", "valid_until", "opened", "first", "second"))
_NUMBER, _CODE = "number", "code"


def in_words(day: str) -> str:
    """``14 May 2026``."""
    found = date.fromisoformat(day)
    return f"{found.day} {MONTHS[found.month - 1]} {found.year}"


@lru_cache(maxsize=1024)
def naming_of(structure: Structure) -> Naming:
    """The names of an environment; the same object for the same structure."""
    return Naming(structure)


class Naming:
    def __init__(self, structure: Structure) -> None:
        self.structure, self.domain, self.style = structure, structure.domain, structure.style

    # -- names -------------------------------------------------------------------------------

    @cached_property
    def columns(self) -> dict[tuple[str, str], str]:
        """What each column is called, by (table, column)."""
        domain = self.domain
        item, group, client = (snake(noun.one) for noun in (domain.item, domain.group, domain.client))
        unit, units = snake(domain.unit.one), snake(domain.unit.many)
        common = {
            "grp": group, "kind": snake(domain.kind), "price": f"price_per_{unit}", "tier": snake(domain.tier),
            "min_tier": f"lowest_{snake(domain.tier)}", "min_age": "lowest_age", "paper": f"{snake(domain.paper)}",
            "open_from": "first_day", "open_until": "last_day", "closed_on": "closed_weekday",
            "checked_on": "last_safety_check", "notice_days": "notice_period_days", "residents_only": "residents_only",
            "after_kind": f"earlier_{snake(domain.kind)}", "with_another": "only_with_another",
            "capacity": "capacity" if self.structure.rule("shared") else f"most_{units}",
            "minimum": f"minimum_{units}", "quantity": units, "day": "date", "rank": "rank",
            "discount": "discount_percent", "from_quantity": f"from_{units}", "percent": "discount_percent",
            "place": "closed", "one": f"{snake(domain.kind)}_1", "other": f"{snake(domain.kind)}_2",
            "valid_until": "valid_until", "birth_year": "birth_year", "fee": "fee", "a0": "a0",
        }  # fmt: skip
        found: dict[tuple[str, str], str] = {}
        for table, columns in self.structure.schema.items():
            for column in columns:
                name = common.get(column, column)
                if re.fullmatch(r"a\d", column):
                    name = snake(domain.attributes[int(column[1])].name)
                if column == "id":
                    noun = {"item": item, "client": client}.get(table, snake(domain.record.one))
                    name = f"{noun}_id" if self.style.argument == "id" else "id"
                if column in ("item", "client"):
                    noun = {"item": item, "client": client}[column]
                    name = f"{noun}_id" if self.style.argument == "id" else noun
                if column == "place":
                    rule = self.structure.rule("closure" if table == "closure" else "ban")
                    name = group if rule is not None and rule.form == "grp" else item
                found[table, column] = name
        return found

    def argument(self, role: str) -> str:
        """What a parameter of that role is called."""
        domain = self.domain
        nouns = {"item": domain.item.one, "client": domain.client.one, "record": domain.record.one}
        if role in nouns:
            return f"{snake(nouns[role])}_id" if self.style.argument == "id" else snake(nouns[role])
        names = {
            "grp": snake(domain.group.one), "kind": snake(domain.kind), "day": "date", "first": "first_date",
            "second": "second_date", "quantity": snake(domain.unit.many), "tier": snake(domain.tier),
            "paper": snake(domain.paper), "feature": "feature",
        }  # fmt: skip
        return names.get(role, role)

    def tool(self, verb: str, *nouns: str) -> str:
        """A tool's name in the style of this environment."""
        words = [*verb.split("_"), *(word for noun in nouns for word in snake(noun).split("_"))]
        if self.style.order == "noun":
            front, rest = snake(nouns[0]).split("_"), [w for noun in nouns[1:] for w in snake(noun).split("_")]
            words = [*front, *verb.split("_"), *rest]
        if self.style.case == "camel":
            return words[0] + "".join(word.capitalize() for word in words[1:])
        return "_".join(words)

    # -- values ------------------------------------------------------------------------------

    def show_value(self, role: str, value: Any) -> Any:
        if role in self._prefixes and self.style.ids == _CODE and isinstance(value, int):
            return f"{self._prefixes[role]}-{value}"
        if role in _DAYS and value:
            if self.style.dates == "dotted":
                return date.fromisoformat(value).strftime("%d.%m.%Y")
            return in_words(value) if self.style.dates == "words" else value
        return value

    def read_value(self, role: str, value: Any) -> Any:
        """Raises ToolError when a day or an id does not have the form of this environment."""
        if role in self._prefixes and self.style.ids == _CODE:
            match = re.fullmatch(rf"{self._prefixes[role]}-([0-9]{{1,6}})", str(value))
            if match is None:
                raise ToolError(
                    f'"{str(value)[:40]}" is no {self.argument(role)}: it looks like {self._prefixes[role]}-123.'
                )
            return int(match.group(1))
        if role in _DAYS:
            return self._day(str(value))
        return value

    def _day(self, text: str) -> str:
        form, found = {"iso": "2026-05-14", "dotted": "14.05.2026", "words": "14 May 2026"}[self.style.dates], None
        try:
            if self.style.dates == "iso" and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
                found = date.fromisoformat(text)
            elif self.style.dates == "dotted" and re.fullmatch(r"[0-9]{2}\.[0-9]{2}\.[0-9]{4}", text):
                day, month, year = text.split(".")
                found = date(int(year), int(month), int(day))
            elif self.style.dates == "words" and re.fullmatch(r"[0-9]{1,2} [A-Z][a-z]+ [0-9]{4}", text):
                spoken, name, year = text.split(" ")
                found = date(int(year), MONTHS.index(name) + 1, int(spoken))
        except ValueError:
            found = None
        if found is None:
            raise ToolError(f'"{text[:40]}" is no date: write dates like {form}.')
        return found.isoformat()

    @cached_property
    def _prefixes(self) -> dict[str, str]:
        nouns = {"item": self.domain.item.one, "client": self.domain.client.one, "record": self.domain.record.one}
        letters = {role: "".join(word[0] for word in re.findall(r"[A-Za-z]+", noun)) for role, noun in nouns.items()}
        found = {role: (text if len(text) > 1 else nouns[role][:2]).upper() for role, text in letters.items()}
        while len(set(found.values())) < 3:  # two nouns with one beginning
            doubled = next(r for r, p in found.items() if list(found.values()).count(p) > 1)
            found[doubled] += nouns[doubled][-1].upper()
        return found

    def role(self, table: str, column: str) -> str:
        """The role of a column's values: ids of three tables, days, names of groups, and the rest."""
        if column == "id":
            return table
        if column == "place":
            rule = self.structure.rule("closure" if table == "closure" else "ban")
            return "grp" if rule is not None and rule.form == "grp" else "item"
        if (table, column) == ("grp", "name"):
            return "grp"
        return column

    def show(self, table: str, row: Mapping[str, Any]) -> Row:
        return {
            self.columns[table, column]: self.show_value(self.role(table, column), self._place(table, column, value))
            for column, value in row.items()
        }

    def read(self, table: str, shown: Mapping[str, Any]) -> Row:
        found: Row = {}
        for column in self.structure.schema[table]:
            name = self.columns[table, column]
            if name in shown:
                found[column] = self.read_value(self.role(table, column), shown[name])
        return found

    def _place(self, table: str, column: str, value: Any) -> Any:
        """Places are texts; where they are items, their number."""
        return int(value) if column == "place" and self.role(table, column) == "item" else value

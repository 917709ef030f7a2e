"""Stock: the rows of a task's world as they are before anything is asked: people, tables, days, names."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from envs.agent.general.world import Row
from envs.agent.grammar.conditions import day_of, shifted
from envs.agent.grammar.structure import Structure
from envs.words import ADJECTIVES, CITIES, COLORS, FIRST_NAMES, LAST_NAMES, NOUNS

_OPINIONS = ("fine", "a little worn", "very good", "late handover", "friendly staff", "would come again")
_SKIES = ("sunny", "cloudy", "rain", "windy", "fog")


class Stock:
    """Rows by table. ``client`` is who asks; ``papers``: one that the client holds, one expired, one missing."""

    def __init__(self, structure: Structure, rng: random.Random) -> None:
        self.structure, self.domain, self.rng = structure, structure.domain, rng
        self.rows: dict[str, list[Row]] = {table: [] for table in structure.schema}
        self.today = shifted("2026-01-10", rng.randrange(250))
        self.day = self._day()
        self.quantity = rng.randint(4, 9)
        self.kinds = rng.sample(self.domain.kinds, len(self.domain.kinds))
        self.papers = tuple(rng.sample(self.domain.papers, 3))
        self._names: set[str] = set()
        self._ids: dict[str, set[int]] = {"item": set(), "client": set(), "record": set()}
        self.cities = rng.sample(CITIES, 6)
        self._tables()
        self.client = self._person(main=True)
        for _ in range(rng.randint(3, 5)):
            self._person()

    def group_of(self, item: Row) -> Row:
        return next(row for row in self.rows["grp"] if row["name"] == item["grp"])

    def region_of(self, item: Row) -> Row:
        name = self.group_of(item)["region"]
        return next(row for row in self.rows["region"] if row["name"] == name)

    def record(self, item: Row, client: Row, day: str, status: str, quantity: int | None = None) -> Row:
        row: Row = {
            "id": self._id("record", 4), "client": client["id"], "item": item["id"], "day": day,
            "quantity": quantity or self.rng.randint(2, 9), "status": status, "total": 20 * self.rng.randint(4, 90),
            "channel": self.rng.choice(("desk", "web", "phone")),
        }  # fmt: skip
        self.rows["record"].append(row)
        return row

    def stranger(self) -> Row:
        return self.rng.choice([row for row in self.rows["client"] if row["id"] != self.client["id"]])

    def twin_client(self) -> Row:
        """Another client to whom the same rules apply in the same way."""
        twin = {**self.client, "id": self._id("client", 3), "name": self._person_name()}
        self.rows["client"].append(twin)
        for row in [row for row in self.rows.get("holding", ()) if row["client"] == self.client["id"]]:
            self.rows["holding"].append({**row, "client": twin["id"]})
        return twin

    def far_day(self) -> str:
        return shifted(self.day, self.rng.randint(20, 70))

    def long_ago(self) -> str:
        return shifted(self.today, -self.rng.randint(40, 200))

    def close(self, place: str, day: str) -> None:
        self.rows["closure"].append({"place": place, "day": day})

    def bar(self, place: str) -> None:
        self.rows["ban"].append({"client": self.client["id"], "place": place})

    def features_of(self, item: Row) -> list[str]:
        return [row["feature"] for row in self.rows["feature"] if row["item"] == item["id"]]

    def other_city(self, city: str) -> str:
        return self.rng.choice([name for name in self.cities if name != city])

    def _day(self) -> str:
        """A day on which the price rules that look at days change something."""
        early = next((rule for rule in self.structure.prices if rule.kind == "early"), None)
        low, high = 8, 28
        if early is not None:
            low, high = (early.number, early.number + 14) if early.form == "early" else (4, early.number - 1)
        days = [shifted(self.today, ahead) for ahead in range(low, high + 1)]
        if any(rule.kind == "weekend" for rule in self.structure.prices):
            days = [day for day in days if day_of(day).weekday() >= 5]
        return self.rng.choice(days)

    def _tables(self) -> None:
        rng, rows, domain = self.rng, self.rows, self.domain
        if "tier" in rows:
            for rank, name in enumerate(domain.tiers):
                tier = {"name": name, "rank": rank + 1, "discount": 5 * (rank + 1 + rng.randint(0, 1))}
                rows["tier"].append(tier)
        if "region" in rows:
            for name in rng.sample(("North", "South", "East", "West", "Centre"), 3):
                rows["region"].append({"name": name, "manager": self._person_name()})
        if "band" in rows:
            for number, start in enumerate((rng.randint(2, 3), rng.randint(5, 6), rng.randint(8, 10))):
                rows["band"].append({"from_quantity": start, "percent": 5 * (number + 1)})
        for _ in range(rng.randint(2, 4) if "supplier" in rows else 0):
            rows["supplier"].append({"name": self._name(), "city": rng.choice(CITIES), "phone": self._spare("phone")})
        for city in self.cities if "weather" in rows else ():
            rows["weather"].append({"city": city, "day": self.day, "sky": rng.choice(_SKIES)})

    def _person(self, main: bool = False) -> Row:
        rng = self.rng
        row: Row = {
            "id": self._id("client", 3),
            "name": self._person_name(),
            "city": self.cities[0] if main else rng.choice(self.cities),
        }
        tiers = self.domain.tiers
        row["tier"] = rng.choice(tiers[:-1] if main else tiers)
        row |= {"birth_year": int(self.today[:4]) - rng.randint(22, 60), "balance": 20 * rng.randint(20, 300)}
        row["phone"] = self._spare("phone")
        self.rows["client"].append(row)
        if "holding" in self.rows:
            valid, void, _ = self.papers if main else rng.sample(self.domain.papers, 3)
            until = (shifted(self.day, rng.randint(1, 300)), shifted(self.day, -rng.randint(1, 60)))
            for paper, last in zip((valid, void), until, strict=True):
                self.rows["holding"].append({"client": row["id"], "paper": paper, "valid_until": last})
        return row

    def _staff(self) -> list[Row]:
        return [
            {"name": self._person_name(), "grp": group["name"], "phone": self._spare("phone")}
            for group in self.rows["grp"]
        ]

    def reviews(self) -> None:
        for item in self.rows["item"] if "review" in self.rows else ():
            if self.rng.random() < 0.5:
                review = {"item": item["id"], "stars": self.rng.randint(1, 5), "text": self.rng.choice(_OPINIONS)}
                self.rows["review"].append(review)

    def _spare(self, column: str) -> Any:
        rng = self.rng
        if column[0] == "a" and column[1:].isdigit():
            return self._attribute(int(column[1:]))
        made: dict[str, Callable[[], Any]] = {
            "colour": lambda: rng.choice(COLORS), "built": lambda: rng.randint(1990, 2025),
            "phone": lambda: f"0{rng.randint(100, 999)} {rng.randint(10000, 99999)}",
            "opened": lambda: shifted("2001-01-01", rng.randrange(8000)), "rating": lambda: rng.randint(4, 9),
            "code": lambda: f"{rng.choice('ABCDEFGHKLMN')}{rng.randint(1000, 9999)}",
            "fee": lambda: 5 * rng.randint(2, 20), "capacity": lambda: self.quantity + rng.randint(-3, 6),
            "region": lambda: rng.choice(self.rows["region"])["name"] if self.rows.get("region") else "",
        }  # fmt: skip
        return made[column]() if column in made else None

    def _attribute(self, number: int) -> int:
        attribute = self.domain.attributes[number]
        edge = (attribute.high - attribute.low) // 3
        return self.rng.randint(attribute.low + edge, attribute.high - edge)

    def _span(self, column: str) -> int:
        attribute = self.domain.attributes[int(column[1:])]
        return max(1, (attribute.high - attribute.low) // 6)

    def _item_name(self) -> Row:
        return {"id": self._id("item", 3), "name": f"{self.rng.choice(NOUNS)} {self.rng.randint(1, 99)}"}

    def _id(self, table: str, digits: int) -> int:
        taken = self._ids[table]
        while (number := self.rng.randrange(10 ** (digits - 1), 10**digits)) in taken:
            continue
        taken.add(number)
        return number

    def _name(self) -> str:
        while (name := f"{self.rng.choice(ADJECTIVES)} {self.rng.choice(NOUNS)}") in self._names:
            continue
        self._names.add(name)
        return name

    def _person_name(self) -> str:
        while (name := f"{self.rng.choice(FIRST_NAMES)} {self.rng.choice(LAST_NAMES)}") in self._names:
            continue
        self._names.add(name)
        return name

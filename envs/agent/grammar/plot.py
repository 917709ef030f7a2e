"""Plot: the data of one task, made so that each of its constraints decides something.

The target is built to pass everything. For each constraint there is a decoy: a copy of the target that would be the
better choice and fails in that one constraint alone. Whoever overlooks a constraint takes its decoy. Other rows are
noise. Nothing here decides what is right: the verifier works that out from the rows (``court``).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from envs.agent.general.world import Row, WorldSpec
from envs.agent.grammar.conditions import Condition, day_of, shifted
from envs.agent.grammar.house_rules import ColumnRule
from envs.agent.grammar.structure import Structure
from envs.agent.grammar.wishes import WISHES, Wish
from envs.words import ADJECTIVES, CITIES, COLORS, FIRST_NAMES, LAST_NAMES, NOUNS

_OPINIONS = ("fine", "a little worn", "very good", "late handover", "friendly staff", "would come again")
_SKIES = ("sunny", "cloudy", "rain", "windy", "fog")


class Plot:
    """Rows by table, and the parts of the brief. ``papers``: one that the client holds, one expired, one missing."""

    def __init__(self, structure: Structure, rng: random.Random) -> None:
        self.structure, self.domain, self.rng = structure, structure.domain, rng
        self.rows: dict[str, list[Row]] = {table: [] for table in structure.schema}
        self.wishes: list[Wish] = []
        self.objective = ("price", "least")
        self.today = shifted("2026-01-10", rng.randrange(250))
        self.day = self._day()
        self.quantity = rng.randint(4, 9)
        self.limit = 0  # what a balance or a budget allows
        self.kinds = rng.sample(self.domain.kinds, len(self.domain.kinds))
        self.papers = tuple(rng.sample(self.domain.papers, 3))
        self._names: set[str] = set()
        self._ids: dict[str, set[int]] = {"item": set(), "client": set(), "record": set()}
        self._own: dict[int, Row] = {}
        self.cities = rng.sample(CITIES, 6)
        self._tables()
        self.client = self._person(main=True)
        for _ in range(rng.randint(3, 5)):
            self._person()
        for _ in range(rng.randint(2, 3)):
            self._group()
        self.target = self._target()
        self.keep: set[int] = {self.target["id"]}  # items that are as they are to be

    # -- making a task -----------------------------------------------------------------------

    def wish(self, wanted: int, records: bool = False, without: Iterable[str] = ()) -> None:
        """Add wishes that the target meets, ``wanted`` at most."""
        pool = [k for k in self.structure.wishes if k not in without and (WISHES[k].of_record or not records)]
        pool += [kind for kind in ("feature", "number") if kind in pool]
        self.rng.shuffle(pool)
        while pool and len(self.wishes) < wanted:
            kind = pool.pop()
            if kind == "number" and not self.free_attributes():
                continue
            wish = WISHES[kind].of(self, self.target)
            self.wishes.append(wish)

    def decoy(self, spoilers: Iterable[Condition], better: bool = True) -> Row:
        """A copy of the target that fails in ``spoilers``."""
        item = self.copy(self.target)
        if better:
            self.better(item)
        for condition in spoilers:
            condition.spoil(self, item)
        self.keep.add(item["id"])
        return item

    def copy(self, item: Row) -> Row:
        twin = {**item, **self._item_name()}
        for column in ("colour", "built", "code"):
            if column in twin:
                twin[column] = self._spare(column)
        for number in self.structure.attributes:
            if f"a{number}" != self.objective[0] and not any(
                w.kind == "number" and w.value[0] == number for w in self.wishes
            ):  # type: ignore[attr-defined]
                twin[f"a{number}"] = self._attribute(number)
        self.rows["item"].append(twin)
        if "feature" in self.rows:
            self.rows["feature"] += [{"item": twin["id"], "feature": name} for name in self.features_of(item)]
        return twin

    def better(self, item: Row) -> None:
        """Make it the better choice by the objective."""
        column, way = self.objective
        if column == "price":
            item["price"] = max(20, round(self.target["price"] * self.rng.uniform(0.35, 0.6) / 20) * 20)
        else:
            off = self.rng.randint(1, self._span(column))
            item[column] = self.target[column] + (off if way == "most" else -off)
            # cheap enough for any limit, also without the discounts that the target has
            item["price"] = max(20, round(self.target["price"] * self.rng.uniform(0.5, 0.75) / 20) * 20)

    def worse(self, item: Row) -> None:
        column, way = self.objective
        if column == "price":
            top = max(row["price"] for row in self.rows["item"] if row["id"] in self.keep)
            item["price"] = top + 20 * self.rng.randint(8, 20)
        else:
            off = self.rng.randint(1, self._span(column))
            item[column] = self.target[column] - (off if way == "most" else -off)

    def noise(self, count: int) -> None:
        for _ in range(count):
            self.filler()
        others = [row for row in self.rows["client"] if row is not self.client]
        if "record" in self.rows:
            for _ in range(count):
                status = self.rng.choice(("active", "done", "cancelled"))
                day = self.far_day() if status == "active" else self.long_ago()
                self.record(self.rng.choice(self.rows["item"]), self.rng.choice(others), day, status)
        for table in ("closure", "ban"):
            for _ in range(count if table in self.rows else 0):
                item = self.rng.choice(self.rows["item"])
                rule = self.structure.rule(table)
                place = item["grp"] if rule is not None and rule.form == "grp" else str(item["id"])
                if table == "closure":
                    self.close(place, self.far_day())
                else:
                    self.rows["ban"].append({"client": self.rng.choice(others)["id"], "place": place})

    def spec(self) -> WorldSpec:
        """The rows, in an order that says nothing."""
        rows = {table: sorted(found, key=lambda row: str(row.get("name", ""))) for table, found in self.rows.items()}
        for table in ("item", "client", "record"):
            if table in rows:
                rows[table] = sorted(self.rows[table], key=lambda row: row["id"])
        for table in ("tier", "band"):
            if table in rows:
                rows[table] = self.rows[table]
        schema = self.structure.schema
        ordered = {table: [{c: row[c] for c in schema[table]} for row in found] for table, found in rows.items()}
        return WorldSpec(self.domain.name, schema, ordered, {})

    # -- what conditions ask for -------------------------------------------------------------

    def group_of(self, item: Row) -> Row:
        return next(row for row in self.rows["grp"] if row["name"] == item["grp"])

    def own_group(self, item: Row) -> Row:
        """The item's group, made its own: like the one it was in, under another name."""
        if item["id"] not in self._own:
            self._own[item["id"]] = self.new_group(self.group_of(item))
            item["grp"] = self._own[item["id"]]["name"]
        return self._own[item["id"]]

    def new_group(self, like: Row) -> Row:
        group = {**like, "name": self._name()}
        for column in ("phone", "opened"):
            if column in group:
                group[column] = self._spare(column)
        self.rows["grp"].append(group)
        return group

    def own_kind(self, item: Row) -> None:
        item["kind"] = self.kinds[2]

    def unused_kind(self, kind: str) -> str:
        return self.kinds[3]

    def done_kinds(self) -> tuple[list[str], list[str]]:
        """Kinds that the client has a record of that is done, and kinds of which that is certainly not so."""
        return [self.kinds[1]], self.kinds[2:]

    def filler(self, group: str | None = None, kind: str | None = None) -> Row:
        """An item like any other."""
        item: Row = {**self._item_name(), "grp": group or self.rng.choice(self.rows["grp"])["name"]}
        item["kind"] = kind or self.kinds[1]
        item["price"] = self.target["price"] + 20 * self.rng.randint(-3, 12)
        for column in self.structure.schema["item"]:
            if column not in item:
                item[column] = self._spare(column)
        for rule in self.structure.rules:
            if isinstance(rule, ColumnRule) and rule.form == "item":
                rule.put(self, item, self.rng.random() < 0.7)
        self.rows["item"].append(item)
        if "feature" in self.rows:
            names = self.rng.sample(self.domain.features, self.rng.randint(0, 3))
            self.rows["feature"] += [{"item": item["id"], "feature": name} for name in names]
        return item

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

    def dear(self, item: Row) -> None:
        item["price"] = self.target["price"] * 2 + 20 * self.rng.randint(10, 20)

    def budget(self) -> int:
        return self.limit

    def features_of(self, item: Row) -> list[str]:
        return [row["feature"] for row in self.rows["feature"] if row["item"] == item["id"]]

    def free_attributes(self) -> list[int]:
        taken = {wish.value[0] for wish in self.wishes if wish.kind == "number"}
        return [n for n in self.structure.attributes if n not in taken and f"a{n}" != self.objective[0]]

    def region_of(self, item: Row) -> Row:
        name = self.group_of(item)["region"]
        return next(row for row in self.rows["region"] if row["name"] == name)

    def other_city(self, city: str) -> str:
        return self.rng.choice([name for name in self.cities if name != city])

    # -- beginnings --------------------------------------------------------------------------

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

    def _group(self, passes: bool = False) -> Row:
        group: Row = {"name": self._name(), "city": self.rng.choice(self.cities[1:])}
        for column in self.structure.schema["grp"]:
            if column not in group:
                group[column] = self._spare(column)
        for rule in self.structure.rules:
            if isinstance(rule, ColumnRule) and rule.form == "grp":
                rule.put(self, group, passes or self.rng.random() < 0.8)
        self.rows["grp"].append(group)
        return group

    def _target(self) -> Row:
        group = self._group(passes=True)
        item: Row = {**self._item_name(), "grp": group["name"], "kind": self.kinds[0]}
        item["price"] = 20 * self.rng.randint(9, 24)
        for column in self.structure.schema["item"]:
            if column not in item:
                item[column] = self._spare(column)
        self.rows["item"].append(item)
        if "feature" in self.rows:
            names = self.rng.sample(self.domain.features, self.rng.randint(2, 4))
            self.rows["feature"] += [{"item": item["id"], "feature": name} for name in names]
        self.rows["staff"] = self._staff() if "staff" in self.rows else []
        if "staff" not in self.structure.schema:
            del self.rows["staff"]
        for rule in self.structure.rules:
            rule.fit(self, item)
        return item

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
        made = {
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
        free = [n for n in (self.rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(200)) if n not in taken]
        taken.add(free[0])
        return free[0]

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

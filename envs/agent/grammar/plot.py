"""Plot: the data of one task, made so that each of its constraints decides something.

The target is built to pass everything. For each constraint there is a decoy: a copy of the target that would be the
better choice and fails in that one constraint alone. Whoever overlooks a constraint takes its decoy. Other rows are
noise. Nothing here decides what is right: the verifier works that out from the rows (``court``).
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from envs.agent.general.world import Row, WorldSpec
from envs.agent.grammar.column_rule import ColumnRule
from envs.agent.grammar.conditions import Condition
from envs.agent.grammar.stock import Stock
from envs.agent.grammar.structure import Structure
from envs.agent.grammar.wishes import WISHES, Wish


class Plot(Stock):
    """Rows by table, and the parts of the brief. ``papers``: one that the client holds, one expired, one missing."""

    def __init__(self, structure: Structure, rng: random.Random) -> None:
        super().__init__(structure, rng)
        self.wishes: list[Wish] = []
        self.objective = ("price", "least")
        self.limit = 0  # what a balance or a budget allows
        self._own: dict[int, Row] = {}
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
            if number in self.free_attributes():
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

    def dear(self, item: Row) -> None:
        item["price"] = self.target["price"] * 2 + 20 * self.rng.randint(10, 20)

    def budget(self) -> int:
        return self.limit

    def free_attributes(self) -> list[int]:
        taken = {wish.value[0] for wish in self.wishes if wish.kind == "number"}
        return [n for n in self.structure.attributes if n not in taken and f"a{n}" != self.objective[0]]

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

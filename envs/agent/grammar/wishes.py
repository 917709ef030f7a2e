"""Wishes: what a person asks for beyond the house rules. Each has several ways to be said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envs.agent.general.world import Row
from envs.agent.grammar.conditions import Condition, Pick, quoted
from envs.agent.grammar.domains import Attribute, Domain, with_article

if TYPE_CHECKING:
    from envs.agent.grammar.facts import Facts
    from envs.agent.grammar.plot import Plot


class Wish(Condition):
    """``value`` is what is wanted, a JSON value. ``said``: ways to say it, for one item or (audit) for several."""

    said: tuple[str, ...]
    of_record: bool = True  # whether it can also say which records are meant, whoever has them

    def __init__(self, value: Any) -> None:
        self.value = value

    def phrase(self, domain: Domain, variant: int) -> str:
        return domain.say(self.said[variant % len(self.said)], **self.words(domain))

    def words(self, domain: Domain) -> dict[str, object]:
        return {"v": self.value}

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        """A wish that ``item`` meets."""
        raise NotImplementedError


class KindWish(Wish):
    kind, needs, about = "kind", ("item.kind",), frozenset({"kind"})
    said = ("its {kind} is {v}", "its {kind} is given as {v}", "the {kind} given for it is {v}")

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        return cls(item["kind"])

    def sql(self) -> str:
        return f"i.kind = {quoted(self.value)}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(pick.item["kind"] == self.value)

    def spoil(self, plot: Plot, item: Row) -> None:
        item["kind"] = plot.rng.choice([kind for kind in plot.domain.kinds if kind != self.value])


class FeatureWish(Wish):
    kind, needs = "feature", ("feature.item",)
    said = ("it has {v}", "it comes with {v}", "it includes {v}")

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        taken = [wish.value for wish in plot.wishes if wish.kind == "feature"]
        return cls(plot.rng.choice([f for f in plot.features_of(item) if f not in taken]))

    def sql(self) -> str:
        return f"EXISTS (SELECT 1 FROM feature f WHERE f.item = i.id AND f.feature = {quoted(self.value)})"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return facts.has_feature(pick.item, self.value)

    def spoil(self, plot: Plot, item: Row) -> None:
        plot.rows["feature"] = [
            row for row in plot.rows["feature"] if (row["item"], row["feature"]) != (item["id"], self.value)
        ]


class NumberWish(Wish):
    """``value``: [number of the attribute, "least" or "most", limit]."""

    kind = "number"
    said = ("its {name} is at {side} {n}", "the {name} comes to {n} or {way}", "it has {a_name} of {n} or {way}")

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.column, self.least, self.limit = f"a{value[0]}", value[1] == "least", int(value[2])
        self.needs = (f"item.{self.column}",)

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        number = plot.rng.choice(plot.free_attributes())
        attribute = plot.domain.attributes[number]
        slack = max(1, (attribute.high - attribute.low) // 10)
        least = plot.rng.random() < 0.5
        value = item[f"a{number}"] + plot.rng.randint(0, slack) * (-1 if least else 1)
        return cls([number, "least" if least else "most", value])

    def words(self, domain: Domain) -> dict[str, object]:
        attribute: Attribute = domain.attributes[self.value[0]]
        side, way = ("least", "more") if self.least else ("most", "less")
        return {
            "name": attribute.name,
            "a_name": with_article(attribute.name),
            "side": side,
            "way": way,
            "n": measured(attribute, self.limit),
        }

    def sql(self) -> str:
        return f"i.{self.column} {'>=' if self.least else '<='} {self.limit}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        value = int(pick.item[self.column])
        return value >= self.limit if self.least else value <= self.limit

    def spoil(self, plot: Plot, item: Row) -> None:
        attribute = plot.domain.attributes[self.value[0]]
        span = max(2, (attribute.high - attribute.low) // 5)
        off = plot.rng.randint(1, span)
        item[self.column] = max(0, self.limit - off) if self.least else self.limit + off


class CityWish(Wish):
    kind, needs = "city", ("grp.city",)
    said = ("its {group} is in {v}", "it belongs to {a_group} in {v}", "you find it in {v}")

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        return cls(plot.group_of(item)["city"])

    def sql(self) -> str:
        return f"g.city = {quoted(self.value)}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(pick.group["city"] == self.value)

    def spoil(self, plot: Plot, item: Row) -> None:
        plot.own_group(item)["city"] = plot.other_city(self.value)


class RatingWish(Wish):
    kind, needs = "rating", ("grp.rating",)
    said = ("its {group} is rated {v} or better", "it belongs to {a_group} with a rating of at least {v}")

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        return cls(plot.group_of(item)["rating"])

    def sql(self) -> str:
        return f"g.rating >= {int(self.value)}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(pick.group["rating"] >= self.value)

    def spoil(self, plot: Plot, item: Row) -> None:
        plot.own_group(item)["rating"] = self.value - plot.rng.randint(1, min(3, self.value - 1))


class ManagerWish(Wish):
    """Two steps away: item, group, region."""

    kind, needs = "manager", ("region.manager", "grp.region")
    said = ("its {group} is in a region that {v} manages", "{v} runs the region of its {group}")

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        return cls(plot.region_of(item)["manager"])

    def sql(self) -> str:
        return f"(SELECT e.manager FROM region e WHERE e.name = g.region) = {quoted(self.value)}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(facts.region(pick.group["region"])["manager"] == self.value)

    def spoil(self, plot: Plot, item: Row) -> None:
        group = plot.own_group(item)
        others = [row["name"] for row in plot.rows["region"] if row["manager"] != self.value]
        group["region"] = plot.rng.choice(others)


class NotGroupWish(Wish):
    kind, needs = "not group", ("grp.name",)
    said = ("it does not belong to the {group} {v}", "the {group} it belongs to is any but {v}")

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        return cls(plot.new_group(plot.group_of(item))["name"])

    def sql(self) -> str:
        return f"g.name <> {quoted(self.value)}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(pick.group["name"] != self.value)

    def spoil(self, plot: Plot, item: Row) -> None:
        item["grp"] = self.value


class NewWish(Wish):
    """No other record of the client is for the item, whatever became of it."""

    kind, needs, of_record = "new", ("record.status",), False
    about = frozenset({"own item"})
    said = ("it is not one that the {client} has {booked} before", "the {client} has never {booked} it before")

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        return cls(True)

    def sql(self) -> str:
        return "NOT EXISTS (SELECT 1 FROM record p WHERE p.client = c.id AND p.item = i.id AND p.id <> {own})"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        mine = facts.records_of_client(pick.client["id"])
        return all(r["item"] != pick.item["id"] for r in mine if r["id"] != pick.own)

    def spoil(self, plot: Plot, item: Row) -> None:
        plot.record(item, plot.client, plot.long_ago(), plot.rng.choice(("done", "cancelled")))


class BudgetWish(Wish):
    kind, of_record, about = "budget", False, frozenset({"total"})
    said = ("it comes to no more than {v} in total", "the total is at most {v}")

    @classmethod
    def of(cls, plot: Plot, item: Row) -> Wish:
        return cls(plot.budget())

    def sql(self) -> str:
        return f"{{total}} <= {int(self.value)}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(facts.total(pick) <= self.value)

    def spoil(self, plot: Plot, item: Row) -> None:
        plot.dear(item)


WISHES: dict[str, type[Wish]] = {
    wish.kind: wish
    for wish in (
        KindWish, FeatureWish, NumberWish, CityWish, RatingWish, ManagerWish, NotGroupWish, NewWish, BudgetWish,
    )
}  # fmt: skip


def measured(attribute: Attribute, number: int) -> str:
    """``20 square metres``; what has no unit that may be counted is left bare."""
    unit = attribute.unit
    if number == 1 and unit.endswith("s") and not unit.endswith("ss"):
        unit = unit[:-1]
    return f"{number} {unit}"

"""House rules that compare a column of an item, or of its group, with who asks, when, and for how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.agent.general.world import Row
from envs.agent.grammar.column_rule import ColumnRule
from envs.agent.grammar.conditions import ITEM, WEEKDAY_SQL, WEEKDAYS, Pick, days_apart, shifted, weekday
from envs.agent.grammar.domains import Domain

if TYPE_CHECKING:
    from envs.agent.grammar.facts import Facts
    from envs.agent.grammar.plot import Plot


class Tier(ColumnRule):
    kind, column, needs = "tier", "min_tier", ("client.tier", "tier.rank")

    def text(self, domain: Domain) -> str:
        return domain.say(
            "Every {thing} has a lowest {tier}; {clients} below it may not use it.", **self.things(domain)
        )

    def sql(self) -> str:
        ranks = "(SELECT t.rank FROM tier t WHERE t.name = {})"
        return f"{ranks.format('c.tier')} >= {ranks.format(f'{self.x}.min_tier')}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        ranks = {tier["name"]: tier["rank"] for tier in facts.tiers()}
        return bool(ranks[self.row(pick)["min_tier"]] <= ranks[pick.client["tier"]])

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        tiers = plot.domain.tiers
        rank = tiers.index(plot.client["tier"])
        row["min_tier"] = plot.rng.choice(tiers[: rank + 1] if passes else tiers[rank + 1 :])


class Age(ColumnRule):
    kind, column, needs = "age", "min_age", ("client.birth_year",)

    def text(self, domain: Domain) -> str:
        return domain.say(
            "Whoever uses {a_thing} must reach the lowest age set for that {thing} at the latest in the year in which "
            "it is used.", **self.things(domain)
        )  # fmt: skip

    def sql(self) -> str:
        return f"CAST(substr({{day}}, 1, 4) AS INTEGER) - c.birth_year >= {self.x}.min_age"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(pick.client["birth_year"] + self.row(pick)["min_age"] <= int(pick.day[:4]))

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        age = int(plot.day[:4]) - plot.client["birth_year"]
        row["min_age"] = plot.rng.randint(max(14, age - 12), age) if passes else age + plot.rng.randint(1, 9)


class Paper(ColumnRule):
    kind, column, needs = "paper", "paper", ("holding.valid_until",)

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{A_thing} that asks for {a_paper} is only for {clients} who hold that {paper}, still valid on the day.",
            **self.things(domain),
        )

    def sql(self) -> str:
        return (
            f"EXISTS (SELECT 1 FROM holding h WHERE h.client = c.id AND h.paper = {self.x}.paper "
            "AND h.valid_until >= {day})"
        )

    def holds(self, facts: Facts, pick: Pick) -> bool:
        until = facts.paper(pick.client["id"], self.row(pick)["paper"])
        return until is not None and until >= pick.day

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        valid, void, missing = plot.papers
        row["paper"] = valid if passes else plot.rng.choice((void, missing))


class Window(ColumnRule):
    kind, column = "window", "open_from"

    def __init__(self, form: str, number: int = 0) -> None:
        super().__init__(form, number)
        self.needs = (*self.needs, f"{form}.open_until")

    def text(self, domain: Domain) -> str:
        return domain.say("{A_thing} can only be used from its first to its last day.", **self.things(domain))

    def sql(self) -> str:
        return f"{{day}} BETWEEN {self.x}.open_from AND {self.x}.open_until"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        row = self.row(pick)
        return bool(row["open_from"] <= pick.day <= row["open_until"])

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        before, behind = plot.rng.randint(5, 70), plot.rng.randint(5, 70)
        if not passes:
            gap = plot.rng.randint(1, 4)
            before, behind = (-gap, gap + behind) if plot.rng.random() < 0.5 else (gap + before, -gap)
        row["open_from"], row["open_until"] = shifted(plot.day, -before), shifted(plot.day, behind)


class Weekday(ColumnRule):
    kind, column = "weekday", "closed_on"

    def text(self, domain: Domain) -> str:
        return domain.say("Every {thing} has a weekday on which it cannot be used.", **self.things(domain))

    def sql(self) -> str:
        return f"{self.x}.closed_on <> {WEEKDAY_SQL}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(weekday(pick.day) != self.row(pick)["closed_on"])

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        today = weekday(plot.day)
        row["closed_on"] = plot.rng.choice([w for w in WEEKDAYS if w != today]) if passes else today


class Service(ColumnRule):
    kind, column = "service", "checked_on"

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{A_thing} must not be used if its last safety check is more than {n} days before the day.",
            **self.things(domain), n=self.number,
        )  # fmt: skip

    def sql(self) -> str:
        return f"julianday({{day}}) - julianday({self.x}.checked_on) <= {self.number}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(days_apart(self.row(pick)["checked_on"], pick.day) <= self.number)

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        least = days_apart(plot.today, plot.day) + 1
        ago = plot.rng.randint(least, self.number) if passes else self.number + plot.rng.randint(1, 40)
        row["checked_on"] = shifted(plot.day, -ago)


class Notice(ColumnRule):
    kind, column = "notice", "notice_days"

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{A_thing} with a notice period needs at least that many days between today and the day.",
            **self.things(domain),
        )

    def sql(self) -> str:
        return f"julianday({{day}}) - julianday({{today}}) >= {self.x}.notice_days"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(days_apart(facts.today, pick.day) >= self.row(pick)["notice_days"])

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        ahead = days_apart(plot.today, plot.day)
        row["notice_days"] = plot.rng.randint(0, ahead) if passes else ahead + plot.rng.randint(1, 20)


class Residents(ColumnRule):
    kind, column, needs = "residents", "residents_only", ("client.city", "grp.city")

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{A_thing} for residents only is for {clients} who live in the city of the {group}.",
            **self.things(domain),
        )

    def sql(self) -> str:
        return f"({self.x}.residents_only = 'no' OR g.city = c.city)"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(self.row(pick)["residents_only"] != "yes" or pick.client["city"] == pick.group["city"])

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        row["residents_only"] = "no" if passes else "yes"


class Sequence(ColumnRule):
    kind, column, about = "sequence", "after_kind", frozenset({"client records"})
    needs = ("record.status", "item.kind")

    def text(self, domain: Domain) -> str:
        return domain.say(
            "Where {a_thing} names an earlier {kind}, the {client} must already have {a_record} with status done of "
            "{an_item} of that {kind}.", **self.things(domain),
        )  # fmt: skip

    def sql(self) -> str:
        return (
            "EXISTS (SELECT 1 FROM record p JOIN item q ON q.id = p.item WHERE p.client = c.id AND p.status = 'done' "
            f"AND q.kind = {self.x}.after_kind)"
        )

    def holds(self, facts: Facts, pick: Pick) -> bool:
        wanted = self.row(pick)["after_kind"]
        done = [r for r in facts.records_of_client(pick.client["id"]) if r["status"] == "done"]
        return any(facts.item(r["item"])["kind"] == wanted for r in done)

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        done, never = plot.done_kinds()
        row["after_kind"] = plot.rng.choice(done if passes else never)


class Companion(ColumnRule):
    kind, column, needs = "companion", "with_another", ("record.status",)
    about = frozenset({"client records"})

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{A_thing} that is given only with another may only be {booked} if the {client} has another active "
            "{record} on the same day.", **self.things(domain),
        )  # fmt: skip

    def sql(self) -> str:
        return (
            f"({self.x}.with_another = 'no' OR EXISTS (SELECT 1 FROM record p WHERE p.client = c.id "
            "AND p.day = {day} AND p.status = 'active' AND p.id <> {own}))"
        )

    def holds(self, facts: Facts, pick: Pick) -> bool:
        if self.row(pick)["with_another"] == "no":
            return True
        mine = facts.records_of_client(pick.client["id"])
        return any(r["day"] == pick.day and r["status"] == "active" and r["id"] != pick.own for r in mine)

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        row["with_another"] = "no" if passes else "yes"


class Most(ColumnRule):
    kind, column, forms, about = "most", "capacity", (ITEM,), frozenset({"capacity"})

    def text(self, domain: Domain) -> str:
        return domain.say("No {record} may take more {units} than the {item} allows.")

    def sql(self) -> str:
        return "i.capacity >= {quantity}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(pick.quantity <= pick.item["capacity"])

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        more, less = plot.rng.randint(0, 6), plot.rng.randint(1, plot.quantity - 1)
        row["capacity"] = plot.quantity + more if passes else plot.quantity - less


class Least(ColumnRule):
    kind, column = "least", "minimum"

    def text(self, domain: Domain) -> str:
        return domain.say("{A_thing} is not given away for fewer {units} than its minimum.", **self.things(domain))

    def sql(self) -> str:
        return f"{{quantity}} >= {self.x}.minimum"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(self.row(pick)["minimum"] <= pick.quantity)

    def put(self, plot: Plot, row: Row, passes: bool) -> None:
        row["minimum"] = plot.rng.randint(1, plot.quantity) if passes else plot.quantity + plot.rng.randint(1, 5)


COLUMN_RULES: tuple[type[ColumnRule], ...] = (
    Tier, Age, Paper, Window, Weekday, Service, Notice, Residents, Sequence, Companion, Most, Least,
)  # fmt: skip

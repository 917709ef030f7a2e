"""House rules about other rows: what was booked before, on the same day, by the same client, and who must agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.agent.general.world import Row
from envs.agent.grammar.column_rule import things
from envs.agent.grammar.conditions import GROUP, ITEM, Condition, Pick, days_apart, shifted
from envs.agent.grammar.domains import Domain

if TYPE_CHECKING:
    from envs.agent.grammar.facts import Facts
    from envs.agent.grammar.plot import Plot

KIND = "kind"
_SAME = {ITEM: "q.id = i.id", GROUP: "q.grp = i.grp", KIND: "q.kind = i.kind"}
_OTHERS = "FROM record p JOIN item q ON q.id = p.item WHERE p.client = c.id AND p.id <> {own} AND "


class RecordRule(Condition):
    """``number``: how many, or how many days. ``forms``: of what: the same item, group or kind."""

    forms: tuple[str, ...] = ("",)
    numbers: tuple[int, ...] = (0,)
    needs: tuple[str, ...] = ("record.status",)

    def __init__(self, form: str, number: int = 0) -> None:
        self.form, self.number = form, number
        if form == KIND:
            self.about = self.about | {"kind"}
        elif form == ITEM and self.kind == "cooldown":
            self.about = self.about | {"own item"}

    def same(self, facts: Facts, pick: Pick, other: Row) -> bool:
        """Whether the item of another record is the same item, of the same group or kind."""
        if self.form == ITEM:
            return bool(other["item"] == pick.item["id"])
        column = "grp" if self.form == GROUP else "kind"
        return bool(facts.item(other["item"])[column] == pick.item[column])

    def what(self, domain: Domain) -> str:
        kind = f"{{items}} of the same {domain.kind}"
        return domain.say({ITEM: "the same {item}", GROUP: "{items} of the same {group}", KIND: kind}[self.form])

    def alike(self, plot: Plot, item: Row) -> Row:
        """An item that counts as the same as ``item``, and as no other candidate's."""
        if self.form == ITEM:
            plot.own_group(item)  # or a quota of the target's group would count it
            return item
        if self.form == GROUP:
            plot.own_group(item)
            return plot.filler(group=item["grp"])
        plot.own_kind(item)
        return plot.filler(kind=item["kind"])


class Exclusive(RecordRule):
    """Nobody else on the day, or within ``number`` days of it."""

    kind, numbers = "exclusive", (0, 1, 2, 3)
    about = frozenset({"capacity"})

    def text(self, domain: Domain) -> str:
        if self.number:
            return domain.say(
                "Between two active {records} of {an_item} there must be more than {n} {days}.",
                n=self.number, days="day" if self.number == 1 else "days",
            )  # fmt: skip
        return domain.say("{An_item} can have only one active {record} on a day.")

    def sql(self) -> str:
        return (
            "NOT EXISTS (SELECT 1 FROM record p WHERE p.item = i.id AND p.status = 'active' AND p.id <> {own} "
            f"AND ABS(julianday(p.day) - julianday({{day}})) <= {self.number})"
        )

    def holds(self, facts: Facts, pick: Pick) -> bool:
        active = [r for r in facts.records_of_item(pick.item["id"]) if r["status"] == "active"]
        return all(abs(days_apart(r["day"], pick.day)) > self.number for r in active if r["id"] != pick.own)

    def spoil(self, plot: Plot, item: Row) -> None:
        off = plot.rng.choice([-self.number, self.number])
        plot.record(item, plot.stranger(), shifted(plot.day, off), "active")


class Shared(RecordRule):
    """A day's records of an item share its capacity."""

    kind, about, needs = "shared", frozenset({"capacity"}), ("record.status", "item.capacity")

    def text(self, domain: Domain) -> str:
        return domain.say(
            "The active {records} of {an_item} on one day must not add up to more {units} than its capacity."
        )

    def sql(self) -> str:
        return (
            "i.capacity >= {quantity} + (SELECT COALESCE(SUM(p.quantity), 0) FROM record p WHERE p.item = i.id "
            "AND p.day = {day} AND p.status = 'active' AND p.id <> {own})"
        )

    def holds(self, facts: Facts, pick: Pick) -> bool:
        taken = pick.quantity
        for record in facts.records_of_item(pick.item["id"]):
            if record["day"] == pick.day and record["status"] == "active" and record["id"] != pick.own:
                taken += record["quantity"]
        return bool(taken <= pick.item["capacity"])

    def fit(self, plot: Plot, item: Row) -> None:
        item["capacity"] = plot.quantity + plot.rng.randint(3, 9)

    def spoil(self, plot: Plot, item: Row) -> None:
        room = item["capacity"] - plot.quantity
        plot.record(item, plot.stranger(), plot.day, "active", quantity=room + plot.rng.randint(1, 3))


class Wear(RecordRule):
    """At most so many records of an item in the 60 days before."""

    kind, numbers = "wear", (2, 3)

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{An_item} that had {n} or more {records} with status done in the 60 days before the day has to rest.",
            n=self.number,
        )

    def sql(self) -> str:
        return (
            "(SELECT COUNT(*) FROM record p WHERE p.item = i.id AND p.status = 'done' AND p.day < {day} "
            f"AND julianday({{day}}) - julianday(p.day) <= 60) < {self.number}"
        )

    def holds(self, facts: Facts, pick: Pick) -> bool:
        done = [r for r in facts.records_of_item(pick.item["id"]) if r["status"] == "done"]
        return bool(sum(0 < days_apart(r["day"], pick.day) <= 60 for r in done) < self.number)

    def spoil(self, plot: Plot, item: Row) -> None:
        span = range(days_apart(plot.today, plot.day) + 1, 60)
        for ago in plot.rng.sample(span, self.number):
            plot.record(item, plot.stranger(), shifted(plot.day, -ago), "done")


class Closure(RecordRule):
    """Days on which an item or a group is closed stand in a table of their own."""

    kind, forms, needs = "closure", (ITEM, GROUP), ("closure.day",)

    def text(self, domain: Domain) -> str:
        return domain.say("On its closing days {a_thing} cannot be used.", **things(self.form, domain))

    def sql(self) -> str:
        place = "CAST(i.id AS TEXT)" if self.form == ITEM else "g.name"
        return f"NOT EXISTS (SELECT 1 FROM closure o WHERE o.place = {place} AND o.day = {{day}})"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        place = pick.item["id"] if self.form == ITEM else pick.group["name"]
        return not facts.closed(place, pick.day)

    def spoil(self, plot: Plot, item: Row) -> None:
        place = item["id"] if self.form == ITEM else plot.own_group(item)["name"]
        plot.close(str(place), plot.day)


class Quota(RecordRule):
    """At most so many active records of a client at a time, of one group or kind."""

    kind, forms, numbers, about = "quota", (GROUP, KIND), (2, 3), frozenset({"client records"})

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{A_client} may have at most {n} active {many} for {what} at a time, whatever the days.",
            what=self.what(domain),
            n=self.number,
            many=domain.record.many,
        )

    def sql(self) -> str:
        return f"(SELECT COUNT(*) {_OTHERS} {_SAME[self.form]} AND p.status = 'active') < {self.number}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        mine = [r for r in facts.records_of_client(pick.client["id"]) if r["status"] == "active"]
        return bool(sum(self.same(facts, pick, r) for r in mine if r["id"] != pick.own) < self.number)

    def spoil(self, plot: Plot, item: Row) -> None:
        other = self.alike(plot, item)
        for _ in range(self.number):
            plot.record(other, plot.client, plot.far_day(), "active")


class Cooldown(RecordRule):
    """So many days must lie between two records of a client of one item, group or kind."""

    kind, forms, numbers, about = "cooldown", (ITEM, GROUP, KIND), (4, 6, 9), frozenset({"client records"})

    def text(self, domain: Domain) -> str:
        return domain.say(
            "Between two {records} of one {client} for {what} (done or active) at least {n} days must lie.",
            what=self.what(domain), n=self.number,
        )  # fmt: skip

    def sql(self) -> str:
        return (
            f"NOT EXISTS (SELECT 1 {_OTHERS} {_SAME[self.form]} AND p.status IN ('done', 'active') "
            f"AND ABS(julianday(p.day) - julianday({{day}})) < {self.number})"
        )

    def holds(self, facts: Facts, pick: Pick) -> bool:
        for record in facts.records_of_client(pick.client["id"]):
            if record["id"] == pick.own or record["status"] not in ("done", "active"):
                continue
            if abs(days_apart(record["day"], pick.day)) < self.number and self.same(facts, pick, record):
                return False
        return True

    def spoil(self, plot: Plot, item: Row) -> None:
        off = plot.rng.randint(1, self.number - 1)
        plot.record(self.alike(plot, item), plot.client, shifted(plot.day, off), "active")


class Rivals(RecordRule):
    """Kinds that one client must not have at the same time."""

    kind, forms, needs, about = "rivals", (KIND,), ("record.status", "rival.one"), frozenset({"client records"})

    def text(self, domain: Domain) -> str:
        return domain.say(
            "Some {kind} values exclude each other: {a_client} with an active {record} of one may not have the other."
        )

    def sql(self) -> str:
        pair = "((v.one = i.kind AND v.other = q.kind) OR (v.other = i.kind AND v.one = q.kind))"
        return f"NOT EXISTS (SELECT 1 {_OTHERS} p.status = 'active' AND EXISTS (SELECT 1 FROM rival v WHERE {pair}))"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        pairs = facts.rivals()
        for record in facts.records_of_client(pick.client["id"]):
            other = record["status"] == "active" and record["id"] != pick.own
            if other and frozenset((facts.item(record["item"])["kind"], pick.item["kind"])) in pairs:
                return False
        return True

    def spoil(self, plot: Plot, item: Row) -> None:
        plot.own_kind(item)
        other = plot.unused_kind(item["kind"])
        plot.rows["rival"].append({"one": item["kind"], "other": other})
        plot.record(plot.filler(kind=other), plot.client, plot.far_day(), "active")


class Ban(RecordRule):
    """Clients may be barred from an item or a group."""

    kind, forms, needs = "ban", (ITEM, GROUP), ("ban.place",)

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{A_thing} from which the {client} is barred is out of the question.", **things(self.form, domain)
        )

    def sql(self) -> str:
        place = "CAST(i.id AS TEXT)" if self.form == ITEM else "g.name"
        return f"NOT EXISTS (SELECT 1 FROM ban b WHERE b.client = c.id AND b.place = {place})"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        place = pick.item["id"] if self.form == ITEM else pick.group["name"]
        return not facts.barred(pick.client["id"], place)

    def spoil(self, plot: Plot, item: Row) -> None:
        place = item["id"] if self.form == ITEM else plot.own_group(item)["name"]
        plot.bar(str(place))


class Balance(RecordRule):
    """What is prepaid must cover the total."""

    kind, needs, about = "balance", ("client.balance",), frozenset({"total"})

    def text(self, domain: Domain) -> str:
        return domain.say("The total must not be more than the balance of the {client}.")

    def sql(self) -> str:
        return "c.balance >= {total}"

    def holds(self, facts: Facts, pick: Pick) -> bool:
        return bool(facts.total(pick) <= pick.client["balance"])

    def spoil(self, plot: Plot, item: Row) -> None:
        plot.dear(item)


RECORD_RULES: tuple[type[RecordRule], ...] = (
    Exclusive, Shared, Wear, Closure, Quota, Cooldown, Rivals, Ban, Balance,
)  # fmt: skip

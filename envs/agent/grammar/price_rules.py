"""Price rules: what a record comes to. Percentages add up; fees are added behind them. All amounts are whole numbers.

    total = quantity * price * (100 + sum of percentages) / 100 + sum of fees

Prices are multiples of 20 and percentages of 5, so that nothing has to be rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.agent.general.world import Row
from envs.agent.grammar.conditions import GROUP, ITEM, Constraint, Pick, days_apart, weekday
from envs.agent.grammar.domains import Domain

if TYPE_CHECKING:
    from envs.agent.grammar.facts import Facts
    from envs.agent.grammar.plot import Plot


class PriceRule(Constraint):
    """``percent`` and ``fee`` of one candidate, in Python; ``percent_sql`` and ``fee_sql`` for the verifier.

    ``fit`` makes data in which the rule changes the target's total.
    """

    forms: tuple[str, ...] = ("",)
    numbers: tuple[int, ...] = (0,)
    of_client: bool = False  # whether it looks at what else the client has
    percent_sql: str = "0"
    fee_sql: str = "0"

    def __init__(self, form: str, number: int = 0, percent: int = 10) -> None:
        self.form, self.number, self.rate = form, number, percent

    def text(self, domain: Domain) -> str:
        raise NotImplementedError

    def percent(self, facts: Facts, pick: Pick) -> int:
        return 0

    def fee(self, facts: Facts, pick: Pick) -> int:
        return 0

    def fit(self, plot: Plot, item: Row) -> None:
        """Most data is such by itself."""


class Band(PriceRule):
    kind, needs = "band", ("band.percent",)
    percent_sql = (
        "-COALESCE((SELECT b.percent FROM band b WHERE b.from_quantity <= {quantity} ORDER BY b.from_quantity DESC "
        "LIMIT 1), 0)"
    )

    def text(self, domain: Domain) -> str:
        return domain.say("Large {records} are cheaper: the discount of the highest band reached is taken off.")

    def percent(self, facts: Facts, pick: Pick) -> int:
        reached = [band for band in facts.bands() if band["from_quantity"] <= pick.quantity]
        return -max(reached, key=lambda band: band["from_quantity"])["percent"] if reached else 0


class TierDiscount(PriceRule):
    kind, needs = "tier discount", ("client.tier", "tier.discount")
    percent_sql = "-(SELECT t.discount FROM tier t WHERE t.name = c.tier)"

    def text(self, domain: Domain) -> str:
        return domain.say("Every {tier} has a discount, in percent.")

    def percent(self, facts: Facts, pick: Pick) -> int:
        (tier,) = [tier for tier in facts.tiers() if tier["name"] == pick.client["tier"]]
        return -int(tier["discount"])


class Weekend(PriceRule):
    kind, forms = "weekend", ("dearer", "cheaper")

    @property
    def percent_sql(self) -> str:  # type: ignore[override]
        return f"CASE WHEN strftime('%w', {{day}}) IN ('0', '6') THEN {self._rate} ELSE 0 END"

    @property
    def _rate(self) -> int:
        return self.rate if self.form == "dearer" else -self.rate

    def text(self, domain: Domain) -> str:
        word = "added" if self.form == "dearer" else "taken off"
        return domain.say("On Saturdays and Sundays {n} percent are {word}.", n=self.rate, word=word)

    def percent(self, facts: Facts, pick: Pick) -> int:
        return self._rate if weekday(pick.day) in ("Saturday", "Sunday") else 0


class Early(PriceRule):
    kind, forms, numbers = "early", ("early", "late"), (14, 21)

    @property
    def percent_sql(self) -> str:  # type: ignore[override]
        ahead = "julianday({day}) - julianday({today})"
        if self.form == "early":
            return f"CASE WHEN {ahead} >= {self.number} THEN -{self.rate} ELSE 0 END"
        return f"CASE WHEN {ahead} < {self.number} THEN {self.rate} ELSE 0 END"

    def text(self, domain: Domain) -> str:
        if self.form == "early":
            return domain.say("For a day that is {n} or more days from today {p} percent are taken off.",
                              n=self.number, p=self.rate)  # fmt: skip
        return domain.say("For a day that is fewer than {n} days from today {p} percent are added.",
                          n=self.number, p=self.rate)  # fmt: skip

    def percent(self, facts: Facts, pick: Pick) -> int:
        ahead = days_apart(facts.today, pick.day)
        if self.form == "early":
            return -self.rate if ahead >= self.number else 0
        return self.rate if ahead < self.number else 0


class Loyalty(PriceRule):
    kind, numbers, needs, of_client = "loyalty", (2, 3), ("record.status",), True

    @property
    def percent_sql(self) -> str:  # type: ignore[override]
        done = "(SELECT COUNT(*) FROM record p WHERE p.client = c.id AND p.status = 'done')"
        return f"CASE WHEN {done} >= {self.number} THEN -{self.rate} ELSE 0 END"

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{A_client} with {n} or more {records} with status done pays {p} percent less.", n=self.number, p=self.rate
        )

    def percent(self, facts: Facts, pick: Pick) -> int:
        done = sum(r["status"] == "done" for r in facts.records_of_client(pick.client["id"]))
        return -self.rate if done >= self.number else 0

    def fit(self, plot: Plot, item: Row) -> None:
        for _ in range(self.number):
            plot.record(plot.filler(), plot.client, plot.long_ago(), "done")


class Bundle(PriceRule):
    kind, needs, of_client = "bundle", ("record.status",), True

    @property
    def percent_sql(self) -> str:  # type: ignore[override]
        other = (
            "EXISTS (SELECT 1 FROM record p JOIN item q ON q.id = p.item WHERE p.client = c.id AND p.status = 'active' "
            "AND q.grp = i.grp AND p.id <> {own})"
        )
        return f"CASE WHEN {other} THEN -{self.rate} ELSE 0 END"

    def text(self, domain: Domain) -> str:
        return domain.say(
            "{A_client} with another active {record} in the same {group} pays {p} percent less.", p=self.rate
        )

    def percent(self, facts: Facts, pick: Pick) -> int:
        for record in facts.records_of_client(pick.client["id"]):
            other = record["status"] == "active" and record["id"] != pick.own
            if other and facts.item(record["item"])["grp"] == pick.item["grp"]:
                return -self.rate
        return 0

    def fit(self, plot: Plot, item: Row) -> None:
        plot.record(plot.filler(group=item["grp"]), plot.client, plot.far_day(), "active")


class Fee(PriceRule):
    kind, forms = "fee", (ITEM, GROUP)

    def __init__(self, form: str, number: int = 0, percent: int = 10) -> None:
        super().__init__(form, number, percent)
        self.needs = (f"{form}.fee",)

    @property
    def fee_sql(self) -> str:  # type: ignore[override]
        return "i.fee" if self.form == ITEM else "g.fee"

    def text(self, domain: Domain) -> str:
        thing = domain.item.one if self.form == ITEM else domain.group.one
        return domain.say("The fee of the {thing} is added once per {record}, without any discount.", thing=thing)

    def fee(self, facts: Facts, pick: Pick) -> int:
        return int((pick.item if self.form == ITEM else pick.group)["fee"])


PRICE_RULES: tuple[type[PriceRule], ...] = (Band, TierDiscount, Weekend, Early, Loyalty, Bundle, Fee)


def total_of(rules: tuple[PriceRule, ...], facts: Facts, pick: Pick) -> int:
    """What the candidate comes to."""
    percent = 100 + sum(rule.percent(facts, pick) for rule in rules)
    return pick.quantity * int(pick.item["price"]) * percent // 100 + sum(rule.fee(facts, pick) for rule in rules)


def total_sql(rules: tuple[PriceRule, ...]) -> str:
    percent = " + ".join(["100", *(f"({rule.percent_sql})" for rule in rules)])
    fees = " + ".join(["0", *(f"({rule.fee_sql})" for rule in rules)])
    return f"({{quantity}} * i.price * ({percent}) / 100 + {fees})"

"""What may decide about a candidate, said four times over: in words, in SQL, in Python, and in how data is made.

    condition.text(domain)         the sentence that the policy reads
    condition.sql()                what the verifier asks the database: over i (item), g (group), c (client)
    condition.holds(facts, pick)   what the solver works out from the answers of tools
    condition.fit(plot, row)       gives a row values that pass;  condition.spoil(plot, item): makes an item fail, in
                                   this and nothing else

SQL and Python are written apart: a slip in one of them makes the solution fail its own verifier, and the task is
rejected. In SQL ``{day}``, ``{quantity}``, ``{own}`` (a record to leave out) and ``{total}`` are filled in.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from envs.agent.general.world import Row
from envs.agent.grammar.domains import Domain

if TYPE_CHECKING:  # both know conditions
    from envs.agent.grammar.facts import Facts
    from envs.agent.grammar.plot import Plot

ITEM, GROUP = "item", "grp"
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Pick:
    """One candidate as the solver sees it. ``own``: the record that it would replace or is, -1 for none."""

    item: Row
    group: Row
    client: Row
    day: str
    quantity: int
    own: int = -1


class Constraint:
    """What can be left out of a task: a rule, a wish, a price rule. ``needs``: the ``table.column`` that it reads."""

    kind: str
    form: str = ""
    needs: tuple[str, ...] = ()


class Condition(Constraint):
    """``about``: what other parts must not touch."""

    about: frozenset[str] = frozenset()
    number: Any = None

    def text(self, domain: Domain) -> str:
        raise NotImplementedError

    def sql(self) -> str:
        raise NotImplementedError

    def holds(self, facts: Facts, pick: Pick) -> bool:
        raise NotImplementedError

    def fit(self, plot: Plot, item: Row) -> None:
        """Most data passes by itself."""

    def spoil(self, plot: Plot, item: Row) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{self.kind}/{self.form}/{self.number}"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def day_of(text: str) -> date:
    return date.fromisoformat(text)


def shifted(text: str, days: int) -> str:
    return (day_of(text) + timedelta(days)).isoformat()


def days_apart(first: str, second: str) -> int:
    """Days from the first to the second; negative when the second is earlier."""
    return (day_of(second) - day_of(first)).days


def weekday(text: str) -> str:
    return WEEKDAYS[day_of(text).weekday()]


WEEKDAY_SQL = (
    "CASE strftime('%w', {day}) WHEN '0' THEN 'Sunday' WHEN '1' THEN 'Monday' WHEN '2' THEN 'Tuesday' "
    "WHEN '3' THEN 'Wednesday' WHEN '4' THEN 'Thursday' WHEN '5' THEN 'Friday' ELSE 'Saturday' END"
)

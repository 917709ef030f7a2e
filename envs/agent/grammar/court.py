"""Court: the verifier. It asks the rows in SQL which answers are right, and judges an end state by that.

    court = Court(structure, brief, start)
    court.right()                       {(412, 1180)}: item and total, sets of items, records to cancel, or a number
    court.right(without=condition)      the same, had a constraint not been there
    court.judge(end, submitted)         None: solved; else what is wrong

It has no code in common with the solver but the choice of constraints: what a constraint means is told in SQL here,
and in Python there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

from envs.agent.general.world import Database, Row, WorldSpec, changed, same
from envs.agent.grammar.brief import Brief, constraints_of
from envs.agent.grammar.conditions import Condition, Constraint, quoted
from envs.agent.grammar.naming import naming_of
from envs.agent.grammar.price_rules import PriceRule, total_sql
from envs.agent.grammar.structure import Structure
from envs.environment import ToolError

Dropped = Constraint | str  # a word: what the goal itself asks for
_ANSWERED = ("pick", "plan", "tally")


class Court:
    def __init__(self, structure: Structure, brief: Brief, start: WorldSpec) -> None:
        self.structure, self.brief, self.start = structure, brief, start
        self._rules = constraints_of(structure, brief)
        self._database: Database | None = None

    # -- what is right -----------------------------------------------------------------------

    def constraints(self) -> list[Dropped]:
        """Everything that can be left out to see whether it binds."""
        goal = {"plan": ["apart"], "audit": ["the day", "the status"], "tally": ["the day", "the status"]}
        return [*self._rules, *self.structure.prices, *goal.get(self.brief.goal, [])]

    def right(self, without: Dropped | None = None) -> frozenset[Any]:
        """All right answers."""
        rules = [c for c in self._rules if c is not without]
        prices = tuple(rule for rule in self.structure.prices if rule is not without)
        if self.brief.goal in ("audit", "tally"):
            return self._of_records(rules, prices, without)
        found = self.candidates(rules, prices)
        if self.brief.goal == "plan":
            sets = [
                chosen for chosen in combinations(found, self.brief.count)
                if without == "apart" or len({row["grp"] for row in chosen}) == len(chosen)
            ]  # fmt: skip
            least = min((sum(row["total"] for row in chosen) for chosen in sets), default=0)
            return frozenset(
                (frozenset(row["id"] for row in chosen), least)
                for chosen in sets if sum(row["total"] for row in chosen) == least
            )  # fmt: skip
        best = self.best_of(found)
        return frozenset((row["id"], row["total"]) for row in best)

    def best_of(self, found: Sequence[Row]) -> list[Row]:
        """Those of the candidates that the objective likes best."""
        if not found:
            return []
        worth = max if self.brief.objective[1] == "most" else min
        top = worth(row["worth"] for row in found)
        return [row for row in found if row["worth"] == top]

    def candidates(self, rules: Iterable[Condition], prices: tuple[PriceRule, ...] | None = None) -> list[Row]:
        """Items that meet the rules: id, grp, total, worth (what the objective looks at)."""
        total = total_sql(self.structure.prices if prices is None else prices)
        column = self.brief.objective[0]
        worth = total if column == "price" else f"i.{column}"
        where = " AND ".join([f"c.name = {quoted(self.brief.client)}", *(f"({rule.sql()})" for rule in rules)])
        sql = (
            f"SELECT i.id AS id, i.grp AS grp, {total} AS total, {worth} AS worth FROM item i "
            f"JOIN grp g ON g.name = i.grp JOIN client c WHERE {where} ORDER BY i.id"
        )
        values = {"day": quoted(self.brief.day), "quantity": str(self.brief.quantity), "own": str(self.brief.own_id)}
        return self.database.all(self._filled(sql, total, values))

    def _of_records(
        self, rules: list[Condition], prices: tuple[PriceRule, ...], without: Dropped | None
    ) -> frozenset[Any]:
        wishes = [f"({rule.sql()})" for rule in rules if rule in self.brief.wishes]
        laws = [f"({rule.sql()})" for rule in rules if rule not in self.brief.wishes]
        scope = [] if without == "the status" else ["r.status = 'active'"]
        scope += [] if without == "the day" else [f"r.day = {quoted(self.brief.day)}"]
        where = " AND ".join([*scope, *wishes]) or "1"
        if self.brief.goal == "audit":
            where += f" AND NOT ({' AND '.join(laws) or '1'})"
        total = total_sql(prices)
        chosen = "r.id AS value" if self.brief.goal == "audit" else f"COALESCE(SUM({total}), 0) AS value"
        sql = (
            f"SELECT {chosen} FROM record r JOIN item i ON i.id = r.item JOIN grp g ON g.name = i.grp "
            f"JOIN client c ON c.id = r.client WHERE {where}"
        )
        values = {"day": "r.day", "quantity": "r.quantity", "own": "r.id"}
        return frozenset(row["value"] for row in self.database.all(self._filled(sql, total, values)))

    def _filled(self, sql: str, total: str, values: dict[str, str]) -> str:
        sql = sql.replace("{total}", total).replace("{today}", quoted(self.brief.today))
        for name, value in values.items():
            sql = sql.replace(f"{{{name}}}", value)
        return sql

    @property
    def database(self) -> Database:
        if self._database is None:
            self._database = Database(self.start)
        return self._database

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    @cached_property
    def answers(self) -> frozenset[Any]:
        found = self.right()
        self.close()
        return found

    # -- judging -----------------------------------------------------------------------------

    def judge(self, end: WorldSpec, submitted: Any) -> str | None:
        """None when the task is done."""
        if self.brief.goal in _ANSWERED:
            if not same(self.start, end):
                return "something was changed"
            return None if self._read(submitted) in self.answers else "the answer is not right"
        if not same(self.start, end, apart_from=("record",)):
            return "something else was changed"
        gone, new = changed(self.start, end, "record")
        if self.brief.goal == "audit":
            if [{**row, "status": "cancelled"} for row in gone] != new or any(r["status"] != "active" for r in gone):
                return "records were changed in another way than cancelled"
            right = {row["id"] for row in gone} == set(self.answers)
            return None if right else "not exactly the records that break a rule are cancelled"
        return self._made(gone, new)

    def _made(self, gone: list[Row], new: list[Row]) -> str | None:
        """One new record; and where one is moved, the old one cancelled."""
        if self.brief.own is not None:
            if [row["id"] for row in gone] != [self.brief.own[0]] or {**gone[0], "status": "cancelled"} not in new:
                return "the old record is not cancelled, or others are changed"
            new = [row for row in new if row["id"] != self.brief.own[0]]
        elif gone:
            return "records were changed"
        if len(new) != 1:
            return f"{len(new)} records were made, not one"
        (made,) = new
        client = next(row["id"] for row in self.start.rows["client"] if row["name"] == self.brief.client)
        wanted = {"client": client, "day": self.brief.day, "quantity": self.brief.quantity, "status": "active"}
        if any(made[column] != value for column, value in wanted.items()):
            return "the record is not for whom, when or how many was asked"
        return None if (made["item"], made["total"]) in self.answers else "not the right choice, or not its total"

    def _read(self, submitted: Any) -> Any:
        """A submitted answer in the form of ``right``; what has another form is no right answer."""
        whole = isinstance(submitted, int) and not isinstance(submitted, bool)
        if self.brief.goal == "tally":
            return submitted if whole else None
        if not isinstance(submitted, dict) or set(submitted) != set(answer_fields(self.structure, self.brief.goal)):
            return None
        chosen, total = (submitted[name] for name in answer_fields(self.structure, self.brief.goal))
        if not isinstance(total, int) or isinstance(total, bool):
            return None
        naming = naming_of(self.structure)
        try:
            if self.brief.goal == "pick":
                return _whole(naming.read_value("item", chosen)), total
            if not isinstance(chosen, list) or len(chosen) != self.brief.count:
                return None
            return frozenset(_whole(naming.read_value("item", one)) for one in chosen), total
        except ToolError:
            return None


def _whole(value: Any) -> int:
    """Raises ToolError for what is no whole number: True == 1 in Python."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ToolError("no id")
    return value


def answer_fields(structure: Structure, goal: str) -> tuple[str, str]:
    """The keys of an answer that names items and a total."""
    naming = naming_of(structure)
    name = naming.argument("item")
    return (name, "total") if goal == "pick" else (f"{name}s", "total")

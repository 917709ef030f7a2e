"""Why a task or an environment of the grammar is not worth keeping: one word, and what it is about.

    find_problem(case)       None, or ("not_binding", "cooldown/grp")
    unreachable(case)        None, or the tool that cannot be called with what other tools and the request say

The weak answerers know the data, and work out totals without a mistake; what they lack is a constraint. One takes the
first candidate, one takes the best of all, one guesses (right are at most ``LUCK`` of the candidates), and for every
constraint there is one that has overlooked just that one. A task is kept when each of them is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from envs.agent.general.case import run_solution
from envs.agent.general.solution import SolutionError
from envs.agent.general.world import WorldSpec
from envs.agent.grammar.court import Court
from envs.agent.grammar.grammar_case import GrammarCase
from envs.environment import ToolError

RANDOM_ANSWERS = 5  # of an audit: random choices of records
LUCK = 0.1  # the largest share of right ones among all candidates: what a guess may win
MOST_ANSWERS = 2  # equally good ones
_FREE = frozenset(
    ("name", "day", "first", "second", "page", "offset", "limit", "quantity", "total", "amount", "percent", "kind",
     "feature")
)  # fmt: skip


def find_problem(case: GrammarCase) -> tuple[str, str] | None:
    """(one word, details), None for a task to keep."""
    court = case.court
    try:
        if problem := _of_answers(court):
            return problem
    finally:
        court.close()
    return _of_solution(case)


def _of_answers(court: Court) -> tuple[str, str] | None:
    right = court.right()
    if not right:
        return "no_answer", ""
    if court.brief.goal in ("pick", "book", "move", "plan") and len(right) > MOST_ANSWERS:
        return "many_answers", str(len(right))
    for constraint in court.constraints():
        others = court.right(without=constraint)
        if others == right:
            return "not_binding", _name(constraint)
        if court.brief.goal not in ("audit", "tally") and others & right:
            return "weak", f"without {_name(constraint)}"
    if court.brief.goal in ("pick", "book", "move") and len(right) > LUCK * len(court.candidates(())):
        return "weak", "a guess"
    for name, answer in weak_answers(court):
        if answer in right if court.brief.goal != "audit" else answer == right:
            return "weak", name
    return None


def weak_answers(court: Court) -> Iterator[tuple[str, Any]]:
    """(who, answer) in the form of ``Court.right``; of an audit the set of records to cancel."""
    rng = random.Random("weak")
    if court.brief.goal == "tally":
        yield "zero", 0
        return
    if court.brief.goal == "audit":
        active = [r["id"] for r in court.start.rows["record"] if (r["status"], r["day"]) == ("active", court.brief.day)]
        yield "nothing", frozenset()
        yield "all", frozenset(active)
        for _ in range(RANDOM_ANSWERS):
            yield "random", frozenset(number for number in active if rng.random() < 0.5)
        return
    every = court.candidates(())
    count = court.brief.count
    choices = {"first": every[:count], "best": court.best_of(every)[:1] if count == 1 else _cheapest(every, count)}
    yield from ((name, _as_answer(rows)) for name, rows in choices.items())


def _cheapest(every: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return sorted(every, key=lambda row: row["total"])[:count]


def _as_answer(rows: list[dict[str, Any]]) -> Any:
    if len(rows) == 1:
        return rows[0]["id"], rows[0]["total"]
    return frozenset(row["id"] for row in rows), sum(row["total"] for row in rows)


def _of_solution(case: GrammarCase) -> tuple[str, str] | None:
    world = case.open()
    try:
        run_solution(case, world)
        verdict = case.judge(world.state(), world.submitted)
    except SolutionError as error:
        return "solution_raises", str(error)
    finally:
        world.close()
    return None if verdict is None else ("solution_fails", verdict)


def unreachable(case: GrammarCase) -> str | None:
    """The name of a tool that cannot be called, None when every one can."""
    known, todo = set(_FREE), dict(case.offered)
    known |= {_role_of(wish.kind) for wish in case.brief.wishes}
    while todo:
        ready = [key for key, operation in todo.items() if set(operation.roles) <= known]
        if not ready:
            return next(iter(todo.values())).name
        for key in ready:
            known |= {*todo.pop(key).gives, *_columns(case, key)}
    world = case.open()
    try:
        for operation in case.offered.values():
            if operation.changes:
                continue
            arguments = {role: _example(case, role) for role in operation.roles}
            try:
                world.call(operation.name, operation.shown(**arguments))
            except ToolError:
                return operation.name
    finally:
        world.close()
    return None


def _columns(case: GrammarCase, key: str) -> set[str]:
    """Roles of the values in the rows that an operation shows."""
    table, _, what = key.partition(".")
    if what in ("ids", "names", "of_group", "of_kind", "with", "check", "count") or table not in case.structure.schema:
        return set()
    columns = case.structure.schema[table]
    roles = {case_role for column in columns for case_role in (column, _role_of(column))}
    return {*roles, *({"feature"} if table == "item" and case.structure.modes.get("feature") == "column" else ())}


def _role_of(column: str) -> str:
    return {"min_tier": "tier", "paper": "paper", "not group": "grp", "manager": "region"}.get(column, column)


def _example(case: GrammarCase, role: str) -> Any:
    start: WorldSpec = case.start
    by_table = {"item": ("item", "id"), "client": ("client", "id"), "record": ("record", "id"), "grp": ("grp", "name"),
                "region": ("region", "name"), "tier": ("tier", "name"), "paper": ("holding", "paper"),
                "city": ("grp", "city"), "name": ("client", "name")}  # fmt: skip
    if role in by_table:
        table, column = by_table[role]
        return start.rows[table][0][column]
    if role in ("kind", "feature"):
        return (case.structure.domain.kinds if role == "kind" else case.structure.domain.features)[0]
    if role in ("day", "first", "second"):
        return case.brief.day
    return {"offset": 0}.get(role, 1)


def _name(constraint: Any) -> str:
    if isinstance(constraint, str):
        return constraint
    return f"{constraint.kind}/{constraint.form}" if constraint.form else str(constraint.kind)

"""The solver: does what a brief asks for through the tools alone. What it knows, ``Facts`` fetched with a tool.

It stops looking at a candidate at the first constraint that fails, so it asks no more than it has to.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from envs.agent.grammar.brief import Brief, constraints_of
from envs.agent.grammar.conditions import Pick
from envs.agent.grammar.court import answer_fields
from envs.agent.grammar.facts import Facts
from envs.agent.grammar.structure import Structure


class Unsolved(Exception):
    """The solver finds nothing that the brief allows."""


def solve(structure: Structure, brief: Brief, facts: Facts) -> Any:
    """Do it; returns the answer to submit, or None where the changes are the answer. Raises Unsolved."""
    if "rules.rows" in facts.offered:
        facts.ask("rules.rows")
    if brief.goal == "tally":
        return sum(facts.total(pick) for pick in _of_records(brief, facts))
    if brief.goal == "audit":
        for pick in _of_records(brief, facts):
            if not all(rule.holds(facts, pick) for rule in structure.rules):
                facts.do("record.cancel", record=pick.own)
        return None
    found = _candidates(structure, brief, facts)
    if brief.goal == "plan":
        return _plan(structure, brief, facts, found)
    column, way = brief.objective
    sign = -1 if way == "most" else 1
    if not found:
        raise Unsolved("no candidate meets all constraints")
    if column == "price":
        best = min(found, key=lambda pick: (sign * facts.total(pick), pick.item["id"]))
    else:
        best = min(found, key=lambda pick: (sign * pick.item[column], pick.item["id"]))
    total = facts.total(best)
    if brief.goal == "pick":
        item, its_total = answer_fields(structure, "pick")
        return {item: facts.naming.show_value("item", best.item["id"]), its_total: total}
    if brief.own is not None:
        facts.do("record.cancel", record=brief.own[0])
    made = facts.do("record.create", client=best.client["id"], item=best.item["id"], day=brief.day,
                    quantity=brief.quantity, total=total)  # fmt: skip
    if structure.style.booking == "two":
        facts.do("record.confirm", record=facts.naming.read("record", made)["id"])
    return None


def _candidates(structure: Structure, brief: Brief, facts: Facts) -> list[Pick]:
    client, rules = facts.client(brief.client), constraints_of(structure, brief)
    cheap = sorted(rules, key=lambda rule: rule in structure.rules)  # wishes first: most of them are in the row itself
    found = []
    for item in facts.items():
        pick = Pick(item, facts.group(item["grp"]), client, brief.day, brief.quantity, brief.own_id)
        if all(rule.holds(facts, pick) for rule in cheap):
            found.append(pick)
    return found


def _plan(structure: Structure, brief: Brief, facts: Facts, found: list[Pick]) -> dict[str, Any]:
    totals = {pick.item["id"]: facts.total(pick) for pick in found}
    best: tuple[int, list[int]] | None = None
    for chosen in combinations(found, brief.count):
        if len({pick.item["grp"] for pick in chosen}) == brief.count:
            ids = [pick.item["id"] for pick in chosen]
            total = sum(totals[number] for number in ids)
            if best is None or total < best[0]:
                best = (total, ids)
    if best is None:
        raise Unsolved("there are too few candidates")
    items, its_total = answer_fields(structure, "plan")
    return {items: [facts.naming.show_value("item", number) for number in best[1]], its_total: best[0]}


def _of_records(brief: Brief, facts: Facts) -> list[Pick]:
    """The active records of the day whose items meet the wishes."""
    found = []
    for record in facts.records_between(brief.day, brief.day):
        if record["status"] != "active":
            continue
        item, client = facts.item(record["item"]), facts.client_of(record["client"])
        pick = Pick(item, facts.group(item["grp"]), client, record["day"], record["quantity"], record["id"])
        if all(wish.holds(facts, pick) for wish in brief.wishes):
            found.append(pick)
    return found

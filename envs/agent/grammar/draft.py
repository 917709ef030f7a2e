"""Drafting a task: a brief, and data in which every part of it decides something.

draft(structure, rng, goal, wishes=3, noise=4)      -> (brief, rows)
"""

from __future__ import annotations

import random

from envs.agent.general.world import Row, WorldSpec
from envs.agent.grammar.brief import Brief, Unsuitable, constraints_of
from envs.agent.grammar.conditions import Condition, shifted
from envs.agent.grammar.court import Court
from envs.agent.grammar.plot import Plot
from envs.agent.grammar.structure import Structure


def draft(structure: Structure, rng: random.Random, goal: str, wishes: int, noise: int) -> tuple[Brief, WorldSpec]:
    """A task of that goal with so many wishes, in data of its own. Raises Unsuitable."""
    plot = Plot(structure, rng)
    if goal in ("audit", "tally"):
        return _of_records(plot, goal, wishes, noise)
    _objective(plot, goal)
    sequence = structure.rule("sequence")
    if sequence is not None and "record" in plot.rows:
        plot.record(plot.filler(), plot.client, plot.long_ago(), "done")
    for price in structure.prices:
        price.fit(plot, plot.target)
    own = _own_record(plot) if goal == "move" else None
    plot.limit = _limit(plot, own)
    if structure.rule("balance") is not None:
        plot.client["balance"] = plot.limit
    plot.wish(wishes, without=("budget",) if plot.objective[0] == "price" else ())
    if not plot.wishes:
        raise Unsuitable("no_wish")
    targets = _more_targets(plot) if goal == "plan" else 1
    for condition in (*structure.rules, *plot.wishes):
        plot.decoy([condition])
    if own is not None:  # the old item would be the best of all
        old = next(row for row in plot.rows["item"] if row["id"] == own["item"])
        _become(plot, old)
    plot.noise(noise)
    brief = Brief(
        goal, plot.client["name"], plot.day, plot.quantity, plot.today, tuple(plot.wishes), plot.objective, targets,
        (own["id"], own["item"]) if own else None,
    )  # fmt: skip
    _settle(plot, brief)
    plot.reviews()
    return brief, plot.spec()


def _objective(plot: Plot, goal: str) -> None:
    numbers = [f"a{number}" for number in plot.structure.attributes]
    by_number = plot.structure.rule("balance") is not None or (numbers and plot.rng.random() < 0.45)
    if goal == "plan" or not by_number:
        return
    if not numbers:
        raise Unsuitable("no_objective")
    plot.objective = (plot.rng.choice(numbers), plot.rng.choice(("least", "most")))


def _own_record(plot: Plot) -> Row:
    old = plot.copy(plot.target)
    plot.keep.add(old["id"])
    return plot.record(old, plot.client, plot.day, "active", plot.quantity)


def _become(plot: Plot, old: Row) -> None:
    """The old item takes whatever the target has, so that it passes all the wishes."""
    own = {key: old[key] for key in ("id", "name")}
    old.update({**plot.target, **own})
    plot.better(old)
    if "feature" in plot.rows:
        plot.rows["feature"] = [row for row in plot.rows["feature"] if row["item"] != old["id"]]
        plot.rows["feature"] += [{"item": old["id"], "feature": name} for name in plot.features_of(plot.target)]


def _limit(plot: Plot, own: Row | None) -> int:
    brief = Brief("pick", plot.client["name"], plot.day, plot.quantity, plot.today,
                  own=(own["id"], own["item"]) if own else None)  # fmt: skip
    court = Court(plot.structure, brief, plot.spec())
    total = next(row["total"] for row in court.candidates(()) if row["id"] == plot.target["id"])
    return int(total + plot.rng.randint(1, max(2, total // 8)))


def _more_targets(plot: Plot) -> int:
    """Further targets in groups of their own, each dearer than the one before; and a twin beside the first."""
    count = plot.rng.randint(2, 3)
    price = plot.target["price"]
    twin = plot.copy(plot.target)
    twin["price"] = price + 20
    plot.keep.add(twin["id"])
    for number in range(1, count):
        more = plot.copy(plot.target)
        plot.own_group(more)
        more["price"] = price + 20 * (1 + number * plot.rng.randint(1, 3)) + 20 * number
        plot.keep.add(more["id"])
    return count


def _settle(plot: Plot, brief: Brief) -> None:
    """Noise that would be as good a choice is made a worse one."""
    court = Court(plot.structure, brief, plot.spec())
    passing = {row["id"] for row in court.candidates(constraints_of(plot.structure, brief))}
    for item in plot.rows["item"]:
        if item["id"] in passing - plot.keep:
            plot.worse(item)


def _of_records(plot: Plot, goal: str, wishes: int, noise: int) -> tuple[Brief, WorldSpec]:
    """Records of one day: those that break a rule, or what they come to."""
    rules = plot.structure.rules
    clients = [plot.client, *(plot.twin_client() for _ in range(2))]
    anyone = plot.rows["client"] if goal == "tally" else clients
    plot.wish(wishes, records=True, without=("not group",) if goal == "audit" else ())
    if not plot.wishes:
        raise Unsuitable("no_wish")

    def put(item: Row, day: str = plot.day, status: str = "active", client: Row | None = None) -> None:
        quantity = plot.rng.randint(3, 9) if goal == "tally" else plot.quantity
        plot.record(item, client or plot.rng.choice(anyone), day, status, quantity)

    def bad() -> list[Condition]:
        return [plot.rng.choice(rules)] if goal == "audit" else []

    for _ in range(plot.rng.randint(2, 4)):
        put(plot.decoy([], better=False))
    for rule in rules if goal == "audit" else ():
        put(plot.decoy([rule], better=False))
    for wish in plot.wishes:
        put(plot.decoy([*bad(), wish], better=False))
    put(plot.decoy(bad(), better=False), status=plot.rng.choice(("cancelled", "done")))
    for off in (-1, 1, 7):
        put(plot.decoy(bad(), better=False), day=shifted(plot.day, off))
    if goal == "tally":  # prices of their own
        for item in plot.rows["item"]:
            item["price"] = 20 * plot.rng.randint(2, 24)
    plot.noise(noise)
    brief = Brief(goal, plot.client["name"], plot.day, plot.quantity, plot.today, tuple(plot.wishes))
    plot.reviews()
    return brief, plot.spec()

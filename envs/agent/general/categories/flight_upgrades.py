"""The upgrade task of ``flights``: seats in business that are free go to the passengers with the most points.

On each flight that leaves Oslo on day 2 there may be 3 bookings in business. Where there are fewer ...
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from envs.agent.general.category import Brief, Unsuitable
from envs.agent.general.world import WorldSpec, same


def upgrades(world: WorldSpec, need: Mapping[str, Any]) -> list[int]:
    found = []
    for flight in world.all("flight", start=need["start"], day=need["day"]):
        bookings = world.all("booking", flight=flight["id"])
        room = need["business"] - sum(b["cabin"] == "business" for b in bookings)
        waiting = [b for b in bookings if b["cabin"] == "economy"]
        if "status" in need:
            waiting = [b for b in waiting if world.get("passenger", b["passenger"])["status"] != "none"]
        waiting.sort(key=lambda b: -world.get("passenger", b["passenger"])["points"])
        if "least" in need:
            waiting = [b for b in waiting if world.get("passenger", b["passenger"])["points"] >= need["least"]]
        if flight["leaves"] >= need.get("after", 0):
            found += [b["id"] for b in waiting[: max(0, room)]]
    return sorted(found)


def propose_upgrade(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    cities = sorted({f["start"] for f in world.all("flight")})
    start, day, business = rng.choice(cities), rng.randint(1, 3), rng.randint(1, 3)
    brief.ask(
        1,
        f"On each flight that leaves {start} on day {day} there may be {business} booking(s) in business. Where there "
        "are fewer, move passengers from economy up, those with the most points first, until there are as many or "
        "nobody is left.",
        start=start,
        day=day,
        business=business,
    )
    after, least = rng.randint(7, 10), rng.randrange(100, 300, 50)
    brief.ask(2, f"Leave flights alone that leave before {after}.", after=after)
    brief.ask(3, f"Nobody with fewer than {least} points is moved up.", least=least)
    brief.ask(4, "Only passengers with gold or silver status are moved up.", status=True)
    found = upgrades(world, brief.need)
    points = [p["points"] for p in world.all("passenger")]
    if len(found) < 2 or len(set(points)) < len(points):
        raise Unsuitable
    brief.ask(1, "", bookings=found)


def solve_upgrade(tools: Any, need: dict[str, Any]) -> Any:
    for city in sorted(set(tools.list_cities())):
        if city == need["start"]:
            continue
        for f in tools.find_flights(start=need["start"], destination=city, day=need["day"]):
            if f["leaves"] < need.get("after", 0):
                continue
            bookings = tools.list_bookings(flight=f["id"])
            room = need["business"] - len([b for b in bookings if b["cabin"] == "business"])
            waiting = []
            for b in bookings:
                if b["cabin"] == "economy" and room > 0:
                    person = tools.get_passenger(name=b["passenger"])
                    good = person["points"] >= need.get("least", 0)
                    if good and ("status" not in need or person["status"] != "none"):
                        waiting.append([person["points"], b["id"]])
            for _, number in sorted(waiting, reverse=True)[: max(0, room)]:
                tools.set_cabin(booking=number, cabin="business")


def check_upgrade(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    wanted = [{**b, "cabin": "business"} if b["id"] in need["bookings"] else b for b in world.all("booking")]
    if end.all("booking") != wanted or not same(world, end, apart_from=("booking",)):
        yield "not exactly these bookings were moved up"

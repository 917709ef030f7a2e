"""An airline: flights with seats, passengers with bookings that have to change.

Flight 412 is cancelled. Put each of its passengers on another flight of the same day and the same way ...
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from envs.agent.general.categories.flight_upgrades import check_upgrade, propose_upgrade, solve_upgrade
from envs.agent.general.category import (
    Brief,
    Category,
    Template,
    Unsuitable,
    action,
    detail,
    listing,
    numbers,
    people,
    row_or_error,
)
from envs.agent.general.logic import first_plan
from envs.agent.general.world import Database, Row, WorldSpec, changed, same
from envs.environment import ToolError
from envs.words import CITIES

SCHEMA = {
    "flight": "id integer, start text, destination text, day integer, leaves integer, lands integer, "
    "seats integer, price integer",
    "passenger": "name text, status text, points integer, diet text",
    "booking": "id integer, passenger text, flight integer, cabin text",
}
CABINS = ("economy", "business")


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    cities = rng.sample(CITIES, 5)
    for number in numbers(rng, 46 + 12 * size, 100, 999):
        start, destination = rng.sample(cities, 2)
        leaves, hours = rng.randint(5, 20), rng.randint(1, 4)
        flight: Row = {
            "id": number,
            "start": start,
            "destination": destination,
            "day": rng.randint(1, 3),
            "leaves": leaves,
        }
        rows["flight"].append(
            {**flight, "lands": leaves + hours, "seats": rng.randint(3, 6), "price": rng.randrange(60, 400, 5)}
        )
    for name in people(rng, 24):
        passenger = {
            "name": name,
            "status": rng.choice(("none", "none", "silver", "gold")),
            "points": rng.randrange(0, 900, 10),
        }
        rows["passenger"].append({**passenger, "diet": rng.choice(("any", "vegan", "kosher"))})
    ids = iter(numbers(rng, 300, 1000, 9999))
    for passenger in rows["passenger"]:
        mine: list[Row] = []
        for flight in rng.sample(rows["flight"], 3):
            full = sum(b["flight"] == flight["id"] for b in rows["booking"]) >= flight["seats"] - 1
            if not full and not any(clash(flight, other) for other in mine):
                mine.append(flight)
                cabin = rng.choice(CABINS)
                rows["booking"].append(
                    {"id": next(ids), "passenger": passenger["name"], "flight": flight["id"], "cabin": cabin}
                )
    return rows


def clash(one: Row, two: Row) -> bool:
    return bool(one["day"] == two["day"] and one["leaves"] <= two["lands"] and two["leaves"] <= one["lands"])


def _check_seat(database: Database, flight: int, passenger: str, apart_from: int) -> None:
    row = row_or_error(database, "flight", "id", flight)
    if len(database.all("SELECT * FROM booking WHERE flight = ? AND id != ?", flight, apart_from)) >= row["seats"]:
        raise ToolError("the flight is full.")
    for other in database.all(
        "SELECT f.* FROM booking b JOIN flight f ON f.id = b.flight WHERE b.passenger = ? AND b.id != ?",
        passenger,
        apart_from,
    ):
        if clash(row, other):
            raise ToolError(f"the passenger is on flight {other['id']} then.")


def rebook(database: Database, booking: int, flight: int) -> str:
    row = row_or_error(database, "booking", "id", booking)
    _check_seat(database, flight, row["passenger"], booking)
    database.run("UPDATE booking SET flight = ? WHERE id = ?", flight, booking)
    return "ok"


def book(database: Database, passenger: str, flight: int, cabin: str) -> str:
    row_or_error(database, "passenger", "name", passenger)
    _check_seat(database, flight, passenger, -1)
    if cabin not in CABINS:
        raise ToolError("the cabin is economy or business.")
    number = database.next_id("booking")
    database.add("booking", id=number, passenger=passenger, flight=flight, cabin=cabin)
    return f"booking {number}"


def set_cabin(database: Database, booking: int, cabin: str) -> str:
    row_or_error(database, "booking", "id", booking)
    if cabin not in CABINS:
        raise ToolError("the cabin is economy or business.")
    database.run("UPDATE booking SET cabin = ? WHERE id = ?", cabin, booking)
    return "ok"


TOOLS = (
    listing("list_cities", "The city that each flight leaves from, flight by flight.", "flight", "start"),
    listing(
        "find_flights", "Direct flights of a day; leaves and lands are hours.", "flight", "id leaves lands seats price",
        start="flight.start", destination="flight.destination", day="flight.day",
    ),
    detail("get_flight", "All about a flight; seats is how many it has.", "flight", id="flight.id"),
    listing("list_bookings", "The bookings of a flight.", "booking", "id passenger cabin", flight="flight.id"),
    listing("list_bookings_of", "A passenger's bookings.", "booking", "id flight cabin", passenger="passenger.name"),
    detail("get_passenger", "All about a passenger.", "passenger", name="passenger.name"),
    action("rebook", "Move a booking to another flight.", rebook, booking="booking.id", flight="flight.id"),
    action("book", "Book a flight.", book, passenger="passenger.name", flight="flight.id", cabin="booking.cabin"),
    action("set_cabin", "Change the cabin of a booking.", set_cabin, booking="booking.id", cabin="booking.cabin"),
)  # fmt: skip
EXTRA = (
    listing(
        "list_flights_from",
        "Ids of the flights from a city on a day.",
        "flight",
        start="flight.start",
        day="flight.day",
    ),
    listing("list_passengers_with", "Names of the passengers of a status.", "passenger", status="passenger.status"),
    detail("get_booking", "All about a booking.", "booking", id="booking.id"),
    listing(
        "list_flights_to",
        "Ids of the flights to a city on a day.",
        "flight",
        destination="flight.destination",
        day="flight.day",
    ),
)


def itinerary(world: WorldSpec, passenger: str, apart_from: int = -1) -> list[Row]:
    mine = [b for b in world.all("booking", passenger=passenger) if b["id"] != apart_from]
    return [world.get("flight", b["flight"]) for b in mine]


def free_seats(world: WorldSpec, flight: Row) -> int:
    return int(flight["seats"]) - len(world.all("booking", flight=flight["id"]))


def others_for(world: WorldSpec, booking: Row, need: Mapping[str, Any]) -> list[int]:
    """Flights that could take a booking of the cancelled flight."""
    old, passenger = world.get("flight", booking["flight"]), world.get("passenger", booking["passenger"])
    found = []
    for flight in world.all("flight", start=old["start"], destination=old["destination"]):
        days = (old["day"], old["day"] + 1) if "next_day" in need else (old["day"],)
        good = flight["id"] != old["id"] and flight["day"] in days and free_seats(world, flight) > 0
        good = good and not any(clash(flight, other) for other in itinerary(world, booking["passenger"], booking["id"]))
        if "gold" in need and passenger["status"] == "gold":
            good = good and flight["day"] == old["day"]
        if "later" in need and flight["day"] == old["day"]:
            good = good and flight["leaves"] >= old["leaves"] - 2
        if good:
            found.append(flight["id"])
    return found


def seats_hold(world: WorldSpec, plan: list[int]) -> bool:
    return all(plan.count(flight) <= free_seats(world, world.get("flight", flight)) for flight in plan)


def propose_cancelled(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    flight = rng.choice([f for f in world.all("flight") if world.all("booking", flight=f["id"])])
    brief.ask(1, "", flight=flight["id"], next_day=True)
    brief.ask(2, "", gold=True)
    brief.ask(3, "", later=True)
    bookings = world.all("booking", flight=flight["id"])
    options = [others_for(world, b, brief.need) for b in bookings]
    if len(bookings) < min(brief.level, 2) or first_plan(options, lambda p: seats_hold(world, p)) is None:
        raise Unsuitable
    if brief.level == 4:
        gold = [b for b in bookings if world.get("passenger", b["passenger"])["status"] in ("gold", "silver")]
        if not gold:
            raise Unsuitable
        brief.ask(4, "", upgrade=True)
    brief.ask(
        1,
        f"Flight {flight['id']} is cancelled. Rebook each of its bookings to another direct flight between the same "
        "cities, on the same day or the day after, that has a free seat and does not overlap with the passenger's "
        "other flights.",
    )
    brief.ask(2, "Passengers with gold status fly on the same day.")
    brief.ask(3, "A new flight on the same day leaves at most 2 hours earlier than the old one.")
    brief.ask(4, "Passengers with gold or silver status get business for it; nobody else's cabin changes.")


def solve_cancelled(tools: Any, need: dict[str, Any]) -> Any:
    old, bookings, slots = tools.get_flight(id=need["flight"]), tools.list_bookings(flight=need["flight"]), []
    flights, room, statuses = [], {}, {}
    for day in [old["day"], old["day"] + 1]:
        for f in tools.find_flights(start=old["start"], destination=old["destination"], day=day):
            if f["id"] != old["id"]:
                room[f["id"]] = f["seats"] - len(tools.list_bookings(flight=f["id"]))
                flights.append({**f, "day": day})
    known = {}
    for b in bookings:
        status = tools.get_passenger(name=b["passenger"])["status"]
        statuses[b["id"]] = status
        own = []
        for other in tools.list_bookings_of(passenger=b["passenger"]):
            if other["id"] != b["id"]:
                if other["flight"] not in known:
                    known[other["flight"]] = tools.get_flight(id=other["flight"])
                own.append(known[other["flight"]])
        options = []
        for f in flights:
            good = room[f["id"]] > 0
            for o in own:
                if o["day"] == f["day"] and o["leaves"] <= f["lands"] and f["leaves"] <= o["lands"]:
                    good = False
            if "gold" in need and status == "gold" and f["day"] != old["day"]:
                good = False
            if "later" in need and f["day"] == old["day"] and f["leaves"] < old["leaves"] - 2:
                good = False
            if good:
                options.append(f["id"])
        slots.append(options)
    plan = first_plan(slots, lambda p: all(p.count(number) <= room[number] for number in p))
    for b, number in zip(bookings, plan, strict=False):
        tools.rebook(booking=b["id"], flight=number)
        if "upgrade" in need and statuses[b["id"]] in ["gold", "silver"] and b["cabin"] != "business":
            tools.set_cabin(booking=b["id"], cabin="business")


def check_cancelled(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    plan = []
    for before, after in zip(world.all("booking"), end.all("booking"), strict=True):
        if before["flight"] != need["flight"]:
            if before != after:
                yield "another booking was changed"
            continue
        plan.append(after["flight"])
        cabin = before["cabin"]
        if "upgrade" in need and world.get("passenger", before["passenger"])["status"] != "none":
            cabin = "business"
        if after["flight"] not in others_for(world, before, need) or after["cabin"] != cabin:
            yield f"booking {before['id']} is not as it should be"
    if not seats_hold(world, plan) or not same(world, end, apart_from=("booking",)):
        yield "a flight has too few seats, or something else was changed"


def journeys(world: WorldSpec, need: Mapping[str, Any]) -> list[tuple[int, list[int]]]:
    """(price, flights) of every way with at most one stop."""
    own, found = itinerary(world, need["name"]), []
    usable = [f for f in world.all("flight", day=need["day"]) if free_seats(world, f) > 0]
    usable = [f for f in usable if not any(clash(f, other) for other in own)]
    for one in usable:
        if one["start"] != need["start"] or one["leaves"] < need.get("after", 0):
            continue
        ways = [[one]] if one["destination"] == need["goal"] else []
        ways += [
            [one, two]
            for two in usable
            if two["start"] == one["destination"] and two["destination"] == need["goal"]
            and need.get("change", 1) <= two["leaves"] - one["lands"] <= 9
        ]  # fmt: skip
        for way in ways:
            if way[-1]["lands"] <= need.get("until", 99) and ("direct" not in need or len(way) == 2):
                found.append((sum(f["price"] for f in way), [f["id"] for f in way]))
    return sorted(found)


def propose_journey(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    passenger = rng.choice(world.all("passenger"))
    cities = sorted({f["start"] for f in world.all("flight")})
    start, goal = rng.sample(cities, 2)
    brief.ask(
        1,
        f"Book {passenger['name']} in economy from {start} to {goal} on the cheapest way on day DAY: a direct flight, "
        "or two flights of that day with one change, 1 to 9 hours between landing and leaving. No flight may be full "
        "or overlap with the passenger's other flights.",
        name=passenger["name"],
        start=start,
        goal=goal,
    )
    brief.ask(2, "A change takes at least 2 hours.", change=2)
    after = rng.randint(6, 8)
    brief.ask(3, f"The journey begins at {after} or later.", after=after)
    until = rng.randint(19, 22)
    brief.ask(4, f"It ends at {until} at the latest.", until=until)
    for day in (1, 2, 3):
        found = journeys(world, {**brief.need, "day": day})
        if len(found) > 1 and (brief.level < 3 or len(found[0][1]) == 2):
            brief.ask(1, "", day=day, price=found[0][0])
            break
    else:
        raise Unsuitable
    brief.sentences[0] = brief.sentences[0].replace("day DAY", f"day {brief.need['day']}")


def solve_journey(tools: Any, need: dict[str, Any]) -> Any:
    own = [tools.get_flight(id=b["flight"]) for b in tools.list_bookings_of(passenger=need["name"])]
    known = {}

    def usable(start: str, goal: str) -> list[Any]:
        if (start, goal) not in known:
            found = []
            for f in tools.find_flights(start=start, destination=goal, day=need["day"]):
                good = True
                for o in own:
                    if o["day"] == need["day"] and o["leaves"] <= f["lands"] and f["leaves"] <= o["lands"]:
                        good = False
                if good and len(tools.list_bookings(flight=f["id"])) < f["seats"]:
                    found.append(f)
            known[(start, goal)] = found
        return known[(start, goal)]

    ways = [[f] for f in usable(need["start"], need["goal"])]
    for city in sorted(set(tools.list_cities())):
        if city != need["start"] and city != need["goal"]:
            for one in usable(need["start"], city):
                for two in usable(city, need["goal"]):
                    if need.get("change", 1) <= two["leaves"] - one["lands"] <= 9:
                        ways.append([one, two])
    best: Any = None
    for way in ways:
        price = sum(f["price"] for f in way)
        good = way[0]["leaves"] >= need.get("after", 0) and way[-1]["lands"] <= need.get("until", 99)
        if good and (best is None or price < best[0]):
            best = [price, way]
    for f in best[1]:
        tools.book(passenger=need["name"], flight=f["id"], cabin="economy")


def check_journey(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    gone, new = changed(world, end, "booking")
    if gone or not new or not same(world, end, apart_from=("booking",)):
        yield "not only new bookings"
    if any(b["passenger"] != need["name"] or b["cabin"] != "economy" for b in new):
        yield "another passenger, or another cabin"
    chosen = sorted(b["flight"] for b in new)
    if (need["price"], chosen) not in [(price, sorted(ids)) for price, ids in journeys(world, need)]:
        yield "not a way, or there is a cheaper one"


CATEGORY = Category(
    name="flights",
    about="an airline's service desk. Days are 1 to 3, times are whole hours",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    optional=("passenger.diet",),
    templates=(
        Template("cancelled", propose_cancelled, solve_cancelled, check_cancelled),
        Template("journey", propose_journey, solve_journey, check_journey, hidden=("price",)),
        Template("upgrade", propose_upgrade, solve_upgrade, check_upgrade, hidden=("bookings",)),
    ),
)

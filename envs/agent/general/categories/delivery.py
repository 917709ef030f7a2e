"""Deliveries: vehicles, parcels, and the roads between stops.

Load the parcels to Oslo, Rome and Lima, so that no vehicle carries more than it can ...
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

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
    some,
)
from envs.agent.general.logic import first_plan, orders
from envs.agent.general.world import Database, Row, WorldSpec, changed, same
from envs.environment import ToolError
from envs.words import CITIES

NONE = ""
SCHEMA = {
    "vehicle": "plate text, driver text, capacity integer, zones text, cooled text, cost integer",
    "parcel": "id integer, stop text, weight integer, cold text, value integer, vehicle text",
    "stop": "name text, zone text, opens integer, closes integer",
    "road": "start text, destination text, minutes integer",
}
ZONES = ("east", "west", "north")


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    for driver in people(rng, 6 + size):
        vehicle: Row = {
            "plate": f"{rng.choice('ABCDEF')}{rng.choice('KLMN')} {rng.randint(100, 999)}",
            "driver": driver,
        }
        vehicle |= {"capacity": rng.randrange(20, 80, 5), "zones": some(rng, ZONES, 1, 3)}
        if vehicle["plate"] not in [v["plate"] for v in rows["vehicle"]]:
            rows["vehicle"].append({**vehicle, "cooled": rng.choice(("yes", "no")), "cost": rng.randrange(30, 120, 5)})
    names = ["depot", *rng.sample(CITIES, 9)]
    for name in names:
        opens = rng.randrange(0, 120, 10)
        stop = {"name": name, "zone": rng.choice(ZONES), "opens": opens, "closes": opens + rng.randrange(120, 400, 10)}
        rows["stop"].append(stop)
    for start in names:
        for destination in names:
            if start != destination:
                rows["road"].append({"start": start, "destination": destination, "minutes": rng.randint(10, 90)})
    for number in numbers(rng, 26 + 3 * size, 1000, 9999):
        parcel: Row = {
            "id": number,
            "stop": rng.choice(names[1:]),
            "weight": rng.randint(3, 30),
            "cold": rng.choice(("yes", "no", "no")),
        }
        parcel |= {"value": rng.randrange(10, 300, 5), "vehicle": NONE}
        for vehicle in rng.sample(rows["vehicle"], 2):  # some are loaded already
            if (
                rng.random() < 0.2
                and load(rows["parcel"], vehicle["plate"]) + parcel["weight"] <= vehicle["capacity"] // 2
            ):
                zone = next(s["zone"] for s in rows["stop"] if s["name"] == parcel["stop"])
                if zone in vehicle["zones"] and (parcel["cold"] == "no" or vehicle["cooled"] == "yes"):
                    parcel["vehicle"] = vehicle["plate"]
        rows["parcel"].append(parcel)
    return rows


def load(parcels: list[Row], plate: str) -> int:
    return sum(parcel["weight"] for parcel in parcels if parcel["vehicle"] == plate)


def put(database: Database, parcel: int, plate: str) -> str:
    row, vehicle = row_or_error(database, "parcel", "id", parcel), row_or_error(database, "vehicle", "plate", plate)
    others = database.all("SELECT * FROM parcel WHERE vehicle = ? AND id != ?", plate, parcel)
    if load(others, plate) + row["weight"] > vehicle["capacity"]:
        raise ToolError("that is more than the vehicle can carry.")
    database.run("UPDATE parcel SET vehicle = ? WHERE id = ?", plate, parcel)
    return "ok"


TOOLS = (
    listing("list_vehicles", "Plates of all vehicles.", "vehicle"),
    detail("get_vehicle", "All about a vehicle; capacity in kilos, cost of a day.", "vehicle", plate="vehicle.plate"),
    listing("list_load", "The parcels in a vehicle.", "parcel", "id weight stop", vehicle="vehicle.plate"),
    listing("list_stops", "Names of all stops.", "stop"),
    detail("get_stop", "Zone of a stop, and when it opens and closes, in minutes.", "stop", name="stop.name"),
    listing("list_parcels_to", "Ids of the parcels to a stop.", "parcel", stop="stop.name"),
    detail("get_parcel", "All about a parcel; no vehicle: not loaded.", "parcel", id="parcel.id"),
    detail(
        "get_minutes",
        "Minutes from one stop to another.",
        "road",
        "minutes",
        start="stop.name",
        destination="stop.name",
    ),
    action(
        "load_parcel",
        "Put a parcel into a vehicle, or into another one.",
        put,
        parcel="parcel.id",
        plate="vehicle.plate",
    ),
)
EXTRA = (
    listing("list_stops_in", "Names of the stops of a zone.", "stop", zone="stop.zone"),
    listing(
        "list_cooled_vehicles",
        "Plates of the vehicles that are, or are not, cooled.",
        "vehicle",
        cooled="vehicle.cooled",
    ),
    detail("get_vehicle_of", "The plate of a driver's vehicle.", "vehicle", "plate", driver="vehicle.driver"),
    listing("list_roads_from", "Minutes to every other stop.", "road", "destination minutes", start="stop.name"),
)


def carries(world: WorldSpec, plate: str, parcel: Row, need: Mapping[str, Any]) -> bool:
    vehicle, zone = world.get("vehicle", plate), world.get("stop", parcel["stop"])["zone"]
    good = zone in vehicle["zones"].split(", ")
    if "cold" in need and parcel["cold"] == "yes" and vehicle["cooled"] == "no":
        return False
    return good and plate != need.get("broken")


def loadable(world: WorldSpec, plan: Mapping[int, str], need: Mapping[str, Any]) -> bool:
    """Whether these parcels can go so, as far as the plan goes."""
    vehicles = set(plan.values())
    for plate in sorted(vehicles):
        mine = [world.get("parcel", number) for number, other in plan.items() if other == plate]
        before = [p for p in world.all("parcel", vehicle=plate) if p["id"] not in plan]
        if sum(p["weight"] for p in mine + before) > world.get("vehicle", plate)["capacity"]:
            return False
        if sum(p["value"] for p in mine + before) > need.get("value", 99999):
            return False
        if not all(carries(world, plate, parcel, need) for parcel in mine):
            return False
    return bool(len(vehicles) <= need.get("vehicles", 99))


def plan_exists(world: WorldSpec, need: Mapping[str, Any]) -> bool:
    plates = [v["plate"] for v in world.all("vehicle")]
    parcels = sorted((world.get("parcel", n) for n in need["parcels"]), key=lambda p: -int(p["weight"]))
    ids = [p["id"] for p in parcels]
    slots = [[plate for plate in plates if carries(world, plate, p, need)] for p in parcels]
    return first_plan(slots, lambda plan: loadable(world, dict(zip(ids, plan, strict=False)), need)) is not None


def propose_load(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    stops = rng.sample([s["name"] for s in world.all("stop") if s["name"] != "depot"], min(brief.level + 1, 3))
    waiting = [p["id"] for p in world.all("parcel") if p["stop"] in stops and p["vehicle"] == NONE]
    if not 3 <= len(waiting) <= 8:
        raise Unsuitable
    brief.ask(
        1,
        f"Load all parcels to {', '.join(stops)} that are not loaded yet. A vehicle takes only parcels to stops in "
        "its zones, and no more than its capacity with what it has already. Leave loaded parcels where they are.",
        stops=stops,
        parcels=waiting,
    )
    brief.ask(2, "Cold parcels go in cooled vehicles.", cold=True)
    limit = rng.randrange(400, 700, 50)
    brief.ask(
        3,
        f"No vehicle that gets a parcel carries parcels of more than {limit} in value, with what it has.",
        value=limit,
    )
    brief.ask(4, "Use at most 3 vehicles for them.", vehicles=3)
    if not plan_exists(world, brief.need):
        raise Unsuitable


def solve_load(tools: Any, need: dict[str, Any]) -> Any:
    vehicles, waiting, zones = [], [], {}
    for plate in tools.list_vehicles():
        loaded, v = tools.list_load(vehicle=plate), tools.get_vehicle(plate=plate)
        value = sum(tools.get_parcel(id=p["id"])["value"] for p in loaded) if "value" in need else 0
        room = v["capacity"] - sum(p["weight"] for p in loaded)
        vehicles.append([plate, room, v["zones"].split(", "), v["cooled"], value])
    for stop in need["stops"]:
        zones[stop] = tools.get_stop(name=stop)["zone"]
        for number in tools.list_parcels_to(stop=stop):
            parcel = tools.get_parcel(id=number)
            if parcel["vehicle"] == "":
                waiting.append(parcel)
    waiting.sort(key=lambda parcel: -parcel["weight"])
    slots = []
    for parcel in waiting:
        fitting = [v for v in vehicles if zones[parcel["stop"]] in v[2]]
        if "cold" in need and parcel["cold"] == "yes":
            fitting = [v for v in fitting if v[3] == "yes"]
        slots.append(fitting)

    def fits(plan: list[Any]) -> bool:
        for v in plan:
            mine = [parcel for parcel, other in zip(waiting, plan, strict=False) if other[0] == v[0]]
            if sum(p["weight"] for p in mine) > v[1] or v[4] + sum(p["value"] for p in mine) > need.get("value", 99999):
                return False
        return bool(len({v[0] for v in plan}) <= need.get("vehicles", 99))

    for parcel, v in zip(waiting, first_plan(slots, fits), strict=False):
        tools.load_parcel(parcel=parcel["id"], plate=v[0])


def check_load(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    _, new = changed(world, end, "parcel")
    if sorted(row["id"] for row in new) != sorted(need["parcels"]) or not same(world, end, apart_from=("parcel",)):
        yield "not exactly these parcels were moved"
    if any(row["vehicle"] == NONE for row in new) or not loadable(world, {r["id"]: r["vehicle"] for r in new}, need):
        yield "a vehicle cannot take what it got"


def propose_broken(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    loaded = [v for v in world.all("vehicle") if len(world.all("parcel", vehicle=v["plate"])) >= min(brief.level, 3)]
    if not loaded:
        raise Unsuitable
    vehicle = rng.choice(loaded)
    parcels = [p["id"] for p in world.all("parcel", vehicle=vehicle["plate"])]
    brief.ask(
        1,
        f"The vehicle of {vehicle['driver']} has broken down. Move each of its parcels to other vehicles that serve "
        "the zone of its stop, no vehicle carrying more than it can.",
        driver=vehicle["driver"],
        broken=vehicle["plate"],
        parcels=parcels,
    )
    brief.ask(2, "Cold parcels go in cooled vehicles.", cold=True)
    brief.ask(3, "All of them go into as few vehicles as possible.")
    if brief.level >= 3:
        for count in range(1, len(parcels) + 1):
            if plan_exists(world, {**brief.need, "vehicles": count}):
                brief.ask(3, "", vehicles=count)
                break
    limit = rng.randrange(300, 600, 50)
    brief.ask(
        4, f"No vehicle that gets one carries parcels of more than {limit} in value, with what it has.", value=limit
    )
    if not plan_exists(world, brief.need):
        raise Unsuitable


def solve_broken(tools: Any, need: dict[str, Any]) -> Any:
    vehicles, broken = [], []
    for plate in tools.list_vehicles():
        v, loaded = tools.get_vehicle(plate=plate), tools.list_load(vehicle=plate)
        if v["driver"] == need["driver"]:
            broken = loaded
        else:
            value = sum(tools.get_parcel(id=p["id"])["value"] for p in loaded) if "value" in need else 0
            room = v["capacity"] - sum(p["weight"] for p in loaded)
            vehicles.append([plate, room, v["zones"].split(", "), v["cooled"], value])
    parcels = [tools.get_parcel(id=p["id"]) for p in broken]
    parcels.sort(key=lambda parcel: -parcel["weight"])
    slots = []
    for parcel in parcels:
        zone = tools.get_stop(name=parcel["stop"])["zone"]
        fitting = [v for v in vehicles if zone in v[2]]
        if "cold" in need and parcel["cold"] == "yes":
            fitting = [v for v in fitting if v[3] == "yes"]
        slots.append(fitting)

    def fits(plan: list[Any]) -> bool:
        for v in plan:
            mine = [parcel for parcel, other in zip(parcels, plan, strict=False) if other[0] == v[0]]
            if sum(p["weight"] for p in mine) > v[1] or v[4] + sum(p["value"] for p in mine) > need.get("value", 99999):
                return False
        return bool(len({v[0] for v in plan}) <= need.get("vehicles", 99))

    for parcel, v in zip(parcels, first_plan(slots, fits), strict=False):
        tools.load_parcel(parcel=parcel["id"], plate=v[0])


def route_minutes(world: WorldSpec, route: list[str], need: Mapping[str, Any]) -> int | None:
    """Minutes at the end of a route from the depot; None where a stop is closed when it is reached."""
    now, here = 0, "depot"
    for stop in route:
        now += world.all("road", start=here, destination=stop)[0]["minutes"]
        here = stop
        if "hours" in need:
            row = world.get("stop", stop)
            now = max(now, row["opens"])
            if now > row["closes"]:
                return None
    if "back" in need:
        now += world.all("road", start=here, destination="depot")[0]["minutes"]
    return now


def propose_route(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    stops = rng.sample([s["name"] for s in world.all("stop") if s["name"] != "depot"], 3 if brief.level < 3 else 4)
    if brief.level == 4:
        stops = sorted(stops)
    brief.ask(1, f"Find the quickest route from the depot to {', '.join(stops)}, each once, in any order.", stops=stops)
    brief.ask(2, "The route ends at the depot again.", back=True)
    brief.ask(
        3,
        "A stop can be served only from when it opens until it closes, counted from the start; one may wait there.",
        hours=True,
    )
    first = rng.choice(stops)
    brief.ask(4, f"{first} is not the last stop, and not the first.", inner=first)
    options = [r for r in orders(stops) if brief.need.get("inner") not in (r[0], r[-1])]
    times = [t for t in (route_minutes(world, r, brief.need) for r in options) if t is not None]
    if not times:
        raise Unsuitable
    brief.ask(1, "", minutes=min(times))


def solve_route(tools: Any, need: dict[str, Any]) -> Any:
    stops, minutes = need["stops"], {}
    for a in ["depot", *stops]:
        for b in ["depot", *stops] if "back" in need else stops:
            if a != b:
                minutes[(a, b)] = tools.get_minutes(start=a, destination=b)
    hours = {stop: tools.get_stop(name=stop) for stop in stops} if "hours" in need else {}
    best: Any = None
    for route in orders(stops):
        if need.get("inner") in [route[0], route[-1]]:
            continue
        now, here, good = 0, "depot", True
        for stop in route:
            now = now + minutes[(here, stop)]
            here = stop
            if stop in hours:
                now = max(now, hours[stop]["opens"])
                good = good and now <= hours[stop]["closes"]
        if "back" in need:
            now = now + minutes[(here, "depot")]
        if good and (best is None or now < best[0]):
            best = [now, route]
    tools.submit_result(result=best[1])


def check_route(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if sorted(answer) != sorted(need["stops"]) or need.get("inner") in (answer[0], answer[-1]) or not same(world, end):
        yield "not these stops, or not in an allowed order"
    minutes = route_minutes(world, answer, need)
    if minutes is None or minutes > need["minutes"]:
        yield "a stop is closed then, or there is a quicker route"


CATEGORY = Category(
    name="delivery",
    about="a parcel service",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    templates=(
        Template("load", propose_load, solve_load, check_load, hidden=("parcels",)),
        Template("broken", propose_broken, solve_broken, check_load, hidden=("broken", "parcels")),
        Template(
            "route",
            propose_route,
            solve_route,
            check_route,
            (list, "the stops in order, without the depot."),
            hidden=("minutes",),
        ),
    ),
)

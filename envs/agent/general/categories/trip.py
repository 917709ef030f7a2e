"""Trips: cities with hotels, restaurants, sights, transport and weather. The paper's example among the tasks.

Plan a three-day trip from Oslo, 2025-10-01 to 2025-10-03. No city, hotel, sight or restaurant twice ...
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

from envs.agent.general.category import Brief, Category, Template, Unsuitable, detail, listing, titles
from envs.agent.general.logic import first_plan, subsets
from envs.agent.general.world import Row, WorldSpec
from envs.words import CITIES

DATES = ("2025-10-01", "2025-10-02", "2025-10-03")
SCHEMA = {
    "city": "name text, metro_fare integer, taxi_fare integer",
    "hotel": "name text, city text, price integer, stars number",
    "restaurant": "name text, city text, price integer, stars number, cuisine text",
    "attraction": "name text, city text, ticket integer, kind text",
    "connection": "start text, destination text, kind text, price integer, hours integer",
    "weather": "city text, date text, sky text",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    cities = rng.sample(CITIES, 6 + size)
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    places, kinds = iter(titles(rng, 20 * len(cities))), ("museum", "park", "tower", "garden", "theatre")
    for city in cities:
        rows["city"].append({"name": city, "metro_fare": rng.randint(2, 6), "taxi_fare": rng.randint(20, 60)})
        for _ in range(rng.randint(3, 4)):
            hotel = {"name": f"{next(places)} Hotel", "city": city, "price": rng.randrange(210, 1200, 10)}
            rows["hotel"].append({**hotel, "stars": rng.randint(25, 50) / 10})
        for _ in range(rng.randint(4, 5)):
            place = {"name": f"{next(places)} Kitchen", "city": city, "price": rng.randrange(60, 300, 5)}
            cuisine = rng.choice(("noodles", "seafood", "grill", "vegetarian"))
            rows["restaurant"].append({**place, "stars": rng.randint(25, 50) / 10, "cuisine": cuisine})
        for _ in range(4):
            kind = rng.choice(kinds)
            name = f"{next(places)} {kind.title()}"
            rows["attraction"].append({"name": name, "city": city, "ticket": rng.randrange(0, 260, 5), "kind": kind})
        for date in DATES:
            rows["weather"].append({"city": city, "date": date, "sky": rng.choice(("sunny", "cloudy", "rain"))})
        for other in cities:
            if other != city and rng.random() < 0.6:
                link = {"start": city, "destination": other, "kind": rng.choice(("train", "bus", "plane"))}
                rows["connection"].append({**link, "price": rng.randrange(40, 400, 5), "hours": rng.randint(1, 6)})
    return rows


TOOLS = (
    listing("get_all_cities", "Names of all cities.", "city"),
    listing("get_all_hotels_by_city", "Names of the hotels of a city.", "hotel", city="city.name"),
    listing("get_all_restaurants_by_city", "Names of the restaurants of a city.", "restaurant", city="city.name"),
    listing("get_all_attractions_by_city", "Names of the sights of a city.", "attraction", city="city.name"),
    detail("get_infos_by_hotel", "Price of a night and stars of a hotel.", "hotel", name="hotel.name"),
    detail(
        "get_infos_by_restaurant", "Price of a meal and stars of a restaurant.", "restaurant", name="restaurant.name"
    ),
    detail("get_infos_by_attraction", "Ticket and kind of a sight.", "attraction", name="attraction.name"),
    listing(
        "get_inter_city_transport",
        "Direct connections between two cities; none if the list is empty.",
        "connection",
        "kind price hours",
        start="city.name",
        destination="city.name",
    ),
    detail("get_weather_by_city_date", "The sky on a day.", "weather", "sky", city="city.name", date="weather.date"),
)
EXTRA = (
    detail("get_city_by_hotel", "The city of a hotel.", "hotel", "city", name="hotel.name"),
    detail("get_city_by_restaurant", "The city of a restaurant.", "restaurant", "city", name="restaurant.name"),
    detail("get_city_by_attraction", "The city of a sight.", "attraction", "city", name="attraction.name"),
    detail("get_infos_by_city", "All about a city.", "city", name="city.name"),
    detail("get_city_transport", "Fares within a city.", "city", "metro_fare taxi_fare", name="city.name"),
)

PLAN = (
    "a list of 3 objects, one per day in order: {time: the date, city, hotel, afternoon_restaurant, "
    "afternoon_attraction, evening_restaurant}, all names."
)
TIERS = (
    "If the hotel of day 2 costs 800 or more, its two restaurants cost less than 350 together and both have at least "
    "4.0 stars, and the sight costs less than 120; if it costs 500 to 799, at least one of the restaurants has 4.0 "
    "stars and the sight costs less than 180; if it costs 200 to 499, at least one of the restaurants has 3.2 stars."
)


def tier_holds(hotel: Row, meals: list[Row], sight: Row) -> bool:
    one, two = meals
    best, worst = max(one["stars"], two["stars"]), min(one["stars"], two["stars"])
    if hotel["price"] >= 800:
        return bool(one["price"] + two["price"] < 350 and worst >= 4.0 and sight["ticket"] < 120)
    if hotel["price"] >= 500:
        return bool(best >= 4.0 and sight["ticket"] < 180)
    return bool(best >= 3.2)


def _link(world: WorldSpec, start: str, destination: str) -> int | None:
    prices = [row["price"] for row in world.all("connection", start=start, destination=destination)]
    return min(prices) if prices else None


def propose_days(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    cities = [row["name"] for row in world.all("city")]
    for _ in range(100):
        start, *route = rng.sample(cities, 4)
        fares = [_link(world, a, b) for a, b in zip([start, *route], route, strict=False)]
        hotels = [rng.choice(world.all("hotel", city=city)) for city in route]
        sights = [rng.choice(world.all("attraction", city=city)) for city in route]
        meals = [rng.sample(world.all("restaurant", city=city), 2) for city in route]
        if None not in fares and tier_holds(hotels[1], meals[1], sights[1]):
            break
    else:
        raise Unsuitable
    brief.ask(
        1,
        f"Plan a three-day trip for a traveller who lives in {start}, {DATES[0]} to {DATES[2]}, one city a day, "
        f"{start} "
        "not among them. No city, hotel, sight or restaurant twice; every place lies in that day's city. " + TIERS,
        start=start,
        dates=list(DATES),
    )
    nights = sum(hotel["price"] for hotel in hotels) + rng.randrange(0, 60, 10)
    brief.ask(2, f"The three hotels cost at most {nights} together.", nights=nights)
    total = sum(f or 0 for f in fares) + rng.randrange(0, 30, 5)
    brief.ask(
        3,
        f"The traveller goes from {start} to the first city and from city to city by direct connections, whose fares "
        f"are at most {total} together.",
        fares=total,
    )
    kinds = sorted({sight["kind"] for sight in sights})
    brief.ask(4, f"The sights are only of these kinds: {', '.join(kinds)}.", kinds=kinds)
    sky = [world.all("weather", city=c, date=d)[0]["sky"] for c, d in zip(route, DATES, strict=True)]
    if sky[0] != "rain":
        brief.ask(4, "It must not rain on the first day where the traveller is then.", dry=True)


def solve_days(tools: Any, need: dict[str, Any]) -> Any:
    options = []
    for city in tools.get_all_cities():
        if city == need["start"]:
            continue
        hotels = [tools.get_infos_by_hotel(name=n) for n in tools.get_all_hotels_by_city(city=city)]
        meals = [tools.get_infos_by_restaurant(name=n) for n in tools.get_all_restaurants_by_city(city=city)]
        sights = [tools.get_infos_by_attraction(name=n) for n in tools.get_all_attractions_by_city(city=city)]
        if "kinds" in need:
            sights = [sight for sight in sights if sight["kind"] in need["kinds"]]
        for hotel in hotels:
            for sight in sights:
                for one in meals:
                    for two in meals:
                        if one["name"] < two["name"]:
                            options.append([city, hotel, one, sight, two])
    options.sort(key=lambda option: option[1]["price"])
    second = []
    for option in options:
        city, hotel, one, sight, two = option
        best, worst = max(one["stars"], two["stars"]), min(one["stars"], two["stars"])
        if hotel["price"] >= 800:
            good = one["price"] + two["price"] < 350 and worst >= 4.0 and sight["ticket"] < 120
        elif hotel["price"] >= 500:
            good = best >= 4.0 and sight["ticket"] < 180
        else:
            good = best >= 3.2
        if good:
            second.append(option)

    def cheapest(rows: list[Any]) -> list[Any]:
        found = {}
        for option in rows:
            if option[0] not in found:
                found[option[0]] = option
        return list(found.values())

    known = {}

    def fare(start: str, destination: str) -> Any:
        if (start, destination) not in known:
            links = tools.get_inter_city_transport(start=start, destination=destination)
            known[(start, destination)] = min([link["price"] for link in links] + [99999])
        return known[(start, destination)]

    def fits(plan: list[Any]) -> bool:
        cities = [option[0] for option in plan]
        if len(set(cities)) < len(cities):
            return False
        if "nights" in need and sum(option[1]["price"] for option in plan) > need["nights"]:
            return False
        if "dry" in need and len(plan) == 1:
            return bool(tools.get_weather_by_city_date(city=cities[0], date=need["dates"][0]) != "rain")
        if "fares" in need:
            way = [need["start"], *cities]
            return bool(sum(fare(way[i], way[i + 1]) for i in range(len(cities))) <= need["fares"])
        return True

    # within a city only the price of the hotel matters to the other days
    plan = first_plan([cheapest(options), cheapest(second), cheapest(options)], fits)
    names = ["hotel", "afternoon_restaurant", "afternoon_attraction", "evening_restaurant"]
    days = []
    for date, option in zip(need["dates"], plan, strict=False):
        days.append(
            {"time": date, "city": option[0], **{k: row["name"] for k, row in zip(names, option[1:], strict=False)}}
        )
    tools.submit_result(result=days)


def check_days(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if [day["time"] for day in answer] != need["dates"]:
        yield "the days are not the three dates in order"
    cities = [day["city"] for day in answer]
    if len({need["start"], *cities}) != 4:
        yield "a city stands twice, or the traveller's own"
    hotels = [world.get("hotel", day["hotel"]) for day in answer]
    sights = [world.get("attraction", day["afternoon_attraction"]) for day in answer]
    meals = [[world.get("restaurant", day[f"{t}_restaurant"]) for t in ("afternoon", "evening")] for day in answer]
    for city, hotel, sight, pair in zip(cities, hotels, sights, meals, strict=True):
        if {hotel["city"], sight["city"], pair[0]["city"], pair[1]["city"]} != {city}:
            yield f"a place is not in {city}"
        if pair[0]["name"] == pair[1]["name"]:
            yield "a restaurant stands twice"
    if not tier_holds(hotels[1], meals[1], sights[1]):
        yield "day 2 breaks the budget"
    if "nights" in need and sum(hotel["price"] for hotel in hotels) > need["nights"]:
        yield "the hotels are too dear"
    if "fares" in need:
        fares = [_link(world, a, b) for a, b in zip([need["start"], *cities], cities, strict=False)]
        if None in fares or sum(f or 0 for f in fares) > need["fares"]:
            yield "the way is too dear, or there is none"
    if "kinds" in need and any(sight["kind"] not in need["kinds"] for sight in sights):
        yield "a sight of another kind"
    if "dry" in need and world.all("weather", city=cities[0], date=need["dates"][0])[0]["sky"] == "rain":
        yield "it rains on the first day"


def propose_evening(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    city = rng.choice(world.all("city"))["name"]
    one, two = rng.sample(world.all("restaurant", city=city), 2)
    hotel, sight = rng.choice(world.all("hotel", city=city)), rng.choice(world.all("attraction", city=city))
    spent = hotel["price"] + one["price"] + two["price"] + sight["ticket"] + rng.randrange(0, 20, 5)
    cuisines = sorted({one["cuisine"], two["cuisine"]})
    brief.ask(
        1,
        f"Find one city for a day: a hotel, a sight and two different restaurants there that cost at most {spent} "
        f"together, the restaurants of these cuisines: {' and '.join(cuisines)}"
        + (" (both of it)." if len(cuisines) == 1 else " (one of each)."),
        spent=spent,
        cuisines=sorted([one["cuisine"], two["cuisine"]]),
    )
    brief.ask(1, f"The sight is a {sight['kind']}.", kind=sight["kind"])
    brief.ask(2, f"The hotel has at least {hotel['stars']} stars.", stars=hotel["stars"])
    worst = min(one["stars"], two["stars"])
    brief.ask(3, f"Each restaurant has at least {worst} stars.", worst=worst)
    sky = [row for row in world.all("weather", city=city) if row["sky"] != "rain"]
    if sky:
        brief.ask(4, f"It does not rain there on {sky[0]['date']}.", dry=sky[0]["date"])


def solve_evening(tools: Any, need: dict[str, Any]) -> Any:
    for city in tools.get_all_cities():
        if "dry" in need and tools.get_weather_by_city_date(city=city, date=need["dry"]) == "rain":
            continue
        hotels = [tools.get_infos_by_hotel(name=n) for n in tools.get_all_hotels_by_city(city=city)]
        meals = [tools.get_infos_by_restaurant(name=n) for n in tools.get_all_restaurants_by_city(city=city)]
        sights = [tools.get_infos_by_attraction(name=n) for n in tools.get_all_attractions_by_city(city=city)]
        for hotel in hotels:
            for sight in sights:
                for pair in subsets(meals, 2):
                    spent = hotel["price"] + sight["ticket"] + sum(meal["price"] for meal in pair)
                    good = spent <= need["spent"] and sight["kind"] == need["kind"]
                    good = good and sorted(meal["cuisine"] for meal in pair) == need["cuisines"]
                    good = good and hotel["stars"] >= need.get("stars", 0)
                    if good and min(meal["stars"] for meal in pair) >= need.get("worst", 0):
                        places = {"city": city, "hotel": hotel["name"], "attraction": sight["name"]}
                        tools.submit_result(result={**places, "restaurants": [meal["name"] for meal in pair]})
                        return


def check_evening(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    hotel, sight = world.get("hotel", answer["hotel"]), world.get("attraction", answer["attraction"])
    meals = [world.get("restaurant", name) for name in answer["restaurants"]]
    if len({meal["name"] for meal in meals}) != 2 or len(meals) != 2:
        yield "two different restaurants are needed"
    if {row["city"] for row in (hotel, sight, *meals)} != {answer["city"]}:
        yield "a place is not in that city"
    if hotel["price"] + sight["ticket"] + sum(meal["price"] for meal in meals) > need["spent"]:
        yield "it is too dear"
    if sorted(meal["cuisine"] for meal in meals) != need["cuisines"] or sight["kind"] != need["kind"]:
        yield "wrong kind of place"
    if hotel["stars"] < need.get("stars", 0) or min(meal["stars"] for meal in meals) < need.get("worst", 0):
        yield "too few stars"
    if "dry" in need and world.all("weather", city=answer["city"], date=need["dry"])[0]["sky"] == "rain":
        yield "it rains"


def propose_route(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    cities = [row["name"] for row in world.all("city")]
    start, goal = rng.sample(cities, 2)
    if _link(world, start, goal) is not None and brief.level > 1:
        raise Unsuitable
    limit = {1: 9, 2: 9, 3: 12, 4: 10}[brief.level]
    avoid = rng.choice([city for city in cities if city not in (start, goal)]) if brief.level >= 3 else ""
    brief.ask(1, f"Find the cheapest way from {start} to {goal} by direct connections over at most two other cities.")
    brief.ask(1, "", start=start, goal=goal, avoid=avoid, hours=99)
    brief.ask(3, f"{avoid} is closed: no connection from or to it can be used.")
    brief.ask(4, f"The travel takes at most {limit} hours in all.", hours=limit)
    best = cheapest_way(world, brief.need)
    if best is None:
        raise Unsuitable
    brief.ask(1, "", price=best)


def cheapest_way(world: WorldSpec, need: Mapping[str, Any]) -> int | None:
    """Price of the cheapest way, found by walking all of them."""
    best: int | None = None

    def walk(city: str, seen: tuple[str, ...], price: int, hours: int) -> None:
        nonlocal best
        if city == need["goal"]:
            best = price if best is None else min(best, price)
            return
        for link in world.all("connection", start=city):
            there = link["destination"]
            if there in seen or there == need["avoid"] or hours + link["hours"] > need["hours"]:
                continue
            if len(seen) < 3 or there == need["goal"]:
                walk(there, (*seen, there), price + link["price"], hours + link["hours"])

    walk(need["start"], (need["start"],), 0, 0)
    return best


def solve_route(tools: Any, need: dict[str, Any]) -> Any:
    cities = [city for city in tools.get_all_cities() if city != need["avoid"]]
    links = {}
    for a in cities:
        for b in cities:
            if a != b and a != need["goal"] and b != need["start"]:
                links[(a, b)] = tools.get_inter_city_transport(start=a, destination=b)
    middle = [city for city in cities if city != need["start"] and city != need["goal"]]
    best: Any = None
    for stops in [[], *[[a] for a in middle], *[[a, b] for a in middle for b in middle if a != b]]:
        way = [need["start"], *stops, need["goal"]]
        legs = [links[(way[i], way[i + 1])] for i in range(len(way) - 1)]
        if all(legs):
            price, hours = sum(leg[0]["price"] for leg in legs), sum(leg[0]["hours"] for leg in legs)
            if hours <= need["hours"] and (best is None or price < best[0]):
                best = (price, way)
    tools.submit_result(result=best[1])


def check_route(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if answer[0] != need["start"] or answer[-1] != need["goal"] or len(answer) > 4 or need["avoid"] in answer:
        yield "the way is not allowed"
    legs = [world.all("connection", start=a, destination=b) for a, b in itertools.pairwise(answer)]
    if not all(legs):
        yield "there is no such connection"
    if sum(leg[0]["price"] for leg in legs) > need["price"] or sum(leg[0]["hours"] for leg in legs) > need["hours"]:
        yield "there is a cheaper way, or it takes too long"


CATEGORY = Category(
    name="trip",
    about="a traveller's trip planning",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    templates=(
        Template("three_days", propose_days, solve_days, check_days, (list, PLAN)),
        Template(
            "one_city",
            propose_evening,
            solve_evening,
            check_evening,
            (dict, "{city, hotel, attraction, restaurants: [2 names]}."),
        ),
        Template(
            "route",
            propose_route,
            solve_route,
            check_route,
            (list, "the cities in order, the first and last included."),
            hidden=("price",),
        ),
    ),
)

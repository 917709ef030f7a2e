"""An event: guests with companies, diets and quarrels, and tables to seat them at.

Seat the guests of Cole & Sons so that nobody sits with somebody of the same trade or with an opponent ...
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
    people,
    row_or_error,
)
from envs.agent.general.logic import first_plan, subsets
from envs.agent.general.world import Database, Row, WorldSpec, changed, same
from envs.environment import ToolError
from envs.words import COLORS, INSTRUMENTS, JOBS

NOBODY = ""
SCHEMA = {
    "board": "name text, seats integer, zone text, distance integer",
    "guest": "name text, company text, trade text, diet text, seat text",
    "quarrel": "one text, other text",
    "performer": "name text, instrument text, minutes integer, fee integer",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    for color in rng.sample(COLORS, 6 + size):
        board = {
            "name": f"{color} table",
            "seats": rng.randint(3, 5),
            "zone": rng.choice(("hall", "terrace", "garden")),
        }
        rows["board"].append({**board, "distance": rng.randint(2, 30)})
    names = people(rng, 30 + 14)
    for name in names[:30]:
        guest = {"name": name, "company": rng.choice(("Northern Light", "Deep River", "Silver Arrow", "Open Gate"))}
        guest |= {"trade": rng.choice(JOBS[:5]), "diet": rng.choice(("any", "any", "vegan", "halal")), "seat": NOBODY}
        rows["guest"].append(guest)
    for guest in rng.sample(rows["guest"], 12):  # some sit already
        rooms = [b for b in rows["board"] if sum(g["seat"] == b["name"] for g in rows["guest"]) < b["seats"]]
        guest["seat"] = rng.choice(rooms)["name"]
    for _ in range(14):
        one, other = rng.sample(names[:30], 2)
        rows["quarrel"].append({"one": one, "other": other})
    for name in names[30:]:
        performer = {"name": name, "instrument": rng.choice(INSTRUMENTS[:5]), "minutes": rng.randrange(10, 60, 5)}
        rows["performer"].append({**performer, "fee": rng.randrange(50, 400, 10)})
    return rows


def seat(database: Database, guest: str, table: str) -> str:
    row_or_error(database, "guest", "name", guest)
    board = row_or_error(database, "board", "name", table)
    if len(database.all("SELECT * FROM guest WHERE seat = ? AND name != ?", table, guest)) >= board["seats"]:
        raise ToolError("the table is full.")
    database.run("UPDATE guest SET seat = ? WHERE name = ?", table, guest)
    return "ok"


TOOLS = (
    listing("list_tables", "All tables; distance to the stage in metres.", "board", "name seats zone distance"),
    listing("list_guests", "Names of a company's guests.", "guest", company="guest.company"),
    detail("get_guest", "All about a guest; no seat means not seated yet.", "guest", name="guest.name"),
    listing("list_seated", "Who sits at a table.", "guest", "name", seat="board.name"),
    listing("list_quarrels_of", "Whom a guest has complained about.", "quarrel", "other", one="guest.name"),
    listing("list_complaints_about", "Who has complained about a guest.", "quarrel", "one", other="guest.name"),
    listing("list_performers", "All performers.", "performer", "name instrument minutes fee"),
    action("seat", "Seat a guest at a table, or at another one.", seat, guest="guest.name", table="board.name"),
)
EXTRA = (
    listing("list_guests_by_trade", "Names of the guests of a trade.", "guest", trade="guest.trade"),
    listing("list_guests_by_diet", "Names of the guests with a diet.", "guest", diet="guest.diet"),
    listing("list_tables_in_zone", "Names of the tables of a zone.", "board", zone="board.zone"),
    detail("get_table", "All about a table.", "board", name="board.name"),
    detail("get_performer", "All about a performer.", "performer", name="performer.name"),
)


def at_odds(world: WorldSpec, one: str, other: str) -> bool:
    return bool(world.all("quarrel", one=one, other=other) or world.all("quarrel", one=other, other=one))


def wrong_seating(world: WorldSpec, seats: Mapping[str, str], need: Mapping[str, Any]) -> str | None:
    """What is wrong when the guests to be seated sit so; ``seats`` has the others too."""
    for guest in need["guests"]:
        if not seats.get(guest):
            continue
        row, board = world.get("guest", guest), world.get("board", seats[guest])
        mates = [world.get("guest", name) for name, table in seats.items() if table == board["name"] and name != guest]
        if len(mates) >= board["seats"]:
            return "a table is too full"
        if any(at_odds(world, guest, mate["name"]) for mate in mates):
            return "two who quarrel sit together"
        if "trade" in need and any(mate["trade"] == row["trade"] for mate in mates):
            return "two of one trade sit together"
        if "zone" in need and row["diet"] != "any" and board["zone"] != need["zone"]:
            return "a guest with a diet sits in another zone"
        if "spread" in need and any(mate["name"] in need["guests"] for mate in mates):
            return "two of the company sit together"
    return None


def propose_seat(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    company = rng.choice(sorted({g["company"] for g in world.all("guest")}))
    waiting = [g["name"] for g in world.all("guest", company=company, seat=NOBODY)]
    if not 3 <= len(waiting) <= 7:
        raise Unsuitable
    brief.ask(
        1,
        f"Seat all guests of {company} who are not seated yet. Nobody of them sits with someone who has complained "
        "about them or whom they have complained about. Those who sit already stay where they are.",
        company=company,
        guests=waiting,
    )
    brief.ask(2, "None of them sits with somebody of the same trade.", trade=True)
    zone = rng.choice(("hall", "terrace", "garden"))
    brief.ask(3, f"Those of them with a diet sit in the zone {zone}.", zone=zone)
    brief.ask(4, "No two of them sit at the same table.", spread=True)
    seated = {g["name"]: g["seat"] for g in world.all("guest") if g["seat"]}
    tables = [b["name"] for b in world.all("board")]

    def fits(plan: list[str]) -> bool:
        return wrong_seating(world, {**seated, **dict(zip(waiting, plan, strict=False))}, brief.need) is None

    if first_plan([tables] * len(waiting), fits) is None:
        raise Unsuitable


def solve_seat(tools: Any, need: dict[str, Any]) -> Any:
    tables, seats, known = tools.list_tables(), {}, {}
    for table in tables:
        seats[table["name"]] = tools.list_seated(seat=table["name"])
    guests = [tools.get_guest(name=name) for name in tools.list_guests(company=need["company"])]
    waiting = [guest for guest in guests if guest["seat"] == ""]
    odds = {}
    for guest in waiting:
        name = guest["name"]
        odds[name] = [*tools.list_quarrels_of(one=name), *tools.list_complaints_about(other=name)]
        known[name] = guest["trade"]
    if "trade" in need:
        for names in seats.values():
            for name in names:
                known[name] = tools.get_guest(name=name)["trade"]

    def fits(plan: list[Any]) -> bool:
        guest, table = waiting[len(plan) - 1], plan[-1]
        before = [waiting[i]["name"] for i in range(len(plan) - 1) if plan[i]["name"] == table["name"]]
        mates = [*seats[table["name"]], *before]
        if len(mates) >= table["seats"] or any(name in odds[guest["name"]] for name in mates):
            return False
        if "trade" in need and guest["trade"] in [known[name] for name in mates]:
            return False
        if "zone" in need and guest["diet"] != "any" and table["zone"] != need["zone"]:
            return False
        return "spread" not in need or not before

    for guest, table in zip(waiting, first_plan([tables] * len(waiting), fits), strict=False):
        tools.seat(guest=guest["name"], table=table["name"])


def check_seat(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    _, new = changed(world, end, "guest")
    if sorted(row["name"] for row in new) != sorted(need["guests"]) or not same(world, end, apart_from=("guest",)):
        yield "not exactly these guests were seated"
    if problem := wrong_seating(end, {g["name"]: g["seat"] for g in end.all("guest") if g["seat"]}, need):
        yield problem


def propose_peace(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    zone = rng.choice(sorted({b["zone"] for b in world.all("board")}))
    brief.ask(1, "", zone=zone)
    brief.ask(2, "", trade=True)
    brief.ask(3, "", stage=rng.choice((10, 15)))
    brief.ask(
        1,
        f"Which pairs of guests sit at one table in the zone {zone} although one of them has complained about the "
        "other? Give each pair once, the names in alphabetical order.",
    )
    brief.ask(2, "Give also the pairs that have the same trade.")
    brief.ask(3, f"Only tables at most {brief.need.get('stage')} metres from the stage count.")
    brief.ask(4, "Leave out pairs in which both have a diet.", diet=True)
    pairs = bad_pairs(world, brief.need)
    if len(pairs) < 1:
        raise Unsuitable
    brief.ask(1, "", pairs=pairs)


def bad_pairs(world: WorldSpec, need: Mapping[str, Any]) -> list[list[str]]:
    found = []
    for board in world.all("board", zone=need["zone"]):
        guests = sorted(world.all("guest", seat=board["name"]), key=lambda guest: str(guest["name"]))
        for number, one in enumerate(guests):
            for other in guests[number + 1 :]:
                bad = at_odds(world, one["name"], other["name"]) or ("trade" in need and one["trade"] == other["trade"])
                if "diet" in need and "any" not in (one["diet"], other["diet"]):
                    bad = False
                if bad and board["distance"] <= need.get("stage", 99):
                    found.append([one["name"], other["name"]])
    return sorted(found)


def solve_peace(tools: Any, need: dict[str, Any]) -> Any:
    pairs = []
    for table in tools.list_tables():
        if table["zone"] == need["zone"] and table["distance"] <= need.get("stage", 99):
            guests = [tools.get_guest(name=name) for name in sorted(tools.list_seated(seat=table["name"]))]
            odds = {guest["name"]: tools.list_quarrels_of(one=guest["name"]) for guest in guests}
            for i in range(len(guests)):
                for j in range(i + 1, len(guests)):
                    one, other = guests[i], guests[j]
                    bad = other["name"] in odds[one["name"]] or one["name"] in odds[other["name"]]
                    bad = bad or ("trade" in need and one["trade"] == other["trade"])
                    if "diet" in need and one["diet"] != "any" and other["diet"] != "any":
                        bad = False
                    if bad:
                        pairs.append([one["name"], other["name"]])
    tools.submit_result(result=pairs)


def check_peace(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if sorted(answer) != need["pairs"] or not same(world, end):
        yield "not exactly these pairs"


def propose_programme(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    count = 2 if brief.level == 1 else 3
    chosen = rng.sample(world.all("performer"), count)
    minutes, fee = sum(p["minutes"] for p in chosen), sum(p["fee"] for p in chosen)
    slack = {1: 5, 2: 0, 3: 0, 4: 0}[brief.level]
    brief.ask(
        1,
        f"Put together a programme of {count} performers who play {minutes - slack} to {minutes + slack} minutes "
        f"together and whose fees are at most {fee} together.",
        count=count,
        low=minutes - slack,
        high=minutes + slack,
        fee=fee,
    )
    kinds = sorted({p["instrument"] for p in chosen})
    if len(kinds) < count:
        raise Unsuitable
    brief.ask(1, "No instrument is played twice.")
    brief.ask(3, "The order is from the shortest to the longest; none is as long as another.", rising=True)
    brief.ask(4, f"One of them plays the {kinds[0]}.", kind=kinds[0])
    if brief.level >= 3 and len({p["minutes"] for p in chosen}) < count:
        raise Unsuitable


def solve_programme(tools: Any, need: dict[str, Any]) -> Any:
    performers = sorted(tools.list_performers(), key=lambda performer: performer["minutes"])
    for chosen in subsets(performers, need["count"]):
        kinds, lengths = [p["instrument"] for p in chosen], [p["minutes"] for p in chosen]
        good = len(set(kinds)) == len(kinds) and need["low"] <= sum(lengths) <= need["high"]
        good = good and ("rising" not in need or len(set(lengths)) == len(lengths))
        if good and sum(p["fee"] for p in chosen) <= need["fee"] and need.get("kind", kinds[0]) in kinds:
            tools.submit_result(result=[p["name"] for p in chosen])
            return


def check_programme(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    chosen = [world.get("performer", name) for name in answer]
    kinds, lengths = [p["instrument"] for p in chosen], [p["minutes"] for p in chosen]
    if len(chosen) != need["count"] or len(set(kinds)) < len(kinds) or need.get("kind", kinds[0]) not in kinds:
        yield "wrong number of performers, or wrong instruments"
    if not need["low"] <= sum(lengths) <= need["high"] or sum(p["fee"] for p in chosen) > need["fee"]:
        yield "wrong length, or too dear"
    if "rising" in need and lengths != sorted(set(lengths)):
        yield "not from the shortest to the longest"


CATEGORY = Category(
    name="seating",
    about="the organiser of an evening event",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    templates=(
        Template("seat", propose_seat, solve_seat, check_seat, hidden=("guests",)),
        Template(
            "peace",
            propose_peace,
            solve_peace,
            check_peace,
            (list, "a list of pairs, each a list of two names."),
            hidden=("pairs",),
        ),
        Template("programme", propose_programme, solve_programme, check_programme, (list, "the names, in order.")),
    ),
)

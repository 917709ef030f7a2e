"""An office calendar: people, rooms, meetings.

Find the earliest hour at which Mara Lind, Otto Blake and Ida Koch are all free, and a room with a screen ...
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
    titles,
)
from envs.agent.general.logic import first_plan
from envs.agent.general.world import Database, Row, WorldSpec, changed, same
from envs.environment import ToolError

DAYS = (1, 2, 3, 4, 5)
SCHEMA = {
    "person": "name text, team text",
    "room": "name text, places integer, equipment text, floor integer",
    "meeting": "id integer, title text, day integer, start integer, hours integer, room text",
    "attendance": "meeting integer, person text",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    for name in people(rng, 14):
        rows["person"].append({"name": name, "team": rng.choice(("sales", "design", "support"))})
    for name in titles(rng, 6 + size, "Room"):
        equipment = rng.choice(("screen", "board", "phone", "none"))
        rows["room"].append(
            {"name": name, "places": rng.randint(3, 9), "equipment": equipment, "floor": rng.randint(1, 3)}
        )
    count = 34 + 8 * size
    for number, title in zip(numbers(rng, count, 100, 999), titles(rng, count, "Review"), strict=True):
        meeting = {"id": number, "title": title, "day": rng.choice(DAYS), "start": rng.randint(rules["opens"], 15)}
        meeting |= {"hours": rng.randint(1, 2), "room": ""}
        guests = rng.sample([row["name"] for row in rows["person"]], rng.randint(2, 5))
        busy = [row for row in rows["meeting"] if overlap(row, meeting)]
        taken = [a["person"] for a in rows["attendance"] if a["meeting"] in [row["id"] for row in busy]]
        guests = [name for name in guests if name not in taken]
        used = [row["room"] for row in busy]
        rooms = [room["name"] for room in rows["room"] if room["name"] not in used and room["places"] >= len(guests)]
        if len(guests) > 1 and rooms:
            rows["meeting"].append({**meeting, "room": rng.choice(rooms)})
            rows["attendance"] += [{"meeting": number, "person": name} for name in guests]
    return rows


def overlap(one: Row, two: Row) -> bool:
    return bool(
        one["day"] == two["day"]
        and one["start"] < two["start"] + two["hours"]
        and two["start"] < one["start"] + one["hours"]
    )


def create(database: Database, title: str, day: int, start: int, hours: int, room: str, people: list[str]) -> str:
    place, number = row_or_error(database, "room", "name", room), database.next_id("meeting")
    new = {"id": number, "title": title, "day": day, "start": start, "hours": hours, "room": room}
    if day not in DAYS or hours < 1 or start < database.rules["opens"] or start + hours > database.rules["closes"]:
        raise ToolError("the office is closed then.")
    for name in people:
        row_or_error(database, "person", "name", name)
    if len(people) > place["places"] or not people:
        raise ToolError("the room has too few places, or nobody comes.")
    _check_free(database, new, people)
    database.add("meeting", **new)
    for name in dict.fromkeys(people):
        database.add("attendance", meeting=number, person=name)
    return f"meeting {number}"


def _check_free(database: Database, new: Row, people: list[str]) -> None:
    for other in database.all("SELECT * FROM meeting WHERE id != ?", new["id"]):
        if overlap(other, new):
            if other["room"] == new["room"]:
                raise ToolError("the room is taken.")
            guests = [row["person"] for row in database.all("SELECT * FROM attendance WHERE meeting = ?", other["id"])]
            for name in people:
                if name in guests:
                    raise ToolError(f"{name} is in another meeting.")


def move_room(database: Database, meeting: int, room: str) -> str:
    row, place = row_or_error(database, "meeting", "id", meeting), row_or_error(database, "room", "name", room)
    guests = [a["person"] for a in database.all("SELECT * FROM attendance WHERE meeting = ?", meeting)]
    if len(guests) > place["places"]:
        raise ToolError("the room has too few places.")
    _check_free(database, {**row, "room": room}, [])
    database.run("UPDATE meeting SET room = ? WHERE id = ?", room, meeting)
    return "ok"


TOOLS = (
    listing("list_people", "Names of a team's people.", "person", team="person.team"),
    listing("list_rooms", "All rooms.", "room", "name places equipment floor"),
    listing("list_meetings", "The meetings of a day.", "meeting", "id start hours room", day="meeting.day"),
    listing("list_attendees", "Who comes to a meeting.", "attendance", "person", meeting="meeting.id"),
    listing("list_meetings_of", "Ids of a person's meetings.", "attendance", "meeting", person="person.name"),
    detail("get_meeting", "All about a meeting.", "meeting", id="meeting.id"),
    action(
        "create_meeting", "Hold a meeting.", create,
        title=str, day="meeting.day", start=int, hours=int, room="room.name", people=list,
    ),
    action("move_to_room", "Hold a meeting in another room.", move_room, meeting="meeting.id", room="room.name"),
)  # fmt: skip
EXTRA = (
    detail("get_room", "All about a room.", "room", name="room.name"),
    detail("get_person", "The team of a person.", "person", "team", name="person.name"),
    listing("list_meetings_in", "Ids of the meetings in a room.", "meeting", room="room.name"),
    listing("list_rooms_on_floor", "Names of the rooms on a floor.", "room", floor="room.floor"),
)


def meetings_of(world: WorldSpec, person: str) -> list[Row]:
    return [world.get("meeting", row["meeting"]) for row in world.all("attendance", person=person)]


def possible(world: WorldSpec, need: Mapping[str, Any]) -> list[Row]:
    """Every (day, start, room) at which the wanted meeting can be held."""
    found, busy = [], [row for name in need["people"] for row in meetings_of(world, name)]
    for day in DAYS[need.get("first_day", 1) - 1 :]:
        loads = [sum(m["hours"] for m in meetings_of(world, name) if m["day"] == day) for name in need["people"]]
        if max(loads) > need.get("load", 99):
            continue
        for start in range(world.rules["opens"], world.rules["closes"] - need["hours"] + 1):
            new = {"day": day, "start": start, "hours": need["hours"]}
            if any(overlap(row, new) for row in busy) or ("lunch" in need and start <= 12 < start + need["hours"]):
                continue
            used = [row["room"] for row in world.all("meeting", day=day) if overlap(row, new)]
            for room in world.all("room"):
                fits = room["places"] >= len(need["people"]) and (
                    "equipment" not in need or room["equipment"] == need["equipment"]
                )
                if fits and room["name"] not in used:
                    found.append({**new, "room": room["name"]})
    return found


def propose_common(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    names = rng.sample([row["name"] for row in world.all("person")], brief.level + 2)
    title, hours = titles(rng, 1, "Planning")[0], rng.randint(1, 2)
    brief.ask(
        1,
        f'Hold a meeting "{title}" of {hours} hour(s) for {", ".join(names)}, and nobody else, as early in the week '
        "as possible, in any room that has a place for everybody.",
        title=title,
        people=names,
        hours=hours,
    )
    equipment = rng.choice(("screen", "board", "phone"))
    brief.ask(2, f"The room needs a {equipment}.", equipment=equipment)
    brief.ask(3, "The hour from 12 to 13 stays free.", lunch=True)
    brief.ask(4, "Nobody may have more than 3 hours of other meetings on that day.", load=3)
    options = possible(world, brief.need)
    if not options or (options[0]["day"], options[0]["start"]) == (1, world.rules["opens"]):
        raise Unsuitable
    brief.ask(1, "", when=[options[0]["day"], options[0]["start"]])


def solve_common(tools: Any, need: dict[str, Any]) -> Any:
    rooms = tools.list_rooms()
    meetings: Any = {}
    for name in need["people"]:
        for number in tools.list_meetings_of(person=name):
            meetings.setdefault(number, []).append(name)
    for day in [1, 2, 3, 4, 5]:
        today = tools.list_meetings(day=day)
        loads = {name: 0 for name in need["people"]}
        for m in today:
            for name in meetings.get(m["id"], []):
                loads[name] = loads[name] + m["hours"]
        if max(loads.values()) > need.get("load", 99):
            continue
        for start in range(need["opens"], need["closes"] - need["hours"] + 1):
            end = start + need["hours"]
            at_once = [m for m in today if m["start"] < end and start < m["start"] + m["hours"]]
            if any(m["id"] in meetings for m in at_once) or ("lunch" in need and start <= 12 < end):
                continue
            for room in rooms:
                good = room["places"] >= len(need["people"]) and room["name"] not in [m["room"] for m in at_once]
                if good and ("equipment" not in need or room["equipment"] == need["equipment"]):
                    when = {"day": day, "start": start, "hours": need["hours"]}
                    tools.create_meeting(title=need["title"], **when, room=room["name"], people=need["people"])
                    return


def check_common(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    gone, new = changed(world, end, "meeting")
    if gone or len(new) != 1 or changed(world, end, "attendance")[0]:
        yield "not exactly one new meeting"
    guests = sorted(row["person"] for row in end.all("attendance", meeting=new[0]["id"]))
    if new[0]["title"] != need["title"] or guests != sorted(need["people"]):
        yield "another title, or other people"
    if {k: new[0][k] for k in ("day", "start", "hours", "room")} not in possible(world, need):
        yield "it cannot be held then and there"
    if [new[0]["day"], new[0]["start"]] != need["when"]:
        yield "there is an earlier time"


def propose_closed(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    room = rng.choice(world.all("room"))
    days = sorted(rng.sample(DAYS, min(brief.level, 2)))
    brief.ask(1, "", room=room["name"], days=days)
    brief.ask(3, "", same_equipment=room["equipment"])
    brief.ask(4, "", spread=True)
    moved = [m for m in world.all("meeting", room=room["name"]) if m["day"] in days]
    options = [rooms_for(world, m, brief.need) for m in moved]
    if len(moved) < min(brief.level, 3) or first_plan(options, lambda plan: no_clash(moved, plan, brief.need)) is None:
        raise Unsuitable
    brief.ask(
        1,
        f"{room['name']} is closed on day {' and '.join(str(day) for day in days)}. Move each of its meetings on that "
        "day to another room at the same time, with places for everybody who comes. Change nothing else.",
    )
    brief.ask(3, f"The new rooms have the same equipment ({room['equipment']}).")
    brief.ask(4, "No room takes more than one of them on a day.")


def rooms_for(world: WorldSpec, meeting: Row, need: Mapping[str, Any]) -> list[str]:
    guests = len(world.all("attendance", meeting=meeting["id"]))
    used = [row["room"] for row in world.all("meeting", day=meeting["day"]) if overlap(row, meeting)]
    rooms = [room for room in world.all("room") if room["places"] >= guests and room["name"] not in used]
    if "same_equipment" in need:
        rooms = [room for room in rooms if room["equipment"] == need["same_equipment"]]
    return [room["name"] for room in rooms if room["name"] != need["room"]]


def no_clash(moved: list[Row], plan: list[str], need: Mapping[str, Any]) -> bool:
    pairs = list(zip(moved, plan, strict=False))
    for number, (meeting, room) in enumerate(pairs):
        for other, its_room in pairs[:number]:
            if room == its_room and (overlap(meeting, other) or ("spread" in need and meeting["day"] == other["day"])):
                return False
    return True


def solve_closed(tools: Any, need: dict[str, Any]) -> Any:
    rooms, moved, options = tools.list_rooms(), [], []
    for day in need["days"]:
        today = tools.list_meetings(day=day)
        for m in today:
            if m["room"] == need["room"]:
                guests = len(tools.list_attendees(meeting=m["id"]))
                end = m["start"] + m["hours"]
                used = [o["room"] for o in today if o["start"] < end and m["start"] < o["start"] + o["hours"]]
                fitting = [r for r in rooms if r["places"] >= guests and r["name"] not in used]
                if "same_equipment" in need:
                    fitting = [r for r in fitting if r["equipment"] == need["same_equipment"]]
                moved.append([m["id"], day, m["start"], end])
                options.append([r["name"] for r in fitting])

    def fits(plan: list[Any]) -> bool:
        for i in range(len(plan)):
            for j in range(i):
                one, two = moved[i], moved[j]
                at_once = "spread" in need or (one[2] < two[3] and two[2] < one[3])
                if plan[i] == plan[j] and one[1] == two[1] and at_once:
                    return False
        return True

    for m, room in zip(moved, first_plan(options, fits), strict=False):
        tools.move_to_room(meeting=m[0], room=room)


def check_closed(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    moved, plan = [], []
    for before, after in zip(world.all("meeting"), end.all("meeting"), strict=True):
        if before["room"] == need["room"] and before["day"] in need["days"]:
            moved.append(before)
            plan.append(after["room"])
            if after["room"] not in rooms_for(world, before, need) or {**after, "room": before["room"]} != before:
                yield "a meeting is not in a fitting room"
        elif before != after:
            yield "another meeting was changed"
    if not no_clash(moved, plan, need) or not same(world, end, apart_from=("meeting",)):
        yield "two meetings share a room, or something else was changed"


def propose_load(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    team = rng.choice(sorted({row["team"] for row in world.all("person")}))
    brief.ask(1, "", team=team, count=min(brief.level, 3), days=list(DAYS), least=1)
    days = sorted(rng.sample(DAYS, 3))
    brief.ask(2, "", days=days)
    brief.ask(3, "", least=3)
    brief.ask(4, "", floor=rng.randint(1, 3))
    totals = hours_by_person(world, brief.need)
    ranked = sorted(totals.values(), reverse=True)
    count = brief.need["count"]
    if len(ranked) <= count or ranked[count - 1] == ranked[count] or len(set(ranked[:count])) < count:
        raise Unsuitable
    brief.ask(
        1,
        f"Which {count} people of the {team} team sit longest in meetings, on day "
        f"{', '.join(str(d) for d in brief.need['days'])}? Give the names, the longest first, with the hours.",
    )
    brief.ask(3, "Only meetings with at least 3 people count.")
    brief.ask(4, f"Meetings on floor {brief.need.get('floor')} do not count.")
    best = sorted(totals, key=lambda name: -totals[name])[:count]
    brief.ask(1, "", best=[[name, totals[name]] for name in best])


def hours_by_person(world: WorldSpec, need: Mapping[str, Any]) -> dict[str, int]:
    totals = {}
    for person in world.all("person", team=need["team"]):
        counted = [
            m["hours"]
            for m in meetings_of(world, person["name"])
            if m["day"] in need["days"]
            and len(world.all("attendance", meeting=m["id"])) >= need["least"]
            and world.get("room", m["room"])["floor"] != need.get("floor")
        ]
        totals[person["name"]] = sum(counted)
    return totals


def solve_load(tools: Any, need: dict[str, Any]) -> Any:
    floors = {room["name"]: room["floor"] for room in tools.list_rooms()}
    guests, totals = {}, []
    for name in tools.list_people(team=need["team"]):
        hours = 0
        for number in tools.list_meetings_of(person=name):
            m = tools.get_meeting(id=number)
            if m["day"] in need["days"] and floors[m["room"]] != need.get("floor"):
                if need["least"] > 1 and number not in guests:
                    guests[number] = len(tools.list_attendees(meeting=number))
                if need["least"] <= 1 or guests[number] >= need["least"]:
                    hours = hours + m["hours"]
        totals.append([hours, name])
    totals.sort(key=lambda total: -total[0])
    tools.submit_result(result=[{"name": name, "hours": hours} for hours, name in totals[: need["count"]]])


def check_load(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if [[entry["name"], entry["hours"]] for entry in answer] != need["best"]:
        yield "not these people and hours"
    if not same(world, end):
        yield "something was changed"


CATEGORY = Category(
    name="calendar",
    about="an office that keeps its people's calendars. Days are 1 to 5, times are whole hours",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    rules={"opens": (8, 9), "closes": (17, 18)},
    law="The office is open from {opens}:00 to {closes}:00. Nobody, and no room, is in two meetings at once.",
    templates=(
        Template("common", propose_common, solve_common, check_common, hidden=("when",)),
        Template("closed", propose_closed, solve_closed, check_closed),
        Template("load", propose_load, solve_load, check_load, (list, "a list of {name, hours}."), hidden=("best",)),
    ),
)

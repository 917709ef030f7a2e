"""Hiring: positions, candidates with skills, interviewers with free hours.

Fill the positions 12, 15 and 31, each with another candidate who has its skill ... within 180 in wages.
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
from envs.agent.general.logic import first_plan
from envs.agent.general.world import Database, Row, WorldSpec, changed, same
from envs.environment import ToolError
from envs.words import CITIES

SKILLS = ("welding", "accounting", "design", "teaching", "cooking", "surveying", "coding")
NOBODY = ""
SCHEMA = {
    "position": "id integer, team text, skill text, city text, wage integer, holder text",
    "candidate": "name text, skills text, city text, years integer, wage integer, moves text",
    "interviewer": "name text, skill text, room text",
    "hour": "id integer, interviewer text, day integer, time integer, candidate text",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    cities, teams = rng.sample(CITIES, 3), ("north", "south", "west")
    for number in numbers(rng, 9 + size, 10, 99):
        position = {"id": number, "team": rng.choice(teams), "skill": rng.choice(SKILLS), "city": rng.choice(cities)}
        rows["position"].append({**position, "wage": rng.randint(35, 80), "holder": NOBODY})
    names = people(rng, 24 + 2 * size + 6)
    for name in names[6:]:
        person = {
            "name": name,
            "skills": some(rng, SKILLS, 1, 3),
            "city": rng.choice(cities),
            "years": rng.randint(0, 20),
        }
        rows["candidate"].append({**person, "wage": rng.randint(30, 75), "moves": rng.choice(("yes", "no"))})
    hours = iter(numbers(rng, 200, 1000, 9999))
    for name in names[:6]:
        rows["interviewer"].append({"name": name, "skill": rng.choice(SKILLS), "room": f"room {rng.randint(1, 4)}"})
        moments = [(day, time) for day in range(1, 5) for time in range(9, 17)]
        for day, time in sorted(rng.sample(moments, 12)):
            busy = rng.choice(names[6:]) if rng.random() < 0.3 else NOBODY
            if any(h["candidate"] == busy and (h["day"], h["time"]) == (day, time) for h in rows["hour"]):
                busy = NOBODY
            rows["hour"].append({"id": next(hours), "interviewer": name, "day": day, "time": time, "candidate": busy})
    return rows


def hire(database: Database, position: int, candidate: str) -> str:
    row = row_or_error(database, "position", "id", position)
    person = row_or_error(database, "candidate", "name", candidate)
    if row["holder"] != NOBODY:
        raise ToolError("the position is filled.")
    if database.one("SELECT * FROM position WHERE holder = ?", candidate):
        raise ToolError("the candidate has a position already.")
    if row["skill"] not in person["skills"].split(", "):
        raise ToolError("the candidate does not have the skill.")
    database.run("UPDATE position SET holder = ? WHERE id = ?", candidate, position)
    return "ok"


def invite(database: Database, hour: int, candidate: str) -> str:
    row = row_or_error(database, "hour", "id", hour)
    row_or_error(database, "candidate", "name", candidate)
    if row["candidate"] != NOBODY:
        raise ToolError("the hour is taken.")
    same_time = "SELECT * FROM hour WHERE candidate = ? AND day = ? AND time = ?"
    if database.one(same_time, candidate, row["day"], row["time"]):
        raise ToolError("the candidate has another interview then.")
    database.run("UPDATE hour SET candidate = ? WHERE id = ?", candidate, hour)
    return "ok"


TOOLS = (
    listing("list_positions", "Ids of all positions.", "position"),
    detail("get_position", "All about a position; wage is the most it pays.", "position", id="position.id"),
    listing("list_candidates", "Names of all candidates.", "candidate"),
    detail(
        "get_candidate", "All about a candidate; wage is the least that is asked.", "candidate", name="candidate.name"
    ),
    listing("list_interviewers", "All interviewers.", "interviewer", "name skill room"),
    listing("list_hours", "An interviewer's hours.", "hour", "id day time candidate", interviewer="interviewer.name"),
    listing("list_interviews", "A candidate's interviews.", "hour", "id day time", candidate="candidate.name"),
    action("hire", "Give a position to a candidate.", hire, position="position.id", candidate="candidate.name"),
    action("invite", "Invite a candidate to an hour.", invite, hour="hour.id", candidate="candidate.name"),
)
EXTRA = (
    listing("list_positions_of_team", "Ids of a team's positions.", "position", team="position.team"),
    listing("list_candidates_in", "Names of the candidates who live in a city.", "candidate", city="candidate.city"),
    listing("list_hours_of_day", "Ids of the hours of a day.", "hour", day="hour.day"),
    detail("get_hour", "All about an hour.", "hour", id="hour.id"),
)


def suits(position: Row, person: Row, need: Mapping[str, Any]) -> bool:
    there = position["city"] == person["city"] or person["moves"] == "yes"
    return bool(
        position["skill"] in person["skills"].split(", ")
        and person["wage"] <= position["wage"]
        and ("city" not in need or there)
        and person["years"] >= need.get("years", 0)
    )


def propose_fill(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    positions = rng.sample(world.all("position"), brief.level + 1)
    years = rng.randint(2, 6)
    brief.ask(2, "", city=True)
    brief.ask(4, "", years=years)
    plan: list[Row] = []
    for position in positions:
        options = [p for p in world.all("candidate") if suits(position, p, brief.need) and p not in plan]
        if not options:
            raise Unsuitable
        plan.append(rng.choice(options))
    wages = sum(person["wage"] for person in plan)
    brief.ask(
        1,
        f"Fill the positions {', '.join(str(p['id']) for p in positions)}, each with another candidate who has the "
        "skill and asks for no more than the position pays. Fill no other position.",
        positions=[p["id"] for p in positions],
    )
    brief.ask(2, "A candidate who lives elsewhere must be ready to move.")
    brief.ask(3, f"Together they ask for at most {wages}.", wages=wages)
    brief.ask(4, f"Each has at least {years} years of experience.")


def solve_fill(tools: Any, need: dict[str, Any]) -> Any:
    candidates = [tools.get_candidate(name=name) for name in tools.list_candidates()]
    candidates.sort(key=lambda person: person["wage"])
    slots = []
    for number in need["positions"]:
        position, options = tools.get_position(id=number), []
        for person in candidates:
            good = position["skill"] in person["skills"].split(", ") and person["wage"] <= position["wage"]
            if "city" in need and position["city"] != person["city"] and person["moves"] != "yes":
                good = False
            if good and person["years"] >= need.get("years", 0):
                options.append(person)
        slots.append(options)

    def fits(plan: list[Any]) -> bool:
        names = [person["name"] for person in plan]
        return len(set(names)) == len(names) and sum(p["wage"] for p in plan) <= need.get("wages", 99999)

    for number, person in zip(need["positions"], first_plan(slots, fits), strict=False):
        tools.hire(position=number, candidate=person["name"])


def check_fill(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    _, new = changed(world, end, "position")
    if sorted(row["id"] for row in new) != sorted(need["positions"]) or not same(world, end, apart_from=("position",)):
        yield "not exactly these positions were filled"
    persons = [world.get("candidate", row["holder"]) for row in new]
    if not all(suits(row, person, need) for row, person in zip(new, persons, strict=True)):
        yield "a candidate does not suit the position"
    if sum(person["wage"] for person in persons) > need.get("wages", 99999):
        yield "they ask for too much"


def interview_plans(world: WorldSpec, need: Mapping[str, Any]) -> list[tuple[Row, Row]]:
    """Pairs of free hours, of two interviewers, that the candidate could have."""
    busy = [(h["day"], h["time"]) for h in world.all("hour", candidate=need["name"])]
    free = [h for h in world.all("hour", candidate=NOBODY) if (h["day"], h["time"]) not in busy]
    found = []
    for one in free:
        first = world.get("interviewer", one["interviewer"])
        if first["skill"] != need["skill"]:
            continue
        for two in free:
            second = world.get("interviewer", two["interviewer"])
            good = first["name"] != second["name"] and one["day"] == two["day"] and two["time"] > one["time"]
            good = good and two["time"] - one["time"] >= need.get("pause", 1)
            good = good and ("room" not in need or first["room"] == second["room"])
            if good and (need.get("day_free") is None or one["day"] not in [day for day, _ in busy]):
                found.append((one, two))
    return found


def propose_interviews(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    person, skill = rng.choice(world.all("candidate")), rng.choice(world.all("interviewer"))["skill"]
    brief.ask(
        1,
        f"Invite {person['name']} to two interviews on one day with two interviewers, the first of whom knows "
        f"{skill}. Take the earliest day on which that is possible, and on it any such hours.",
        name=person["name"],
        skill=skill,
    )
    brief.ask(2, "At least one whole hour lies between the two interviews (each takes one hour).", pause=2)
    brief.ask(3, "The candidate has no other interview on that day.", day_free=True)
    brief.ask(4, "Both are in the same room.", room=True)
    plans = interview_plans(world, brief.need)
    if not plans:
        raise Unsuitable
    brief.ask(1, "", day=min(one["day"] for one, _ in plans))


def solve_interviews(tools: Any, need: dict[str, Any]) -> Any:
    own = [(h["day"], h["time"]) for h in tools.list_interviews(candidate=need["name"])]
    free = []
    for person in tools.list_interviewers():
        for h in tools.list_hours(interviewer=person["name"]):
            if h["candidate"] == "" and (h["day"], h["time"]) not in own:
                free.append({**h, **person})
    best: Any = None
    for one in free:
        for two in free:
            good = one["skill"] == need["skill"] and one["name"] != two["name"] and one["day"] == two["day"]
            good = good and two["time"] - one["time"] >= need.get("pause", 1)
            good = good and ("room" not in need or one["room"] == two["room"])
            good = good and ("day_free" not in need or one["day"] not in [day for day, _ in own])
            if good and (best is None or one["day"] < best[0]["day"]):
                best = [one, two]
    for h in best:
        tools.invite(hour=h["id"], candidate=need["name"])


def check_interviews(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    _, new = changed(world, end, "hour")
    if len(new) != 2 or any(h["candidate"] != need["name"] for h in new) or not same(world, end, apart_from=("hour",)):
        yield "not exactly two new interviews"
    ids = sorted(h["id"] for h in new)
    plans = [(one, two) for one, two in interview_plans(world, need) if sorted((one["id"], two["id"])) == ids]
    if not plans or plans[0][0]["day"] != need["day"]:
        yield "these hours do not fit, or there is an earlier day"


def propose_rank(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    skill, count = rng.choice(SKILLS), 2 if brief.level < 3 else 3
    brief.ask(1, "", skill=skill, count=count)
    brief.ask(2, "", wage=rng.randint(55, 70))
    brief.ask(3, "", city=rng.choice(world.all("position"))["city"])
    brief.ask(4, "", met=True)
    ranked = ranking(world, brief.need)
    if len(ranked) <= count or len({points for points, _ in ranked[: count + 1]}) <= count:
        raise Unsuitable
    brief.ask(
        1,
        f"Which {count} candidates for {skill} are best? Those with the skill count, ranked by years of experience "
        "and 3 points for each further skill; the best first.",
    )
    brief.ask(2, f"Only those who ask for at most {brief.need.get('wage')}.")
    brief.ask(3, f"Only those who live in {brief.need.get('city')} or are ready to move.")
    brief.ask(4, "Those who have an interview already get 2 points more for each.")


def ranking(world: WorldSpec, need: Mapping[str, Any]) -> list[tuple[int, str]]:
    ranked = []
    for person in world.all("candidate"):
        skills = person["skills"].split(", ")
        there = "city" not in need or need["city"] == person["city"] or person["moves"] == "yes"
        if there and need["skill"] in skills and person["wage"] <= need.get("wage", 999):
            met = len(world.all("hour", candidate=person["name"])) if "met" in need else 0
            ranked.append((person["years"] + 3 * (len(skills) - 1) + 2 * met, person["name"]))
    return sorted(ranked, reverse=True)


def solve_rank(tools: Any, need: dict[str, Any]) -> Any:
    ranked = []
    for name in tools.list_candidates():
        person = tools.get_candidate(name=name)
        skills = person["skills"].split(", ")
        good = need["skill"] in skills and person["wage"] <= need.get("wage", 999)
        if good and ("city" not in need or need["city"] == person["city"] or person["moves"] == "yes"):
            met = len(tools.list_interviews(candidate=name)) if "met" in need else 0
            ranked.append([person["years"] + 3 * (len(skills) - 1) + 2 * met, name])
    ranked.sort(reverse=True)
    tools.submit_result(result=[name for _, name in ranked[: need["count"]]])


def check_rank(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if answer != [name for _, name in ranking(world, need)[: need["count"]]] or not same(world, end):
        yield "not these candidates in this order"


CATEGORY = Category(
    name="hiring",
    about="a company's hiring office",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    templates=(
        Template("fill", propose_fill, solve_fill, check_fill),
        Template("interviews", propose_interviews, solve_interviews, check_interviews, hidden=("day",)),
        Template("rank", propose_rank, solve_rank, check_rank, (list, "the names, the best first.")),
    ),
)

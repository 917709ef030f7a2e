"""A college: courses with hours, seats and prerequisites, and students who enrol.

Enrol Mara Lind (student 4312) in exactly 3 courses of different areas with at least 14 credits in all ...
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
from envs.agent.general.logic import subsets
from envs.agent.general.world import Database, Row, WorldSpec, changed, same
from envs.environment import ToolError

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")
AREAS = ("history", "biology", "economics", "physics", "art", "law")
SCHEMA = {
    "course": "code text, title text, area text, credits integer, day text, hour integer, seats integer, "
    "requires text, fee integer, teacher text",
    "student": "id integer, name text, year integer",
    "passed": "student integer, course text",
    "enrolment": "student integer, course text",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    areas, teachers = AREAS[: 4 + rng.randrange(3)], people(rng, 6)
    names = titles(rng, 20 + 4 * size)
    for number, title in enumerate(names):
        area = areas[number % len(areas)]
        before = [row["code"] for row in rows["course"] if row["area"] == area]
        course: Row = {
            "code": f"{area[:3].upper()}{rng.randrange(10) + 10 * (10 + number)}",
            "title": title,
            "area": area,
        }
        course |= {"credits": rng.randint(3, 8), "day": rng.choice(DAYS), "hour": rng.randint(8, 17)}
        course |= {
            "seats": rng.choice((0, 2, 5, 9)),
            "requires": rng.choice(before) if before and rng.random() < 0.6 else "",
        }
        rows["course"].append({**course, "fee": rng.randrange(50, 400, 10), "teacher": rng.choice(teachers)})
    for number, name in zip(numbers(rng, 10, 1000, 9999), people(rng, 10), strict=True):
        rows["student"].append({"id": number, "name": name, "year": rng.randint(1, 4)})
        for course in rng.sample(rows["course"], 7):
            if not course["requires"] or {"student": number, "course": course["requires"]} in rows["passed"]:
                rows["passed"].append({"student": number, "course": course["code"]})
        for course in rng.sample(rows["course"], 2):
            if {"student": number, "course": course["code"]} not in rows["passed"] and not course["requires"]:
                rows["enrolment"].append({"student": number, "course": course["code"]})
    return rows


def enrol(database: Database, student: int, code: str) -> str:
    row_or_error(database, "student", "id", student)
    course = row_or_error(database, "course", "code", code)
    taken = database.all("SELECT c.* FROM enrolment e JOIN course c ON c.code = e.course WHERE e.student = ?", student)
    if any(row["code"] == code for row in taken):
        raise ToolError("the student is in that course already.")
    if any((row["day"], row["hour"]) == (course["day"], course["hour"]) for row in taken):
        raise ToolError("it is at the same time as another course of the student.")
    if course["seats"] < 1:
        raise ToolError("the course is full.")
    passed = database.all("SELECT course FROM passed WHERE student = ?", student)
    if course["requires"] and course["requires"] not in [row["course"] for row in passed]:
        raise ToolError(f"the student has not passed {course['requires']}.")
    if sum(row["credits"] for row in taken) + course["credits"] > database.rules["max_credits"]:
        raise ToolError("that would be too many credits.")
    database.add("enrolment", student=student, course=code)
    database.run("UPDATE course SET seats = seats - 1 WHERE code = ?", code)
    return "ok"


def drop(database: Database, student: int, code: str) -> str:
    if not database.run("DELETE FROM enrolment WHERE student = ? AND course = ?", student, code):
        raise ToolError("the student is not in that course.")
    database.run("UPDATE course SET seats = seats + 1 WHERE code = ?", code)
    return "ok"


TOOLS = (
    listing("list_courses", "Codes of all courses.", "course"),
    detail("get_course", "All about a course.", "course", code="course.code"),
    detail("find_student", "The id and year of a student.", "student", "id year", name="student.name"),
    listing("list_passed", "Codes of the courses a student has passed.", "passed", "course", student="student.id"),
    listing("list_enrolled", "Codes of the courses a student is in.", "enrolment", "course", student="student.id"),
    action("enrol", "Enrol a student in a course.", enrol, student="student.id", code="course.code"),
    action("drop", "Take a student out of a course.", drop, student="student.id", code="course.code"),
)
EXTRA = (
    listing("list_courses_by_area", "Codes of the courses of an area.", "course", area="course.area"),
    listing("list_courses_by_day", "Codes of the courses of a day.", "course", day="course.day"),
    listing("list_courses_by_teacher", "Codes of a teacher's courses.", "course", teacher="course.teacher"),
    listing("list_participants", "Ids of the students in a course.", "enrolment", "student", course="course.code"),
)


def taken_by(world: WorldSpec, student: int) -> list[Row]:
    return [world.get("course", row["course"]) for row in world.all("enrolment", student=student)]


def open_to(world: WorldSpec, student: int) -> list[Row]:
    """Courses that the student could take if nothing else were taken."""
    passed = [row["course"] for row in world.all("passed", student=student)]
    taken = [row["code"] for row in taken_by(world, student)]
    return [
        c
        for c in world.all("course")
        if c["seats"] > 0 and c["code"] not in passed + taken and (not c["requires"] or c["requires"] in passed)
    ]


def times(courses: list[Row]) -> list[tuple[str, int]]:
    return [(course["day"], course["hour"]) for course in courses]


def propose_enrol(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    student = rng.choice(world.all("student"))
    taken, free = taken_by(world, student["id"]), open_to(world, student["id"])
    count = 2 if brief.level == 1 else 3
    if len(free) < count + 1:
        raise Unsuitable
    room = world.rules["max_credits"] - sum(c["credits"] for c in taken)
    for _ in range(80):
        chosen = rng.sample(free, count)
        all_times = times(chosen + taken)
        different = len({c["area"] for c in chosen}) == count and len(set(all_times)) == len(all_times)
        if different and sum(c["credits"] for c in chosen) <= room:
            break
    else:
        raise Unsuitable
    credits = sum(c["credits"] for c in chosen) - rng.randrange(2)
    brief.ask(
        1,
        f"Enrol {student['name']} in exactly {count} more courses, each of another area, with at least {credits} "
        "credits together. Leave the other courses as they are.",
        name=student["name"],
        student=student["id"],
        count=count,
        credits=credits,
    )
    day = rng.choice([d for d in DAYS if d not in [c["day"] for c in chosen]])
    brief.ask(2, f"None of the new courses is on {day}.", not_on=day)
    brief.ask(
        3,
        f"The fees of the new courses are at most {sum(c['fee'] for c in chosen)} together.",
        fee=sum(c["fee"] for c in chosen),
    )
    early = min(c["hour"] for c in chosen)
    brief.ask(4, f"No new course begins before {early}:00, and each has another teacher.", early=early)
    if brief.level == 4 and len({c["teacher"] for c in chosen}) < count:
        raise Unsuitable


def solve_enrol(tools: Any, need: dict[str, Any]) -> Any:
    student = tools.find_student(name=need["name"])["id"]
    passed, now = tools.list_passed(student=student), tools.list_enrolled(student=student)
    courses = [tools.get_course(code=code) for code in tools.list_courses()]
    taken = [(c["day"], c["hour"]) for c in courses if c["code"] in now]
    held = sum(c["credits"] for c in courses if c["code"] in now)
    free = []
    for c in courses:
        good = c["seats"] > 0 and c["code"] not in passed and c["code"] not in now
        good = good and (c["requires"] == "" or c["requires"] in passed) and (c["day"], c["hour"]) not in taken
        if good and c["day"] != need.get("not_on") and c["hour"] >= need.get("early", 0):
            free.append(c)
    for chosen in subsets(free, need["count"]):
        total = sum(c["credits"] for c in chosen)
        good = len({c["area"] for c in chosen}) == len(chosen) and total >= need["credits"]
        good = good and total + held <= need["max_credits"]
        good = good and len({(c["day"], c["hour"]) for c in chosen}) == len(chosen)
        good = good and ("early" not in need or len({c["teacher"] for c in chosen}) == len(chosen))
        if good and ("fee" not in need or sum(c["fee"] for c in chosen) <= need["fee"]):
            for c in chosen:
                tools.enrol(student=student, code=c["code"])
            return


def check_enrol(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    gone, new = changed(world, end, "enrolment")
    if (
        gone
        or any(row["student"] != need["student"] for row in new)
        or not same(world, end, apart_from=("enrolment", "course"))
    ):
        yield "something else was changed"
    chosen = [world.get("course", row["course"]) for row in new]
    if len(chosen) != need["count"] or len({c["area"] for c in chosen}) != need["count"]:
        yield "wrong number of courses or areas"
    if sum(c["credits"] for c in chosen) < need["credits"]:
        yield "too few credits"
    if any(c["day"] == need.get("not_on") or c["hour"] < need.get("early", 0) for c in chosen):
        yield "a course at a forbidden time"
    if "fee" in need and sum(c["fee"] for c in chosen) > need["fee"]:
        yield "too dear"
    if "early" in need and len({c["teacher"] for c in chosen}) < len(chosen):
        yield "a teacher twice"


def propose_swap(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    row = rng.choice(world.all("enrolment"))
    old, student = world.get("course", row["course"]), world.get("student", row["student"])
    rest = [c for c in taken_by(world, student["id"]) if c["code"] != old["code"]]
    room = world.rules["max_credits"] - sum(c["credits"] for c in rest)
    fits = [
        c for c in open_to(world, student["id"]) if (c["day"], c["hour"]) not in times(rest) and c["credits"] <= room
    ]
    brief.ask(
        1,
        f"{student['name']} drops {old['code']}. Enrol the student instead in the course with the lowest fee that the "
        "rules allow.",
    )
    brief.ask(1, "", name=student["name"], student=student["id"], old=old["code"])
    if brief.level >= 2:
        fits = [c for c in fits if c["day"] != old["day"]]
    brief.ask(2, "It must be on another day than the dropped one.", other_day=True)
    if brief.level >= 3:
        fits = [c for c in fits if c["credits"] >= old["credits"]]
    brief.ask(3, "It must have at least as many credits as the dropped one.", as_many=True)
    if brief.level >= 4:
        fits = [c for c in fits if c["teacher"] != old["teacher"] and c["requires"]]
    brief.ask(
        4,
        "It must have another teacher than the dropped one and build on a course the student has passed.",
        deeper=True,
    )
    if len(fits) < (2 if brief.level < 4 else 1):
        raise Unsuitable
    brief.ask(1, "", codes=[c["code"] for c in fits if c["fee"] == min(f["fee"] for f in fits)])


def solve_swap(tools: Any, need: dict[str, Any]) -> Any:
    student = tools.find_student(name=need["name"])["id"]
    passed, now = tools.list_passed(student=student), tools.list_enrolled(student=student)
    courses = {code: tools.get_course(code=code) for code in tools.list_courses()}
    old, rest = courses[need["old"]], [courses[code] for code in now if code != need["old"]]
    room = need["max_credits"] - sum(c["credits"] for c in rest)
    best: Any = None
    for c in courses.values():
        good = c["seats"] > 0 and c["code"] not in passed and c["code"] not in now and c["credits"] <= room
        good = good and (c["requires"] == "" or c["requires"] in passed)
        good = good and all((c["day"], c["hour"]) != (r["day"], r["hour"]) for r in rest)
        good = good and ("other_day" not in need or c["day"] != old["day"])
        good = good and ("as_many" not in need or c["credits"] >= old["credits"])
        good = good and ("deeper" not in need or (c["teacher"] != old["teacher"] and c["requires"] != ""))
        if good and (best is None or c["fee"] < best["fee"]):
            best = c
    tools.drop(student=student, code=need["old"])
    tools.enrol(student=student, code=best["code"])


def check_swap(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    gone, new = changed(world, end, "enrolment")
    if gone != [{"student": need["student"], "course": need["old"]}] or not same(
        world, end, apart_from=("enrolment", "course")
    ):
        yield "not exactly that course was dropped"
    if len(new) != 1 or new[0]["student"] != need["student"] or new[0]["course"] not in need["codes"]:
        yield "not the cheapest course that is allowed"


def propose_terms(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    student = rng.choice(world.all("student"))
    passed = [row["course"] for row in world.all("passed", student=student["id"])]
    goals = rng.sample(
        [c for c in world.all("course") if c["code"] not in passed], {1: 1, 2: 2, 3: 3, 4: 4}[brief.level]
    )
    missing: list[str] = []
    for goal in goals:
        code = goal["code"]
        while code and code not in passed:
            if code not in missing:
                missing.append(code)
            code = world.get("course", code)["requires"]
    if not len(goals) < len(missing) <= 9:
        raise Unsuitable
    most = max(max(world.get("course", code)["credits"] for code in missing), {1: 99, 2: 99, 3: 14, 4: 12}[brief.level])
    brief.ask(
        1,
        f"{student['name']} wants to pass {', '.join(g['code'] for g in goals)}. Which courses does the student still "
        "have to take, these included, and in which term? Each course comes in a later term than the one it "
        "requires, nothing is taken that is not needed or passed already. Seats, hours and the limit on credits do "
        "not matter here.",
        name=student["name"],
        goals=[g["code"] for g in goals],
        missing=sorted(missing),
    )
    brief.ask(3, f"A term has at most {most} credits.", most=most)
    brief.ask(2, "A term has at most 2 courses.", width=2)


def solve_terms(tools: Any, need: dict[str, Any]) -> Any:
    student = tools.find_student(name=need["name"])["id"]
    passed, courses, waiting = tools.list_passed(student=student), {}, list(need["goals"])
    while waiting:
        code = waiting.pop()
        if code and code not in passed and code not in courses:
            courses[code] = tools.get_course(code=code)
            waiting.append(courses[code]["requires"])
    terms, done = [], set(passed)
    while len(done) < len(passed) + len(courses):
        term: Any = []
        for code, c in courses.items():
            ready = code not in done and (c["requires"] == "" or c["requires"] in done)
            total = c["credits"] + sum(courses[other]["credits"] for other in term)
            if ready and len(term) < need.get("width", 99) and total <= need.get("most", 99):
                term.append(code)
        terms.append(term)
        done = done | set(term)
    tools.submit_result(result=terms)


def check_terms(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    flat = [code for term in answer for code in term]
    if sorted(flat) != need["missing"]:
        yield "not exactly the courses that are missing"
    position = {code: number for number, term in enumerate(answer) for code in term}
    for code in flat:
        if position.get(world.get("course", code)["requires"], -1) >= position[code]:
            yield f"{code} comes too early"
    for term in answer:
        if len(term) > need.get("width", 99) or sum(world.get("course", c)["credits"] for c in term) > need.get(
            "most", 99
        ):
            yield "a term is too full"


CATEGORY = Category(
    name="courses",
    about="the registrar of a college",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    rules={"max_credits": (18, 20, 24)},
    law="A student takes at most {max_credits} credits, no two courses at the same time, no full course, "
    "no course without having passed what it requires, and none that was passed before.",
    templates=(
        Template("enrol", propose_enrol, solve_enrol, check_enrol, hidden=("student",)),
        Template("swap", propose_swap, solve_swap, check_swap, hidden=("student", "codes")),
        Template(
            "terms",
            propose_terms,
            solve_terms,
            check_terms,
            (list, "a list of terms, each a list of course codes."),
            hidden=("missing",),
        ),
    ),
)

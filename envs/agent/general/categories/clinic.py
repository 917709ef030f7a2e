"""A clinic: doctors with hours, patients with appointments.

Dr. Otto Blake is ill on day 4. Give each appointment of that day to another doctor of the same speciality ...
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
)
from envs.agent.general.logic import first_plan
from envs.agent.general.world import Database, Row, WorldSpec, changed, same
from envs.environment import ToolError

SPECIALITIES = ("heart", "skin", "eyes", "bones")
LANGUAGES = ("English", "Spanish", "Arabic", "Norwegian")
FREE = 0
SCHEMA = {
    "doctor": "id integer, name text, speciality text, languages text, fee integer, floor integer",
    "patient": "id integer, name text, language text, born integer",
    "slot": "id integer, doctor integer, day integer, hour integer, patient integer",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    count = 12 + size
    for number, name in zip(numbers(rng, count, 10, 99), people(rng, count), strict=True):
        spoken = sorted(rng.sample(LANGUAGES, rng.randint(2, 3)))
        doctor: Row = {"id": number, "name": name, "speciality": SPECIALITIES[len(rows["doctor"]) % 4]}
        doctor |= {"languages": ", ".join(spoken), "fee": rng.randrange(40, 160, 5), "floor": rng.randint(1, 4)}
        rows["doctor"].append(doctor)
    for number, name in zip(numbers(rng, 20, 1000, 9999), people(rng, 20), strict=True):
        patient = {"id": number, "name": name, "language": rng.choice(LANGUAGES), "born": rng.randint(1940, 2015)}
        rows["patient"].append(patient)
    ids = iter(numbers(rng, 20 * count, 10000, 99999))
    for doctor in rows["doctor"]:
        moments = [(day, hour) for day in range(1, 7) for hour in range(8, 18)]
        for day, hour in sorted(rng.sample(moments, 20)):
            same_day = [s for s in rows["slot"] if s["day"] == day]
            counts = [s["patient"] for s in same_day]
            busy = {s["patient"] for s in same_day if s["hour"] == hour}
            busy |= {patient for patient in counts if counts.count(patient) >= rules["per_day"]}
            free = [
                p["id"] for p in rows["patient"] if p["id"] not in busy and doctor["languages"].find(p["language"]) >= 0
            ]
            who = rng.choice(free) if free and rng.random() < 0.4 else FREE
            rows["slot"].append({"id": next(ids), "doctor": doctor["id"], "day": day, "hour": hour, "patient": who})
    return rows


def book(database: Database, slot: int, patient: int) -> str:
    row = row_or_error(database, "slot", "id", slot)
    row_or_error(database, "patient", "id", patient)
    if row["patient"] != FREE:
        raise ToolError("the slot is taken.")
    own = database.all("SELECT * FROM slot WHERE patient = ? AND day = ?", patient, row["day"])
    if any(other["hour"] == row["hour"] for other in own):
        raise ToolError("the patient has another appointment at that time.")
    if len(own) >= database.rules["per_day"]:
        raise ToolError("the patient has as many appointments that day as are allowed.")
    database.run("UPDATE slot SET patient = ? WHERE id = ?", patient, slot)
    return "ok"


def cancel(database: Database, slot: int) -> str:
    row = row_or_error(database, "slot", "id", slot)
    if row["patient"] == FREE:
        raise ToolError("the slot is free.")
    database.run("UPDATE slot SET patient = ? WHERE id = ?", FREE, slot)
    return "ok"


TOOLS = (
    listing("list_doctors", "Ids of the doctors of a speciality.", "doctor", speciality="doctor.speciality"),
    detail("get_doctor", "All about a doctor.", "doctor", id="doctor.id"),
    detail("find_doctor", "All about the doctor of that name.", "doctor", name="doctor.name"),
    detail("find_patient", "Id and language of a patient.", "patient", "id language", name="patient.name"),
    detail("get_patient", "All about a patient.", "patient", id="patient.id"),
    listing("list_slots", "A doctor's hours; patient 0 means free.", "slot", "id day hour patient", doctor="doctor.id"),
    listing("list_appointments", "A patient's appointments.", "slot", "id doctor day hour", patient="patient.id"),
    action("book", "Book a free slot for a patient.", book, slot="slot.id", patient="patient.id"),
    action("cancel", "Cancel an appointment.", cancel, slot="slot.id"),
)
EXTRA = (
    listing(
        "list_slots_of_day", "A doctor's hours on a day.", "slot", "id hour patient", doctor="doctor.id", day="slot.day"
    ),
    detail("get_slot", "All about a slot.", "slot", id="slot.id"),
    listing("list_doctors_on_floor", "Ids of the doctors on a floor.", "doctor", floor="doctor.floor"),
)


def speaks(doctor: Row, language: str) -> bool:
    return language in doctor["languages"].split(", ")


def bookable(world: WorldSpec, patient: Row, slot: Row) -> bool:
    """Whether the slot alone could be booked for the patient."""
    own = [s for s in world.all("slot", patient=patient["id"]) if s["day"] == slot["day"]]
    return len(own) < world.rules["per_day"] and slot["hour"] not in [s["hour"] for s in own]


def propose_series(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    patient = rng.choice(world.all("patient"))
    wanted = rng.sample(SPECIALITIES, 2 if brief.level == 1 else 3)
    chosen: list[Row] = []
    for speciality in wanted:
        options = [
            slot
            for slot in world.all("slot", patient=FREE)
            if world.get("doctor", slot["doctor"])["speciality"] == speciality
            and speaks(world.get("doctor", slot["doctor"]), patient["language"])
            and bookable(world, patient, slot)
            and (not chosen or slot["day"] > chosen[-1]["day"])
        ]
        if not options:
            raise Unsuitable
        chosen.append(rng.choice(options))
    doctors = [world.get("doctor", slot["doctor"]) for slot in chosen]
    brief.ask(
        1,
        f"{patient['name']} needs appointments in this order, each on a later day than the one before: "
        f"{', then '.join(wanted)}. Every doctor speaks the patient's language. Book them; leave all other "
        "appointments as they are.",
        name=patient["name"],
        patient=patient["id"],
        wanted=wanted,
    )
    brief.ask(
        2, f"The fees are at most {sum(d['fee'] for d in doctors)} together.", fees=sum(d["fee"] for d in doctors)
    )
    latest = max(slot["hour"] for slot in chosen)
    brief.ask(3, f"No appointment is later than {latest}:00.", latest=latest)
    last = chosen[-1]["day"]
    brief.ask(4, f"The last one is on day {last} at the latest, and each doctor is on another floor.", last=last)
    if brief.level == 4 and len({d["floor"] for d in doctors}) < len(doctors):
        raise Unsuitable


def solve_series(tools: Any, need: dict[str, Any]) -> Any:
    patient = tools.find_patient(name=need["name"])
    own = tools.list_appointments(patient=patient["id"])
    slots = []
    for speciality in need["wanted"]:
        options = []
        for number in tools.list_doctors(speciality=speciality):
            doctor = tools.get_doctor(id=number)
            if patient["language"] in doctor["languages"].split(", "):
                for slot in tools.list_slots(doctor=number):
                    same_day = [other["hour"] for other in own if other["day"] == slot["day"]]
                    good = slot["patient"] == 0 and slot["hour"] not in same_day and len(same_day) < need["per_day"]
                    if good and slot["hour"] <= need.get("latest", 24) and slot["day"] <= need.get("last", 99):
                        options.append([slot["day"], doctor["fee"], slot["id"], doctor["floor"]])
        slots.append(sorted(options))

    def fits(plan: list[Any]) -> bool:
        if any(plan[i][0] >= plan[i + 1][0] for i in range(len(plan) - 1)):
            return False
        if "last" in need and len({option[3] for option in plan}) < len(plan):
            return False
        return bool(sum(option[1] for option in plan) <= need.get("fees", 9999))

    for option in first_plan(slots, fits):
        tools.book(slot=option[2], patient=patient["id"])


def check_series(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    gone, new = changed(world, end, "slot")
    if any(row["patient"] != FREE for row in gone) or any(row["patient"] != need["patient"] for row in new):
        yield "another appointment was changed"
    new.sort(key=lambda row: (row["day"], row["hour"]))
    doctors = [world.get("doctor", row["doctor"]) for row in new]
    if [d["speciality"] for d in doctors] != need["wanted"] or len({row["day"] for row in new}) < len(new):
        yield "not these appointments in this order"
    language = world.get("patient", need["patient"])["language"]
    if not all(speaks(doctor, language) for doctor in doctors):
        yield "a doctor does not speak the language"
    if sum(d["fee"] for d in doctors) > need.get("fees", 9999):
        yield "too dear"
    if any(row["hour"] > need.get("latest", 24) or row["day"] > need.get("last", 99) for row in new):
        yield "too late"
    if "last" in need and len({d["floor"] for d in doctors}) < len(doctors):
        yield "a floor twice"


def replacements(world: WorldSpec, appointment: Row, ill: int, level: int) -> list[Row]:
    """Free slots of other doctors that could take an appointment of the doctor who is ill."""
    patient, old = world.get("patient", appointment["patient"]), world.get("doctor", ill)
    others = [s for s in world.all("slot", patient=patient["id"], day=appointment["day"]) if s is not appointment]
    found = []
    for slot in world.all("slot", patient=FREE, day=appointment["day"]):
        doctor = world.get("doctor", slot["doctor"])
        good = doctor["speciality"] == old["speciality"] and doctor["id"] != ill
        good = good and slot["hour"] not in [other["hour"] for other in others]
        good = good and (level < 2 or speaks(doctor, patient["language"]))
        good = good and (level < 3 or abs(slot["hour"] - appointment["hour"]) <= 4)
        if good and (level < 4 or doctor["fee"] <= old["fee"]):
            found.append(slot)
    return found


def propose_ill(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    doctor, day = rng.choice(world.all("doctor")), rng.randint(1, 6)
    appointments = [slot for slot in world.all("slot", doctor=doctor["id"], day=day) if slot["patient"] != FREE]
    options = [replacements(world, slot, doctor["id"], brief.level) for slot in appointments]
    if not appointments or len(appointments) < min(brief.level, 2):
        raise Unsuitable
    patients = [slot["patient"] for slot in appointments]
    different = first_plan(options, lambda plan: len({slot["id"] for slot in plan}) == len(plan))
    if different is None or len(set(patients)) < len(patients):
        raise Unsuitable
    brief.ask(
        1,
        f"Dr. {doctor['name']} is ill on day {day}. Move every appointment of that doctor on that day to a free hour "
        "of another doctor of the same speciality on the same day. Change nothing else.",
        doctor=doctor["id"],
        name=doctor["name"],
        day=day,
        level=brief.level,
    )
    brief.ask(2, "The new doctor speaks the patient's language.")
    brief.ask(3, "The new hour is at most 4 hours from the old one.")
    brief.ask(4, "The new doctor takes no higher fee than the ill one.")


def solve_ill(tools: Any, need: dict[str, Any]) -> Any:
    ill = tools.find_doctor(name=need["name"])
    appointments = [s for s in tools.list_slots(doctor=ill["id"]) if s["day"] == need["day"] and s["patient"] != 0]
    free = []
    for number in tools.list_doctors(speciality=ill["speciality"]):
        doctor = tools.get_doctor(id=number)
        if number != ill["id"] and (need["level"] < 4 or doctor["fee"] <= ill["fee"]):
            for slot in tools.list_slots(doctor=number):
                if slot["day"] == need["day"] and slot["patient"] == 0:
                    free.append([slot["id"], slot["hour"], doctor["languages"].split(", ")])
    options = []
    for old in appointments:
        language = tools.get_patient(id=old["patient"])["language"]
        own = tools.list_appointments(patient=old["patient"])
        busy = [a["hour"] for a in own if a["day"] == need["day"] and a["id"] != old["id"]]
        fitting = [slot for slot in free if slot[1] not in busy]
        if need["level"] >= 2:
            fitting = [slot for slot in fitting if language in slot[2]]
        if need["level"] >= 3:
            fitting = [slot for slot in fitting if abs(slot[1] - old["hour"]) <= 4]
        options.append(fitting)
    plan = first_plan(options, lambda chosen: len({slot[0] for slot in chosen}) == len(chosen))
    for old, new in zip(appointments, plan, strict=False):
        tools.cancel(slot=old["id"])
        tools.book(slot=new[0], patient=old["patient"])


def check_ill(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    old = [s for s in world.all("slot", doctor=need["doctor"], day=need["day"]) if s["patient"] != FREE]
    moved: dict[int, list[Row]] = {slot["patient"]: [] for slot in old}
    for before, after in zip(world.all("slot"), end.all("slot"), strict=True):
        if before in old:
            if after["patient"] != FREE:
                yield "an appointment was not moved"
        elif before != after:
            if before["patient"] != FREE or after["patient"] not in moved:
                yield "another appointment was changed"
            moved[after["patient"]].append(before)
    for slot in old:
        new = moved[slot["patient"]]
        if len(new) != 1 or new[0] not in replacements(world, slot, need["doctor"], need["level"]):
            yield "an appointment has no fitting new hour"


def propose_earliest(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    patient, speciality = rng.choice(world.all("patient")), rng.choice(SPECIALITIES)
    brief.ask(
        1,
        f"Book the earliest possible appointment for {patient['name']} with a doctor for {speciality} who speaks the "
        "patient's language.",
        name=patient["name"],
        patient=patient["id"],
        speciality=speciality,
        after=0,
    )
    hour, day = rng.randint(10, 13), rng.randint(2, 3)
    brief.ask(2, f"It is not before {hour}:00.", after=hour)
    brief.ask(3, f"It is on day {day} or later, and on a day on which the patient has nothing else.", day=day)
    top = sorted(d["fee"] for d in world.all("doctor", speciality=speciality))[-2]
    brief.ask(4, f"The fee is at most {top}.", fee=top)
    options = fitting(world, brief.need)
    if len({(slot["day"], slot["hour"]) for slot in options}) < 2:
        raise Unsuitable
    first = min((slot["day"], slot["hour"]) for slot in options)
    brief.ask(1, "", slots=[slot["id"] for slot in options if (slot["day"], slot["hour"]) == first])


def fitting(world: WorldSpec, need: Mapping[str, Any]) -> list[Row]:
    patient, found = world.get("patient", need["patient"]), []
    for slot in world.all("slot", patient=FREE):
        doctor = world.get("doctor", slot["doctor"])
        good = doctor["speciality"] == need["speciality"] and speaks(doctor, patient["language"])
        good = good and slot["hour"] >= need["after"] and slot["day"] >= need.get("day", 0)
        good = good and doctor["fee"] <= need.get("fee", 9999) and bookable(world, patient, slot)
        if good and ("day" not in need or not world.all("slot", patient=patient["id"], day=slot["day"])):
            found.append(slot)
    return found


def solve_earliest(tools: Any, need: dict[str, Any]) -> Any:
    patient = tools.find_patient(name=need["name"])
    own, options = tools.list_appointments(patient=patient["id"]), []
    for number in tools.list_doctors(speciality=need["speciality"]):
        doctor = tools.get_doctor(id=number)
        if patient["language"] in doctor["languages"].split(", ") and doctor["fee"] <= need.get("fee", 9999):
            for slot in tools.list_slots(doctor=number):
                same_day = [other["hour"] for other in own if other["day"] == slot["day"]]
                good = slot["patient"] == 0 and slot["hour"] >= need["after"] and slot["day"] >= need.get("day", 0)
                good = good and slot["hour"] not in same_day and len(same_day) < need["per_day"]
                if good and ("day" not in need or not same_day):
                    options.append([slot["day"], slot["hour"], slot["id"]])
    tools.book(slot=min(options)[2], patient=patient["id"])


def check_earliest(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    gone, new = changed(world, end, "slot")
    if len(new) != 1 or gone[0]["patient"] != FREE or new[0]["patient"] != need["patient"]:
        yield "not exactly one appointment of the patient is new"
    if new[0]["id"] not in need["slots"] or not same(world, end, apart_from=("slot",)):
        yield "there is an earlier one, or it does not fit"


CATEGORY = Category(
    name="clinic",
    about="the front desk of a clinic",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    optional=("patient.born",),
    rules={"per_day": (2, 3, 4)},
    law="A patient has at most {per_day} appointments a day, and never two at the same time.",
    templates=(
        Template("series", propose_series, solve_series, check_series, hidden=("patient",)),
        Template("ill", propose_ill, solve_ill, check_ill, hidden=("doctor",)),
        Template("earliest", propose_earliest, solve_earliest, check_earliest, hidden=("patient", "slots")),
    ),
)

"""An IT help desk: tickets, agents with skills and shifts, devices and the people who have them.

Assign the open tickets about printers, each to an agent with the skill, nobody more than 4 hours of work ...
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

TOPICS = ("printer", "network", "mail", "backup", "licence")
NOBODY = ""
SCHEMA = {
    "ticket": "id integer, device integer, topic text, priority integer, hours integer, day integer, "
    "state text, agent text",
    "agent": "name text, skills text, shift text, site text",
    "device": "id integer, owner text, model text, site text, bought integer",
    "spare": "id integer, model text, site text",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    sites, models = ("harbour", "centre", "airport"), ("Falcon", "Heron", "Swift", "Wren")
    names = people(rng, 22 + 7)
    for name in names[22:]:
        agent = {"name": name, "skills": some(rng, TOPICS, 2, 3), "shift": rng.choice(("early", "late"))}
        rows["agent"].append({**agent, "site": rng.choice(sites)})
    for number, name in zip(numbers(rng, 22, 1000, 9999), names, strict=False):
        device = {"id": number, "owner": name, "model": rng.choice(models), "site": rng.choice(sites)}
        rows["device"].append({**device, "bought": rng.randint(2015, 2025)})
    for number in numbers(rng, 14, 10000, 99999):
        rows["spare"].append({"id": number, "model": rng.choice(models), "site": rng.choice(sites)})
    for number in numbers(rng, 34 + 5 * size, 100, 999):
        device, topic, hours = rng.choice(rows["device"]), rng.choice(TOPICS), rng.randint(1, 4)
        ticket = {"id": number, "device": device["id"], "topic": topic, "priority": rng.randint(1, 3), "hours": hours}
        able = [a["name"] for a in rows["agent"] if topic in a["skills"]]
        state = rng.choice(("open", "open", "closed", "assigned"))
        busy = {
            name: sum(t["hours"] for t in rows["ticket"] if t["agent"] == name and t["state"] == "assigned")
            for name in able
        }
        able = [name for name in able if busy[name] + hours <= rules["load"] // 2]
        if state == "assigned" and not able:
            state = "open"
        agent_name = NOBODY if state == "open" or not able else rng.choice(able)
        rows["ticket"].append({**ticket, "day": rng.randint(1, 30), "state": state, "agent": agent_name})
    return rows


def assign(database: Database, ticket: int, agent: str) -> str:
    row, person = row_or_error(database, "ticket", "id", ticket), row_or_error(database, "agent", "name", agent)
    if row["state"] == "closed":
        raise ToolError("the ticket is closed.")
    if row["topic"] not in person["skills"].split(", "):
        raise ToolError("the agent does not have the skill.")
    mine = database.all("SELECT * FROM ticket WHERE agent = ? AND state = 'assigned' AND id != ?", agent, ticket)
    if sum(other["hours"] for other in mine) + row["hours"] > database.rules["load"]:
        raise ToolError("that would be too many hours for the agent.")
    database.run("UPDATE ticket SET agent = ?, state = 'assigned' WHERE id = ?", agent, ticket)
    return "ok"


def close(database: Database, ticket: int) -> str:
    row_or_error(database, "ticket", "id", ticket)
    if not database.run("UPDATE ticket SET state = 'closed' WHERE id = ? AND state != 'closed'", ticket):
        raise ToolError("the ticket is closed already.")
    return "ok"


def set_priority(database: Database, ticket: int, priority: int) -> str:
    row_or_error(database, "ticket", "id", ticket)
    if priority not in (1, 2, 3):
        raise ToolError("priority is 1, 2 or 3.")
    database.run("UPDATE ticket SET priority = ? WHERE id = ?", priority, ticket)
    return "ok"


def swap_device(database: Database, device: int, spare: int) -> str:
    row, new = row_or_error(database, "device", "id", device), row_or_error(database, "spare", "id", spare)
    if row["site"] != new["site"]:
        raise ToolError("the spare is at another site.")
    database.run("UPDATE device SET id = ?, model = ?, bought = 2025 WHERE id = ?", spare, new["model"], device)
    database.run("UPDATE ticket SET device = ? WHERE device = ?", spare, device)
    database.run("DELETE FROM spare WHERE id = ?", spare)
    return "ok"


TOOLS = (
    listing("list_tickets", "Ids of the tickets that are open, assigned or closed.", "ticket", state="ticket.state"),
    detail("get_ticket", "All about a ticket; priority 1 is most urgent.", "ticket", id="ticket.id"),
    listing("list_agents", "All agents.", "agent", "name skills shift site"),
    listing("list_tickets_of", "An agent's tickets.", "ticket", "id hours state", agent="agent.name"),
    detail("get_device", "All about a device.", "device", id="device.id"),
    listing("list_devices_at", "Ids of the devices at a site.", "device", site="device.site"),
    listing("list_spares", "Spare devices at a site.", "spare", "id model", site="spare.site"),
    action("assign", "Assign a ticket to an agent.", assign, ticket="ticket.id", agent="agent.name"),
    action("close_ticket", "Close a ticket.", close, ticket="ticket.id"),
    action("set_priority", "Change a ticket's priority.", set_priority, ticket="ticket.id", priority=int),
    action(
        "swap_device", "Give the owner of a device a spare for it.", swap_device, device="device.id", spare="spare.id"
    ),
)
EXTRA = (
    listing("list_tickets_by_topic", "Ids of the tickets of a topic.", "ticket", topic="ticket.topic"),
    listing("list_tickets_for", "Ids of the tickets about a device.", "ticket", device="device.id"),
    detail("find_device", "The device of a person.", "device", owner="device.owner"),
    detail("get_agent", "All about an agent.", "agent", name="agent.name"),
)


def free_hours(world: WorldSpec, agent: str) -> int:
    return int(world.rules["load"]) - sum(int(t["hours"]) for t in world.all("ticket", agent=agent, state="assigned"))


def fits_agent(world: WorldSpec, ticket: Row, agent: Row, need: Mapping[str, Any]) -> bool:
    good = ticket["topic"] in agent["skills"].split(", ")
    if "site" in need:
        good = good and world.get("device", ticket["device"])["site"] == agent["site"]
    return good and (need.get("early") is None or ticket["priority"] > 1 or agent["shift"] == "early")


def plan_holds(world: WorldSpec, plan: Mapping[int, str], need: Mapping[str, Any]) -> bool:
    for name in dict.fromkeys(plan.values()):
        mine = [world.get("ticket", number) for number, agent in plan.items() if agent == name]
        if sum(t["hours"] for t in mine) > free_hours(world, name) or len(mine) > need.get("most", 99):
            return False
        if not all(fits_agent(world, t, world.get("agent", name), need) for t in mine):
            return False
    return True


def propose_assign(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    topics = sorted(rng.sample(TOPICS, 1 if brief.level == 1 else 2))
    waiting = [t for t in world.all("ticket", state="open") if t["topic"] in topics]
    if not 2 <= len(waiting) <= 7 or len(waiting) < min(brief.level + 1, 4):
        raise Unsuitable
    brief.ask(
        1,
        f"Assign every open ticket about {' or '.join(topics)} to an agent with that skill. Change nothing else.",
        topics=topics,
        tickets=[t["id"] for t in waiting],
    )
    brief.ask(2, "Those of priority 1 go to agents of the early shift.", early=True)
    brief.ask(3, "Nobody gets more than 2 of them.", most=2)
    brief.ask(4, "The agent works at the site of the device.", site=True)
    names = [a["name"] for a in world.all("agent")]
    ids = [t["id"] for t in waiting]
    plan = first_plan([names] * len(ids), lambda p: plan_holds(world, dict(zip(ids, p, strict=False)), brief.need))
    if plan is None:
        raise Unsuitable


def solve_assign(tools: Any, need: dict[str, Any]) -> Any:
    agents, tickets = tools.list_agents(), []
    room = {}
    for agent in agents:
        mine = tools.list_tickets_of(agent=agent["name"])
        room[agent["name"]] = need["load"] - sum(t["hours"] for t in mine if t["state"] == "assigned")
    slots = []
    for number in tools.list_tickets(state="open"):
        ticket = tools.get_ticket(id=number)
        if ticket["topic"] in need["topics"]:
            able = [a for a in agents if ticket["topic"] in a["skills"].split(", ")]
            if "early" in need and ticket["priority"] == 1:
                able = [a for a in able if a["shift"] == "early"]
            if "site" in need:
                site = tools.get_device(id=ticket["device"])["site"]
                able = [a for a in able if a["site"] == site]
            tickets.append(ticket)
            slots.append([a["name"] for a in able])

    def fits(plan: list[Any]) -> bool:
        for name in plan:
            hours = [ticket["hours"] for ticket, other in zip(tickets, plan, strict=False) if other == name]
            if sum(hours) > room[name] or len(hours) > need.get("most", 99):
                return False
        return True

    for ticket, name in zip(tickets, first_plan(slots, fits), strict=False):
        tools.assign(ticket=ticket["id"], agent=name)


def check_assign(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    _, new = changed(world, end, "ticket")
    if sorted(t["id"] for t in new) != sorted(need["tickets"]) or not same(world, end, apart_from=("ticket",)):
        yield "not exactly these tickets were changed"
    for row in new:
        if row != {**world.get("ticket", row["id"]), "agent": row["agent"], "state": "assigned"}:
            yield "a ticket was not only assigned"
    if not plan_holds(world, {t["id"]: t["agent"] for t in new}, need):
        yield "an agent cannot take what was assigned"


def duplicates(world: WorldSpec, need: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """(tickets to close, tickets to make more urgent)."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for ticket in world.all("ticket"):
        device = world.get("device", ticket["device"])
        if ticket["state"] == "open" and device["site"] == need["site"]:
            groups.setdefault(
                (ticket["device"],) if "any_topic" in need else (ticket["device"], ticket["topic"]), []
            ).append(ticket)
    closed, urgent = [], []
    for tickets in groups.values():
        if len(tickets) > 1:
            tickets.sort(key=lambda t: (t["day"], t["id"]))
            closed += [t["id"] for t in tickets[1:]]
            if "urgent" in need and tickets[0]["priority"] != 1:
                urgent.append(tickets[0]["id"])
    return sorted(closed), sorted(urgent)


def propose_merge(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    site = rng.choice(sorted({d["site"] for d in world.all("device")}))
    brief.ask(1, "", site=site)
    brief.ask(2, "", urgent=True)
    brief.ask(3, "", any_topic=True)
    closed, urgent = duplicates(world, brief.need)
    same_what = "the same device" if brief.level >= 3 else "the same device and the same topic"
    brief.ask(
        1,
        f"At the site {site} some open tickets are about {same_what}. Of each such group keep the oldest (by day, "
        "then by id) and close the others.",
    )
    brief.ask(2, "Set the priority of each one that you keep of such a group to 1.")
    if len(closed) < (1 if brief.level < 3 else 2) or (brief.level >= 2 and not urgent):
        raise Unsuitable
    if brief.level == 4:
        rest = [t for t in world.all("ticket", state="open") if world.get("device", t["device"])["site"] == site]
        old = [t["id"] for t in rest if t["id"] not in closed and world.get("device", t["device"])["bought"] < 2019]
        if not old:
            raise Unsuitable
        brief.ask(4, "Close also all other open tickets there about devices bought before 2019.", before=2019)
        closed = sorted(closed + old)
        urgent = [number for number in urgent if number not in old]
    brief.ask(1, "", closed=closed, urgent_ids=urgent)


def solve_merge(tools: Any, need: dict[str, Any]) -> Any:
    devices = {number: tools.get_device(id=number) for number in tools.list_devices_at(site=need["site"])}
    groups: Any = {}
    for number in tools.list_tickets(state="open"):
        t = tools.get_ticket(id=number)
        if t["device"] in devices:
            key = t["device"] if "any_topic" in need else (t["device"], t["topic"])
            groups.setdefault(key, []).append([t["day"], t["id"], t["priority"], t["device"]])
    for tickets in groups.values():
        tickets.sort()
        for t in tickets[1:]:
            tools.close_ticket(ticket=t[1])
        first = tickets[0]
        if "before" in need and devices[first[3]]["bought"] < need["before"]:
            tools.close_ticket(ticket=first[1])
        elif len(tickets) > 1 and "urgent" in need and first[2] != 1:
            tools.set_priority(ticket=first[1], priority=1)


def check_merge(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    wanted = []
    for row in world.all("ticket"):
        state = "closed" if row["id"] in need["closed"] else row["state"]
        wanted.append({**row, "state": state, "priority": 1 if row["id"] in need["urgent_ids"] else row["priority"]})
    closed = need["closed"]
    for after, right in zip(end.all("ticket"), wanted, strict=True):
        # the priority of a ticket that was closed does not matter
        if after != right and not (after["id"] in closed and {**after, "priority": 0} == {**right, "priority": 0}):
            yield f"ticket {after['id']} is not as it should be"
    if not same(world, end, apart_from=("ticket",)):
        yield "something else was changed"


def propose_replace(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    site, year = rng.choice(sorted({d["site"] for d in world.all("device")})), rng.randint(2016, 2019)
    brief.ask(1, "", site=site, year=year)
    brief.ask(2, "", model=True)
    brief.ask(3, "", ticket=True)
    old = to_replace(world, brief.need)
    spares = world.all("spare", site=site)
    slots = [[s["id"] for s in spares if "model" not in brief.need or s["model"] == d["model"]] for d in old]
    if len(old) < 2 or len(old) > 6:
        raise Unsuitable
    if first_plan(slots, lambda plan: len(set(plan)) == len(plan)) is None:
        raise Unsuitable
    brief.ask(
        1,
        f"Replace the devices at the site {site} that were bought in {year} or before, each by a spare of that site"
        + (" of the same model." if brief.level >= 2 else "."),
    )
    brief.ask(3, "But only those with at least one ticket that is not closed.")
    brief.ask(4, "Then close all open or assigned tickets about the devices that you replaced.", close=True)
    brief.ask(1, "", owners=[d["owner"] for d in old])


def to_replace(world: WorldSpec, need: Mapping[str, Any]) -> list[Row]:
    waiting = {t["device"] for t in world.all("ticket") if t["state"] != "closed"}
    old = [d for d in world.all("device", site=need["site"]) if d["bought"] <= need["year"]]
    return [d for d in old if "ticket" not in need or d["id"] in waiting]


def solve_replace(tools: Any, need: dict[str, Any]) -> Any:
    devices = [tools.get_device(id=number) for number in tools.list_devices_at(site=need["site"])]
    old = [d for d in devices if d["bought"] <= need["year"]]
    tickets: Any = {}
    if "ticket" in need:
        for state in ["open", "assigned"]:
            for number in tools.list_tickets(state=state):
                tickets.setdefault(tools.get_ticket(id=number)["device"], []).append(number)
        old = [d for d in old if d["id"] in tickets]
    spares = tools.list_spares(site=need["site"])
    slots = [[s["id"] for s in spares if "model" not in need or s["model"] == d["model"]] for d in old]
    for d, spare in zip(old, first_plan(slots, lambda plan: len(set(plan)) == len(plan)), strict=False):
        tools.swap_device(device=d["id"], spare=spare)
        if "close" in need:
            for number in tickets[d["id"]]:
                tools.close_ticket(ticket=number)


def check_replace(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    new_ids = {}
    for before, after in zip(world.all("device"), end.all("device"), strict=True):
        if before["owner"] in need["owners"]:
            spare = world.get("spare", after["id"])
            new_ids[before["id"]] = after["id"]
            if spare["site"] != need["site"] or ("model" in need and spare["model"] != before["model"]):
                yield "not a fitting spare"
        elif before != after:
            yield "another device was changed"
    for before, after in zip(world.all("ticket"), end.all("ticket"), strict=True):
        mine = before["device"] in new_ids
        wanted = {**before, "device": new_ids.get(before["device"], before["device"])}
        if after != (wanted | {"state": "closed"} if mine and "close" in need else wanted):
            yield f"ticket {before['id']} is not as it should be"


CATEGORY = Category(
    name="tickets",
    about="an IT help desk",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    rules={"load": (8, 10, 12)},
    law="An agent has at most {load} hours of assigned tickets.",
    templates=(
        Template("assign", propose_assign, solve_assign, check_assign, hidden=("tickets",)),
        Template("merge", propose_merge, solve_merge, check_merge, hidden=("closed", "urgent_ids")),
        Template("replace", propose_replace, solve_replace, check_replace, hidden=("owners",)),
    ),
)

"""A public library: books with copies, members with loans, fines and places in the waiting line.

Copies 511, 613 and 702 came back. Take each back, and lend it to the first member in line who may borrow ...
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

GENRES = ("crime", "travel", "poetry", "science", "history")
SCHEMA = {
    "book": "isbn integer, title text, author text, genre text, pages integer, year integer",
    "copy": "id integer, isbn integer, state text",
    "member": "id integer, name text, fines integer",
    "loan": "copy integer, member integer, due integer",
    "hold": "isbn integer, member integer, place integer",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    authors, count = people(rng, 8), 22 + 5 * size
    names = zip(numbers(rng, 14, 100, 999), people(rng, 14), strict=True)
    rows["member"] = [{"id": i, "name": n, "fines": rng.choice((0, 0, 2, 5, 9, 14))} for i, n in names]
    members = [row["id"] for row in rows["member"]]
    copies = iter(numbers(rng, 3 * count, 1000, 9999))
    for isbn, title in zip(numbers(rng, count, 20000, 99999), titles(rng, count), strict=True):
        book = {"isbn": isbn, "title": title, "author": rng.choice(authors), "genre": rng.choice(GENRES)}
        rows["book"].append({**book, "pages": rng.randint(90, 700), "year": rng.randint(1950, 2024)})
        for _ in range(rng.randint(1, 2)):
            out = rng.random() < 0.5
            rows["copy"].append({"id": next(copies), "isbn": isbn, "state": "out" if out else "in"})
            if out:
                loan = {"copy": rows["copy"][-1]["id"], "member": rng.choice(members), "due": rng.randint(60, 130)}
                if len([row for row in rows["loan"] if row["member"] == loan["member"]]) < rules["max_loans"]:
                    rows["loan"].append(loan)
                else:
                    rows["copy"][-1]["state"] = "in"
        if rng.random() < 0.6:
            line = rng.sample(members, rng.randint(1, 4))
            rows["hold"] += [{"isbn": isbn, "member": m, "place": p} for p, m in enumerate(line, 1)]
    return rows


def lend(database: Database, copy: int, member: int) -> str:
    row, person = row_or_error(database, "copy", "id", copy), row_or_error(database, "member", "id", member)
    if row["state"] != "in":
        raise ToolError("the copy is out.")
    if len(database.all("SELECT * FROM loan WHERE member = ?", member)) >= database.rules["max_loans"]:
        raise ToolError("the member has as many loans as are allowed.")
    if person["fines"] > database.rules["max_fines"]:
        raise ToolError("the member has too many fines.")
    database.run("UPDATE copy SET state = 'out' WHERE id = ?", copy)
    database.add("loan", copy=copy, member=member, due=130)
    return "ok"


def take_back(database: Database, copy: int) -> str:
    if not database.run("DELETE FROM loan WHERE copy = ?", copy):
        raise ToolError("that copy is not lent.")
    database.run("UPDATE copy SET state = 'in' WHERE id = ?", copy)
    return "ok"


def remove_hold(database: Database, isbn: int, member: int) -> str:
    if not database.run("DELETE FROM hold WHERE isbn = ? AND member = ?", isbn, member):
        raise ToolError("that member does not wait for that book.")
    return "ok"


TOOLS = (
    listing("list_books", "The isbn of every book.", "book"),
    detail("get_book", "All about a book.", "book", isbn="book.isbn"),
    listing("list_copies", "The copies of a book: id, and state in or out.", "copy", "id state", isbn="book.isbn"),
    detail("get_copy", "The book of a copy, and its state.", "copy", id="copy.id"),
    listing("list_members", "Ids of all members.", "member"),
    detail("get_member", "Name and fines of a member.", "member", id="member.id"),
    detail("find_member", "The id of a member.", "member", "id", name="member.name"),
    listing("list_loans", "A member's loans: copy, and the day it is due.", "loan", "copy due", member="member.id"),
    listing("list_holds", "Who waits for a book, and in which place.", "hold", "member place", isbn="book.isbn"),
    action("lend", "Lend a copy to a member.", lend, copy="copy.id", member="member.id"),
    action("take_back", "Take a lent copy back.", take_back, copy="copy.id"),
    action("remove_hold", "Take a member out of a book's line.", remove_hold, isbn="book.isbn", member="member.id"),
)
EXTRA = (
    listing("list_books_by_author", "The isbn of an author's books.", "book", author="book.author"),
    listing("list_books_by_genre", "The isbn of the books of a genre.", "book", genre="book.genre"),
    detail("find_book", "All about the book of that title.", "book", title="book.title"),
    detail("get_loan", "Who has a copy, and until when.", "loan", copy="copy.id"),
)


def propose_returns(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    held = {row["isbn"] for row in world.all("hold")}
    lent = [row["copy"] for row in world.all("loan") if world.get("copy", row["copy"])["isbn"] in held]
    count = brief.level + 1
    if len(lent) < count:
        raise Unsuitable
    copies = rng.sample(lent, count)
    brief.ask(
        1,
        f"These copies came back: {', '.join(str(c) for c in copies)}. First take all of them back. Then, one after "
        "the other in this order, lend each to the member with the lowest place in the line for its book who is "
        "allowed to borrow, and take that member out of that line. A copy for which nobody qualifies stays in.",
        copies=copies,
    )
    if len({world.get("copy", copy)["isbn"] for copy in copies}) < count:
        raise Unsuitable


def solve_returns(tools: Any, need: dict[str, Any]) -> Any:
    for copy in need["copies"]:
        tools.take_back(copy=copy)
    books = {copy: tools.get_copy(id=copy)["isbn"] for copy in need["copies"]}
    lines = {copy: tools.list_holds(isbn=isbn) for copy, isbn in books.items()}
    fines, loans = {}, {}
    for line in lines.values():
        for hold in line:
            if hold["member"] not in fines:
                fines[hold["member"]] = tools.get_member(id=hold["member"])["fines"]
                loans[hold["member"]] = len(tools.list_loans(member=hold["member"]))
    for copy, line in lines.items():
        for hold in sorted(line, key=lambda hold: hold["place"]):
            member = hold["member"]
            if fines[member] <= need["max_fines"] and loans[member] < need["max_loans"]:
                tools.lend(copy=copy, member=member)
                tools.remove_hold(isbn=books[copy], member=member)
                loans[member] = loans[member] + 1
                break


def check_returns(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    loans = {row["copy"]: row["member"] for row in world.all("loan")}
    holds = [(row["isbn"], row["member"]) for row in world.all("hold")]
    for copy in need["copies"]:
        del loans[copy]
    for copy in need["copies"]:
        isbn = world.get("copy", copy)["isbn"]
        for hold in sorted(world.all("hold", isbn=isbn), key=lambda hold: int(hold["place"])):
            count = sum(member == hold["member"] for member in loans.values())
            if (
                world.get("member", hold["member"])["fines"] <= world.rules["max_fines"]
                and count < world.rules["max_loans"]
            ):
                loans[copy] = hold["member"]
                holds.remove((isbn, hold["member"]))
                break
    if {row["copy"]: row["member"] for row in end.all("loan")} != loans:
        yield "the loans are not as they should be"
    if [(row["isbn"], row["member"]) for row in end.all("hold")] != holds:
        yield "the lines are not as they should be"
    if not same(world, end, apart_from=("loan", "hold", "copy")):
        yield "something else was changed"


def propose_reading(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    member = rng.choice(world.all("member"))
    free = world.rules["max_loans"] - len(world.all("loan", member=member["id"]))
    present = [b for b in world.all("book") if world.all("copy", isbn=b["isbn"], state="in")]
    count = min(brief.level + 1, 3)
    if free < count or member["fines"] > world.rules["max_fines"] or len(present) < count + 2:
        raise Unsuitable
    chosen = rng.sample(present, count)
    if len({b["author"] for b in chosen}) < count:
        raise Unsuitable
    pages = sum(b["pages"] for b in chosen)
    brief.ask(
        1,
        f"Lend {member['name']} exactly {count} books that are in, each of another author, with {pages - 25} to "
        f"{pages + 25} pages together.",
        name=member["name"],
        member=member["id"],
        count=count,
        pages=pages,
    )
    genres = sorted({b["genre"] for b in chosen})
    brief.ask(2, f"Only these genres, each at least once: {', '.join(genres)}.", genres=genres)
    brief.ask(3, f"None of them appeared before {min(b['year'] for b in chosen)}.", year=min(b["year"] for b in chosen))
    free_of_line = all(not world.all("hold", isbn=b["isbn"]) for b in chosen)
    brief.ask(4, "Nobody waits for any of them." if free_of_line else "At least one has nobody waiting for it.")
    unwaited = sum(not world.all("hold", isbn=b["isbn"]) for b in chosen)
    brief.ask(4, "", unwaited=count if free_of_line else 1)
    if brief.level == 4 and not unwaited:
        raise Unsuitable


def solve_reading(tools: Any, need: dict[str, Any]) -> Any:
    member = tools.find_member(name=need["name"])
    books, copies, waiting = [], {}, {}
    for book in [tools.get_book(isbn=isbn) for isbn in tools.list_books()]:
        if book["year"] >= need.get("year", 0) and ("genres" not in need or book["genre"] in need["genres"]):
            present = [copy["id"] for copy in tools.list_copies(isbn=book["isbn"]) if copy["state"] == "in"]
            if present:
                copies[book["isbn"]] = present[0]
                waiting[book["isbn"]] = len(tools.list_holds(isbn=book["isbn"])) if "unwaited" in need else 0
                books.append(book)
    for chosen in subsets(books, need["count"]):
        good = abs(sum(b["pages"] for b in chosen) - need["pages"]) <= 25
        good = good and len({b["author"] for b in chosen}) == len(chosen)
        good = good and sum(waiting[b["isbn"]] == 0 for b in chosen) >= need.get("unwaited", 0)
        if good and ("genres" not in need or sorted({b["genre"] for b in chosen}) == need["genres"]):
            for b in chosen:
                tools.lend(copy=copies[b["isbn"]], member=member)
            return


def check_reading(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    gone, new = changed(world, end, "loan")
    if gone or not same(world, end, apart_from=("loan", "copy")) or any(row["member"] != need["member"] for row in new):
        yield "something else was changed"
    books = [world.get("book", world.get("copy", row["copy"])["isbn"]) for row in new]
    if len(books) != need["count"] or len({b["author"] for b in books}) < len(books):
        yield "wrong number of books or authors"
    if abs(sum(b["pages"] for b in books) - need["pages"]) > 25:
        yield "wrong number of pages"
    if "genres" in need and sorted({b["genre"] for b in books}) != need["genres"]:
        yield "wrong genres"
    if any(b["year"] < need.get("year", 0) for b in books):
        yield "a book is too old"
    if sum(not world.all("hold", isbn=b["isbn"]) for b in books) < need.get("unwaited", 0):
        yield "others wait for it"


def propose_overdue(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    today, limit = rng.randint(90, 110), rng.choice((8, 12, 16, 20))
    brief.ask(
        1,
        f"Today is day {today}. Which members owe more than {limit}, if their fines and {world.rules['day_fine']} for "
        "each day and copy that is overdue are added up?",
        today=today,
        limit=limit,
    )
    brief.ask(2, "A member is charged for the days of at most two copies, those longest overdue.", most=2)
    brief.ask(3, "A copy whose book somebody waits for counts double.", double=True)
    brief.ask(4, "Members without any fine so far have three days' grace on each copy.", grace=3)
    if not 2 <= len(debts(world, brief.need)) < len(world.all("member")):
        raise Unsuitable


def debts(world: WorldSpec, need: Mapping[str, Any]) -> list[str]:
    found = []
    for member in world.all("member"):
        costs = []
        for loan in world.all("loan", member=member["id"]):
            late = need["today"] - loan["due"] - (need.get("grace", 0) if not member["fines"] else 0)
            twice = "double" in need and world.all("hold", isbn=world.get("copy", loan["copy"])["isbn"])
            costs.append((max(late, 0), 2 if twice else 1))
        costs.sort(key=lambda cost: -cost[0])
        charged = sum(late * times for late, times in costs[: need.get("most", 99)])
        if member["fines"] + charged * world.rules["day_fine"] > need["limit"]:
            found.append(member["name"])
    return sorted(found)


def solve_overdue(tools: Any, need: dict[str, Any]) -> Any:
    found, waited = [], {}
    for number in tools.list_members():
        member, costs = tools.get_member(id=number), []
        for loan in tools.list_loans(member=number):
            late = need["today"] - loan["due"]
            if member["fines"] == 0:
                late = late - need.get("grace", 0)
            twice = 1
            if "double" in need and late > 0:
                isbn = tools.get_copy(id=loan["copy"])["isbn"]
                if isbn not in waited:
                    waited[isbn] = len(tools.list_holds(isbn=isbn)) > 0
                twice = 2 if waited[isbn] else 1
            costs.append((max(late, 0), twice))
        costs.sort(key=lambda cost: -cost[0])
        owed = sum(late * twice for late, twice in costs[: need.get("most", 99)]) * need["day_fine"]
        if member["fines"] + owed > need["limit"]:
            found.append(member["name"])
    tools.submit_result(result=found)


def check_overdue(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if sorted(answer) != debts(world, need):
        yield "not exactly those members"
    if not same(world, end):
        yield "something was changed"


CATEGORY = Category(
    name="library",
    about="the desk of a public library",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    rules={"max_loans": (3, 4, 5), "max_fines": (4, 8, 12), "day_fine": (1, 2)},
    law="A member may borrow with fewer than {max_loans} loans and at most {max_fines} in fines.",
    templates=(
        Template("returns", propose_returns, solve_returns, check_returns),
        Template("reading", propose_reading, solve_reading, check_reading, hidden=("member",)),
        Template("overdue", propose_overdue, solve_overdue, check_overdue, (list, "the members' names, in any order.")),
    ),
)

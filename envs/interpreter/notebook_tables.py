"""Problems about tables: CSV and JSON files to join, clean, group and count.

user       The files customers.csv and orders.csv are in the working directory. … What did customers from
           Lima spend on garden items in total, in euros?
assistant  python(code="import csv\\n…")
tool       4127.35
assistant  \\boxed{4127.35}
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from fractions import Fraction
from typing import Any

from envs.interpreter.notebook_problem import Problem, by_level, csv_file, fixed, kind, solver
from envs.words import CITIES, COLORS, FIRST_NAMES, JOBS, LAST_NAMES, NOUNS

_CATEGORIES = ("garden", "kitchen", "office", "sports", "toys", "music")
_REGIONS = ("north", "south", "east", "west", "centre", "islands", "coast", "hills")


def exact_text(value: Fraction, decimals: int) -> str:
    """A value with four digits more than are asked for, so that both ways of rounding a half are right."""
    scaled = round(value * 10 ** (decimals + 4))
    sign, digits = "-" if scaled < 0 else "", str(abs(scaled)).rjust(decimals + 5, "0")
    return f"{sign}{digits[: -decimals - 4]}.{digits[-decimals - 4 :]}"


@kind("data")
def orders_join(rng: random.Random, level: int) -> Problem:
    """Two or three tables joined, filtered and summed."""
    people, count = by_level(level, (12, 60), (30, 200), (60, 700), (120, 2500))
    cities, categories = rng.sample(CITIES, 5), rng.sample(_CATEGORIES, 4)
    customers = [
        (100 + i, f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}", rng.choice(cities)) for i in range(people)
    ]
    products = [(500 + i, rng.choice(categories), rng.randint(150, 9900)) for i in range(6 * level + 6)]
    orders = []
    for i in range(count):
        customer, product = rng.choice(customers), rng.choice(products)
        orders.append(
            (
                i + 1,
                customer[0],
                product[0],
                rng.randint(1, 9),
                f"2024-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
            )
        )
    city, category = rng.choice(cities), rng.choice(categories)
    months = sorted(rng.sample(range(1, 13), 12 if level == 1 else 6))
    # orders of customers that have left are in the file too, and count for nobody
    strangers = [
        (count + 1 + i, 90 - i, rng.choice(products)[0], rng.randint(1, 9), "2024-05-05") for i in range(level * 3)
    ]
    city_of = {number: town for number, _, town in customers}
    sold = {number: (group, cents) for number, group, cents in products}
    total = sum(
        amount * sold[product][1]
        for _, customer, product, amount, day in orders
        if city_of[customer] == city and sold[product][0] == category and int(day[5:7]) in months
    )
    rows = orders + strangers
    rng.shuffle(rows)
    listed = "the whole year" if level == 1 else f"the months {', '.join(str(m) for m in months)} of 2024"
    question = (
        "customers.csv lists customers (customer_id, name, city), products.csv products (product_id, category, "
        "price in euros), orders.csv orders (order_id, customer_id, product_id, quantity, date). Orders whose "
        "customer is not in customers.csv do not count. How many euros did customers from "
        f"{city} spend on products of the category {category} in {listed}? Give the amount with 2 decimals."
    )
    program = solver(
        """
        import csv
        from decimal import Decimal
        read = lambda name: list(csv.DictReader(open(name)))
        where = {c["customer_id"]: c["city"] for c in read("customers.csv")}
        goods = {p["product_id"]: p for p in read("products.csv")}
        total = Decimal("0.00")
        for o in read("orders.csv"):
            p = goods[o["product_id"]]
            month = int(o["date"].split("-")[1])
            if where.get(o["customer_id"]) == city and p["category"] == category and month in months:
                total += Decimal(p["price"]) * int(o["quantity"])
        print(total)
        """,
        city=city,
        category=category,
        months=months,
    )
    files = {
        "customers.csv": csv_file("customer_id,name,city", customers),
        "products.csv": csv_file("product_id,category,price", [(n, c, fixed(p)) for n, c, p in products]),
        "orders.csv": csv_file("order_id,customer_id,product_id,quantity,date", rows),
    }
    return Problem(question, fixed(total), program, len(rows), files, decimals=2)


@kind("data")
def dirty_sales(rng: random.Random, level: int) -> Problem:
    """A sales table with doubled rows, spellings of its own, missing values and several ways to write an amount."""
    count = by_level(level, 40, 150, 600, 2000)
    regions = rng.sample(_REGIONS, 4)
    clean_rows = [(1000 + i, rng.choice(regions), rng.randint(500, 250_000)) for i in range(count)]
    missing = set(rng.sample(range(count), count // 12 + 1))

    def dirty_amount(cents: int) -> str:
        text = fixed(cents)
        return rng.choice([text, f"${text}", f"{text} USD", f" {text} ", f"USD {text}"])

    def dirty_region(name: str) -> str:
        return rng.choice([name, name.upper(), name.title(), f" {name}", f"{name.title()} "])

    rows = []
    for i, (number, region, cents) in enumerate(clean_rows):
        amount = rng.choice(["", "N/A", "-", "null"]) if i in missing else dirty_amount(cents)
        copies = 2 if rng.random() < 0.08 * level else 1
        rows += [(number, dirty_region(region), amount)] * copies
    rng.shuffle(rows)
    totals: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for i, (_, region, cents) in enumerate(clean_rows):
        if i not in missing:
            totals[region] += cents
            numbers[region] += 1
    region = rng.choice(regions)
    if level % 2:
        answer, ask, report = fixed(totals[region]), "the sum of the amounts", "print(sum(kept))"
    else:
        answer = exact_text(Fraction(totals[region], 100 * numbers[region]), 2)
        ask, report = "the mean amount", "print(round(sum(kept) / len(kept), 6))"
    question = (
        "sales.csv (sale_id, region, amount) was typed by many hands. Rows with the same sale_id are the same sale "
        "and "
        "count once. Regions differ in case and spaces only. Amounts are in dollars, written as 12.50, $12.50, "
        "12.50 USD or USD 12.50; empty, N/A, - and null mean that the amount is unknown, and such sales are left "
        "out. "
        f"What is {ask} of the region {region}? Round to 2 decimals."
    )
    program = solver(
        """
        import csv, re
        from decimal import Decimal
        seen, kept = set(), []
        for row in csv.DictReader(open("sales.csv")):
            if row["sale_id"] in seen:
                continue
            seen.add(row["sale_id"])
            found = re.search(r"\\d+\\.\\d+", row["amount"])
            if found and row["region"].strip().lower() == region:
                kept.append(Decimal(found.group()))
        """,
        region=region,
    )
    return Problem(
        question, answer, program + report + "\n", len(rows), {"sales.csv": csv_file("sale_id,region,amount", rows)}, 2
    )


def _tree(rng: random.Random, depth: int, breadth: int, names: list[str]) -> dict[str, Any]:
    node: dict[str, Any] = {"unit": names.pop(), "staff": []}
    for _ in range(rng.randint(1, 4)):
        person = {"name": f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}", "job": rng.choice(JOBS)}
        node["staff"].append({**person, "salary": rng.randint(1800, 9900), "remote": rng.random() < 0.4})
    if depth:
        node["units"] = [_tree(rng, depth - 1, breadth, names) for _ in range(rng.randint(2, breadth))]
    return node


@kind("data")
def nested_staff(rng: random.Random, level: int) -> Problem:
    """An organisation as nested JSON: sums over a subtree."""
    depth, breadth = by_level(level, (2, 3), (3, 3), (4, 3), (5, 4))
    names = [f"{a} {b}" for a in NOUNS for b in NOUNS if a != b]
    rng.shuffle(names)
    root = _tree(rng, depth, breadth, names)
    units: list[dict[str, Any]] = []

    def walk(node: dict[str, Any], into: list[dict[str, Any]]) -> None:
        into.append(node)
        for child in node.get("units", []):
            walk(child, into)

    walk(root, units)
    top = rng.choice(root["units"])
    below: list[dict[str, Any]] = []
    walk(top, below)
    staff = [person for node in below for person in node["staff"]]
    jobs = sorted({p["job"] for p in staff})
    chosen = sorted(rng.sample(jobs, min(len(jobs), max(2, len(jobs) - 3))))
    remote = rng.random() < 0.5
    total = sum(p["salary"] for p in staff if p["job"] in chosen and p["remote"] == remote)
    question = (
        "company.json is a tree: every unit has a name (unit), its own staff (name, job, monthly salary, remote) "
        "and, in "
        f'units, the units below it. What is the sum of the salaries of all people in the unit "{top["unit"]}" and '
        f"everything below it who {'work' if remote else 'do not work'} remotely and whose job is one of: "
        f"{', '.join(chosen)}?"
    )
    program = solver(
        """
        import json
        def people(node, inside):
            inside = inside or node["unit"] == unit
            for p in node["staff"] if inside else []:
                yield p
            for child in node.get("units", []):
                yield from people(child, inside)
        root = json.load(open("company.json"))
        print(sum(p["salary"] for p in people(root, False) if p["job"] in jobs and p["remote"] is remote))
        """,
        unit=top["unit"],
        jobs=chosen,
        remote=remote,
    )
    size = sum(len(node["staff"]) for node in units)
    return Problem(question, total, program, size, {"company.json": json.dumps(root, indent=1).encode()})


@kind("data")
def account_ledger(rng: random.Random, level: int) -> Problem:
    """Transactions in order, with transfers, overdrafts that are refused and reversals."""
    accounts = rng.sample(NOUNS, by_level(level, 3, 5, 8, 12))
    balance = {name: rng.randint(100, 900) for name in accounts}
    opening = dict(balance)
    done: dict[int, tuple[str | None, str | None, int]] = {}
    lines: list[dict[str, Any]] = []
    for number in range(1, by_level(level, 30, 120, 500, 2000) + 1):
        action = rng.choices(["deposit", "withdraw", "transfer", "reverse"], weights=[3, 3, 4, level - 1])[0]
        source: str | None = None
        target: str | None = None
        if action == "reverse" and number > 5:
            other = rng.randint(1, number - 1)
            lines.append({"id": number, "type": action, "of": other})
            if other not in done:
                continue
            target, source, amount = done.pop(other)
        else:
            action = "deposit" if action == "reverse" else action
            amount = rng.randint(5, 400)
            record: dict[str, Any] = {"id": number, "type": action, "amount": amount}
            if action != "deposit":
                source = record["from"] = rng.choice(accounts)
            if action != "withdraw":
                target = record["to"] = rng.choice([a for a in accounts if a != source])
            lines.append(record)
            if source is not None and balance[source] < amount:
                continue
            done[number] = (source, target, amount)
        if source is not None:
            balance[source] -= amount
        if target is not None:
            balance[target] += amount
    account = rng.choice(accounts)
    question = (
        "ledger.jsonl holds one transaction a line, in order: deposit (to), withdraw (from), transfer (from, to), "
        "each "
        "with an amount, and reverse (of: an id). A withdrawal or transfer of more than the account holds is refused "
        "and changes nothing. A reverse undoes the transaction of that id, even if an account goes below zero by "
        "it; it does "
        "nothing if that transaction was refused, was undone before, or is itself a reverse. The opening balances "
        "are "
        f"in opening.json. What is the balance of the account {account} at the end?"
    )
    program = solver(
        """
        import json
        balance = json.load(open("opening.json"))
        undo = {}
        for line in open("ledger.jsonl"):
            t = json.loads(line)
            if t["type"] == "reverse":
                for name, change in undo.pop(t["of"], {}).items():
                    balance[name] -= change
                continue
            changes = {}
            if "from" in t:
                if balance[t["from"]] < t["amount"]:
                    continue
                changes[t["from"]] = -t["amount"]
            if "to" in t:
                changes[t["to"]] = t["amount"]
            for name, change in changes.items():
                balance[name] += change
            undo[t["id"]] = changes
        print(balance[account])
        """,
        account=account,
    )
    files = {
        "opening.json": json.dumps(opening).encode(),
        "ledger.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode(),
    }
    return Problem(question, balance[account], program, len(lines), files)


@kind("data")
def survey_groups(rng: random.Random, level: int) -> Problem:
    """Group by two columns; the groups with the highest medians, in order."""
    count = by_level(level, 60, 240, 900, 3000)
    cities, colors = rng.sample(CITIES, by_level(level, 3, 4, 6, 8)), rng.sample(COLORS, by_level(level, 3, 4, 5, 6))
    best: list[str] = []
    while not best:
        lift = {(city, color): rng.randint(0, 400) for city in cities for color in colors}
        rows: list[tuple[int, str, str, Any]] = []
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for i in range(count):
            city, color = rng.choice(cities), rng.choice(colors)
            score = lift[city, color] + rng.randint(0, 600)
            if rng.random() < 0.06:
                rows.append((i, city, color, ""))
                continue
            rows.append((i, city, color, score))
            groups[city, color].append(score)
        twice = {}  # twice the median, a whole number
        for name, scores in groups.items():
            ordered, middle = sorted(scores), len(scores) // 2
            twice[name] = 2 * ordered[middle] if len(scores) % 2 else ordered[middle - 1] + ordered[middle]
        ranked = sorted(twice, key=lambda name: -twice[name])
        if len({twice[name] for name in ranked[:4]}) == 4:  # no ties: there is one right order
            best = [f"{city} {color}" for city, color in ranked[:3]]
    question = (
        "survey.csv (person, city, colour, score) holds the answers of a survey; an empty score is no answer and "
        "left out. "
        "Group the rows by city and colour and take the median score of each group (of an even number of scores, "
        "the mean of "
        "the two in the middle). Which three groups have the highest medians, highest first? Answer with a "
        "comma-separated "
        'list of "city colour", such as "Rome black, Oslo red, Lima white".'
    )
    program = solver(
        """
        import csv, statistics
        groups = {}
        for row in csv.DictReader(open("survey.csv")):
            if row["score"]:
                groups.setdefault(row["city"] + " " + row["colour"], []).append(int(row["score"]))
        medians = {name: statistics.median(scores) for name, scores in groups.items()}
        print(", ".join(sorted(medians, key=medians.get, reverse=True)[:3]))
        """
    )
    return Problem(question, best, program, count, {"survey.csv": csv_file("person,city,colour,score", rows)})


@kind("data")
def room_bookings(rng: random.Random, level: int) -> Problem:
    """Bookings as intervals: how long was a room in use, overlaps counted once."""
    count, rooms = by_level(level, (20, 2), (80, 4), (300, 6), (1200, 10))
    names = rng.sample(COLORS, rooms)
    bookings = []
    for i in range(count):
        start = rng.randrange(0, 7 * 24 * 60 - 300)
        bookings.append((i + 1, rng.choice(names), start, start + rng.randint(10, by_level(level, 90, 80, 60, 50))))
    room = rng.choice(names)
    minutes = [0] * (7 * 24 * 60)
    for _, name, start, end in bookings:
        if name == room:
            for minute in range(start, end):
                minutes[minute] += 1
    need = 1 if level < 3 else 2
    answer = sum(1 for n in minutes if n >= need)

    def moment(minute: int) -> str:
        return f"2024-03-{4 + minute // 1440:02d} {minute // 60 % 24:02d}:{minute % 60:02d}"

    rows = [(n, name, moment(start), moment(end)) for n, name, start, end in bookings]
    what = "at least one booking" if need == 1 else "at least two bookings at the same time"
    question = (
        "bookings.csv (booking, room, start, end) lists the bookings of one week; a booking lasts from its start up "
        "to, but not "
        f"including, its end. For how many minutes in all did the room {room} have {what}?"
    )
    program = solver(
        """
        import csv
        from datetime import datetime
        events = []
        for row in csv.DictReader(open("bookings.csv")):
            if row["room"] == room:
                events += [(datetime.fromisoformat(row["start"]), 1), (datetime.fromisoformat(row["end"]), -1)]
        events.sort()
        total = active = 0
        last = None
        for when, change in events:
            if active >= need:
                total += int((when - last).total_seconds()) // 60
            active, last = active + change, when
        print(total)
        """,
        room=room,
        need=need,
    )
    return Problem(question, answer, program, count, {"bookings.csv": csv_file("booking,room,start,end", rows)})

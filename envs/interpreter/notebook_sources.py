"""Data in files of several kinds whose layout the question does not tell: look first, then compute.

    user       stock.sqlite, prices.xml and moves.csv are in the working directory; look at how they are laid out. …
    assistant  python(code="import sqlite3\\nsqlite3.connect('stock.sqlite').execute('select sql from sqlite_master')…")
    tool       [('CREATE TABLE bestand (nr TEXT, platz TEXT, menge INTEGER)',)]
    assistant  python(code="…")

Names of tables and columns, their order and the separator are drawn, so one cell written in advance does not do.
"""

from __future__ import annotations

import random
import sqlite3
from typing import Any
from xml.sax.saxutils import quoteattr

from envs.interpreter.notebook_problem import Problem, by_level, fixed, kind, solver

_TOWNS = ("Aarhus", "Bergen", "Cuneo", "Delft", "Evora", "Faro", "Ghent", "Husum")
_WORDS = {
    "table": ("bestand", "holdings", "inventory", "lager", "on_hand", "shelf"),
    "article": ("art", "item_no", "nr", "ref", "sku", "code"),
    "town": ("place", "site", "depot", "platz", "location", "branch"),
    "pieces": ("amount", "menge", "n", "qty", "units", "pcs"),
}


@kind("data")
def stock_sources(rng: random.Random, level: int) -> Problem:
    """The value of a warehouse, from a database, an XML file and a table of moves."""
    articles, towns, moved = by_level(level, (8, 3, 10), (30, 5, 80), (90, 7, 400), (250, 8, 1500))
    names = [f"{rng.choice('ABCDEFGH')}{number:03d}" for number in rng.sample(range(1000), articles)]
    places = list(_TOWNS[:towns])
    stock = {(a, t): rng.randint(0, 90) for a in names for t in places if rng.random() < 0.7}
    day = rng.randint(8, 20)
    moves = [
        (rng.choice(names), rng.choice(places), rng.randint(1, 28), rng.choice([-1, 1, 1]) * rng.randint(1, 40))
        for _ in range(moved)
    ]
    prices = {name: _prices(rng, level) for name in names}
    town = rng.choice(places)
    total = 0
    for name in names:
        pieces = stock.get((name, town), 0) + sum(n for a, t, d, n in moves if (a, t) == (name, town) and d <= day)
        total += pieces * max(entry for entry in prices[name] if entry[0] <= day)[1]
    question = (
        "stock.sqlite, prices.xml and moves.csv are in the working directory; look at how they are laid out. The "
        "database has one table with the pieces of every article in every town at the end of 31 May. moves.csv has the "
        "moves of June: an article, a town, the day of the month and the pieces that came (below zero: that went). "
        "prices.xml has the prices of the articles with the day of June from which each holds, in euros or in cents; "
        f"the latest one counts. What was the stock of {town} worth at the end of {day} June, in cents?"
    )
    program = solver(
        """
        import csv, sqlite3
        import xml.etree.ElementTree as xml
        base = sqlite3.connect("stock.sqlite")
        (table,) = base.execute("select name from sqlite_master where type = 'table'").fetchone()
        rows = base.execute(f"select * from {table}").fetchall()
        def columns(rows):  # by what stands in them: towns repeat and have no digit, the article has both, pieces none
            shown = list(zip(*rows))
            where = next(n for n, c in enumerate(shown) if all(str(v).isalpha() for v in c))
            article = next(n for n, c in enumerate(shown) if all(str(v)[0].isalpha() for v in c) and n != where)
            return article, where, [n for n in range(len(shown)) if n not in (article, where)]
        article, where, (pieces,) = columns(rows)
        have = {row[article]: row[pieces] for row in rows if row[where] == town}
        text = open("moves.csv").read()
        header, *lines = csv.reader(text.splitlines(), delimiter=";" if ";" in text else ",")
        article, where, rest = columns(lines)
        when = next(n for n in rest if header[n] == "day")
        (pieces,) = [n for n in rest if n != when]
        for line in lines:
            if line[where] == town and int(line[when]) <= day:
                have[line[article]] = have.get(line[article], 0) + int(line[pieces])
        worth = 0
        for node in xml.parse("prices.xml").getroot():
            valid = [p for p in node if int(p.get("from")) <= day]
            last = max(valid, key=lambda p: int(p.get("from")))
            cents = int(last.get("cents")) if last.get("cents") else round(float(last.get("euros")) * 100)
            worth += cents * have.get(node.get("id"), 0)
        print(worth)
        """,
        town=town,
        day=day,
    )
    files = {
        "stock.sqlite": _database(rng, [(a, t, n) for (a, t), n in stock.items()]),
        "prices.xml": _xml(rng, prices),
        "moves.csv": _moves(rng, level, moves),
    }
    return Problem(question, total, program, articles * towns + moved, files)


def _prices(rng: random.Random, level: int) -> list[tuple[int, int]]:
    """(day of June, cents); the first holds from the beginning."""
    days = [1, *rng.sample(range(2, 29), by_level(level, 0, 1, 2, 4))]
    return [(day, rng.randint(50, 9999)) for day in days]


def _database(rng: random.Random, rows: list[tuple[str, str, int]]) -> bytes:
    names = {role: rng.choice(words) for role, words in _WORDS.items()}
    roles = rng.sample(["article", "town", "pieces"], 3)
    kinds = {"article": "TEXT", "town": "TEXT", "pieces": "INTEGER"}
    base = sqlite3.connect(":memory:")
    base.execute(f"CREATE TABLE {names['table']} ({', '.join(f'{names[r]} {kinds[r]}' for r in roles)})")
    place = {"article": 0, "town": 1, "pieces": 2}
    shuffled = rng.sample(rows, len(rows))
    base.executemany(
        f"INSERT INTO {names['table']} VALUES (?, ?, ?)", [tuple(row[place[r]] for r in roles) for row in shuffled]
    )
    base.commit()
    content = base.serialize()
    base.close()
    return content


def _xml(rng: random.Random, prices: dict[str, list[tuple[int, int]]]) -> bytes:
    lines = ['<?xml version="1.0"?>', "<prices>"]
    for name, entries in prices.items():
        lines.append(f"  <article id={quoteattr(name)}>")
        for day, cents in rng.sample(entries, len(entries)):
            unit = f'cents="{cents}"' if rng.random() < 0.5 else f'euros="{fixed(cents)}"'
            lines.append(f'    <price from="{day}" {unit}/>')
        lines.append("  </article>")
    return "\n".join([*lines, "</prices>", ""]).encode()


def _moves(rng: random.Random, level: int, moves: list[tuple[str, str, int, int]]) -> bytes:
    header: list[Any] = [rng.choice(_WORDS["article"]), rng.choice(_WORDS["town"]), "day", rng.choice(_WORDS["pieces"])]
    order = rng.sample(range(4), 4)
    separator = ";" if level >= 2 and rng.random() < 0.5 else ","
    return "".join(separator.join(str(row[n]) for n in order) + "\n" for row in (header, *moves)).encode()

"""The shop: customers and orders in an SQLite database in memory.

    customers(id, name, city)      orders(id, customer_id, status)      status: open, shipped, cancelled

Every customer has one order, which is open. Ids have three digits and are drawn at random: they have to
be looked up. ``ShopRows`` is the plain content: a database is built from it, and read back to it.
"""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass

from envs.words import CITIES, Naming, person_name

CUSTOMERS = 8
FIRST_ID, LAST_ID = 100, 999


@dataclass(frozen=True)
class ShopRows:
    """All rows, sorted: customers (id, name, city), orders (id, customer_id, status)."""

    customers: tuple[tuple[int, str, str], ...]
    orders: tuple[tuple[int, int, str], ...]

    def customer(self, name: str) -> int:
        """Id of the customer of that name. Raises KeyError."""
        return {row[1]: row[0] for row in self.customers}[name]

    def order_of(self, customer_id: int) -> int:
        """Id of the customer's order. Raises KeyError."""
        return {row[1]: row[0] for row in self.orders}[customer_id]

    def moved(self, customer_id: int, city: str) -> ShopRows:
        rows = tuple((i, n, city if i == customer_id else c) for i, n, c in self.customers)
        return ShopRows(rows, self.orders)

    def with_status(self, order_id: int, status: str) -> ShopRows:
        rows = tuple((i, c, status if i == order_id else s) for i, c, s in self.orders)
        return ShopRows(self.customers, rows)


def make_shop(seed: str, customer: tuple[int, str, str], order_id: int, naming: Naming = "numbers") -> ShopRows:
    """``CUSTOMERS`` random customers, one of them the given (id, name, city) with the given order."""
    rng = random.Random(f"shop/{seed}")
    ids = _others(rng, customer[0])
    orders = [order_id, *_others(rng, order_id)]
    names = {customer[1]}
    rows = [customer]
    for number in ids:
        name = person_name(rng, naming, "account")
        while name in names:
            name = person_name(rng, naming, "account")
        names.add(name)
        rows.append((number, name, rng.choice(CITIES)))
    return ShopRows(
        customers=tuple(sorted(rows)),
        orders=tuple(sorted((order, row[0], "open") for order, row in zip(orders, rows, strict=True))),
    )


def open_database(rows: ShopRows) -> sqlite3.Connection:
    """A fresh database in memory with these rows. May be used from any one thread at a time."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.executescript(
        "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, city TEXT NOT NULL);"
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL, status TEXT NOT NULL);"
    )
    database.executemany("INSERT INTO customers VALUES (?, ?, ?)", rows.customers)
    database.executemany("INSERT INTO orders VALUES (?, ?, ?)", rows.orders)
    return database


def read_database(database: sqlite3.Connection) -> ShopRows:
    """Everything in the database now."""
    return ShopRows(
        customers=tuple(database.execute("SELECT id, name, city FROM customers ORDER BY id")),
        orders=tuple(database.execute("SELECT id, customer_id, status FROM orders ORDER BY id")),
    )


def _others(rng: random.Random, taken: int) -> list[int]:
    return rng.sample([n for n in range(FIRST_ID, LAST_ID + 1) if n != taken], CUSTOMERS - 1)

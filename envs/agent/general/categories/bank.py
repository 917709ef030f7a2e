"""A bank: customers, their accounts, and transfers between them.

Pay from Mara Lind's accounts: 320 to Otto Blake, 145 to ... Each payment comes whole from one account ...
"""

from __future__ import annotations

import itertools
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

SCHEMA = {
    "customer": "id integer, name text, city text",
    "account": "number integer, owner integer, kind text, balance integer",
    "transfer": "id integer, source integer, target integer, amount integer, day integer, note text",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    count = 12 + 3 * size
    account_numbers = iter(numbers(rng, 4 * count, 10000, 99999))
    for number, name in zip(numbers(rng, count, 100, 999), people(rng, count), strict=True):
        rows["customer"].append({"id": number, "name": name, "city": rng.choice(("Oslo", "Rome", "Lima", "Cairo"))})
        for kind in ("current", *rng.choices(("savings", "deposit", "household"), k=rng.randint(1, 3))):
            account = {"number": next(account_numbers), "owner": number, "kind": kind}
            rows["account"].append({**account, "balance": rng.randrange(200, 1500, 5)})
    transfers = []
    for _ in range(60 + 10 * size):
        source, target = rng.sample(rows["account"], 2)
        amount, day = rng.randrange(10, 400, 5), rng.randint(1, 30)
        transfers.append(
            (source["number"], target["number"], amount, day, rng.choice(("rent", "gift", "books", "repair")))
        )
    for source, target, amount, day, note in rng.sample(transfers, 12):  # sent twice by mistake, or only alike
        transfers.append((source, target, amount + rng.choice((0, 0, 0, 5)), day, note))
    for _ in range(6):  # money that is handed on
        way, amount, day = rng.sample(rows["account"], 5), rng.randrange(401, 900, 7), rng.randint(1, 10)
        for source, target in itertools.pairwise(way):
            transfers.append((source["number"], target["number"], amount, day, rng.choice(("gift", "repair"))))
            amount, day = amount - rules["fee"], day + rng.randint(1, 4)
    rng.shuffle(transfers)
    for number, row in zip(
        numbers(rng, len(transfers), 1000, 9999), sorted(transfers, key=lambda t: t[3]), strict=True
    ):
        keys = ("source", "target", "amount", "day", "note")
        rows["transfer"].append({"id": number, **dict(zip(keys, row, strict=True))})
    return rows


def transfer(database: Database, source: int, target: int, amount: int) -> str:
    sender = row_or_error(database, "account", "number", source)
    row_or_error(database, "account", "number", target)
    if amount < 1 or source == target:
        raise ToolError("a transfer moves at least 1 to another account.")
    if sender["balance"] - amount < database.rules["keep"]:
        raise ToolError(f"the account must keep {database.rules['keep']}.")
    database.run("UPDATE account SET balance = balance - ? WHERE number = ?", amount, source)
    database.run("UPDATE account SET balance = balance + ? WHERE number = ?", amount, target)
    number = database.next_id("transfer")
    database.add("transfer", id=number, source=source, target=target, amount=amount, day=31, note="order")
    return f"transfer {number}"


def reverse(database: Database, id: int) -> str:
    row = row_or_error(database, "transfer", "id", id)
    database.run("UPDATE account SET balance = balance + ? WHERE number = ?", row["amount"], row["source"])
    database.run("UPDATE account SET balance = balance - ? WHERE number = ?", row["amount"], row["target"])
    database.run("DELETE FROM transfer WHERE id = ?", id)
    return "ok"


TOOLS = (
    detail("find_customer", "The id of a customer.", "customer", "id", name="customer.name"),
    detail("get_customer", "All about a customer.", "customer", id="customer.id"),
    listing("list_accounts", "A customer's accounts.", "account", "number kind balance", owner="customer.id"),
    detail("get_account", "Owner, kind and balance of an account.", "account", number="account.number"),
    listing(
        "list_sent",
        "Transfers from an account, by day.",
        "transfer",
        "id target amount day note",
        source="account.number",
    ),
    action(
        "transfer",
        "Move money between accounts.",
        transfer,
        source="account.number",
        target="account.number",
        amount=int,
    ),
    action("reverse", "Undo a transfer.", reverse, id="transfer.id"),
)
EXTRA = (
    listing("list_received", "Transfers to an account.", "transfer", "id source amount day", target="account.number"),
    detail("get_transfer", "All about a transfer.", "transfer", id="transfer.id"),
    listing("list_customers_by_city", "Ids of the customers of a city.", "customer", city="customer.city"),
    listing("list_transfers_of_day", "Ids of the transfers of a day.", "transfer", day="transfer.day"),
)


def propose_bills(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    payer = rng.choice([c for c in world.all("customer") if len(world.all("account", owner=c["id"])) >= 2])
    accounts = world.all("account", owner=payer["id"])
    others = [c for c in world.all("customer") if c is not payer]
    bills: list[tuple[str, int]] = []
    savings_used = False
    for account in accounts:  # split what each account can give into payments, so that a way to pay exists
        room, kind = account["balance"] - world.rules["keep"], account["kind"]
        pieces = 1 if brief.level >= 3 and kind == "savings" else min(brief.level, 3)
        for _ in range(pieces):
            amount = rng.randint(room // (pieces + 1), room // pieces)
            if amount > 10 and len(bills) < 7 and not (kind == "deposit" and brief.level >= 4):
                bills.append((rng.choice(others)["name"], amount))
                savings_used |= kind == "savings"
    rng.shuffle(bills)
    names = [name for name, _ in bills]
    if len(bills) < brief.level + 1 or len(set(names)) < len(names):
        raise Unsuitable
    told = ", ".join(f"{amount} to {name}" for name, amount in bills)
    brief.ask(
        1,
        f"Pay from {payer['name']}'s accounts: {told}. Each payment is one transfer of the whole sum from one of the "
        "accounts to the receiver's current account. Change nothing else.",
        payer=payer["name"],
        owner=payer["id"],
        bills=[list(bill) for bill in bills],
    )
    brief.ask(3, "A savings account may make one payment at most.", once=True)
    brief.ask(4, "Nothing is paid from a deposit account.", no_deposit=True)


def solve_bills(tools: Any, need: dict[str, Any]) -> Any:
    accounts = tools.list_accounts(owner=tools.find_customer(name=need["payer"]))
    bills = sorted(need["bills"], key=lambda bill: -bill[1])
    targets = []
    for name, _ in bills:
        theirs = tools.list_accounts(owner=tools.find_customer(name=name))
        targets.append(next(account["number"] for account in theirs if account["kind"] == "current"))
    if "no_deposit" in need:
        accounts = [account for account in accounts if account["kind"] != "deposit"]

    def fits(plan: list[Any]) -> bool:
        for account in accounts:
            paid = [bill[1] for bill, source in zip(bills, plan, strict=False) if source["number"] == account["number"]]
            if account["balance"] - sum(paid) < need["keep"]:
                return False
            if "once" in need and account["kind"] == "savings" and len(paid) > 1:
                return False
        return True

    plan = first_plan([accounts] * len(bills), fits)
    for bill, source, target in zip(bills, plan, targets, strict=False):
        tools.transfer(source=source["number"], target=target, amount=bill[1])


def check_bills(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    gone, new = changed(world, end, "transfer")
    wanted = []
    for name, amount in need["bills"]:
        receiver = world.all("customer", name=name)[0]
        wanted.append((world.all("account", owner=receiver["id"], kind="current")[0]["number"], amount))
    if gone or sorted((row["target"], row["amount"]) for row in new) != sorted(wanted):
        yield "not exactly these payments were made"
    sources = [world.get("account", row["source"]) for row in new]
    if any(source["owner"] != need["owner"] for source in sources):
        yield "somebody else paid"
    saved = [source["number"] for source in sources if source["kind"] == "savings"]
    if "once" in need and len(set(saved)) < len(saved):
        yield "a savings account paid twice"
    if "no_deposit" in need and any(source["kind"] == "deposit" for source in sources):
        yield "a deposit account paid"


def propose_twice(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    doubles = twice(world, {"keys": ["source", "target", "amount", "day", "note"]})
    if not doubles:
        raise Unsuitable
    owner = world.get("account", rng.choice(doubles)["source"])["owner"]
    customer = world.get("customer", owner)
    brief.ask(1, "", name=customer["name"], owner=owner, low=0, keys=["source", "target", "amount", "day", "note"])
    brief.ask(3, "", low=rng.choice((20, 50)))
    asked = {
        1: "with the same target, amount, day and note",
        2: "with the same target, amount, day and note",
        3: f"with the same target, amount, day and note, if the amount is at least {brief.need['low']}",
        4: f"with the same target, amount and note, at most 2 days apart, of at least {brief.need['low']}",
    }[brief.level]
    brief.ask(4, "", keys=["source", "target", "amount", "note"], apart=2)
    brief.ask(
        1,
        f"{customer['name']} has made transfers twice by mistake: two transfers from one account {asked}. Reverse the "
        "one with the higher id of each such pair, on all accounts of this customer, and nothing else.",
    )
    found = [row["id"] for row in twice(world, brief.need)]
    if len(found) < (2 if brief.level >= 2 else 1):
        raise Unsuitable
    brief.ask(1, "", ids=found)


def twice(world: WorldSpec, need: Mapping[str, Any]) -> list[Row]:
    """Of each pair of transfers that are alike, the second."""
    found = []
    groups: dict[Any, list[Row]] = {}
    for row in world.all("transfer"):
        if "owner" in need and world.get("account", row["source"])["owner"] != need["owner"]:
            continue
        groups.setdefault(tuple(row[key] for key in need["keys"]), []).append(row)
    for row in [row for group in groups.values() for row in group if row["amount"] >= need.get("low", 0)]:
        for other in groups[tuple(row[key] for key in need["keys"])]:
            if other["id"] < row["id"] and row["day"] - other["day"] <= need.get("apart", 0):
                found.append(row)
                break
    return sorted(found, key=lambda row: int(row["id"]))


def solve_twice(tools: Any, need: dict[str, Any]) -> Any:
    wrong = []
    for account in tools.list_accounts(owner=tools.find_customer(name=need["name"])):
        sent = tools.list_sent(source=account["number"])
        for row in sent:
            for other in sent:
                alike = all(row[key] == other[key] for key in need["keys"] if key != "source")
                alike = alike and other["id"] < row["id"] and row["day"] - other["day"] <= need.get("apart", 0)
                if alike and row["amount"] >= need["low"] and row["id"] not in wrong:
                    wrong.append(row["id"])
    for number in wrong:
        tools.reverse(id=number)


def check_twice(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    gone, new = changed(world, end, "transfer")
    if new or [row["id"] for row in gone] != need["ids"]:
        yield "not exactly the doubled transfers were reversed"
    if not same(world, end, apart_from=("transfer", "account")):
        yield "something else was changed"


def propose_trail(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    first = rng.choice([row for row in world.all("transfer") if row["amount"] > 400])
    brief.ask(
        1,
        "",
        transfer=first["id"],
        source=first["source"],
        amount=first["amount"],
        steps={1: 1, 2: 2, 3: 3, 4: 3}[brief.level],
    )
    trail = follow(world, brief.need)
    if len(trail) != brief.need["steps"] + 1:
        raise Unsuitable
    fee = world.rules["fee"]
    less = f"less a fee of {fee}, " if fee else ""
    ask = "Give the names of the owners, from the first receiver to the last."
    if brief.level == 4:
        ask = "Give the names of those owners, from the first receiver to the last, who now have more than 1000 in "
        "all their accounts together."
    brief.ask(4, "", rich=1000)
    if brief.level == 4 and not 1 <= len(owners(world, brief.need)) < len(trail):
        raise Unsuitable
    brief.ask(
        1,
        f"Account {first['source']} sent {first['amount']} to another account. The whole sum, {less}was handed on by "
        f"the account that received it, later and within 4 days, and so on, {brief.need['steps']} time(s) in all. "
        f"{ask}",
    )


def follow(world: WorldSpec, need: Mapping[str, Any]) -> list[int]:
    """Accounts that the money came to, one after the other; empty where the trail is not the only one."""
    row = world.get("transfer", need["transfer"])
    alike = world.all("transfer", source=row["source"], amount=row["amount"])
    trail = [row["target"]]
    while len(trail) <= need["steps"] and len(alike) == 1:
        amount = row["amount"] - world.rules["fee"]
        onward = world.all("transfer", source=row["target"], amount=amount)
        alike = [other for other in onward if 0 < other["day"] - row["day"] <= 4]
        if len(alike) == 1:
            row = alike[0]
            trail.append(row["target"])
    return trail if len(alike) == 1 else []


def owners(world: WorldSpec, need: Mapping[str, Any]) -> list[str]:
    found = []
    for account in follow(world, need):
        owner = world.get("account", account)["owner"]
        if sum(row["balance"] for row in world.all("account", owner=owner)) > need.get("rich", -1):
            found.append(world.get("customer", owner)["name"])
    return found


def solve_trail(tools: Any, need: dict[str, Any]) -> Any:
    row = next(sent for sent in tools.list_sent(source=need["source"]) if sent["amount"] == need["amount"])
    trail = [row["target"]]
    for _ in range(need["steps"]):
        for sent in tools.list_sent(source=row["target"]):
            if sent["amount"] == row["amount"] - need["fee"] and 0 < sent["day"] - row["day"] <= 4:
                row = sent
                break
        trail.append(row["target"])
    names = []
    for number in trail:
        owner = tools.get_account(number=number)["owner"]
        if "rich" not in need or sum(a["balance"] for a in tools.list_accounts(owner=owner)) > need["rich"]:
            names.append(tools.get_customer(id=owner)["name"])
    tools.submit_result(result=names)


def check_trail(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if answer != owners(world, need):
        yield "not these owners"
    if not same(world, end):
        yield "something was changed"


CATEGORY = Category(
    name="bank",
    about="a bank",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    optional=("customer.city",),
    rules={"keep": (0, 25, 50, 100), "fee": (0, 1, 2, 3)},
    law="Every account must keep at least {keep}.",
    templates=(
        Template("bills", propose_bills, solve_bills, check_bills, hidden=("owner",)),
        Template("twice", propose_twice, solve_twice, check_twice, hidden=("owner", "ids")),
        Template(
            "trail", propose_trail, solve_trail, check_trail, (list, "a list of names in order."), hidden=("transfer",)
        ),
    ),
)

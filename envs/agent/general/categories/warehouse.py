"""Warehouses: products in stock, orders with lines, suppliers, and carriers' rates between cities.

Ship order 4711: each line whole, from one warehouse that has enough, so that all together costs least.
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
    row_or_error,
    titles,
)
from envs.agent.general.world import Database, Row, WorldSpec, same
from envs.environment import ToolError
from envs.words import CITIES

SCHEMA = {
    "warehouse": "name text, city text, cooled text",
    "product": "sku integer, name text, weight integer, cold text",
    "stock": "warehouse text, sku integer, amount integer",
    "purchase": "id integer, city text, status text",
    "line": "purchase integer, sku integer, amount integer",
    "rate": "start text, destination text, base integer, per_kilo integer",
    "shipment": "id integer, purchase integer, warehouse text, sku integer, amount integer",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    cities = rng.sample(CITIES, 8)
    for name, city in zip(titles(rng, 4 + size, "Depot"), cities, strict=False):
        rows["warehouse"].append({"name": name, "city": city, "cooled": rng.choice(("yes", "no", "yes"))})
    for sku, name in zip(numbers(rng, 14, 1000, 9999), titles(rng, 14), strict=True):
        rows["product"].append(
            {"sku": sku, "name": name, "weight": rng.randint(1, 20), "cold": rng.choice(("no", "no", "yes"))}
        )
        for warehouse in rows["warehouse"]:
            amount = rng.choice((0, rng.randint(1, 12), rng.randint(8, 40)))
            if rows["product"][-1]["cold"] == "yes" and warehouse["cooled"] == "no":
                amount = 0
            rows["stock"].append({"warehouse": warehouse["name"], "sku": sku, "amount": amount})
    for number in numbers(rng, 10, 100, 999):
        rows["purchase"].append({"id": number, "city": rng.choice(cities), "status": "open"})
        for product in rng.sample(rows["product"], rng.randint(2, 4)):
            rows["line"].append({"purchase": number, "sku": product["sku"], "amount": rng.randint(2, 15)})
    for start in cities:
        for destination in cities:
            rate = {"start": start, "destination": destination, "base": rng.randint(5, 30)}
            rows["rate"].append({**rate, "per_kilo": rng.randint(1, 4)})
    return rows


def held(database: Database, warehouse: str, sku: int) -> int:
    row_or_error(database, "warehouse", "name", warehouse)
    row_or_error(database, "product", "sku", sku)
    row = database.one("SELECT amount FROM stock WHERE warehouse = ? AND sku = ?", warehouse, sku)
    return row["amount"] if row else 0


def take(database: Database, warehouse: str, sku: int, amount: int) -> None:
    if amount < 1 or held(database, warehouse, sku) - amount < 0:
        raise ToolError("the warehouse does not have that amount.")
    database.run("UPDATE stock SET amount = amount - ? WHERE warehouse = ? AND sku = ?", amount, warehouse, sku)


def ship(database: Database, order: int, warehouse: str, sku: int, amount: int) -> str:
    row_or_error(database, "purchase", "id", order)
    take(database, warehouse, sku, amount)
    number = database.next_id("shipment")
    database.add("shipment", id=number, purchase=order, warehouse=warehouse, sku=sku, amount=amount)
    return f"shipment {number}"


def move(database: Database, sku: int, source: str, target: str, amount: int) -> str:
    product, place = row_or_error(database, "product", "sku", sku), row_or_error(database, "warehouse", "name", target)
    if product["cold"] == "yes" and place["cooled"] == "no":
        raise ToolError("the product must be kept cold, and that warehouse is not cooled.")
    take(database, source, sku, amount)
    database.run("UPDATE stock SET amount = amount + ? WHERE warehouse = ? AND sku = ?", amount, target, sku)
    return "ok"


def close_order(database: Database, order: int) -> str:
    if not database.run("UPDATE purchase SET status = 'shipped' WHERE id = ? AND status = 'open'", order):
        raise ToolError("there is no open order of that number.")
    return "ok"


TOOLS = (
    listing("list_warehouses", "All warehouses.", "warehouse", "name city cooled"),
    listing("list_products", "The sku of every product.", "product"),
    detail("get_product", "All about a product; weight in kilos.", "product", sku="product.sku"),
    listing("get_stock", "Pieces of a product in each warehouse.", "stock", "warehouse amount", sku="product.sku"),
    detail("get_order", "City and status of an order.", "purchase", id="purchase.id"),
    listing("list_lines", "The products and amounts of an order.", "line", "sku amount", purchase="purchase.id"),
    detail(
        "get_rate", "Base price of a shipment, and price per kilo, between cities.", "rate", "base per_kilo",
        start="rate.start", destination="rate.destination",
    ),
    action(
        "ship", "Send pieces of a product for an order.", ship,
        order="purchase.id", warehouse="warehouse.name", sku="product.sku", amount=int,
    ),
    action("close_order", "Mark an order as shipped.", close_order, order="purchase.id"),
    action(
        "move_stock", "Move pieces between warehouses.", move,
        sku="product.sku", source="warehouse.name", target="warehouse.name", amount=int,
    ),
)  # fmt: skip
EXTRA = (
    listing("list_stock_of", "All that a warehouse has.", "stock", "sku amount", warehouse="warehouse.name"),
    listing("list_orders_to", "Numbers of the orders to a city.", "purchase", city="purchase.city"),
    listing("list_orders_with", "Orders with a product.", "line", "purchase amount", sku="product.sku"),
    detail("find_product", "The sku of a product.", "product", "sku", name="product.name"),
)


def amount_in(world: WorldSpec, warehouse: str, sku: int) -> int:
    return int(world.all("stock", warehouse=warehouse, sku=sku)[0]["amount"])


def cost(world: WorldSpec, start: str, order: Row, sku: int, amount: int) -> int:
    rate = world.all("rate", start=start, destination=order["city"])[0]
    return int(rate["base"] + rate["per_kilo"] * world.get("product", sku)["weight"] * amount)


def propose_ship(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    order = rng.choice(world.all("purchase"))
    reserve = {1: 0, 2: 0, 3: rng.randint(1, 3), 4: rng.randint(2, 5)}[brief.level]
    brief.ask(
        1,
        f"Ship order {order['id']} and close it. Each line is sent whole, as one shipment from one warehouse that has "
        "enough. A shipment costs the base price of its way, and the price per kilo times its weight; all shipments "
        "together cost as little as possible.",
        order=order["id"],
        reserve=reserve,
    )
    brief.ask(2, "No two lines are sent from the same warehouse.", apart=True)
    brief.ask(3, f"At least {reserve} pieces of the product must stay in that warehouse.")
    brief.ask(4, "A line that no warehouse can send so is left out, and then the order stays open.", partly=True)
    best = cheapest(world, brief.need)
    if not best or (brief.level == 1 and len(best) < 2):
        raise Unsuitable
    lines = world.all("line", purchase=order["id"])
    if len(best) < len(lines) and brief.level < 4:
        raise Unsuitable
    brief.ask(1, "", total=sum(price for _, price in best.values()), lines=sorted(best))


def cheapest(world: WorldSpec, need: Mapping[str, Any]) -> dict[int, tuple[str, int]]:
    """For each sku that can be shipped, warehouse and price of the plan that costs least; empty when there is none."""
    order, options = world.get("purchase", need["order"]), {}
    for line in world.all("line", purchase=order["id"]):
        found = []
        for place in world.all("warehouse"):
            if amount_in(world, place["name"], line["sku"]) - line["amount"] >= need["reserve"]:
                found.append((place["name"], cost(world, place["city"], order, line["sku"], line["amount"])))
        if found:
            options[line["sku"]] = found
    best: dict[int, tuple[str, int]] = {}

    def extend(skus: list[int], plan: dict[int, tuple[str, int]]) -> None:
        nonlocal best
        if not skus:
            if not best or sum(p for _, p in plan.values()) < sum(p for _, p in best.values()):
                best = plan
            return
        for option in options[skus[0]]:
            if "apart" not in need or option[0] not in [name for name, _ in plan.values()]:
                extend(skus[1:], {**plan, skus[0]: option})

    extend(list(options), {})
    return best


def solve_ship(tools: Any, need: dict[str, Any]) -> Any:
    city = tools.get_order(id=need["order"])["city"]
    lines, slots = tools.list_lines(purchase=need["order"]), []
    rates = {}
    for place in tools.list_warehouses():
        rates[place["name"]] = tools.get_rate(start=place["city"], destination=city)
    for line in lines:
        weight, options = tools.get_product(sku=line["sku"])["weight"], []
        for stock in tools.get_stock(sku=line["sku"]):
            rate = rates[stock["warehouse"]]
            if stock["amount"] - line["amount"] >= need["reserve"]:
                price = rate["base"] + rate["per_kilo"] * weight * line["amount"]
                options.append([price, stock["warehouse"], line["sku"], line["amount"]])
        if options:
            slots.append(sorted(options))
    best: Any = [None, 999999]

    def extend(plan: list[Any], price: Any) -> None:
        if len(plan) == len(slots):
            if price < best[1]:
                best[0], best[1] = plan, price
            return
        for option in slots[len(plan)]:
            if "apart" not in need or option[1] not in [other[1] for other in plan]:
                extend([*plan, option], price + option[0])

    extend([], 0)
    for option in best[0]:
        tools.ship(order=need["order"], warehouse=option[1], sku=option[2], amount=option[3])
    if len(slots) == len(lines):
        tools.close_order(order=need["order"])


def check_ship(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    order, sent = world.get("purchase", need["order"]), end.all("shipment")
    lines = {line["sku"]: line["amount"] for line in world.all("line", purchase=order["id"])}
    if any(row["purchase"] != order["id"] for row in sent) or not same(
        world, end, apart_from=("stock", "shipment", "purchase")
    ):
        yield "something else was changed"
    if sorted((r["sku"], r["amount"]) for r in sent) != sorted((s, lines[s]) for s in need["lines"]):
        yield "not exactly these lines were sent"
    for row in sent:
        if amount_in(world, row["warehouse"], row["sku"]) - row["amount"] < need["reserve"]:
            yield "too little stays in a warehouse"
    used = [row["warehouse"] for row in sent]
    if "apart" in need and len(set(used)) < len(used):
        yield "two lines came from one warehouse"
    total = sum(cost(world, world.get("warehouse", r["warehouse"])["city"], order, r["sku"], r["amount"]) for r in sent)
    if total > need["total"]:
        yield "there is a cheaper plan"
    status = "shipped" if len(lines) == len(sent) else "open"
    wanted = [{**row, "status": status} if row == order else row for row in world.all("purchase")]
    if end.all("purchase") != wanted:
        yield "the orders are not in the right state"


def propose_level(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    count, least = {1: 1, 2: 2, 3: 3, 4: 4}[brief.level], rng.randint(3, 7)
    chosen = []
    for product in rng.sample(world.all("product"), len(world.all("product"))):
        places = [w for w in world.all("warehouse") if product["cold"] == "no" or w["cooled"] == "yes"]
        amounts = [amount_in(world, w["name"], product["sku"]) for w in places]
        spare = sum(max(0, a - least) for a in amounts)
        if any(a < least for a in amounts) and spare >= sum(max(0, least - a) for a in amounts):
            chosen.append(product)
    if len(chosen) < count:
        raise Unsuitable
    told = ", ".join(p["name"] for p in chosen[:count])
    brief.ask(
        1,
        f"Move stock so that every warehouse has at least {least} pieces of: {told}. A product that must be kept cold "
        f"concerns cooled warehouses only. A warehouse that gives away pieces keeps at least {least}. Touch no other "
        "products.",
        least=least,
        skus=[p["sku"] for p in chosen[:count]],
        names=[p["name"] for p in chosen[:count]],
    )
    brief.ask(2, "Move no more pieces than needed.", fewest=True)
    if brief.level >= 3:
        city = rng.choice(world.all("warehouse"))["city"]
        brief.ask(3, f"No pieces may be taken from the warehouse in {city}.", keeps=city)
        for product in chosen[:count]:
            places = [w for w in world.all("warehouse") if product["cold"] == "no" or w["cooled"] == "yes"]
            held_at = [(amount_in(world, w["name"], product["sku"]), w["city"]) for w in places]
            spare = sum(max(0, n - least) for n, at in held_at if at != city)
            if spare < sum(max(0, least - n) for n, _ in held_at):
                raise Unsuitable


def solve_level(tools: Any, need: dict[str, Any]) -> Any:
    places = tools.list_warehouses()
    products = [tools.get_product(sku=sku) for sku in tools.list_products()]
    for product in products:
        if product["name"] not in need["names"]:
            continue
        wanted = [w["name"] for w in places if product["cold"] == "no" or w["cooled"] == "yes"]
        closed = [w["name"] for w in places if w["city"] == need.get("keeps")]
        amounts = {stock["warehouse"]: stock["amount"] for stock in tools.get_stock(sku=product["sku"])}
        for target in wanted:
            for source in wanted:
                missing = need["least"] - amounts[target]
                spare = 0 if source in closed else amounts[source] - need["least"]
                amount = min(missing, spare)
                if amount > 0:
                    tools.move_stock(sku=product["sku"], source=source, target=target, amount=amount)
                    amounts[target] = amounts[target] + amount
                    amounts[source] = amounts[source] - amount


def check_level(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if not same(world, end, apart_from=("stock",)):
        yield "something else was changed"
    for before, after in zip(world.all("stock"), end.all("stock"), strict=True):
        place, product = world.get("warehouse", before["warehouse"]), world.get("product", before["sku"])
        if before["sku"] not in need["skus"]:
            if before != after:
                yield "another product was moved"
            continue
        concerned = product["cold"] == "no" or place["cooled"] == "yes"
        if concerned and after["amount"] < need["least"]:
            yield "a warehouse has too little"
        if after["amount"] < before["amount"] and place["city"] == need.get("keeps"):
            yield "pieces were taken where none may be taken"
        if "fewest" in need and before["amount"] < need["least"] < after["amount"]:
            yield "more was moved than needed"
        if "fewest" in need and before["amount"] >= need["least"] and after["amount"] > before["amount"]:
            yield "more was moved than needed"


def propose_weights(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    count = brief.level + 3
    chosen = rng.sample(world.all("purchase"), count)
    brief.ask(1, "", orders=[o["id"] for o in chosen])
    brief.ask(2, "", cold=True)
    brief.ask(4, "", short=True)
    totals = weights(world, brief.need)
    if len(set(totals.values())) < count or min(totals.values()) == 0:
        raise Unsuitable
    brief.ask(
        1,
        "Put these orders in the order of what they weigh, heaviest first: "
        f"{', '.join(str(o['id']) for o in chosen)}. The weight of an order is that of all pieces of all its lines.",
    )
    brief.ask(2, "A piece that must be kept cold counts twice, for its box.")
    brief.ask(4, "Only pieces count which the warehouses have now, all together, each order taken alone.")


def weights(world: WorldSpec, need: Mapping[str, Any]) -> dict[int, int]:
    totals = {}
    for number in need["orders"]:
        total = 0
        for line in world.all("line", purchase=number):
            product = world.get("product", line["sku"])
            there = sum(row["amount"] for row in world.all("stock", sku=line["sku"]))
            amount = min(line["amount"], there) if "short" in need else line["amount"]
            total += product["weight"] * amount * (2 if "cold" in need and product["cold"] == "yes" else 1)
        totals[number] = total
    return totals


def solve_weights(tools: Any, need: dict[str, Any]) -> Any:
    totals = []
    for number in need["orders"]:
        total = 0
        for line in tools.list_lines(purchase=number):
            product, amount = tools.get_product(sku=line["sku"]), line["amount"]
            if "short" in need:
                amount = min(amount, sum(stock["amount"] for stock in tools.get_stock(sku=line["sku"])))
            twice = "cold" in need and product["cold"] == "yes"
            total = total + product["weight"] * amount * (2 if twice else 1)
        totals.append([total, number])
    tools.submit_result(result=[number for _, number in sorted(totals, reverse=True)])


def check_weights(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    totals = weights(world, need)
    if answer != sorted(totals, key=lambda number: -totals[number]) or not same(world, end):
        yield "not in this order, or something was changed"


CATEGORY = Category(
    name="warehouse",
    about="a company with several warehouses",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    templates=(
        Template("ship", propose_ship, solve_ship, check_ship, hidden=("total", "lines")),
        Template("level", propose_level, solve_level, check_level, hidden=("skus",)),
        Template(
            "weights", propose_weights, solve_weights, check_weights, (list, "the order numbers, heaviest first.")
        ),
    ),
)

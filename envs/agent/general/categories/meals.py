"""A kitchen: recipes with ingredients and nutrition, a pantry, and people with allergies.

Plan a day for Mara Lind: breakfast, lunch and dinner with 1,800 to 2,000 kcal and at least 90 g of protein ...
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from envs.agent.general.category import Brief, Category, Template, Unsuitable, detail, listing, people, titles
from envs.agent.general.logic import first_plan, subsets
from envs.agent.general.world import Row, WorldSpec, same

FOODS = tuple(
    [
        "rice",
        "beans",
        "eggs",
        "milk",
        "butter",
        "cheese",
        "tofu",
        "salmon",
        "chicken",
        "lentils",
        "tomato",
        "onion",
        "spinach",
        "carrot",
        "peanut",
        "walnut",
        "oats",
        "apple",
        "lemon",
        "shrimp",
        "pasta",
        "mushroom",
        "potato",
        "yoghurt",
    ]
)
SCHEMA = {
    "ingredient": "name text, price integer, kcal integer, protein integer",
    "recipe": "name text, meal text, minutes integer, cuisine text",
    "part": "recipe text, ingredient text, amount integer",
    "guest": "name text, allergy text, dislikes text",
    "pantry": "ingredient text, amount integer",
}


def build(rng: random.Random, size: int, rules: Mapping[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {table: [] for table in SCHEMA}
    for food in rng.sample(FOODS, 18 + 2 * size):
        row = {"name": food, "price": rng.randint(5, 60), "kcal": rng.randint(20, 300), "protein": rng.randint(0, 25)}
        rows["ingredient"].append(row)
    foods = [row["name"] for row in rows["ingredient"]]
    for number, name in enumerate(titles(rng, 18 + 3 * size, "Dish")):
        recipe = {
            "name": name,
            "meal": ("breakfast", "lunch", "dinner")[number % 3],
            "minutes": rng.randrange(5, 90, 5),
        }
        rows["recipe"].append({**recipe, "cuisine": rng.choice(("north", "south", "east", "west"))})
        for food in rng.sample(foods, rng.randint(2, 4)):
            rows["part"].append({"recipe": name, "ingredient": food, "amount": rng.randint(1, 3)})
    for name in people(rng, 8):
        allergy, dislikes = rng.sample(foods, 2)
        rows["guest"].append({"name": name, "allergy": allergy, "dislikes": dislikes})
    rows["pantry"] = [{"ingredient": food, "amount": rng.randint(1, 6)} for food in rng.sample(foods, 12)]
    return rows


TOOLS = (
    listing("list_recipes", "Names of the recipes for breakfast, lunch or dinner.", "recipe", meal="recipe.meal"),
    detail("get_recipe", "Meal, minutes and cuisine of a recipe.", "recipe", name="recipe.name"),
    listing(
        "get_ingredients", "Portions of each ingredient of a recipe.", "part", "ingredient amount", recipe="recipe.name"
    ),
    detail("get_nutrition", "Price, kcal and protein of one portion.", "ingredient", name="ingredient.name"),
    listing("list_ingredients", "Names of all ingredients.", "ingredient"),
    detail("get_guest", "What a person must not and does not like to eat.", "guest", name="guest.name"),
    listing("list_pantry", "Portions in the pantry.", "pantry", "ingredient amount"),
)
EXTRA = (
    listing(
        "list_recipes_with", "Names of the recipes with an ingredient.", "part", "recipe", ingredient="ingredient.name"
    ),
    listing("list_recipes_of_cuisine", "Names of the recipes of a cuisine.", "recipe", cuisine="recipe.cuisine"),
    listing("list_guests", "Names of all guests.", "guest"),
    detail("get_pantry", "Portions of an ingredient in the pantry.", "pantry", "amount", ingredient="ingredient.name"),
)
MEALS = ("breakfast", "lunch", "dinner")


def total(world: WorldSpec, recipe: str, column: str) -> int:
    parts = world.all("part", recipe=recipe)
    return sum(part["amount"] * world.get("ingredient", part["ingredient"])[column] for part in parts)


def contains(world: WorldSpec, recipe: str) -> list[str]:
    return [part["ingredient"] for part in world.all("part", recipe=recipe)]


def propose_day(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    guest = rng.choice(world.all("guest"))
    safe = [r for r in world.all("recipe") if guest["allergy"] not in contains(world, r["name"])]
    if brief.level >= 3:
        safe = [r for r in safe if guest["dislikes"] not in contains(world, r["name"])]
    menu = []
    for meal in MEALS:
        options = [r for r in safe if r["meal"] == meal]
        if not options:
            raise Unsuitable
        menu.append(rng.choice(options))
    kcal, protein, price = (sum(total(world, r["name"], c) for r in menu) for c in ("kcal", "protein", "price"))
    slack = {1: 60, 2: 40, 3: 30, 4: 20}[brief.level]
    brief.ask(
        1,
        f"Plan one day for {guest['name']}: a breakfast, a lunch and a dinner with {kcal - slack} to {kcal + slack} "
        "kcal together, and nothing the guest is allergic to.",
        guest=guest["name"],
        low=kcal - slack,
        high=kcal + slack,
    )
    brief.ask(2, f"Together they have at least {protein} g of protein.", protein=protein)
    brief.ask(3, "And nothing the guest dislikes.", liked=True)
    brief.ask(4, f"They cost at most {price} and take at most {sum(r['minutes'] for r in menu)} minutes together.")
    brief.ask(4, "", price=price, minutes=sum(r["minutes"] for r in menu))


def solve_day(tools: Any, need: dict[str, Any]) -> Any:
    guest, known, slots = tools.get_guest(name=need["guest"]), {}, []
    for meal in ["breakfast", "lunch", "dinner"]:
        options = []
        for name in tools.list_recipes(meal=meal):
            parts = tools.get_ingredients(recipe=name)
            foods = [part["ingredient"] for part in parts]
            if guest["allergy"] in foods or ("liked" in need and guest["dislikes"] in foods):
                continue
            sums = {"kcal": 0, "protein": 0, "price": 0}
            for part in parts:
                food = part["ingredient"]
                if food not in known:
                    known[food] = tools.get_nutrition(name=food)
                for key in sums:
                    sums[key] = sums[key] + part["amount"] * known[food][key]
            minutes = tools.get_recipe(name=name)["minutes"] if "minutes" in need else 0
            options.append({"name": name, "minutes": minutes, **sums})
        slots.append(options)

    def fits(plan: list[Any]) -> bool:
        if len(plan) < 3:
            return True
        sums = {key: sum(recipe[key] for recipe in plan) for key in ["kcal", "protein", "price", "minutes"]}
        good = need["low"] <= sums["kcal"] <= need["high"] and sums["protein"] >= need.get("protein", 0)
        good = good and sums["price"] <= need.get("price", 99999) and sums["minutes"] <= need.get("minutes", 99999)
        return bool(good)

    plan = first_plan(slots, fits)
    tools.submit_result(result={"breakfast": plan[0]["name"], "lunch": plan[1]["name"], "dinner": plan[2]["name"]})


def check_day(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    names, guest = [answer[meal] for meal in MEALS], world.get("guest", need["guest"])
    if [world.get("recipe", name)["meal"] for name in names] != list(MEALS):
        yield "a recipe is for another meal"
    foods = [food for name in names for food in contains(world, name)]
    if guest["allergy"] in foods or ("liked" in need and guest["dislikes"] in foods):
        yield "the guest does not eat that"
    sums = {column: sum(total(world, name, column) for name in names) for column in ("kcal", "protein", "price")}
    if not need["low"] <= sums["kcal"] <= need["high"] or sums["protein"] < need.get("protein", 0):
        yield "the nutrition is not as asked"
    minutes = sum(world.get("recipe", name)["minutes"] for name in names)
    if sums["price"] > need.get("price", 99999) or minutes > need.get("minutes", 99999):
        yield "too dear or too slow"


def propose_party(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    guests = rng.sample(world.all("guest"), brief.level + 1)
    barred = {guest["allergy"] for guest in guests}
    dinners = [r for r in world.all("recipe") if not barred & set(contains(world, r["name"]))]
    count = 2 if brief.level < 2 else 3
    if len(dinners) < count + 1:
        raise Unsuitable
    dinners.sort(key=lambda r: total(world, r["name"], "price"))  # among the cheap ones: few others cost as little
    chosen = rng.sample(dinners[: max(count + 1, len(dinners) // 3)], count)
    cuisines = sorted({r["cuisine"] for r in chosen})
    if len(cuisines) < count:
        raise Unsuitable
    price = sum(total(world, r["name"], "price") for r in chosen)
    brief.ask(
        1,
        f"{', '.join(g['name'] for g in guests)} come together. Choose {count} different recipes, of any meal, each "
        f"of another cuisine, that nobody of them is allergic to, and that cost at most {price} together.",
        guests=[g["name"] for g in guests],
        count=count,
        price=price,
    )
    shared = len({food for r in chosen for food in contains(world, r["name"])})
    brief.ask(2, f"Together they need at most {shared} different ingredients.", foods=shared)
    brief.ask(
        3,
        f"None takes more than {max(r['minutes'] for r in chosen)} minutes.",
        minutes=max(r["minutes"] for r in chosen),
    )
    kcal = min(total(world, r["name"], "kcal") for r in chosen)
    brief.ask(4, f"Each has at least {kcal} kcal.", kcal=kcal)


def solve_party(tools: Any, need: dict[str, Any]) -> Any:
    barred, known, options = [tools.get_guest(name=name)["allergy"] for name in need["guests"]], {}, []
    for meal in ["breakfast", "lunch", "dinner"]:
        for name in tools.list_recipes(meal=meal):
            parts, recipe = tools.get_ingredients(recipe=name), tools.get_recipe(name=name)
            foods = [part["ingredient"] for part in parts]
            if not any(food in barred for food in foods) and recipe["minutes"] <= need.get("minutes", 999):
                price, kcal = 0, 0
                for part in parts:
                    if part["ingredient"] not in known:
                        known[part["ingredient"]] = tools.get_nutrition(name=part["ingredient"])
                    price = price + part["amount"] * known[part["ingredient"]]["price"]
                    kcal = kcal + part["amount"] * known[part["ingredient"]]["kcal"]
                if kcal >= need.get("kcal", 0):
                    options.append([name, recipe["cuisine"], price, foods])
    for chosen in subsets(options, need["count"]):
        used = {food for option in chosen for food in option[3]}
        good = sum(option[2] for option in chosen) <= need["price"] and len(used) <= need.get("foods", 99)
        if good and len({option[1] for option in chosen}) == len(chosen):
            tools.submit_result(result=[option[0] for option in chosen])
            return


def check_party(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    recipes = [world.get("recipe", name) for name in answer]
    if len(set(answer)) != need["count"] or len(answer) != need["count"]:
        yield "wrong number of recipes"
    if len({r["cuisine"] for r in recipes}) < len(recipes):
        yield "a cuisine twice"
    eaten = {food for name in answer for food in contains(world, name)}
    if eaten & {world.get("guest", name)["allergy"] for name in need["guests"]}:
        yield "somebody is allergic to it"
    if sum(total(world, name, "price") for name in answer) > need["price"] or len(eaten) > need.get("foods", 99):
        yield "too dear, or too many ingredients"
    if any(r["minutes"] > need.get("minutes", 999) for r in recipes):
        yield "a recipe takes too long"
    if any(total(world, name, "kcal") < need.get("kcal", 0) for name in answer):
        yield "a recipe has too few kcal"


def propose_shopping(world: WorldSpec, rng: random.Random, brief: Brief) -> None:
    recipes = rng.sample(world.all("recipe"), brief.level + 1)
    brief.ask(1, "", recipes=[r["name"] for r in recipes], times=[1] * len(recipes))
    brief.ask(2, "", times=[rng.randint(1, 4) for _ in recipes])
    keep = rng.randint(1, 2)
    brief.ask(3, "", keep=keep)
    wanted = missing(world, brief.need)
    if len(wanted) < 2:
        raise Unsuitable
    told = ", ".join(f"{t} x {name}" for t, name in zip(brief.need["times"], brief.need["recipes"], strict=True))
    brief.ask(1, f"We cook {told}. Which portions of which ingredients must be bought, beyond what the pantry has?")
    brief.ask(
        3,
        f"Of each ingredient that is in the pantry now, {keep} portion(s) must be left there afterwards, also of "
        "those not used.",
    )
    brief.ask(4, "Leave out of the list what costs less than 15 a portion.", dear=15)
    if not missing(world, brief.need):
        raise Unsuitable


def missing(world: WorldSpec, need: Mapping[str, Any]) -> dict[str, int]:
    wanted = {row["ingredient"]: need["keep"] - row["amount"] for row in world.all("pantry") if "keep" in need}
    wanted = wanted or {row["ingredient"]: -row["amount"] for row in world.all("pantry")}
    for name, times in zip(need["recipes"], need["times"], strict=True):
        for part in world.all("part", recipe=name):
            wanted[part["ingredient"]] = wanted.get(part["ingredient"], 0) + times * part["amount"]
    prices = {row["name"]: row["price"] for row in world.all("ingredient")}
    return {food: n for food, n in wanted.items() if n > 0 and prices[food] >= need.get("dear", 0)}


def solve_shopping(tools: Any, need: dict[str, Any]) -> Any:
    wanted = {}
    for row in tools.list_pantry():
        wanted[row["ingredient"]] = need.get("keep", 0) - row["amount"]
    for name, times in zip(need["recipes"], need["times"], strict=False):
        for part in tools.get_ingredients(recipe=name):
            wanted[part["ingredient"]] = wanted.get(part["ingredient"], 0) + times * part["amount"]
    bought = {}
    for food, amount in wanted.items():
        if amount > 0 and ("dear" not in need or tools.get_nutrition(name=food)["price"] >= need["dear"]):
            bought[food] = amount
    tools.submit_result(result=bought)


def check_shopping(world: WorldSpec, end: WorldSpec, answer: Any, need: Mapping[str, Any]) -> Iterator[str]:
    if answer != missing(world, need) or not same(world, end):
        yield "not exactly this is missing"


CATEGORY = Category(
    name="meals",
    about="a kitchen that plans meals",
    schema=SCHEMA,
    build=build,
    tools=TOOLS,
    extra=EXTRA,
    templates=(
        Template("day", propose_day, solve_day, check_day, (dict, "{breakfast, lunch, dinner}: names of recipes.")),
        Template("party", propose_party, solve_party, check_party, (list, "the names of the recipes.")),
        Template(
            "shopping", propose_shopping, solve_shopping, check_shopping, (dict, "{ingredient: portions to buy}.")
        ),
    ),
)

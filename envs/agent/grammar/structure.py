"""What an environment is made of, drawn from its number alone: domain, tables, house rules, prices, tools, style.

    structure_of(17).rules          (tier/grp/0, cooldown/kind/6, closure/item/0)
    structure_of(17).schema         {"item": {"id": "integer", "name": "text", ...}, ...}

Names here are those of the roles (``item``, ``grp``, ``record``); what the policy reads is in the domain's words
(``naming``). ``signature`` says when two structures are the same.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from envs.agent.grammar.column_rule import ColumnRule
from envs.agent.grammar.conditions import Condition, Constraint
from envs.agent.grammar.domains import DOMAINS, Domain
from envs.agent.grammar.house_rules import COLUMN_RULES
from envs.agent.grammar.price_rules import PRICE_RULES, PriceRule
from envs.agent.grammar.record_rules import RECORD_RULES, RecordRule
from envs.agent.grammar.wishes import WISHES


def _words(text: str) -> list[str]:
    return text.split()


CHOOSE, PLAN, AUDIT, TALLY = "choose", "plan", "audit", "tally"
GOALS = {CHOOSE: ("pick", "book", "move"), PLAN: ("plan",), AUDIT: ("audit",), TALLY: ("tally",)}
HOUSE_RULES: tuple[type[ColumnRule] | type[RecordRule], ...] = (*COLUMN_RULES, *RECORD_RULES)
_WEIGHTS = {CHOOSE: 6, PLAN: 2, AUDIT: 2, TALLY: 2}
# rules that look at what a client does elsewhere say nothing of several records at once
_NOT_FOR = {
    PLAN: ("companion", "quota", "cooldown", "rivals", "balance"),
    AUDIT: ("companion", "quota", "cooldown", "rivals", "balance", "notice", "exclusive", "shared", "wear", "closure",
            "ban", "sequence"),
}  # fmt: skip
_TEXT = frozenset(
    _words(
        "name grp kind city region manager tier min_tier paper open_from open_until closed_on checked_on "
        "residents_only after_kind with_another status day place one other feature valid_until phone text opened "
        "colour code sky channel"
    )
)
_BASE = {
    "item": "id name grp kind price", "grp": "name city", "client": "id name", "record": "id client item day quantity "
    "status", "feature": "item feature", "region": "name manager", "tier": "name rank", "band": "from_quantity percent",
    "closure": "place day", "holding": "client paper valid_until", "rival": "one other", "ban": "client place",
    "staff": "name grp phone", "review": "item stars text", "supplier": "name city phone", "weather": "city day sky",
}  # fmt: skip
SPARE_COLUMNS = ("item.colour", "item.built", "grp.phone", "grp.opened", "client.phone", "record.channel",
                  "client.city", "grp.rating", "item.code")  # fmt: skip
SPARE_TABLES = ("staff", "review", "supplier", "weather")
EXTRA_TOOLS = ("days", "percent", "weekday", "count", "rename")


@dataclass(frozen=True)
class Style:
    """How tools are called and what values look like. ``ids``: numbers, or codes such as ``TR-412``."""

    case: str  # snake, camel
    order: str  # verb first, noun first
    verbs: tuple[str, str, str]  # for all, for one, for some
    ids: str  # number, code
    dates: str  # iso, dotted, words
    argument: str  # id, bare: room_id or room
    paging: str  # page, offset
    page: int  # rows of a page
    rules: str  # prompt, tool: where the house rules can be read
    booking: str  # one, two: steps


@dataclass(frozen=True, eq=False)
class Structure:
    """``modes``: how each table can be read. ``schema``: columns and types of each table, by role."""

    number: int
    domain: Domain
    family: str
    goals: tuple[str, ...]
    rules: tuple[Condition, ...]
    prices: tuple[PriceRule, ...]
    schema: Mapping[str, Mapping[str, str]]
    modes: Mapping[str, str]
    style: Style
    enforced: tuple[Condition, ...]
    extras: tuple[str, ...]

    def has(self, need: str) -> bool:
        table, _, column = need.partition(".")
        return column in self.schema.get(table, ())

    @property
    def wishes(self) -> tuple[str, ...]:
        """Kinds of wishes that its tables can say and its rules leave room for."""
        taken = frozenset().union(*(rule.about for rule in self.rules)) & {"kind", "total", "own item"}
        found = [
            kind
            for kind, wish in WISHES.items()
            if all(self.has(need) for need in wish.needs) and not wish.about & taken
        ]
        return tuple(kind for kind in found if kind != "number" or self.attributes)

    @property
    def attributes(self) -> tuple[int, ...]:
        return tuple(number for number in range(3) if self.has(f"item.a{number}"))

    def rule(self, kind: str) -> Condition | None:
        return next((rule for rule in self.rules if rule.kind == kind), None)


@lru_cache(maxsize=4096)
def structure_of(number: int) -> Structure:
    """Environment number ``number``."""
    rng = random.Random(f"grammar {number}")
    domain = DOMAINS[rng.choice(sorted(DOMAINS))]
    family = rng.choices(sorted(_WEIGHTS), [_WEIGHTS[name] for name in sorted(_WEIGHTS)])[0]
    goals = GOALS[family]
    rules = () if family == TALLY else _rules(rng, family)
    prices = () if family == AUDIT else _prices(rng, family)
    schema = _schema(rng, family, rules, prices)
    modes = _modes(rng, family, schema, rules)
    style = _style(rng)
    enforced = tuple(rule for rule in rules if rng.random() < 0.3) if family == CHOOSE else ()
    extras = tuple(name for name in EXTRA_TOOLS if rng.random() < 0.4)
    return Structure(number, domain, family, goals, rules, prices, schema, modes, style, enforced, extras)


def _rules(rng: random.Random, family: str) -> tuple[Condition, ...]:
    wanted = rng.randint(2, 5 if family != AUDIT else 4)
    pool = [(cls, form) for cls in HOUSE_RULES for form in cls.forms]
    pool = [(cls, form) for cls, form in pool if cls.kind not in _NOT_FOR.get(family, ())]
    rng.shuffle(pool)
    found: list[Condition] = []
    for cls, form in pool:
        numbers = (60, 90, 120) if cls.kind == "service" else getattr(cls, "numbers", (0,))
        rule = cls(form, rng.choice(numbers))
        taken = frozenset().union(*(one.about for one in found)) & {"kind", "capacity"}
        if len(found) < wanted and all(one.kind != rule.kind for one in found) and not rule.about & taken:
            found.append(rule)
    return tuple(found)


def _prices(rng: random.Random, family: str) -> tuple[PriceRule, ...]:
    pool = [cls for cls in PRICE_RULES if family == CHOOSE or not cls.of_client]
    chosen = rng.sample(pool, rng.randint(1, 3) if family == CHOOSE else rng.randint(2, 4) if family == TALLY else 1)
    if family == TALLY:  # other days, other percentages: the days are part of what is asked
        chosen = [cls for cls in chosen if cls.kind != "early"] or [PRICE_RULES[1]]
    return tuple(cls(rng.choice(cls.forms), rng.choice(cls.numbers), rng.choice((5, 10, 15, 20))) for cls in chosen)


def _schema(
    rng: random.Random, family: str, rules: tuple[Condition, ...], prices: tuple[PriceRule, ...]
) -> dict[str, dict[str, str]]:
    tables = {"item", "grp", "client"} | ({"record"} if family in (CHOOSE, AUDIT, TALLY) else set())
    parts: tuple[Constraint, ...] = (*rules, *prices)
    needs = [need for part in parts for need in part.needs]
    tables |= {need.split(".")[0] for need in needs}
    tables |= {name for name in ("feature", "region") if rng.random() < 0.45}
    tables |= {name for name in SPARE_TABLES if rng.random() < 0.25}
    columns = {table: dict.fromkeys(_BASE[table].split()) for table in sorted(tables)}
    spare = [column for column in SPARE_COLUMNS if rng.random() < 0.35]
    numbers = [f"item.a{number}" for number in sorted(rng.sample(range(3), rng.randint(1, 3)))]
    if "region" in tables:
        spare.append("grp.region")
    if family == CHOOSE:
        spare.append("record.total")
    if "tier" in tables:
        spare.append("client.tier")
    for need in (*numbers, *needs, *spare):
        table, _, column = need.partition(".")
        if table in columns:
            columns[table][column] = None
    return {t: {c: "text" if c in _TEXT else "integer" for c in found} for t, found in columns.items()}


def _modes(
    rng: random.Random, family: str, schema: Mapping[str, Mapping[str, str]], rules: tuple[Condition, ...]
) -> dict[str, str]:
    modes = {
        "item": rng.choice(("pages", "of_group", "of_kind", "ids")),
        "grp": rng.choice(("rows", "names")),
        "client": rng.choice(("row", "id")) if family in (CHOOSE, PLAN) else "get",
        "record": rng.choice(("split", "search", "pages")) if family in (CHOOSE, PLAN) else rng.choice(
            ("pages", "between")),
    }  # fmt: skip
    choices = {
        "feature": ("column", "of", "with"), "closure": ("of", "check"), "holding": ("of", "check"),
        "region": ("get", "rows"), "tier": ("rows", "get"), "ban": ("of", "check"),
    }  # fmt: skip
    modes |= {table: rng.choice(ways) for table, ways in choices.items()}
    return {table: mode for table, mode in modes.items() if table in schema}


def _style(rng: random.Random) -> Style:
    verbs = (
        rng.choice(("list", "get_all", "show_all", "fetch")),
        rng.choice(("get", "read", "show", "look_up")),
        rng.choice(("find", "search", "select", "query")),
    )
    return Style(
        case=rng.choice(("snake", "snake", "camel")), order=rng.choice(("verb", "verb", "noun")), verbs=verbs,
        ids=rng.choice(("number", "code")), dates=rng.choice(("iso", "dotted", "words")),
        argument=rng.choice(("id", "bare")), paging=rng.choice(("page", "offset")), page=rng.randint(5, 9),
        rules=rng.choice(("prompt", "prompt", "tool")), booking=rng.choice(("one", "one", "two")),
    )  # fmt: skip

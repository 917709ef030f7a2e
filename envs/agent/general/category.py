"""How a category declares itself: schema, data, tools, rules, task templates.

    CATEGORY = Category(
        name="library", about="a public library", schema={"book": "title text, author text"}, build=build,
        tools=(detail("get_book", "All about a book.", "book", title="book.title"), ...),
        templates=(Template("return_and_lend", propose_return, solve_return, check_return), ...),
    )

A template's three functions are a task:

    propose(world, rng, brief)          adds sentences and needs to the brief, more of them at higher levels
    solve(tools, need)                  the reference solution; its source is checked (``solution.py``)
    check(start, end, answer, need)     yields what is wrong with a final state and a submitted answer

``check`` accepts whatever satisfies the constraints, not only what the solution found.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envs.agent.general.world import Database, Row, WorldSpec
from envs.environment import ToolError
from envs.tools import Tool
from envs.words import ADJECTIVES, FIRST_NAMES, LAST_NAMES, NOUNS

MAX_LEVEL = 4
_JSON_TYPES = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
_COLUMN_TYPES = {"text": "string", "integer": "integer", "number": "number"}
Domain = str | type


def check_choice(levels: Sequence[int], environments: int) -> None:
    """What a taskset of environments is asked for. Raises ValueError that names the setting."""
    if not levels or not all(level in range(1, MAX_LEVEL + 1) for level in levels):
        raise ValueError(f"levels is {list(levels)}, must be some of 1 to {MAX_LEVEL}")
    if environments < 10:
        raise ValueError(f"environments is {environments}, must be at least 10: both splits need some")


class Unsuitable(Exception):
    """Raised by ``propose``: this world, with these random numbers, has no such task."""


@dataclass(frozen=True)
class ToolSpec:
    """A tool. A parameter's domain is a JSON type, or the ``table.column`` whose values it takes."""

    name: str
    text: str
    parameters: Mapping[str, Domain]
    run: Callable[..., Any]  # (database, **arguments) -> JSON value; ToolError says why not
    changes: bool = False
    columns: tuple[str, ...] = ()  # "table.column" that it reads by name: without them there is no such tool

    def fits(self, world: WorldSpec) -> bool:
        """Whether the world has the columns that the tool needs; an environment may lack some."""
        domains = [domain for domain in self.parameters.values() if isinstance(domain, str)]
        return all(world.has(column) for column in (*self.columns, *domains))

    def schema_for(self, world: WorldSpec) -> Tool:
        properties = {name: {"type": self._type(world, domain)} for name, domain in self.parameters.items()}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        return Tool(self.name, "", {"name": self.name, "description": self.text, "parameters": parameters})

    @staticmethod
    def _type(world: WorldSpec, domain: Domain) -> str:
        if isinstance(domain, type):
            return _JSON_TYPES[domain]
        table, _, column = domain.partition(".")
        return _COLUMN_TYPES[world.schema[table][column]]


def listing(name: str, text: str, table: str, columns: str = "", /, **where: Domain) -> ToolSpec:
    """A tool that lists rows with the given values: a list of values for one column, of objects for several.

    ``columns`` are names separated by blanks, the key when left out.
    """
    wanted = columns.split()

    def run(database: Database, **arguments: Any) -> Any:
        condition = " AND ".join(f'"{column}" = ?' for column in arguments) or "1"
        rows = database.all(f'SELECT * FROM "{table}" WHERE {condition} ORDER BY rowid', *arguments.values())
        if len(wanted) > 1:
            return [{column: row[column] for column in wanted} for row in rows]
        return [row[wanted[0]] if wanted else next(iter(row.values())) for row in rows]

    return ToolSpec(name, text, where, run, columns=tuple(f"{table}.{column}" for column in (*wanted, *where)))


def detail(name: str, text: str, table: str, columns: str = "", /, **where: Domain) -> ToolSpec:
    """A tool that gives one row: an object, or the value alone when ``columns`` names one column."""
    wanted = columns.split()

    def run(database: Database, **arguments: Any) -> Any:
        condition = " AND ".join(f'"{column}" = ?' for column in arguments)
        row = database.one(f'SELECT * FROM "{table}" WHERE {condition}', *arguments.values())
        if row is None:
            said = ", ".join(f"{column} {value!r}" for column, value in arguments.items())
            raise ToolError(f"there is no {table} with {said}.")
        return row[wanted[0]] if len(wanted) == 1 else {column: row[column] for column in wanted or row}

    return ToolSpec(name, text, where, run, columns=tuple(f"{table}.{column}" for column in (*wanted, *where)))


def action(name: str, text: str, run: Callable[..., Any], /, **parameters: Domain) -> ToolSpec:
    """A tool that changes the database."""
    return ToolSpec(name, text, parameters, run, changes=True)


def row_or_error(database: Database, table: str, column: str, value: Any) -> Row:
    """The row of that value, or the ToolError that the policy reads."""
    row = database.one(f'SELECT * FROM "{table}" WHERE "{column}" = ?', value)
    if row is None:
        raise ToolError(f"there is no {table} with {column} {value!r}.")
    return row


@dataclass
class Brief:
    """What a task asks: sentences, and the same as data for solution and verifier."""

    level: int
    sentences: list[str] = field(default_factory=list)
    need: dict[str, Any] = field(default_factory=dict)

    def ask(self, level: int, sentence: str, /, **need: Any) -> None:
        """Add a sentence and its data, from that level on."""
        if self.level >= level:
            if sentence:
                self.sentences.append(sentence)
            self.need.update(need)


@dataclass(frozen=True)
class Template:
    """``answer`` is (JSON type, description) of what ``submit_result`` takes; None: the changes are the result.

    ``hidden`` are the needs that only the verifier knows: what the task does not say, and what it asks for.
    """

    name: str
    propose: Callable[[WorldSpec, random.Random, Brief], None]
    solve: Callable[[Any, dict[str, Any]], Any]
    check: Callable[[WorldSpec, WorldSpec, Any, Mapping[str, Any]], Iterator[str]]
    answer: tuple[type, str] | None = None
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Category:
    """``rules``: the values that a rule may have. ``law``: the rules in words, a format string.

    ``extra`` tools are used by no solution: an environment has some of them. ``optional`` columns
    (``table.column``) may be missing from an environment.
    """

    name: str
    about: str
    schema: Mapping[str, str]
    build: Callable[[random.Random, int, Mapping[str, Any]], dict[str, list[Row]]]
    tools: tuple[ToolSpec, ...]
    templates: tuple[Template, ...]
    extra: tuple[ToolSpec, ...] = ()
    rules: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    law: str = ""
    optional: tuple[str, ...] = ()

    def template(self, name: str) -> Template:
        for template in self.templates:
            if template.name == name:
                return template
        raise ValueError(f"category {self.name} has no template {name!r}")

    def world(self, seed: int) -> tuple[WorldSpec, tuple[ToolSpec, ...]]:
        """Environment number ``seed`` of this category: its data and rules, and the tools it offers."""
        rng = random.Random(f"world {self.name}/{seed}")
        rules = {name: rng.choice(values) for name, values in self.rules.items()}
        size = rng.randrange(3)
        schema = {
            table: dict((c.split()[0], c.split()[1]) for c in columns.split(","))
            for table, columns in self.schema.items()
        }
        full = WorldSpec(self.name, schema, self.build(rng, size, rules), rules)
        missing = tuple(column for column in self.optional if rng.random() < 0.5)
        world = full.without(missing)
        extra = [tool for tool in self.extra if rng.random() < 0.6]
        offered = [tool for tool in (*self.tools, *extra) if tool.fits(world)]
        return world, tuple(sorted(offered, key=lambda t: t.name))


# -- data ------------------------------------------------------------------------------------


def people(rng: random.Random, count: int) -> list[str]:
    """Different invented full names."""
    return _different(rng, count, lambda: f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}")


def titles(rng: random.Random, count: int, kind: str = "") -> list[str]:
    """Different invented names of things: ``Silver Harbor Hotel``."""
    return _different(rng, count, lambda: f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} {kind}".strip())


def numbers(rng: random.Random, count: int, low: int, high: int) -> list[int]:
    """Different ids, in rising order."""
    return sorted(rng.sample(range(low, high), count))


def some(rng: random.Random, items: tuple[str, ...], low: int, high: int) -> str:
    """A random set of words as one text, separated by commas."""
    return ", ".join(sorted(rng.sample(items, rng.randint(low, high))))


def _different(rng: random.Random, count: int, make: Callable[[], str]) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(make())
    return list(found)

"""The corpus of the search family: a made-up library of books and people, one fact a passage.

    The author of "Silver Harbor" is "Mara Lind".

Entities are split, not questions: every book and person belongs to one split, and a book's author is
of the book's split. So no fact about a held-out entity is ever asked, or found on the way, in training.
The corpus itself is one for both splits: the policy searches everything.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from envs.taskset import Split, split_of
from envs.words import (
    ADJECTIVES,
    CITIES,
    COLORS,
    FIRST_NAMES,
    INSTRUMENTS,
    JOBS,
    LAST_NAMES,
    NOUNS,
)

BOOK_ATTRIBUTES: tuple[str, ...] = ("author", "year", "color", "city")
PERSON_ATTRIBUTES: tuple[str, ...] = ("birthplace", "job", "instrument")
ATTRIBUTES: tuple[str, ...] = BOOK_ATTRIBUTES + PERSON_ATTRIBUTES


@dataclass(frozen=True)
class Fact:
    """``The {attribute} of "{entity}" is "{value}".``"""

    entity: str
    attribute: str
    value: str

    @property
    def passage(self) -> str:
        return f'The {self.attribute} of "{self.entity}" is "{self.value}".'


@dataclass(frozen=True)
class Library:
    """All facts by (entity, attribute), and the entities of each split."""

    facts: dict[tuple[str, str], Fact]
    books: dict[Split, tuple[str, ...]]
    people: dict[Split, tuple[str, ...]]

    def value(self, entity: str, attribute: str) -> str:
        return self.facts[entity, attribute].value

    def passages(self) -> list[str]:
        return [fact.passage for fact in self.facts.values()]


@cache
def library(seed: int = 0, books: int = 1000, people: int = 800) -> Library:
    """The library of a seed: ``4 * books + 3 * people`` facts (6,400 by default)."""
    rng = random.Random(f"library/{seed}")
    titles = rng.sample([f"{a} {n}" for a in ADJECTIVES for n in NOUNS], books)
    names = rng.sample([f"{f} {s}" for f in FIRST_NAMES for s in LAST_NAMES], people)
    by_split: dict[Split, tuple[str, ...]] = {
        "train": tuple(n for n in names if split_of(n) == "train"),
        "heldout": tuple(n for n in names if split_of(n) == "heldout"),
    }
    facts: list[Fact] = []
    for title in titles:
        facts.append(Fact(title, "author", rng.choice(by_split[split_of(title)])))
        facts.append(Fact(title, "year", str(rng.randint(1900, 1999))))
        facts.append(Fact(title, "color", rng.choice(COLORS)))
        facts.append(Fact(title, "city", rng.choice(CITIES)))
    for name in names:
        facts.append(Fact(name, "birthplace", rng.choice(CITIES)))
        facts.append(Fact(name, "job", rng.choice(JOBS)))
        facts.append(Fact(name, "instrument", rng.choice(INSTRUMENTS)))
    return Library(
        facts={(fact.entity, fact.attribute): fact for fact in facts},
        books={
            "train": tuple(t for t in titles if split_of(t) == "train"),
            "heldout": tuple(t for t in titles if split_of(t) == "heldout"),
        },
        people=by_split,
    )

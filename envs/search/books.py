"""The corpus of the search family: a made-up library of books and people, one fact a passage.

    The author of "book 472" is "person 318".

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
    FIRST_NUMBER,
    INSTRUMENTS,
    JOBS,
    LAST_NAMES,
    LAST_NUMBER,
    NOUNS,
    Naming,
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
def library(seed: int = 0, naming: Naming = "numbers") -> Library:
    """The library of a seed: 4 facts a book, 3 a person (2,800 facts with numbers, 6,400 with words)."""
    rng = random.Random(f"library/{seed}")
    if naming == "numbers":
        # No number is both a book's and a person's: else "author of book 881" finds books by person 881 as well.
        middle = (FIRST_NUMBER + LAST_NUMBER) // 2
        titles = [f"book {n}" for n in rng.sample(range(FIRST_NUMBER, middle), 400)]
        names = [f"person {n}" for n in rng.sample(range(middle, LAST_NUMBER + 1), 400)]
    else:
        titles = rng.sample([f"{a} {n}" for a in ADJECTIVES for n in NOUNS], 1000)
        names = rng.sample([f"{f} {s}" for f in FIRST_NAMES for s in LAST_NAMES], 800)
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

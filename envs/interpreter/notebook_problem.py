"""What a notebook problem is, and the list of its kinds.

A kind is a function ``(rng, level) -> Problem``, decorated with ``@kind(topic)``. It makes the material, asks about
it and computes the answer from what it knows of the material (the records before they were made dirty, say). The
``program`` solves the problem the way a policy must: from the files and the numbers of the question alone. The two
share no code, so that running one against the other proves the problem.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from textwrap import dedent
from typing import Any

LEVELS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Problem:
    """``answer``: a number (``decimals`` digits after the point; None: exact, p/q allowed), a word, or a list of words.

    ``size`` says how much there is to work through (rows, states, candidates); it grows with the level.
    """

    question: str
    answer: int | str | list[str]
    program: str
    size: int
    files: Mapping[str, bytes] = field(default_factory=dict)
    decimals: int | None = None

    @property
    def answer_text(self) -> str:
        return ", ".join(self.answer) if isinstance(self.answer, list) else str(self.answer)

    def key(self) -> str:
        """What the problem is about, as a hash: question and files."""
        content = hashlib.sha256(self.question.encode())
        for name in sorted(self.files):
            content.update(b"\0" + name.encode() + b"\0" + self.files[name])
        return content.hexdigest()[:24]


Maker = Callable[[random.Random, int], Problem]

KINDS: dict[str, Maker] = {}
TOPICS: dict[str, str] = {}  # kind -> data, maths or puzzle


def kind(topic: str) -> Callable[[Maker], Maker]:
    """Register a function under its own name as a kind of problem."""

    def register(maker: Maker) -> Maker:
        name = maker.__name__
        if name in KINDS:
            raise ValueError(f"two kinds of problem are called {name!r}; rename one")
        KINDS[name], TOPICS[name] = maker, topic
        return maker

    return register


def solver(code: str, **given: Any) -> str:
    """A program: one assignment for each number of the question, then ``code`` (dedented), which prints the answer."""
    return "".join(f"{name} = {value!r}\n" for name, value in given.items()) + dedent(code).strip() + "\n"


def csv_file(header: str, rows: list[tuple[Any, ...]]) -> bytes:
    """A CSV file; no value may hold a comma or a quote."""
    return "".join([header + "\n", *(",".join(str(cell) for cell in row) + "\n" for row in rows)]).encode()


def by_level(level: int, *values: Any) -> Any:
    """The value for a level: the first for level 1, and so on."""
    return values[level - 1]


def fixed(cents: int) -> str:
    """Money or any number in hundredths as text: 1234 -> "12.34"."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"

"""The search family: one-hop and two-hop questions about the library, answered with ``search``.

    Who is the author of "book 472"?            search -> "person 318"
    Where was the author of "book 472" born?    search, search -> "Oslo"

Facts are random, so a guess is nearly always wrong: the policy has to learn to look it up, to look up
the right thing, and to continue after the first hop. ``top_k=1`` is the easy tier (the tool gives one
passage); with more passages the policy must find the one that matches.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from envs.environment import Environment, ToolError, tool
from envs.search.books import (
    ATTRIBUTES,
    BOOK_ATTRIBUTES,
    PERSON_ATTRIBUTES,
    library,
)
from envs.search.index import library_index
from envs.taskset import Split, Taskset
from envs.types import Message, Task, ToolCall
from envs.words import CITIES, COLORS, INSTRUMENTS, JOBS, Naming, check_naming, person_name

SYSTEM = "Answer with the search tool."

ONE_HOP: dict[str, tuple[str, ...]] = {
    "author": ('Who is the author of "{}"?', 'Who wrote "{}"?'),
    "year": ('What is the year of "{}"?', 'When was "{}" written?'),
    "color": ('What is the color of "{}"?', 'Which color has "{}"?'),
    "city": ('What is the city of "{}"?', 'Which city is "{}" about?'),
    "birthplace": ('What is the birthplace of "{}"?', 'Where was "{}" born?'),
    "job": ('What is the job of "{}"?', 'Which job has "{}"?'),
    "instrument": ('What is the instrument of "{}"?', 'Which instrument does "{}" play?'),
}
TWO_HOP: dict[str, tuple[str, ...]] = {
    "birthplace": (
        'What is the birthplace of the author of "{}"?',
        'Where was the author of "{}" born?',
    ),
    "job": ('What is the job of the author of "{}"?', 'Which job has the author of "{}"?'),
    "instrument": (
        'What is the instrument of the author of "{}"?',
        'Which instrument does the author of "{}" play?',
    ),
}

_PASSAGE = re.compile(r'^The (\w+) of "([^"]*)" is "([^"]*)"\.', re.MULTILINE)


class SearchEnvironment(Environment):
    """One question. ``top_k``: passages per search."""

    def __init__(self, task: Task, top_k: int = 1, **config: Any) -> None:
        super().__init__(task, **config)
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}, must be at least 1")
        self.top_k = top_k

    @tool
    def search(self, query: str) -> str:
        """Search the library."""
        passages = library_index(self.task.metadata["library_seed"], self.task.metadata["naming"]).search(
            query, self.top_k
        )
        if not passages:
            raise ToolError("nothing found; use other words.")
        return "\n".join(passages)

    # -- demonstrators: what has been found so far decides what comes next -------------------

    def oracle(self, history: Sequence[Message]) -> Message:
        found = _facts_in(history)
        entity = str(self.task.metadata["entity"])
        for attribute in self.task.metadata["chain"]:
            if (entity, attribute) not in found:
                return _search(attribute, entity)
            entity = found[entity, attribute]
        return _answer(entity)

    def novice(self, history: Sequence[Message], rng: random.Random) -> Message:
        """Guesses without searching, searches the wrong attribute, or stops after the first hop."""
        chain: Sequence[str] = self.task.metadata["chain"]
        results = [m for m in history if m.role == "tool"]
        if not results:
            dice = rng.random()
            if dice < 0.4:
                guess = _guess(chain[-1], self.task.metadata["naming"], rng)
                return Message("assistant", f'"{guess}"', reasoning="I know the answer.")
            if dice < 0.58:
                wrong = rng.choice([a for a in _siblings(chain[0]) if a != chain[0]])
                return _search(wrong, str(self.task.metadata["entity"]))
            return self.oracle(history)
        last = list(_PASSAGE.finditer(results[-1].content))
        if last and len(results) < len(chain) and rng.random() < 0.7:
            return self.oracle(history)  # a second hop is still to come
        return _answer(last[0].group(3)) if last else self.oracle(history)


class SearchTaskset(Taskset):
    """Questions about the library. ``two_hop``: the share of questions with two hops.

    ``naming``: what books and people are called, "numbers" (easy) or "words" (see ``envs.words``).
    """

    family = "search"
    env_class = SearchEnvironment
    max_turns = 4

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        two_hop: float = 0.3,
        library_seed: int = 0,
        naming: Naming = "numbers",
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        if not 0.0 <= two_hop <= 1.0:
            raise ValueError(f"two_hop is {two_hop}, must be between 0 and 1")
        self.two_hop = two_hop
        check_naming(naming)
        self.library_seed, self.naming = library_seed, naming

    def task(self, index: int) -> Task:
        rng = self.rng(index)
        world = library(self.library_seed, self.naming)
        chain: tuple[str, ...]
        if rng.random() < self.two_hop:
            last = rng.choice(PERSON_ATTRIBUTES)
            entity = rng.choice(world.books[self.split])
            chain, question = ("author", last), rng.choice(TWO_HOP[last])
        else:
            attribute = rng.choice(ATTRIBUTES)
            entities = world.books if attribute in BOOK_ATTRIBUTES else world.people
            entity = rng.choice(entities[self.split])
            chain, question = (attribute,), rng.choice(ONE_HOP[attribute])
        answer = entity
        for attribute in chain:
            answer = world.value(answer, attribute)
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", question.format(entity))),
            answer=answer,
            metadata={
                "key": entity,
                "entity": entity,
                "chain": chain,
                "hops": len(chain),
                "library_seed": self.library_seed,
                "naming": self.naming,
            },
            seed=self.seed,
        )


def _facts_in(history: Sequence[Message]) -> dict[tuple[str, str], str]:
    """(entity, attribute) -> value, from every passage that a search gave."""
    return {
        (match.group(2), match.group(1)): match.group(3)
        for message in history
        if message.role == "tool"
        for match in _PASSAGE.finditer(message.content)
    }


def _search(attribute: str, entity: str) -> Message:
    call = ToolCall("search", {"query": f'{attribute} of "{entity}"'})
    return Message("assistant", reasoning=f"I search the {attribute}.", tool_calls=(call,))


def _answer(value: str) -> Message:
    return Message("assistant", f'"{value}"', reasoning="I found the answer.")


def _siblings(attribute: str) -> tuple[str, ...]:
    return BOOK_ATTRIBUTES if attribute in BOOK_ATTRIBUTES else PERSON_ATTRIBUTES


def _guess(attribute: str, naming: Naming, rng: random.Random) -> str:
    """A plausible value of an attribute, drawn blindly."""
    if attribute == "author":
        return person_name(rng, naming, "person")
    if attribute == "year":
        return str(rng.randint(1900, 1999))
    options = {"color": COLORS, "job": JOBS, "instrument": INSTRUMENTS}
    return rng.choice(options.get(attribute, CITIES))

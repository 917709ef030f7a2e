"""Walks: a described start, and steps from there to the article that a question asks for.

They are made from their end: the last article is given, and what leads to it is drawn step by step.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from envs.search.wiki_clues import Clue, can_find, clues
from envs.search.wiki_corpus import corpus
from envs.search.wiki_links import link_graph
from envs.search.wiki_paths import SAID_OF, SAME_YEAR, YEAR_OF, Edge, leading_to, onward, same_year, surface
from envs.search.wiki_phrases import phrase_of

_TRIES = 8  # ways tried for one article
_SOURCES = 30  # articles that name one, looked at for a step to it
# Facts that very many articles have are asked less often.
_WEIGHT = {"born": 0.5, "died": 0.5, "reign_start": 0.5, "reign_end": 0.5, "located_in": 0.4, "population": 0.5}
_BORDER_WEIGHT = 0.2


@dataclass(frozen=True)
class Branch:
    """A described start and the steps from it."""

    clue: Clue
    path: tuple[Edge, ...]

    @property
    def articles(self) -> tuple[int, ...]:
        """The start, then what each step leads to."""
        return (self.clue.article, *(edge.target for edge in self.path if edge.target is not None))


def reach(
    number: int, depth: int, breadth: int, allowed: frozenset[int], visited: set[int], rng: random.Random,
    told: Edge | None = None, by_year: bool = True,
) -> Branch | None:  # fmt: skip
    """A described start and a walk to ``number`` over ``depth`` articles, all of them allowed.

    ``told``: what must not be said of it. ``by_year``: whether one step may go by a year.
    """
    if depth <= 1:
        options = [clue for clue in clues(number, breadth) if told is None or _suits(clue.text, told)]
        return Branch(rng.choice(options), ()) if options else None
    years = _some(same_year(number), rng) if by_year else ()
    steps = [
        edge for edge in (*leading_to(number), *_onto(number, rng), *years)
        if edge.source in allowed and edge.source not in visited and (told is None or not _same_said(edge, told))
    ]  # fmt: skip
    for edge in sorted(steps, key=lambda e: rng.random() / weight(e), reverse=True)[:_TRIES]:
        still = by_year and edge.since is None
        before = reach(edge.source, depth - 1, breadth, allowed, {*visited, number}, rng, edge.since, still)
        if before is not None:
            return Branch(before.clue, (*before.path, edge))
    return None


def _same_said(edge: Edge, told: Edge) -> bool:
    """Whether a step to an article says what is asked of it."""
    if edge.event is not None:
        return edge.event == told.relation
    return edge.clause is not None and told.clause is not None and edge.clause.line == told.clause.line


def _some(edges: tuple[Edge, ...], rng: random.Random) -> list[Edge]:
    return rng.sample(edges, min(_TRIES, len(edges)))


def _onto(number: int, rng: random.Random) -> list[Edge]:
    """Steps to an article from those that name it."""
    sources = list(link_graph().incoming.get(number, ()))
    some = rng.sample(sources, min(_SOURCES, len(sources)))
    return [edge for source in some for edge in onward(source) if edge.target == number]


def _suits(text: str, told: Edge) -> bool:
    """Whether a description may stand beside what is told of the article: not the same, and of the same thing. What
    began and ended is the principality, not the region that it lay in."""
    phrase = phrase_of(told.source)
    other = told.relation in ("began", "ended") and (phrase is None or not says(text, phrase.head))
    return not other and not _gives_away(text, told)


def _gives_away(text: str, edge: Edge) -> bool:
    """Whether a description says what is asked for, or is the very statement that is asked about."""
    if says(text, edge.value):
        return True
    return edge.clause is not None and edge.said.removeprefix("was ").removeprefix("is ") in text


def weight(edge: Edge) -> float:
    known = 0 if edge.target is None or edge.relation == SAID_OF else link_graph().popularity(edge.target)
    usual = _BORDER_WEIGHT if edge.relation.startswith("borders_") else _WEIGHT.get(edge.relation, 1.0)
    return usual / (1 + known / 5)


def choose(options: list[Edge], rng: random.Random) -> Edge:
    return rng.choices(options, weights=[weight(edge) for edge in options])[0]


def fits(branch: Branch) -> bool:
    """What is searched for can be found, nothing of the path is said, and the lines name what they are read for."""
    said = " ".join([branch.clue.text, *(edge.said for edge in branch.path if edge.clause)])
    for number in branch.articles:
        if says(said, corpus().articles[number].name):
            return False
    for edge in branch.path:
        if edge.target is None and edge.relation != YEAR_OF and says(branch.clue.text, edge.value):
            return False
        if edge.relation in (SAID_OF, SAME_YEAR):
            if not can_find(edge.stated_in, query_of(edge)):
                return False
        elif edge.target is not None and surface(edge).casefold() not in edge.text.casefold():
            return False
    return True


def says(text: str, name: str) -> bool:
    """Whether a name or number occurs in a text as a word of its own, in any case."""
    return re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", text.casefold()) is not None


def query_of(edge: Edge) -> str:
    """The words that find the target of a step that it states itself, once its source is known."""
    if edge.since is not None:
        return f"{edge.kind} {edge.since.value}"
    return f"{edge.kind} {edge.said} {corpus().articles[edge.source].name}"

"""The question factory: long-tail article -> walk over facts -> question whose answer is at the end of the walk.

    chain     What is the year of birth of the poet named in the article on the Latin narrative poem from 8 CE?
    meeting   Which sea is named both in the article on … and in the article on …?
    between   How many years lie between the birth of … and the death of …?

*Depth* is the number of articles that must be read one after the other. *Breadth* is the number of facts that are
combined: 1 is a description of where the walk starts; 2 and more are what kind of thing that is and so many articles
that it names, or two walks whose ends are put together. No start is named, and nothing on the way.
``propose`` keeps a walk only when its start fits one article alone and a search finds it, and when neither the answer
nor a step is said.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from envs.search.wiki_clues import Clue, can_find, combine, describe
from envs.search.wiki_corpus import corpus
from envs.search.wiki_english import BETWEEN, EVENTS, ask, hop
from envs.search.wiki_links import link_graph
from envs.search.wiki_paths import (
    FEW,
    MENTIONED_BY,
    NAMED,
    UNTYPED,
    Edge,
    asks,
    call,
    could_be,
    edges,
    in_long_tail,
    kinds,
    line_of,
    long_tail,
    reverse_edges,
    surface,
)
from envs.search.wiki_phrases import phrase_of, short_kind

Shape = Literal["chain", "meeting", "between"]
_TRIES = 12  # walks tried from one start
_BRANCH_TRIES = 400  # of one half of a "between"
_REVERSE = 0.65  # how often a step goes to an article that names this one


@dataclass(frozen=True)
class Branch:
    """A described start and the facts followed from it."""

    clue: Clue
    path: tuple[Edge, ...]


@dataclass(frozen=True)
class Question:
    """A question with its gold paths: two branches for the shapes "meeting" and "between", else one."""

    text: str
    answer: str
    branches: tuple[Branch, ...]
    shape: Shape
    depth: int
    breadth: int

    @property
    def ends(self) -> tuple[int, ...]:
        """The articles that decide the split: the starts, those that state the answer, and the answer's own."""
        last = [branch.path[-1] for branch in self.branches]
        stated = [edge.stated_in for edge in last] + [edge.target for edge in last if edge.target is not None]
        return (*(branch.clue.article for branch in self.branches), *stated)

    @property
    def key(self) -> str:
        """What is asked: the starts, and the facts in order. Two wordings of it are the same question."""
        return f" {self.shape} ".join(_branch_key(branch) for branch in self.branches)


def draw_shape(depth: int, breadth: int, rng: random.Random) -> Shape:
    """Two facts can be combined in three ways, two articles that both name the answer only at depth 2."""
    if breadth != 2:
        return "chain"
    shapes: dict[Shape, float] = {"chain": 2, "between": 1, "meeting": 1 if depth == 2 else 0}
    return rng.choices(list(shapes), weights=list(shapes.values()))[0]


def propose(rng: random.Random, shape: Shape, depth: int, breadth: int, allowed: frozenset[int]) -> Question | None:
    """One try at a question whose ends are all in ``allowed``; None when the try led nowhere."""
    if shape == "between":
        return _between(depth, rng, allowed)
    if shape == "meeting":
        return _meeting(rng, allowed)
    branch = _branch(depth, breadth, rng, allowed)
    if branch is None:
        return None
    return Question(_write(branch, rng), branch.path[-1].value, (branch,), "chain", depth, breadth)


@lru_cache(maxsize=8)
def starts(allowed: frozenset[int]) -> tuple[int, ...]:
    """The articles of a split that questions start from."""
    return tuple(number for number in long_tail() if number in allowed)


# -- walks ------------------------------------------------------------------------------------


def _branch(
    depth: int, breadth: int, rng: random.Random, allowed: frozenset[int], events: bool = False
) -> Branch | None:
    """A start and a walk from it; with ``events`` the walk ends in a year in which something happened."""
    start = rng.choice(starts(allowed))
    clue = describe(start) if breadth == 1 else combine(start, breadth, rng)
    if clue is None:
        return None
    for _ in range(_TRIES):
        path = _walk(start, depth, rng, allowed, events)
        if path is not None and _fits(clue, path, allowed):
            return Branch(clue, path)
    return None


def _walk(start: int, depth: int, rng: random.Random, allowed: frozenset[int], events: bool) -> tuple[Edge, ...] | None:
    path: list[Edge] = []
    visited, here = {start}, start
    for position in range(depth - 1):
        onward = _onward(here, visited, rng)
        if position == depth - 2:
            onward = [edge for edge in onward if edge.target in allowed]
        edge = _choose(onward, rng)
        if edge is None or edge.target is None:
            return None
        path.append(edge)
        here = edge.target
        visited.add(here)
    options = [e for e in asks(here) if e.target is None or (e.target in allowed and e.target not in visited)]
    options = [edge for edge in options if edge.relation in EVENTS or not events]
    last = _choose(options, rng)
    return None if last is None else (*path, last)


def _onward(here: int, visited: set[int], rng: random.Random) -> list[Edge]:
    """Steps along the links of an article or, now and then, against them."""
    forward = [edge for edge in edges(here) if edge.target not in visited]
    if len(visited) == 1 or (forward and rng.random() > _REVERSE):
        return forward  # against the first links the question would say nothing of the start
    back = [edge for edge in reverse_edges(here) if edge.target not in visited and edge.extra not in visited]
    return back or forward


def _choose(options: list[Edge], rng: random.Random) -> Edge | None:
    """Typed facts more often than "names", since they are rarer; well-known articles less often than others."""
    if not options:
        return None
    graph = link_graph()
    weights = [
        (1.0 if edge.relation in UNTYPED else 2.0)
        / (1 + (0 if edge.target is None else graph.popularity(edge.target)) / 10)
        for edge in options
    ]
    return rng.choices(options, weights=weights)[0]


def _fits(clue: Clue, path: tuple[Edge, ...], allowed: frozenset[int]) -> bool:
    """The ends are of the split, what is searched for can be found, and nothing of the path is said."""
    last = path[-1]
    if last.stated_in not in allowed or (last.target is not None and last.target not in allowed):
        return False
    said = " ".join([clue.text, *(f"{edge.kind} {edge.extra_name}" for edge in path)])
    for edge in path:
        names = [edge.value] if edge.target is None else [corpus().articles[edge.target].name, surface(edge)]
        if any(says(said, name) for name in names):
            return False
        if edge.target is not None and surface(edge).casefold() not in edge.text.casefold():
            return False
        if edge.relation == MENTIONED_BY and not can_find(edge.stated_in, query_of(edge)):
            return False
    return True


def says(text: str, name: str) -> bool:
    """Whether a name or number occurs in a text as a word of its own, in any case."""
    return re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", text.casefold()) is not None


def query_of(edge: Edge) -> str:
    """The words that find the target of a "mentioned by" step, once its source is known."""
    return f"{edge.kind} {edge.extra_name} {corpus().articles[edge.source].name}"


def _meeting(rng: random.Random, allowed: frozenset[int]) -> Question | None:
    """Two articles that both name the answer, where neither alone tells which of the things it names is meant."""
    graph, start = link_graph(), rng.choice(starts(allowed))
    first = describe(start)
    targets = [t for t in graph.links[start] if t in allowed and (p := phrase_of(t)) is not None and p.kind is not None]
    if first is None or not targets:
        return None
    target = rng.choice(targets)
    kind = short_kind(phrase_of(target).kind or "")  # type: ignore[union-attr]
    others = [n for n in graph.incoming[target] if n != start and n in allowed and n in in_long_tail()]
    if not others or len(kinds().get(kind, ())) < FEW:
        return None
    other = rng.choice(others)
    second = describe(other)
    both = graph.mentions[start].keys() & graph.mentions[other].keys()
    if second is None or any(t != target and could_be(t, kind) for t in both):
        return None
    if (NAMED, kind) in (call(start, target), call(other, target)):
        return None
    title = corpus().articles[target].title
    edge, twin = (Edge(s, NAMED, title, line_of(s, target), s, target, kind) for s in (start, other))
    if not (_fits(first, (edge,), allowed) and _fits(second, (twin,), allowed)):
        return None
    text = rng.choice(
        (
            "Which {kind} is named both in the article on the {a} and in the article on the {b}?",
            "The article on the {a} and the one on the {b} have one {kind} in common. Which?",
            "What is the name of the {kind} that the articles on the {a} and on the {b} both mention?",
        )
    ).format(kind=kind, a=first.text, b=second.text)
    return Question(text, title, (Branch(first, (edge,)), Branch(second, (twin,))), "meeting", 2, 2)


def _between(depth: int, rng: random.Random, allowed: frozenset[int]) -> Question | None:
    """The years between the ends of two walks, one of them of full depth."""
    one, two = (_ending_in_a_year(d, rng, allowed) for d in (depth, rng.randint(1, depth)))
    if one is None or two is None or one.clue.article == two.clue.article:
        return None
    last = [one.path[-1], two.path[-1]]
    if last[0].source == last[1].source:
        return None
    years = abs(int(last[0].value) - int(last[1].value))
    said = f"{one.clue.text} {two.clue.text}"
    if years == 0 or any(says(said, edge.value) for edge in last):
        return None
    first, second = (EVENTS[b.path[-1].relation].format(np=_noun_phrase(b, rng)) for b in (one, two))
    text = rng.choice(BETWEEN).format(first=first, second=second)
    return Question(text, str(years), (one, two), "between", depth, 2)


def _ending_in_a_year(depth: int, rng: random.Random, allowed: frozenset[int]) -> Branch | None:
    tries = (_branch(depth, 1, rng, allowed, events=True) for _ in range(_BRANCH_TRIES))
    return next((branch for branch in tries if branch is not None), None)


# -- writing it down --------------------------------------------------------------------------


def _noun_phrase(branch: Branch, rng: random.Random) -> str:
    """The article that the last fact of a branch is about, in one nested phrase."""
    np = f"the {branch.clue.text}"
    for edge in branch.path[:-1]:
        np = hop(edge.relation, np, edge.kind, edge.text, rng, edge.extra_name)
    return np


def _write(branch: Branch, rng: random.Random) -> str:
    """One nested sentence, or step by step where nesting would be hard to read."""
    last, path = branch.path[-1], branch.path
    if sum(edge.relation in UNTYPED for edge in path[:-1]) <= 1 and len(path) <= 3:
        np = _noun_phrase(branch, rng)
        return ask(last.relation, np, last.kind, last.text, rng, last.extra_name)
    begin, onward = rng.choice((("Start from", "Go on to"), ("Look up", "From there, find"), ("Take", "Next, take")))
    steps = [f"{begin} the {branch.clue.text}."]
    reference = _reference(branch.clue.article)
    for edge in path[:-1]:
        steps.append(f"{onward} {hop(edge.relation, reference, edge.kind, edge.text, rng, edge.extra_name)}.")
        assert edge.target is not None
        reference = _reference(edge.target)
    return " ".join([*steps, ask(last.relation, reference, last.kind, last.text, rng, last.extra_name)])


def _reference(number: int) -> str:
    """How a step speaks of what the step before found: "that poet"."""
    phrase = phrase_of(number)
    if phrase is None or phrase.kind is None:
        return "that person" if phrase is not None and phrase.person else "it"
    return f"that {short_kind(phrase.kind)}"


def _branch_key(branch: Branch) -> str:
    steps = (
        f"{edge.relation}: {edge.value}"
        if edge.extra is None
        else f"{edge.relation} with {edge.extra_name}: {edge.value}"
        for edge in branch.path
    )
    return " > ".join((corpus().articles[branch.clue.article].title, *steps))

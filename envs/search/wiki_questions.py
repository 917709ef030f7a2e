"""The question factory: an article to be asked for -> how to get there -> question whose answer is at the end.

    chain     What is the name of the opera that is based on the verse novel by the Russian poet …?
    between   How many years lie between the birth of … and the death of …?
    compare   Who was born first, the author of … or the painter who …?

*Depth* is the number of articles that must be read one after the other. *Breadth* is the number of statements that
describe where the walk starts, or of walks whose ends are put together. No start is named, and nothing on the way.
A question is made from its end: the article that is asked for is given, and it is the articles that lead to it, down to
the described start, that are drawn. All of them are of one split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from envs.search.wiki_corpus import corpus
from envs.search.wiki_english import (
    BETWEEN,
    COMPARE,
    DIFFERENCE,
    EVENTS,
    ask,
    first_of,
    hop,
    introduce,
)
from envs.search.wiki_paths import (
    SAID_OF,
    YEAR_OF,
    Edge,
    asks,
    having,
    leading_to,
    onward,
    same_year,
)
from envs.search.wiki_phrases import phrase_of, short_kind
from envs.search.wiki_walks import Branch, choose, fits, reach

Shape = Literal["chain", "between", "compare"]
_OTHERS = 60  # articles looked at for the other ends
_WIDEST = 22  # words of a phrase beside which another stands
_ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh")
_LONG = 12  # words after which a phrase gets a sentence of its own
# How a chain may end: asked for the article itself (by what it says, or by a year), for what it names, or for a fact.
# What may be the fact at its end, or in which year it happened; what is rare in the corpus is soon used up.
_FACTS = {
    "born": 3.0, "died": 3.0, "reign_start": 1.2, "reign_end": 1.2, "work_year": 1.0, "population": 0.6, "area": 0.4,
    "elevation": 0.05, "atomic_number": 0.2, "symbol": 0.2, "began": 0.1, "ended": 0.1, YEAR_OF: 0.5,
}  # fmt: skip
_EVENTS = {"born": 2.0, "died": 2.0, "reign_start": 1.0, "work_year": 0.8, "began": 0.1}
_BETWEEN = {
    "born": 1.0, "died": 1.0, "reign_start": 0.8, "reign_end": 0.8, "began": 0.2, "ended": 0.2, "work_year": 0.6,
    "atomic_number": 0.4,
}  # fmt: skip
_ENDINGS = {"itself": 0.5, "year": 3.0, "names": 0.5, "fact": 2.5}


@dataclass(frozen=True)
class Question:
    """A question with its gold paths: two branches for all shapes but "chain", else one."""

    text: str
    answer: str
    branches: tuple[Branch, ...]
    shape: Shape
    depth: int
    breadth: int
    most: bool = False  # of "compare": whether the one with the highest number is asked for

    @property
    def articles(self) -> tuple[int, ...]:
        """All that lie on its paths, the answer's own included."""
        return tuple(dict.fromkeys(number for branch in self.branches for number in branch.articles))

    @property
    def key(self) -> str:
        """What is asked: the articles in order, and the last fact. Other words for the same are the same question."""
        return f" {self.shape} ".join(sorted(map(_branch_key, self.branches)))

    @property
    def template(self) -> str:
        """What its form is: the shape, what is asked at the end, and by what step it got there."""
        forms = [" after ".join(_form(edge) for edge in reversed(branch.path[-2:])) for branch in self.branches]
        counted = f"{self.shape} of {len(forms)}" if self.shape == "compare" else self.shape
        return f"{counted}: {' and '.join(sorted(set(forms)))}"


@dataclass(frozen=True)
class Goal:
    """What a question is to be like. ``ending``: of a chain. ``relations``: the facts at its ends, for chains that end
    in one, "between" and "compare"; the event of a chain that ends by a year."""

    shape: Shape
    ending: str = ""
    relations: tuple[str, ...] = ()


def draw_goal(depth: int, breadth: int, rng: random.Random) -> Goal:
    """Breadth is that of the start in a chain; else it is how many walks are put together."""
    shapes: dict[Shape, float] = {"chain": 0.3 if depth == 1 and breadth > 1 else 2.0}
    if breadth >= 2 and depth <= 2:
        shapes["compare"] = 1.5 if breadth <= 3 else 0.0
        shapes["between"] = 1.5 if breadth == 2 else 0.0
    shape = rng.choices(list(shapes), weights=list(shapes.values()))[0]
    if shape == "between":
        one, two = rng.choices(list(_BETWEEN), weights=list(_BETWEEN.values()), k=2)
        return Goal(shape, relations=(one, one if one in DIFFERENCE or two in DIFFERENCE else two))
    if shape == "compare":
        return Goal(shape, relations=(rng.choice(list(COMPARE)),) * (3 if breadth >= 3 else 2))
    names = [name for name in _ENDINGS if depth > 1 or name in ("names", "fact")]
    ending = rng.choices(names, weights=[_ENDINGS[name] for name in names])[0]
    drawn = {"fact": _FACTS, "year": _EVENTS}.get(ending)
    return Goal(shape, ending, tuple(rng.choices(list(drawn), weights=list(drawn.values()))) if drawn else ())


def may_be_about(goal: Goal) -> tuple[int, ...] | None:
    """The articles that a question of a goal can ask for; None when they are not known beforehand."""
    return having(goal.relations[0]) if goal.relations and goal.relations[0] != YEAR_OF else None


def propose(
    rng: random.Random, goal: Goal, depth: int, breadth: int, allowed: frozenset[int], about: int
) -> Question | None:
    """One try at a question about article ``about``, all of whose articles are in ``allowed``; None when it failed."""
    make = {"chain": _chain, "between": _between, "compare": _compare}[goal.shape]
    question = make(rng, goal, depth, breadth, allowed, about)
    if question is None or not set(question.articles) <= allowed:
        return None
    return question if all(fits(branch) for branch in question.branches) else None


_ENDS: dict[str, Callable[[int], tuple[Edge, ...]]] = {
    "itself": leading_to, "year": same_year, "names": onward, "fact": asks,
}  # fmt: skip


# -- walks, made from their end ---------------------------------------------------------------


def _chain(
    rng: random.Random, goal: Goal, depth: int, breadth: int, allowed: frozenset[int], about: int
) -> Question | None:
    ending, ends = goal.ending, _ENDS[goal.ending](about)
    if goal.relations:
        ends = tuple(edge for edge in ends if (edge.event or edge.relation) in goal.relations)
    options = [edge for edge in ends if edge.source in allowed and (edge.target is None or edge.target in allowed)]
    if not options:
        return None
    last = choose(options, rng)
    visited = {about} | ({last.target} if last.target is not None else set())
    if ending in ("itself", "year"):
        start = reach(last.source, depth - 1, breadth, allowed, visited, rng, last.since, ending != "year")
    else:
        start = reach(about, depth, breadth, allowed, visited - {about}, rng, last)
    if start is None:
        return None
    branch = Branch(start.clue, (*start.path, last))
    return Question(_write(branch, rng), last.value, (branch,), "chain", depth, breadth)


# -- two walks --------------------------------------------------------------------------------


def _between(
    rng: random.Random, goal: Goal, depth: int, breadth: int, allowed: frozenset[int], about: int
) -> Question | None:
    """The years between the ends of two walks, or what their numbers differ by."""
    ends = _ends(rng, goal.relations, depth, allowed, about)
    if ends is None:
        return None
    relation = goal.relations[0]
    apart = abs(int(ends[0].path[-1].value) - int(ends[1].path[-1].value))
    if apart < 2:
        return None
    phrases = [_noun_phrase(branch, rng) for branch in ends]
    if relation not in DIFFERENCE:
        phrases = [EVENTS[b.path[-1].relation].format(np=np) for b, np in zip(ends, phrases, strict=True)]
    text = rng.choice(DIFFERENCE.get(relation, BETWEEN)).format(first=phrases[0], second=phrases[1])
    return Question(text, str(apart), ends, "between", depth, 2)


def _compare(
    rng: random.Random, goal: Goal, depth: int, breadth: int, allowed: frozenset[int], about: int
) -> Question | None:
    """Which of the ends of two or three walks comes first, or has more of something."""
    ends, number = _ends(rng, goal.relations, depth, allowed, about), len(goal.relations)
    if ends is None:
        return None
    relation = ends[0].path[-1].relation
    values = [amount(branch.path[-1].value) for branch in ends]
    phrases = [_noun_phrase(branch, rng) for branch in ends]
    order = sorted(range(number), key=lambda i: values[i])
    if len(set(values)) < number:
        return None
    if number == 2:
        most = relation in ("population", "area")
        text = rng.choice(COMPARE[relation]).format(first=phrases[0], second=phrases[1])
    else:
        most = rng.random() < 0.5
        text = first_of(relation, phrases, most)
    if number > 2 and any("," in phrase for phrase in phrases):
        return None  # where one ends and the next begins could not be seen
    winner = ends[order[-1 if most else 0]].path[-1].source
    return Question(text, corpus().articles[winner].title, ends, "compare", depth, number, most)


def _ends(
    rng: random.Random, relations: tuple[str, ...], depth: int, allowed: frozenset[int], about: int
) -> tuple[Branch, ...] | None:
    """Walks that end in these facts, the first one in that of ``about`` and of full depth."""
    branches: list[Branch] = []
    for relation in relations:
        pool = having(relation)
        for _ in range(_OTHERS):
            number = rng.choice(pool) if branches else about
            branch = _end(rng, relation, rng.randint(1, depth) if branches else depth, allowed, number)
            if branch is not None and (not branches or _comparable(about, number)):
                branches.append(branch)
                break
            if not branches:
                return None
    articles = [article for branch in branches for article in branch.articles]
    whole = len(branches) == len(relations) and len(set(articles)) == len(articles)
    return tuple(branches) if whole else None


def _end(rng: random.Random, relation: str, depth: int, allowed: frozenset[int], number: int) -> Branch | None:
    """A walk to a fact of an article, short enough to stand beside another one."""
    facts = [edge for edge in asks(number) if edge.relation == relation]
    if not facts or number not in allowed:
        return None
    start = reach(number, depth, 1, allowed, set(), rng, facts[0], by_year=False)
    branch = Branch(start.clue, (*start.path, facts[0])) if start is not None else None
    if branch is None or len(_noun_phrase(branch, random.Random(0)).split()) > _WIDEST:
        return None
    return branch


def _comparable(one: int, other: int) -> bool:
    """Persons with persons, works with works: "Which is older, the symphony or the war?" would be odd."""
    a, b = phrase_of(one), phrase_of(other)
    return a is not None and b is not None and a.person == b.person


def amount(value: str) -> float:
    """A number as the articles write it: "1,094", "9.1 million"."""
    number, _, scale = value.partition(" ")
    return float(number.replace(",", "")) * {"million": 1e6, "billion": 1e9, "trillion": 1e12}.get(scale, 1.0)


# -- writing it down --------------------------------------------------------------------------


def _noun_phrase(branch: Branch, rng: random.Random) -> str:
    """The article that the last fact of a branch is about, in one nested phrase."""
    np = f"the {branch.clue.text}"
    for edge in branch.path[:-1]:
        np = hop(edge, np, rng)
    return np


def _write(branch: Branch, rng: random.Random) -> str:
    """One sentence where that can be followed; else what was said so far gets a sentence of its own."""
    sentences: list[str] = []
    kinds: list[str] = []  # what the sentences introduced, as the next one speaks of it
    np, here = f"the {branch.clue.text}", branch.clue.article
    nested = 0
    for edge in branch.path:
        # whether something follows the phrase
        inside = edge.relation != SAID_OF and (edge.since is None or edge.since.relation != edge.event)
        twice = nested == 0 and edge is not branch.path[-1] and edge.target is not None and _alike(here, edge.target)
        if nested >= 1 or twice or (inside and len(np.split()) > _LONG) or len(np.split()) > _WIDEST:
            sentences.append(introduce(np, rng, sentences[-1] if sentences else ""))
            np, nested = _reference(here, " ".join(sentences)), 0
            kinds.append(np)
            if kinds.count(np) > 1 and np.startswith("that "):  # "that country" could be the first one
                np = f"the {_ORDINALS[kinds.count(np)]} {np.removeprefix('that ')}"
        if edge is branch.path[-1]:
            break
        assert edge.target is not None
        np, here, nested = hop(edge, np, rng), edge.target, nested + 1
    return " ".join([*sentences, ask(branch.path[-1], np, rng)])


def _alike(one: int, other: int) -> bool:
    """Whether both would be called the same: "the country on the border of the country" is hard to follow."""
    a, b = phrase_of(one), phrase_of(other)
    return (
        a is not None
        and b is not None
        and a.kind is not None
        and b.kind is not None
        and (short_kind(a.kind) == short_kind(b.kind))
    )


def _reference(number: int, said: str) -> str:
    """How a sentence speaks of what the one before introduced: "that poet". ``said``: all sentences before."""
    phrase = phrase_of(number)
    if phrase is None or phrase.kind is None:
        return "that person" if phrase is not None and phrase.person else "it"
    kind = short_kind(phrase.kind)
    # "the person who wrote that book" was not called a philosopher: if anybody was, it was somebody else
    if re.search(r"\bthe person who [^.]*\.$", said) and re.search(rf"\b{re.escape(kind)}\b", said):
        return "that person"
    return f"that {kind}"


def _branch_key(branch: Branch) -> str:
    last = branch.path[-1]
    titles = [corpus().articles[number].title for number in branch.articles]
    return " > ".join((*titles, last.relation if last.target is None else ""))


def _form(edge: Edge) -> str:
    if edge.since is not None:
        return f"{edge.event} in the year of {edge.since.relation}"
    return edge.relation if edge.clause is None else f"{edge.relation} ({edge.clause.verb})"

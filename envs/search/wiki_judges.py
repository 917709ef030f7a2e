"""Weak answerers: what somebody would say who does not search as the question needs. A task is kept when all are wrong.

Each takes a task's metadata and gives its guesses. They are of different kinds, and read articles with the same
rules as the question factory, so that a fact which can be had the easy way is noticed.

    closed_book      no search: the likeliest value of such a question; the article whose description is most like it
    popularity       no search: the best known articles of the kind that is asked for
    one_search       one search for the whole question, and the best reading of what comes first
    wrong_document   the right steps, but from the runner-up of the search, or with another turn on the way
    short_cut        the right start, but the last question asked too early
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from envs.search.wiki_answers import is_right
from envs.search.wiki_corpus import corpus
from envs.search.wiki_facts import facts_of
from envs.search.wiki_index import wiki_index
from envs.search.wiki_links import link_graph
from envs.search.wiki_paths import MENTIONED_BY, UNTYPED, common_values, could_be, kinds
from envs.search.wiki_phrases import phrase_of

Metadata = Mapping[str, Any]
BEST_KNOWN = 3  # guesses of the one who knows what is popular
_RESULTS = 5


def fooled(question: str, metadata: Metadata) -> str | None:
    """The first weak answerer that is right, or None when all are wrong."""
    for name, judge in JUDGES.items():
        if any(is_right(guess, metadata["accepted"]) for guess in judge(question, metadata)):
            return name
    return None


def closed_book(question: str, metadata: Metadata) -> Iterator[str]:
    years = [int(year) for year in re.findall(r"\b\d{3,4}\b", question)]
    if metadata["shape"] == "between":
        yield from (str(abs(a - b)) for a in years for b in years if a < b)
        one, two = (branch[-1]["relation"] for branch in _branches(metadata))
        yield from (_years_apart(a, b) for a in _typical(one) for b in _typical(two))
        return
    step = metadata["steps"][-1]
    yield from _typical(step["relation"])
    words = set(wiki_index().terms(question))
    options = kinds().get(step["kind"] or "", ())
    if options:
        best = max(options, key=lambda number: (len(words & set(_description_terms(number))), -number))
        yield corpus().articles[best].title


def _typical(relation: str) -> Iterator[str]:
    """The most frequent value of a relation, and for numbers the one in the middle."""
    values = common_values().get(relation, ())
    yield from values[:1]
    if numbers := sorted(float(value) for value in values if value.isdigit()):
        yield str(round(statistics.median(numbers)))


def popularity(question: str, metadata: Metadata) -> Iterator[str]:
    if metadata["shape"] == "between":
        yield from ("100", "50", "10")  # round numbers
        return
    step = metadata["steps"][-1]
    for number in kinds().get(step["kind"] or "", ())[:BEST_KNOWN]:
        yield corpus().articles[number].title
    yield from common_values().get(step["relation"], ())[:BEST_KNOWN]


def one_search(question: str, metadata: Metadata) -> Iterator[str]:
    found = [number for number, _ in wiki_index().ranked(wiki_index().terms(question), _RESULTS)]
    if metadata["shape"] == "between":
        one, two = (branch[-1] for branch in _branches(metadata))
        for first in found[:3]:
            for second in found[:3]:
                yield _years_apart(read(first, one), read(second, two))
        return
    step = metadata["steps"][-1]
    if step["kind"]:
        yield from (corpus().articles[n].title for n in [n for n in found if could_be(n, step["kind"])][:1])
    yield from (read(number, step) for number in found[:1])
    readings = (read(number, step) for number in found)
    yield next((reading for reading in readings if reading), "")


def wrong_document(question: str, metadata: Metadata) -> Iterator[str]:
    branches = _branches(metadata)
    for position, (start, steps) in enumerate(zip(metadata["starts"], branches, strict=True)):
        gold = corpus()[start["article"]].number
        ranked = wiki_index().ranked(wiki_index().terms(start["query"]), 3)
        wrong = [_follow(number, steps) for number, _ in ranked if number != gold][:1]
        for at, step in enumerate(steps[:-1]):
            here, right = corpus()[step["source"]].number, corpus()[step["value"]].number
            others = [target for target in link_graph().links[here] if target != right][:2]
            wrong += [_follow(other, steps[at + 1 :]) for other in others]
        if metadata["shape"] == "between":
            wrong = [_years_apart(value, branches[1 - position][-1]["value"]) for value in wrong]
        yield from wrong


def short_cut(question: str, metadata: Metadata) -> Iterator[str]:
    branches = _branches(metadata)
    if metadata["shape"] == "between":
        for branch in branches:  # the years of one of the two alone
            number = corpus()[branch[-1]["source"]].number
            years = [fact.value for fact in facts_of(number) if fact.value.isdigit() and len(fact.value) <= 4]
            yield from (_years_apart(a, b) for a in years for b in years if a < b)
        return
    for branch in branches:
        for step in branch if metadata["shape"] == "meeting" else branch[:-1]:
            yield read(corpus()[step["source"]].number, branch[-1])


JUDGES: dict[str, Callable[[str, Metadata], Iterator[str]]] = {
    "closed_book": closed_book,
    "popularity": popularity,
    "one_search": one_search,
    "wrong_document": wrong_document,
    "short_cut": short_cut,
}


def read(number: int, step: Metadata) -> str:
    """The best answer that one article gives for a step's relation; "" when it gives none."""
    for fact in facts_of(number):
        if fact.relation == step["relation"]:
            return fact.value
    graph, options = link_graph(), list[int]()
    if step["relation"] in UNTYPED and step["relation"] != MENTIONED_BY:
        options = list(graph.links[number])
    elif step["relation"] == MENTIONED_BY and (extra := corpus().find(step["extra"] or "")):
        options = [source for source in graph.incoming.get(number, ()) if extra.number in graph.mentions[source]]
    return next((corpus().articles[n].title for n in options if step["kind"] and could_be(n, step["kind"])), "")


def _follow(number: int, steps: list[Metadata]) -> str:
    """The answer at the end of the same steps from another article; "" when they cannot be taken."""
    for step in steps[:-1]:
        value = read(number, step)
        onward = corpus().find(value) if value else None
        if onward is None:
            return ""
        number = onward.number
    return read(number, steps[-1])


def _branches(metadata: Metadata) -> list[list[Metadata]]:
    """The steps of each branch."""
    steps = metadata["steps"]
    return [[s for s in steps if s["branch"] == branch] for branch in range(len(metadata["starts"]))]


def _years_apart(one: str, two: str) -> str:
    return str(abs(int(one) - int(two))) if one.isdigit() and two.isdigit() else ""


def _description_terms(number: int) -> tuple[str, ...]:
    phrase = phrase_of(number)
    return wiki_index().terms(phrase.phrase) if phrase is not None else ()

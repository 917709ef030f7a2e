"""Weak answerers: what somebody would say who does not search as the question needs. A task is kept when all are wrong.

Each takes a task's metadata and gives its guesses. They are of different kinds, and read articles with the same
rules as the question factory, so that a fact which can be had the easy way is noticed.

    closed_book      no search: the likeliest value of such a question; the article whose description is most like it
    popularity       no search: the best known articles of the kind that is asked for
    one_search       one search for the whole question or its last sentence, and the best reading of what comes first
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
from envs.search.wiki_kinds import could_be, kinds
from envs.search.wiki_links import link_graph
from envs.search.wiki_paths import SAID_OF, SAME_YEAR, YEAR_OF, asks, common_values, dates, happened_in
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
    if metadata["shape"] == "compare":
        return
    if metadata["shape"] == "between":
        yield from (str(abs(a - b)) for a in years for b in years if a < b)
        one, two = (branch[-1]["relation"] for branch in _branches(metadata))
        yield from (_apart(a, b) for a in _typical(one) for b in _typical(two))
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
    if metadata["shape"] == "compare":
        return
    if metadata["shape"] == "between":
        yield from ("100", "50", "10")  # round numbers
        return
    step = metadata["steps"][-1]
    for number in kinds().get(step["kind"] or "", ())[:BEST_KNOWN]:
        yield corpus().articles[number].title
    yield from common_values().get(step["relation"], ())[:BEST_KNOWN]


def one_search(question: str, metadata: Metadata) -> Iterator[str]:
    found = _found(question)
    if metadata["shape"] == "compare":
        yield from (corpus().articles[number].title for number in found[:1])
        return
    if metadata["shape"] == "between":
        one, two = (branch[-1] for branch in _branches(metadata))
        for first in found[:3]:
            for second in found[:3]:
                yield _apart(read(first, one), read(second, two))
        return
    step = metadata["steps"][-1]
    last = question.rsplit(". ", 1)[-1]
    # what the last step says itself, without what it is said of
    own = (" ".join(w for w in step["query"].split() if w not in step["find"].split()),) if step["query"] else ()
    for hits in (found, *(_found(text) for text in (last, *own) if text != question)):
        if step["kind"]:
            yield from (corpus().articles[n].title for n in [n for n in hits if could_be(n, step["kind"])][:1])
        yield from (read(number, step) for number in hits[:1])
    readings = (read(number, step) for number in found)
    yield next((reading for reading in readings if reading), "")


def _found(text: str) -> list[int]:
    return [number for number, _ in wiki_index().ranked(wiki_index().terms(text), _RESULTS)]


def wrong_document(question: str, metadata: Metadata) -> Iterator[str]:
    if metadata["shape"] in ("compare", "meeting"):
        return
    branches = _branches(metadata)
    for position, (start, steps) in enumerate(zip(metadata["starts"], branches, strict=True)):
        gold = corpus()[start["article"]].number
        ranked = wiki_index().ranked(wiki_index().terms(start["query"]), 3)
        wrong = [_follow(number, steps) for number, _ in ranked if number != gold][:1]
        for at, step in enumerate(steps[:-1]):
            if not step["is_title"]:
                continue
            here, right = corpus()[step["source"]].number, corpus()[step["value"]].number
            others = [target for target in link_graph().links[here] if target != right][:2]
            wrong += [_follow(other, steps[at + 1 :]) for other in others]
        if metadata["shape"] == "between":
            wrong = [_apart(value, branches[1 - position][-1]["value"]) for value in wrong]
        yield from wrong


def short_cut(question: str, metadata: Metadata) -> Iterator[str]:
    branches = _branches(metadata)
    if metadata["shape"] == "compare":
        return
    if metadata["shape"] == "between":
        for branch in branches:  # the years of one of the two alone
            number = corpus()[branch[-1]["article"]].number
            years = [fact.value for fact in facts_of(number) if fact.value.isdigit() and len(fact.value) <= 4]
            yield from (_apart(a, b) for a in years for b in years if a < b)
        return
    for branch in branches:
        for step in branch[:-2]:
            yield read(corpus()[step["article"]].number, branch[-1])


JUDGES: dict[str, Callable[[str, Metadata], Iterator[str]]] = {
    "closed_book": closed_book,
    "popularity": popularity,
    "one_search": one_search,
    "wrong_document": wrong_document,
    "short_cut": short_cut,
}


def read(number: int, step: Metadata) -> str:
    """The best answer that one article gives for a step's relation; "" when it gives none."""
    relation, kind = step["relation"], step["kind"] or ""
    if relation == YEAR_OF:
        return next((edge.value for edge in asks(number) if edge.relation == YEAR_OF), "")
    for fact in facts_of(number):
        if fact.relation == relation:
            return fact.value
    graph = link_graph()
    if relation == SAID_OF:
        options = list(graph.incoming.get(number, ()))
    elif relation == SAME_YEAR:
        years = [edge.value for edge in dates(number) if edge.relation == step["since"]]
        options = [edge.source for year in years for edge in happened_in(year) if edge.relation == step["event"]]
    else:
        options = list(graph.links[number]) if kind else []
    return next((corpus().articles[n].title for n in options if n != number and could_be(n, kind)), "") if kind else ""


def _follow(number: int, steps: list[Metadata]) -> str:
    """The answer at the end of the same steps from another article; "" when they cannot be taken."""
    for step in steps[:-1]:
        if not step["is_title"] or step["relation"] == "start":
            continue
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


def _apart(one: str, two: str) -> str:
    return str(abs(int(one) - int(two))) if one.isdigit() and two.isdigit() else ""


def _description_terms(number: int) -> tuple[str, ...]:
    phrase = phrase_of(number)
    return wiki_index().terms(phrase.phrase) if phrase is not None else ()

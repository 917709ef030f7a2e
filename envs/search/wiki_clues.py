"""How a question describes the article it starts from, without its title, so that it fits one article alone.

    describe(Metamorphoses)    "Latin narrative poem by the Roman poet …"
    combine(Nikos …, 2)        "writer whose article mentions both Crete and Nobel Prize"

A clue is kept when no other article fits it (by its words anywhere, or by what it mentions), when it holds no word of
the title, and when a search for its words finds the article.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from envs.search.wiki_corpus import corpus
from envs.search.wiki_english import listing
from envs.search.wiki_index import wiki_index
from envs.search.wiki_links import link_graph
from envs.search.wiki_paths import RARE_KIND, could_be, kinds
from envs.search.wiki_phrases import phrase_of, short_kind

FINDABLE = 10  # the article must be among so many results of a search for the clue
_COMBINATIONS = 6  # tried before an article is given up


@dataclass(frozen=True)
class Clue:
    """``text`` follows "the"; ``query`` are the words to search for."""

    article: int
    text: str
    query: str

    def to_json(self) -> dict[str, Any]:
        return {"article": corpus().articles[self.article].title, "clue": self.text, "query": self.query}


@cache
def describe(number: int) -> Clue | None:
    """The clue of an article's own description; None when there is no good one."""
    phrase = phrase_of(number)
    if phrase is None or len(phrase.phrase.split()) < 2:
        return None
    for text in dict.fromkeys((phrase.phrase, phrase.lived.removeprefix("the "))):
        words = re.sub(r"\bwho (?:lived from|was born in)\b|\bto\b", " ", text)
        if wiki_index().containing(wiki_index().terms(words)) == {number}:
            return _checked(number, text, phrase.phrase, phrase.kind or phrase.head)
    return None


def combine(number: int, breadth: int, rng: random.Random) -> Clue | None:
    """The clue of what kind of thing it is and ``breadth`` articles that it mentions."""
    phrase, graph = phrase_of(number), link_graph()
    if phrase is None or phrase.kind is None:
        return None
    kind = short_kind(phrase.kind)
    # "musician whose article mentions Musician" would say nothing
    links = [t for t in sorted(graph.links[number]) if corpus().articles[t].name.casefold() not in kind.casefold()]
    if len(kinds()[kind]) < RARE_KIND or len(links) < breadth:
        return None
    for _ in range(_COMBINATIONS):
        chosen = sorted(rng.sample(links, breadth))
        common = frozenset.intersection(*(graph.mentioned_by[target] for target in chosen))
        if any(other != number and could_be(other, kind) for other in common):
            continue
        names = [corpus().articles[target].name for target in chosen]
        text = f"{kind} whose article mentions {listing(names)}"
        if clue := _checked(number, text, f"{kind} {' '.join(names)}", kind):
            return clue
    return None


def _checked(number: int, text: str, query: str, kind: str) -> Clue | None:
    index = wiki_index()
    given_away = set(index.terms(corpus().articles[number].name)) & set(index.terms(text)) - set(index.terms(kind))
    return None if given_away or not can_find(number, query) else Clue(number, text, query)


def can_find(number: int, query: str) -> bool:
    index = wiki_index()
    return number in [found for found, _ in index.ranked(index.terms(query), FINDABLE)]

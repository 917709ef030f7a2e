"""What kind of thing an article is, what it may be called, and which others may be called the same.

kind_of(Ovid)  "Roman poet"        plain_kind(Ovid)  "poet"        could_be(Ovid, "writer")  True
"""

from __future__ import annotations

from functools import cache, lru_cache

from envs.search.wiki_corpus import corpus, word_set
from envs.search.wiki_index import wiki_index
from envs.search.wiki_links import link_graph
from envs.search.wiki_phrases import phrase_of, short_kind

RARE_KIND = 4  # kinds of fewer articles are mostly odd words ("conclusion")
# A person may be called one of these whatever the article says.
_ANY_PERSON = word_set("person scientist scholar artist writer author leader figure thinker founder")
# Kinds that mean nearly the same: one of each in an article, and "the city named there" is no longer clear.
_NEAR_SYNONYMS: tuple[frozenset[str], ...] = (
    word_set("city capital town metropolis municipality settlement port prefecture"),
    word_set("country state nation kingdom republic empire monarchy federation"),
    word_set("king queen emperor monarch ruler sultan pharaoh shah tsar caliph khan prince duke"),
    word_set("writer author novelist poet playwright essayist"),
    word_set("scientist physicist chemist biologist mathematician astronomer polymath naturalist scholar"),
    word_set("philosopher thinker theologian scholar"),
    word_set("president minister chancellor politician statesman leader"),
    word_set("sea ocean gulf bay"),
    word_set("war conflict battle campaign revolution"),
)


@lru_cache(maxsize=200_000)
def could_be(number: int, kind: str) -> bool:
    """Whether an article may be a ``kind``: its opening has the words, or its own kind means nearly the same."""
    words = set(wiki_index().terms(kind))
    if words <= _opening_terms(number):
        return True
    phrase = phrase_of(number)
    if phrase is None:
        return False
    head = kind.split(" of ")[0].split()[-1].lower()
    if any(head in group and phrase.head in group for group in _NEAR_SYNONYMS):
        # "French painter" and "Italian painter" differ, "writer" and "poet" need not
        return len(kind.split()) == 1 or phrase.kind is None or len(phrase.kind.split()) == 1
    return phrase.person and head in _ANY_PERSON and len(kind.split()) == 1


@cache
def _opening_terms(number: int) -> frozenset[str]:
    article = corpus().articles[number]
    return frozenset(wiki_index().terms(" ".join((article.name, *article.lines[:2]))))


def kind_of(number: int) -> str | None:
    phrase = phrase_of(number)
    return phrase.kind if phrase is not None else None


def wordings(kind: str) -> tuple[str, ...]:
    """What a thing of a kind may be called, the least telling first: "language", "Slavic language", "south …"."""
    last = () if " of " in kind or kind[-1:].isupper() else (kind.split()[-1],)
    return tuple(dict.fromkeys((short_kind(kind), *(word for word in last if word[0].islower()), kind)))


def plain_kind(number: int) -> str | None:
    """What a question calls an article: the first wording that is no oddity; None when all are."""
    kind = kind_of(number)
    names = wordings(kind) if kind is not None else ()
    return next((name for name in names if len(kinds()[name]) >= RARE_KIND), None)


@cache
def kinds() -> dict[str, tuple[int, ...]]:
    """Kind -> its articles, the most linked first: what somebody who knows the corpus by heart would guess from."""
    table: dict[str, list[int]] = {}
    for article in corpus().articles:
        if kind := kind_of(article.number):
            for wording in wordings(kind):
                table.setdefault(wording, []).append(article.number)
    graph = link_graph()
    return {kind: tuple(sorted(numbers, key=lambda n: (-graph.popularity(n), n))) for kind, numbers in table.items()}

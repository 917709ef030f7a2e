"""Where a walk through the corpus can go, and what can be asked at its end.

    edges(Metamorphoses)  ->  named: Ovid ("Roman poet"), maker: Ovid, …
    asks(Ovid)            ->  born, died, named: …

An edge is taken into a question only when the words of the question lead to one article: "the Roman poet named in the
article" needs an article that mentions no second one, by the loose reading of what is a mention.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

from envs.search.wiki_corpus import corpus, word_set
from envs.search.wiki_facts import YEAR_RANGE, Fact, facts_of
from envs.search.wiki_index import wiki_index
from envs.search.wiki_links import ALIASES, link_graph
from envs.search.wiki_phrases import phrase_of, short_kind

NAMED, FIRST, MENTIONED_BY = "named", "first", "mentioned_by"
UNTYPED = (NAMED, FIRST, MENTIONED_BY)
FEW = 12  # "Which volcano …?" is asked only when the corpus has at least so many
RARE_KIND = 4  # kinds of fewer articles are mostly odd words ("conclusion")
_MENTIONED_TOO_OFTEN = 60  # "mentions both … and Europe" tells nothing
LONG_TAIL = 3  # an article is in the long tail when at most so many others link to it
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


@dataclass(frozen=True)
class Edge:
    """``relation`` of ``source`` is ``value``: an article when ``target`` is set, else text.

    Line ``line`` of article ``stated_in`` says so: the source's own, or the target's when that mentions the source
    (``mentioned_by``; then ``extra`` is the other article that it must mention). ``kind`` is what a question calls it.
    """

    source: int
    relation: str
    value: str
    line: int
    stated_in: int
    target: int | None = None
    kind: str | None = None
    extra: int | None = None

    @property
    def text(self) -> str:
        return corpus().articles[self.stated_in].lines[self.line]

    @property
    def extra_name(self) -> str | None:
        return None if self.extra is None else corpus().articles[self.extra].name


@cache
def edges(number: int) -> tuple[Edge, ...]:
    """The ways from an article to another one that its own text gives and a question can describe."""
    graph = link_graph()
    found = [
        Edge(number, fact.relation, fact.value, fact.line, number, fact.target, _kind(fact.target) or _default(fact))
        for fact in facts_of(number)
        if fact.target is not None
    ]
    for target in graph.links[number]:
        if (wording := call(number, target)) is not None:
            relation, kind = wording
            title = corpus().articles[target].title
            found.append(Edge(number, relation, title, line_of(number, target), number, target, kind))
    return tuple(found)


def call(source: int, target: int) -> tuple[str, str] | None:
    """How to tell a linked article from all others mentioned in ``source``: (relation, kind), or None.

    The fewer words, the less they tell: "the mathematician", when there is one, before "the French mathematician";
    when there are several, "the first mathematician".
    """
    kind = _kind(target)
    if kind is None:
        return None
    order = link_graph().mentions[source]
    for wording in dict.fromkeys((short_kind(kind), kind)):
        if len(kinds()[wording]) < RARE_KIND:
            continue
        others = [other for other in order if other != target and could_be(other, wording)]
        if not others:
            return NAMED, wording
        if all(order[other] > order[target] for other in others):
            return FIRST, wording
    return None


@lru_cache(maxsize=20_000)
def reverse_edges(number: int) -> tuple[Edge, ...]:
    """The ways to articles that name this one, together with a second one: "the novel that mentions both A and it"."""
    graph, found = link_graph(), []
    mine = graph.mentioned_by.get(number, frozenset())
    if len(mine) > _MENTIONED_TOO_OFTEN:
        return ()
    for source in graph.incoming.get(number, ()):
        kind = _kind(source)
        if kind is None:
            continue
        kind = short_kind(kind)
        if len(kinds()[kind]) < RARE_KIND:
            continue
        rivals = [other for other in sorted(mine) if other != source and could_be(other, kind)]
        for extra in graph.links[source]:
            if corpus().articles[extra].name.casefold() in kind.casefold():
                continue
            if extra == number or (not rivals and graph.popularity(extra) > _MENTIONED_TOO_OFTEN):
                continue
            if any(extra in graph.mentions[rival] for rival in rivals):
                continue
            title = corpus().articles[source].title
            line = line_of(source, number)
            found.append(Edge(number, MENTIONED_BY, title, line, source, source, kind, extra))
    return tuple(found)


def line_of(source: int, target: int) -> int:
    """The line of ``source`` that links to ``target`` first."""
    article = corpus().articles[source]
    return len(article.lines) - len(article.sentences) + link_graph().links[source][target].sentence


@cache
def asks(number: int) -> tuple[Edge, ...]:
    """What can be asked of an article: its facts whose value is text, and those of its edges that tell too little."""
    typed = [fact for fact in facts_of(number) if fact.target is None]
    years = {fact.value for fact in typed if fact.relation not in YEAR_RANGE}
    values = (
        Edge(number, fact.relation, fact.value, fact.line, number)
        for fact in typed
        if fact.relation not in YEAR_RANGE or fact.value not in years
    )
    known = kinds()
    # a kind of which there are few is an answer in itself
    onward = (e for e in edges(number) if e.relation not in UNTYPED or len(known.get(e.kind or "", ())) >= FEW)
    return (*values, *onward)


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


def _kind(number: int) -> str | None:
    phrase = phrase_of(number)
    return phrase.kind if phrase is not None else None


def _default(fact: Fact) -> str | None:
    return "taxonomic group" if fact.relation == "family" else None


@cache
def kinds() -> dict[str, tuple[int, ...]]:
    """Kind -> its articles, the most linked first: what somebody who knows the corpus by heart would guess from."""
    table: dict[str, list[int]] = {}
    for article in corpus().articles:
        if kind := _kind(article.number):
            for wording in dict.fromkeys((short_kind(kind), kind)):
                table.setdefault(wording, []).append(article.number)
    graph = link_graph()
    return {kind: tuple(sorted(numbers, key=lambda n: (-graph.popularity(n), n))) for kind, numbers in table.items()}


@cache
def common_values() -> dict[str, tuple[str, ...]]:
    """Relation -> its values in the whole corpus, the most frequent first."""
    counts: dict[str, dict[str, int]] = {}
    for article in corpus().articles:
        for fact in facts_of(article.number):
            table = counts.setdefault(fact.relation, {})
            table[fact.value] = table.get(fact.value, 0) + 1
    return {relation: tuple(sorted(table, key=lambda v: (-table[v], v))) for relation, table in counts.items()}


def surface(edge: Edge) -> str:
    """The words under which the line of an edge to another article names it: its title, or another name."""
    title = edge.value
    names = [title, *(alias for alias, target in ALIASES.items() if target == title)]
    lowered = edge.text.casefold()
    return next((name for name in names if name.casefold() in lowered), title)


@cache
def in_long_tail() -> frozenset[int]:
    return frozenset(long_tail())


@cache
def long_tail() -> tuple[int, ...]:
    """The articles that questions start from: few others link to them, and they have a description to go by."""
    graph = link_graph()
    return tuple(
        article.number
        for article in corpus().articles
        if graph.popularity(article.number) <= LONG_TAIL and phrase_of(article.number) is not None
    )

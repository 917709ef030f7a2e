"""Where a question can go from one article to another, and what can be asked at its end.

    leading_to(Metamorphoses)   a statement of its own that names another article:  "was written by | Ovid"
    onward(Metamorphoses)       the same, read the other way, and typed facts:      Ovid, "by whom … was written"
    asks(Ovid)                  facts with a year, a number or a symbol:            born, died, …

A step is taken into a question only when its words lead to one article: of all that name the same thing, no other of
the kind says nearly the same; and of all that an article names, no second one is of the kind that is asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache

from envs.search.wiki_clauses import Clause, Mention, clauses_of
from envs.search.wiki_clues import noun_of
from envs.search.wiki_corpus import corpus
from envs.search.wiki_facts import Fact, dated, facts_of
from envs.search.wiki_index import wiki_index
from envs.search.wiki_kinds import RARE_KIND, could_be, kind_of, kinds, plain_kind, wordings
from envs.search.wiki_links import ALIASES, link_graph
from envs.search.wiki_turns import before_name, inverted

SAID_OF, OBJECT, YEAR_OF, SAME_YEAR = "said_of", "object", "year_of", "same_year"
SIMILAR = 0.5  # so much of a statement in another article of the kind, and it may be true of that one too
_TELLING = 3  # words that must set a statement apart from those of others of the kind
_MENTIONED_TOO_OFTEN = 250  # what is said of these is said of many


@dataclass(frozen=True)
class Edge:
    """``relation`` of ``source`` is ``value``: an article when ``target`` is set, else text.

    Line ``line`` of article ``stated_in`` says so: the source's own, or the target's when that is the one that says
    something of the source (``said_of``). ``kind`` is what a question calls the target. ``clause`` and ``mention`` are
    the words of ``said_of``, ``object`` and ``year_of``.
    """

    source: int
    relation: str
    value: str
    line: int
    stated_in: int
    target: int | None = None
    kind: str | None = None
    clause: Clause | None = None
    mention: Mention | None = None
    since: Edge | None = None  # of "same_year": the fact of the source that has the year
    event: str | None = None  # and what happened to the target in it

    @property
    def text(self) -> str:
        return corpus().articles[self.stated_in].lines[self.line]

    @property
    def said(self) -> str:
        """What the clause says before the name in it (or all of it)."""
        assert self.clause is not None
        return self.clause.text[: self.mention.start].strip() if self.mention else self.clause.text


@lru_cache(maxsize=20_000)
def leading_to(number: int) -> tuple[Edge, ...]:
    """The ways to an article that its own statements give: from what they name last."""
    kind = plain_kind(number)
    if kind is None:
        return ()
    title, found = corpus().articles[number].title, []
    for clause in clauses_of(number):
        mention = clause.mentions[-1] if clause.mentions else None
        if mention is None or mention.end != len(clause.text) or before_name(clause.text[: mention.start]) is None:
            continue
        if _says_only_this_one(number, kind, clause, mention):
            found.append(Edge(mention.target, SAID_OF, title, clause.line, number, number, kind, clause, mention))
    return tuple(found)


# What descriptions date: of persons and of what lasts, and of works.
DATED = ("born", "died", "reign_start", "reign_end", "began", "ended", "work_year")
_FIRSTS = ("born", "died", "reign_start", "began", "work_year")  # by which another article is looked for


@lru_cache(maxsize=20_000)
def dates(number: int) -> tuple[Edge, ...]:
    """The years that the description of an article gives."""
    return tuple(Edge(number, f.relation, f.value, f.line, number) for f in dated(corpus().articles[number]))


@cache
def _in_year() -> dict[str, tuple[Edge, ...]]:
    """Year -> what the descriptions of all articles have happen in it."""
    table: dict[str, list[Edge]] = {}
    for article in corpus().articles:
        for edge in dates(article.number):
            table.setdefault(edge.value, []).append(edge)
    return {year: tuple(edges) for year, edges in table.items()}


_MEASURED = ("Geography", "Physical sciences")  # topics whose articles have numbers


@cache
def having(relation: str) -> tuple[int, ...]:
    """The articles that have a fact of a relation whose value is text."""
    if relation in DATED:
        return tuple(
            sorted({edge.source for edges in _in_year().values() for edge in edges if edge.relation == relation})
        )
    return tuple(
        article.number
        for article in corpus().articles
        if article.topic in _MEASURED and any(fact.relation == relation for fact in facts_of(article.number))
    )


def happened_in(year: str) -> tuple[Edge, ...]:
    """What descriptions have happen in a year."""
    return _in_year().get(year, ())


def same_year(number: int) -> tuple[Edge, ...]:
    """The ways to an article from others that have to do with a year in which it was born, died, was made, …"""
    found, title = [], corpus().articles[number].title
    for mine in dates(number):
        if mine.relation not in _FIRSTS:
            continue
        kind = _alone_in_year(number, mine)
        if kind is None:
            continue
        others = [other for other in _in_year()[mine.value] if other.source != number]
        found += [
            Edge(o.source, SAME_YEAR, title, mine.line, number, number, kind, since=o, event=mine.relation)
            for o in others
        ]
    return tuple(found)


@lru_cache(maxsize=20_000)
def _alone_in_year(number: int, date: Edge) -> str | None:
    """What to call an article so that it is the only one with that date; None when nothing does."""
    kind = kind_of(number)
    for wording in wordings(kind) if kind is not None else ():
        if len(kinds()[wording]) >= RARE_KIND and not any(
            other != number and could_be(other, wording) and _may_have(other, date)
            for other in wiki_index().containing((date.value,), 2000)
        ):
            return wording
    return None


def _may_have(number: int, date: Edge) -> bool:
    """Whether an article that has a year in its text may have the date: it says so, or no other one."""
    known = [edge.value for edge in dates(number) if edge.relation == date.relation]
    return date.value in known if known else True


_ONE_ONLY = re.compile(
    r"^(?:is|was) the (?:\w+-?)*(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d+(?:st|nd|rd|th)|"
    r"last|only|capital|largest|longest|highest|oldest|smallest|deepest|tallest|busiest|northernmost|southernmost|easternmost|"
    r"westernmost|most-populous|founder)\b|^(?:is|was) the most (?!common|important)\w+ |^(?:served|reigned) as the "
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d+(?:st|nd|rd|th)|last) "
)


def _says_only_this_one(number: int, kind: str, clause: Clause, mention: Mention) -> bool:
    """Whether a statement about the mentioned article is made by no other article of the kind."""
    index, rivals = wiki_index(), link_graph().mentioned_by.get(mention.target, frozenset())
    if _ONE_ONLY.match(clause.text):  # there is one by what it means; unless another article says the same
        return index.containing(index.terms(clause.text)) <= {number}
    if len(rivals) > _MENTIONED_TOO_OFTEN:
        return False
    terms = index.terms(clause.text[: mention.start])
    # "was a member of" becomes "the member of": the kind is not said then, and sets nothing apart
    noun = noun_of(clause)
    unsaid = noun is not None and not set(index.terms(kind)) <= set(index.terms(noun))
    rivals = frozenset(other for other in rivals if other != number and (unsaid or could_be(other, kind)))
    if not rivals:
        return bool(terms)
    told = [term for term in terms if term not in index.terms(kind)]
    return len(told) >= _TELLING and all(index.share(other, told) < SIMILAR for other in rivals)


@lru_cache(maxsize=20_000)
def onward(number: int) -> tuple[Edge, ...]:
    """The ways from an article to another one that it names: typed facts, and its statements read the other way."""
    found: dict[int, Edge] = {}
    for fact in facts_of(number):
        if fact.target is not None:
            kind = plain_kind(fact.target) or _default(fact)
            if kind is None:
                continue
            found[fact.target] = Edge(number, fact.relation, fact.value, fact.line, number, fact.target, kind)
    for clause in clauses_of(number):
        mention = clause.mentions[-1] if clause.mentions else None
        if mention is None or mention.end != len(clause.text) or mention.target in found:
            continue
        kind = only_of_its_kind(number, mention.target)
        if kind is not None and inverted(clause, mention) is not None:
            title = corpus().articles[mention.target].title
            found[mention.target] = Edge(
                number, OBJECT, title, clause.line, number, mention.target, kind, clause, mention
            )
    return tuple(found.values())


def only_of_its_kind(source: int, target: int) -> str | None:
    """What to call a linked article so that nothing else that ``source`` mentions is meant; None when nothing does."""
    kind = kind_of(target)
    if kind is None:
        return None
    others = [other for other in link_graph().mentions[source] if other != target]
    for wording in wordings(kind):
        if len(kinds()[wording]) >= RARE_KIND and not any(could_be(other, wording) for other in others):
            return wording
    return None


_IN_A_YEAR = re.compile(r"^(?P<said>[^\d]+?) in (?P<year>1\d{3}|20[0-2]\d)$")


@lru_cache(maxsize=20_000)
def asks(number: int) -> tuple[Edge, ...]:
    """What can be asked of an article and is no article: its typed facts, and the years of what is said of it."""
    found = [
        Edge(number, fact.relation, fact.value, fact.line, number) for fact in facts_of(number) if fact.target is None
    ]
    years = [(clause, match) for clause in clauses_of(number) if (match := _IN_A_YEAR.match(clause.text))]
    for clause, match in years:
        only = sum(other.text.split()[:2] == clause.text.split()[:2] for other, _ in years) == 1
        if only and not re.search(r"\b(?:the census|census|as of|population)\b", clause.text):
            found.append(Edge(number, YEAR_OF, match["year"], clause.line, number, clause=clause))
    return tuple(found)


def _default(fact: Fact) -> str | None:
    return "taxonomic group" if fact.relation == "family" else None


@cache
def common_values() -> dict[str, tuple[str, ...]]:
    """Relation -> its values (those of descriptions in all articles, others in each tenth), the most frequent first."""
    counts: dict[str, dict[str, int]] = {}
    for article in corpus().articles:
        facts = facts_of(article.number) if article.number % 10 == 0 else dated(article)
        for fact in facts:
            table = counts.setdefault(fact.relation, {})
            table[fact.value] = table.get(fact.value, 0) + 1
    return {relation: tuple(sorted(table, key=lambda v: (-table[v], v))) for relation, table in counts.items()}


def surface(edge: Edge) -> str:
    """The words under which the line of an edge to another article names it: its title, or another name."""
    title = edge.value
    names = [title, *(alias for alias, target in ALIASES.items() if target == title)]
    lowered = edge.text.casefold()
    return next((name for name in names if name.casefold() in lowered), title)

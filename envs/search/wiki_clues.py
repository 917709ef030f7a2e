"""How a question describes the article it starts from, without its title, so that it fits one article alone.

    clues(Metamorphoses, 1)    "Latin narrative poem from 8 CE by the Roman poet …"
    clues(Al-Azhar, 2)         "public university in Cairo that was founded in 970"

A clue is kept when no other article has all its words, when none of the same kind has nearly all of them, when it holds
no word of the title, and when a search for its words finds the article. *Breadth* is how many statements it joins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from envs.search.wiki_clauses import Clause, clauses_of
from envs.search.wiki_corpus import corpus
from envs.search.wiki_index import wiki_index
from envs.search.wiki_kinds import could_be
from envs.search.wiki_phrases import phrase_of, short_kind

FINDABLE = 10  # the article must be among so many results of a search for the clue
NEARLY = 0.75  # another article of the kind with so many of the words might be meant too
_MIN_TERMS = 3  # words that tell something
_ENOUGH = 6  # when there is no name and no number among them
_MAX_WORDS = 26
_RIVALS = 6
# a second verb that belongs to the subject, not to a "who" before it
_SAYS_MORE = re.compile(
    r"^(?!.*\b(?:who|that|which)\b).* and (?:was|is|had|has|served|became|led|wrote|won|held|founded|played|helped|"
    r"ruled|made|took|began|died|lived|worked|established|created|introduced|developed|commanded|comprises|contains|"
    r"covers|includes|borders|lies|runs|serves)\b(?! by)"
)
_IS_A = re.compile(r"^(?:is|was) (?:an?|the) (?P<noun>.+)$")


@dataclass(frozen=True)
class Clue:
    """``text`` follows "the"; ``query`` are the words to search for; ``line`` of the article says (most of) it."""

    article: int
    text: str
    query: str
    line: int

    def to_json(self) -> dict[str, Any]:
        return {"article": corpus().articles[self.article].title, "clue": self.text, "query": self.query}


def who_or_that(number: int) -> str:
    phrase = phrase_of(number)
    return "who" if phrase is not None and phrase.person else "that"


def noun_of(clause: Clause) -> str | None:
    """ "largest city of Yorkshire" of "is the largest city of Yorkshire"; None for what is no such phrase, or says
    more: "was the leader of the party and served as …"."""
    match = _IS_A.match(clause.text)
    return match["noun"] if match and _SAYS_MORE.search(match["noun"]) is None else None


@cache
def clues(number: int, breadth: int) -> tuple[Clue, ...]:
    """All good clues of an article that join ``breadth`` statements (1 to 3)."""
    phrase = phrase_of(number)
    if phrase is None or phrase.kind is None:
        return ()
    whole = [clause for clause in clauses_of(number) if not _is_cut(clause)]
    said = [clause for clause in whole if noun_of(clause) is None]
    nouns = [(phrase.phrase, 0), *((noun, c.line) for c in whole if (noun := noun_of(c)) is not None)]
    who = who_or_that(number)
    found: list[tuple[str, int]] = []
    if breadth == 1:
        found += nouns
        found += [(f"{short_kind(phrase.kind)} {who} {clause.text}", clause.line) for clause in said]
    else:
        heads = [noun for noun, _ in nouns if not re.search(r"\b(?:who|that|which|whose|where)\b", noun)]
        for head in dict.fromkeys((*heads[:2], phrase.kind)):
            wanted = breadth - (1 if head in heads else 0)
            for at in range(len(said) - wanted + 1):
                some = said[at : at + wanted]
                if len({clause.line for clause in some}) < len(some) or _repeats(head, [c.text for c in some]):
                    continue
                found.append((f"{head} {who} {f' and {who} '.join(c.text for c in some)}", some[0].line))
    made = (_checked(number, text, phrase.kind, line) for text, line in dict.fromkeys(found))
    return tuple(clue for clue in made if clue is not None)


def _repeats(head: str, said: Sequence[str]) -> bool:
    """Whether a statement says again what was said: "the country in Asia that is located in Asia"."""
    terms, known = wiki_index().terms, set(wiki_index().terms(head))
    for text in said:
        new = set(terms(text))
        if len(new - known) < 2 or len(new & known) * 2 >= len(new):
            return True
        known |= new
    return False


def _is_cut(clause: Clause) -> bool:
    """Whether a longer phrase of the same line begins with it: the start is better described by all of it."""
    return any(
        other.line == clause.line and other.text != clause.text and other.text.startswith(clause.text)
        for other in clauses_of(clause.article)
    )


def _checked(number: int, text: str, kind: str, line: int) -> Clue | None:
    index = wiki_index()
    terms = index.terms(re.sub(r"\b(?:who|that)\b", " ", text))
    if len(terms) < _MIN_TERMS or len(text.split()) > _MAX_WORDS:
        return None
    if not re.search(r"\d|(?<=\s)[A-Z]", text) and len(terms) < _ENOUGH:
        return None  # "American scientist and activist" may be the only one here, but tells too little
    if set(index.terms(corpus().articles[number].name)) & set(terms) - set(index.terms(kind)):
        return None
    if index.containing(terms) != {number} or not can_find(number, text):
        return None
    short = short_kind(kind)
    for rival, _ in index.ranked(terms, _RIVALS):
        if rival != number and could_be(rival, short) and index.share(rival, terms) >= NEARLY:
            return None
    return Clue(number, text, text, line)


def can_find(number: int, query: str) -> bool:
    index = wiki_index()
    return number in [found for found, _ in index.ranked(index.terms(query), FINDABLE)]

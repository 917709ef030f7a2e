"""How steps are said in English: inside a longer phrase, and as the question itself.

    hop(edge, "the opera …")   ->  "the composer by whom the opera … was written"
    ask(edge, "the opera …")   ->  "By which composer was the opera … written?"

``np`` is a noun phrase for the article where the step begins. Typed facts have several wordings each, of which one is
drawn with the task; statements (``wiki_clauses``) are asked in the words of their article.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from envs.search.wiki_clues import noun_of, who_or_that
from envs.search.wiki_paths import OBJECT, SAID_OF, SAME_YEAR, YEAR_OF, Edge
from envs.search.wiki_phrases import phrase_of
from envs.search.wiki_turns import before_name, inverted

# relation -> wordings of "the target, seen from the article"
HOPS: dict[str, tuple[str, ...]] = {
    "located_in": ("the {kind} in which {np} lies", "the {kind} that is home to {np}"),
    "maker": ("the person who {verb} {np}",),
    "capital_of": ("the {kind} whose capital is {np}", "the {kind} that has {np} as its capital"),
    "capital": ("the capital of {np}",),
    "family": ("the {kind} to which {np} belongs", "the {kind} that includes {np}"),
    "flows_into": ("the body of water into which {np} flows", "the body of water that receives {np}"),
    "tributary_of": ("the river of which {np} is a tributary", "the river that is fed by {np}"),
    "born_in": ("the place where {np} was born", "the birthplace of {np}"),
    "succeeded_by": ("the successor of {np}",),
}
# relation -> wordings of the question for it
ASKS: dict[str, tuple[str, ...]] = {
    "located_in": ("In which {kind} does {np} lie?", "Which {kind} is home to {np}?"),
    "maker": ("Who {verb} {np}?", "What is the name of the person who {verb} {np}?"),
    "capital_of": ("Which {kind} has {np} as its capital?", "What is the name of the {kind} whose capital is {np}?"),
    "capital": ("What is the capital of {np}?", "Which city is the capital of {np}?"),
    "family": ("To which {kind} does {np} belong?", "Which {kind} includes {np}?"),
    "flows_into": ("Into which body of water does {np} flow?", "Which body of water receives {np}?"),
    "tributary_of": ("Which river is {np} a tributary of?", "Which river is fed by {np}?"),
    "born_in": ("Where was {np} born?", "What is the birthplace of {np}?"),
    "succeeded_by": ("By what was {np} succeeded?", "What is the successor of {np}?"),
    "born": ("In which year was {np} born?", "What is the year of birth of {np}?"),
    "died": ("In which year did {np} die?", "What is the year of death of {np}?"),
    "reign_start": ("In which year did {np} come to power?", "From which year on was {np} in power?"),
    "reign_end": ("Until which year was {np} in power?", "In which year did {np} leave power?"),
    "began": ("In which year did {np} begin?", "What is the first year of {np}?"),
    "ended": ("In which year did {np} end?", "What is the last year of {np}?"),
    "work_year": ("Which year is {np} from?", "In which year did {np} appear?"),
    "independence": ("In which year did {np} become independent?",),
    "fought_on": ("What is the date of {np}?", "On which day did {np} take place?"),
    "population": ("How many people live in {np}?", "What is the population of {np}?"),
    "area": ("What is the area, in square kilometres, of {np}?",),
    "length": ("What is the length, in kilometres, of {np}?",),
    "elevation": ("What is the height above sea level, in metres, of {np}?",),
    "atomic_number": ("What is the atomic number of {np}?",),
    "symbol": ("What is the chemical symbol of {np}?",),
}
_YEAR_VERB = ("In which year was {np} {verb}?", "What is the year in which {np} was {verb}?")
# Years between which one may count, and in which one may be first: what happened in them.
EVENTS: dict[str, str] = {
    "born": "the birth of {np}",
    "died": "the death of {np}",
    "reign_start": "the year in which {np} came to power",
    "reign_end": "the year in which {np} left power",
    "began": "the beginning of {np}",
    "ended": "the end of {np}",
    "work_year": "the year of {np}",
}
# What happened to an article in a year, after "who" or "that", and what happened in it to what follows.
IN_YEAR: dict[str, str] = {
    "born": "was born",
    "died": "died",
    "reign_start": "came to power",
    "began": "began",
    "work_year": "came out",
}
_MADE_NOT_PUBLISHED = (
    ["painting"],
    ["sculpture"],
    ["fresco"],
    ["triptych"],
    ["mural"],
    ["portrait"],
)  # do not "come out"
_YEAR_WHEN: dict[str, str] = {
    "born": "in the year in which {np} was born",
    "died": "in the year in which {np} died",
    "reign_start": "in the year in which {np} came to power",
    "reign_end": "in the year in which {np} left power",
    "began": "in the year in which {np} began",
    "ended": "in the year in which {np} ended",
    "work_year": "in the year of {np}",
}
BETWEEN = (
    "How many years lie between {first} and {second}?",
    "How many years apart are {first} and {second}?",
)
DIFFERENCE = {"atomic_number": ("What is the difference between the atomic numbers of {first} and {second}?",)}
# relation -> wordings of which of two comes first, or has more; the answer is a name
COMPARE: dict[str, tuple[str, ...]] = {
    "born": ("Who was born first, {first} or {second}?", "Who was born earlier: {first} or {second}?"),
    "died": ("Who died first, {first} or {second}?", "Who died earlier: {first} or {second}?"),
    "reign_start": ("Who came to power first, {first} or {second}?", "Who came to power earlier: {first} or {second}?"),
    "work_year": ("Which came first, {first} or {second}?", "Which is older: {first} or {second}?"),
    "population": (
        "Which has more inhabitants, {first} or {second}?",
        "Where do more people live, in {first} or in {second}?",
    ),
    "area": ("Which has the larger area, {first} or {second}?", "Which covers a larger area: {first} or {second}?"),
}
_FIRST_OF: dict[str, tuple[str, ...]] = {
    "born": ("who was born first?", "who was born last?"),
    "died": ("who died first?", "who died last?"),
    "reign_start": ("who came to power first?", "who came to power last?"),
    "work_year": ("which is the oldest?", "which is the newest?"),
    "population": ("which has the fewest inhabitants?", "which has the most inhabitants?"),
    "area": ("which has the smallest area?", "which has the largest area?"),
}
_NAMED = ("What is the name of the {np}?", "Name the {np}.", "Which is the {np}?")
_NAMED_PERSON = ("Who is the {np}?", "What is the name of the {np}?", "Name the {np}.")
_INTRODUCED = ("Consider {np}.", "Take {np}.", "Think of {np}.", "Start from {np}.")
_NEXT = ("Now take {np}.", "Next, consider {np}.", "From there, go on to {np}.", "Then think of {np}.")
_MAKER_VERBS = {"written": "wrote", "sculpted": "made", "established": "founded"}
_WORKS = {
    "directed": "film movie",
    "painted": "painting fresco mural triptych",
    "composed": "opera symphony ballet concerto oratorio",
    "made": "sculpture album song",
}
_VERB_BY = re.compile(
    r"\b(written|painted|composed|directed|designed|sculpted|created|developed|formulated|invented|founded|discovered"
    r"|proposed|introduced|established|coined) by\b"
)


def hop(edge: Edge, np: str, rng: random.Random) -> str:
    """The noun phrase for the target of a step from ``np``."""
    kind = edge.kind or "place"
    if edge.relation == SAME_YEAR:
        return f"the {kind} {who_or_that(edge.stated_in)} {_in_year(edge, np)}"
    if edge.relation == SAID_OF:
        assert edge.clause is not None
        said = f"{_before(edge)} {np}"
        noun = noun_of(edge.clause)
        return f"the {kind} {who_or_that(edge.stated_in)} {said}" if noun is None else f"the {_cut(said)}"
    if edge.relation == OBJECT:
        preposition, be, rest = _turned(edge)
        if not preposition:
            return f"the {kind} {'whom' if _is_person(edge) else 'that'} {np} {rest}"
        return f"the {kind} {preposition} {'whom' if _is_person(edge) else 'which'} {np} {be} {rest}"
    if edge.relation.startswith("borders_"):
        return f"the {kind} on the {edge.relation.removeprefix('borders_')}ern border of {np}"
    return _say(HOPS[edge.relation], np, kind, maker_verb(edge.text), rng)


def ask(edge: Edge, np: str, rng: random.Random) -> str:
    """The question for a step from ``np``."""
    kind = edge.kind or "place"
    if edge.relation == SAME_YEAR:
        named = f"What is the name of the {kind} {who_or_that(edge.stated_in)} {_in_year(edge, np)}?"
        return rng.choice((f"Which {kind} {_in_year(edge, np)}?", named))
    if edge.relation == SAID_OF:
        assert edge.clause is not None
        said = f"{_before(edge)} {np}"
        if noun_of(edge.clause) is not None:
            return rng.choice(_NAMED_PERSON if who_or_that(edge.stated_in) == "who" else _NAMED).format(np=_cut(said))
        named = f"What is the name of the {kind} {who_or_that(edge.stated_in)} {said}?"
        return rng.choice((f"Which {kind} {said}?", named))
    if edge.relation == OBJECT:
        preposition, be, rest = _turned(edge)
        if not preposition:
            return f"What is the name of the {kind} {'whom' if _is_person(edge) else 'that'} {np} {rest}?"
        fronted = f"{preposition.capitalize()} which {kind} {be} {np} {rest}?"
        relative = f"the {kind} {preposition} {'whom' if _is_person(edge) else 'which'} {np} {be} {rest}"
        return rng.choice((fronted, f"What is the name of {relative}?"))
    if edge.relation == YEAR_OF:
        assert edge.clause is not None
        said = edge.clause.text.removesuffix(f" in {edge.value}")
        be, _, rest = said.partition(" ")
        if be == "was" and rest.split()[0].endswith(("ed", "en", "ilt", "un")):
            return _say(_YEAR_VERB, np, kind, rest, rng)
        return f"What is the year in which {np} {said}?"
    if edge.relation.startswith("borders_"):
        return f"Which {kind} lies on the {edge.relation.removeprefix('borders_')}ern border of {np}?"
    if edge.relation.startswith("year_"):
        return _say(_YEAR_VERB, np, kind, edge.relation.removeprefix("year_"), rng)
    return _say(ASKS[edge.relation], np, kind, maker_verb(edge.text), rng)


def first_of(relation: str, nps: Sequence[str], last: bool) -> str:
    """Of three the first, or the one with least; with ``last`` the other end."""
    return f"Of {', '.join(nps[:-1])} and {nps[-1]}, {_FIRST_OF[relation][last]}"


def introduce(np: str, rng: random.Random, before: str = "") -> str:
    """A sentence of its own for a phrase that would be too long inside of the next. ``before``: the sentence before it,
    which begins in another way."""
    later = [words for words in _NEXT if not before.startswith(words.partition("{")[0])]
    return rng.choice(later if before else _INTRODUCED).format(np=np)


def _in_year(edge: Edge, np: str) -> str:
    assert edge.since is not None
    assert edge.event is not None
    happened = "was made" if (edge.kind or "").split()[-1:] in _MADE_NOT_PUBLISHED else IN_YEAR[edge.event]
    if edge.event == edge.since.relation:
        return f"{happened} in the same year as {np}"
    return f"{happened} {_YEAR_WHEN[edge.since.relation].format(np=np)}"


def _before(edge: Edge) -> str:
    assert edge.clause is not None
    assert edge.mention is not None
    return before_name(edge.clause.text[: edge.mention.start]) or edge.said


def _cut(said: str) -> str:
    return re.sub(r"^(?:is|was) (?:an?|the) ", "", said)


def _turned(edge: Edge) -> tuple[str, str, str]:
    assert edge.clause is not None
    assert edge.mention is not None
    turned = inverted(edge.clause, edge.mention)
    assert turned is not None
    return turned.preposition, turned.auxiliary, turned.rest


def _is_person(edge: Edge) -> bool:
    phrase = phrase_of(edge.target) if edge.target is not None else None
    return phrase is not None and phrase.person


def _say(wordings: tuple[str, ...], np: str, kind: str | None, verb: str, rng: random.Random) -> str:
    """One of the wordings; after a long phrase nothing may follow, or the reader loses the thread."""
    if len(np.split()) > 8:
        wordings = tuple(w for w in wordings if w.rstrip("?").endswith("{np}")) or wordings
    return rng.choice(wordings).format(np=np, kind=kind or "place", verb=verb)


def maker_verb(line: str) -> str:
    """What the maker did, from the line that names the maker: "1818 novel by …" -> "wrote"."""
    if match := _VERB_BY.search(line):
        return _MAKER_VERBS.get(match[1], match[1])
    words = set(re.findall(r"[a-z]+", line.split(" by ")[0].lower()))
    return next((verb for verb, works in _WORKS.items() if words & set(works.split())), "wrote")

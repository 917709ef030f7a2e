"""How relations are said in English: inside a longer phrase, and as the question itself.

    hop("capital", "the landlocked country in …")   ->  "the capital of the landlocked country in …"
    ask("born", "the Roman poet named in …")        ->  "In which year was the Roman poet named in … born?"

``{np}`` is a noun phrase for the article, ``{kind}`` what the target is, ``{verb}`` what its maker did.
There are several wordings of each, so that no single one has to be learnt; which is used is drawn with the task.
"""

from __future__ import annotations

import random
import re

# relation -> wordings of "the target, seen from the article"
HOPS: dict[str, tuple[str, ...]] = {
    "named": ("the {kind} named in the article on {np}", "the {kind} mentioned in the article on {np}"),
    "first": ("the first {kind} named in the article on {np}", "the {kind} named first in the article on {np}"),
    "mentioned_by": ("the {kind} whose article mentions both {extra} and {np}",),
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
    "named": (
        "Which {kind} is named in the article on {np}?",
        "Which {kind} is mentioned in the article on {np}?",
        "What is the name of the {kind} that appears in the article on {np}?",
    ),
    "first": (
        "Which {kind} is the first to be named in the article on {np}?",
        "Which {kind} is named first in the article on {np}?",
    ),
    "mentioned_by": (
        "Which {kind} has an article that mentions both {extra} and {np}?",
        "The article on which {kind} mentions both {extra} and {np}?",
    ),
    "located_in": ("In which {kind} does {np} lie?", "Which {kind} is home to {np}?"),
    "maker": ("Who {verb} {np}?", "What is the name of the person who {verb} {np}?"),
    "capital_of": ("Which {kind} has {np} as its capital?", "Which {kind} has for its capital {np}?"),
    "capital": ("What is the capital of {np}?", "Which city is the capital of {np}?"),
    "family": ("To which {kind} does {np} belong?", "Which {kind} includes {np}?"),
    "flows_into": ("Into which body of water does {np} flow?", "Which body of water receives {np}?"),
    "tributary_of": ("Which river is {np} a tributary of?", "Which river is fed by {np}?"),
    "born_in": ("Where was {np} born?", "What is the birthplace of {np}?"),
    "succeeded_by": ("By what was {np} succeeded?", "What is the successor of {np}?"),
    "born": ("In which year was {np} born?", "What is the year of birth of {np}?"),
    "died": ("In which year did {np} die?", "What is the year of death of {np}?"),
    "reign_start": (
        "In which year did {np} take office or come to the throne?",
        "What is the first year in power of {np}?",
    ),
    "reign_end": ("Until which year was {np} in office or on the throne?", "What is the last year in power of {np}?"),
    "began": ("In which year did {np} begin?", "What is the first year of {np}?"),
    "ended": ("In which year did {np} end?", "What is the last year of {np}?"),
    "work_year": ("Which year is {np} from?", "What is the year of {np}?"),
    "independence": ("In which year did {np} become independent?",),
    "fought_on": ("What is the date of {np}?", "On which day did {np} take place?"),
    "population": (
        "How many people live in {np}?",
        "What is the population of {np}?",
    ),
    "area": ("What is the area, in square kilometres, of {np}?",),
    "length": ("What is the length, in kilometres, of {np}?",),
    "elevation": ("What is the height above sea level, in metres, of {np}?",),
    "only_year": ("What is the only year that is mentioned in the article on {np}?",),
    "earliest_year": (
        "What is the earliest year mentioned in the article on {np}?",
        "Of the years in the article on {np}, which is the earliest?",
    ),
    "latest_year": (
        "What is the latest year mentioned in the article on {np}?",
        "Of the years in the article on {np}, which is the latest?",
    ),
    "atomic_number": ("What is the atomic number of {np}?",),
    "symbol": ("What is the chemical symbol of {np}?",),
}
_YEAR_OF = ("In which year was {np} {verb}?", "What is the year that saw {np} {verb}?")
# Years between which one may count: what happened in them.
EVENTS: dict[str, str] = {
    "born": "the birth of {np}",
    "died": "the death of {np}",
    "reign_start": "the first year in power of {np}",
    "reign_end": "the last year in power of {np}",
    "began": "the beginning of {np}",
    "ended": "the end of {np}",
    "work_year": "the year of {np}",
}
BETWEEN = (
    "How many years lie between {first} and {second}?",
    "How many years apart are {first} and {second}?",
)
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


def hop(relation: str, np: str, kind: str | None, line: str, rng: random.Random, extra: str | None = None) -> str:
    """The noun phrase for the target of ``relation`` from ``np``. ``line`` is the one that states it.

    ``extra`` is the second article that the target mentions, of the relation "mentioned_by".
    """
    if relation.startswith("borders_"):
        return f"the {kind or 'territory'} on the {relation.removeprefix('borders_')}ern border of {np}"
    return _say(HOPS[relation], np, kind, maker_verb(line), rng, extra)


def ask(relation: str, np: str, kind: str | None, line: str, rng: random.Random, extra: str | None = None) -> str:
    """The question for ``relation`` of ``np``."""
    if relation.startswith("borders_"):
        direction = relation.removeprefix("borders_")
        return f"Which {kind or 'territory'} lies on the {direction}ern border of {np}?"
    if relation.startswith("year_"):
        return _say(_YEAR_OF, np, kind, relation.removeprefix("year_"), rng)
    return _say(ASKS[relation], np, kind, maker_verb(line), rng, extra)


def _say(
    wordings: tuple[str, ...], np: str, kind: str | None, verb: str, rng: random.Random, extra: str | None = None
) -> str:
    """One of the wordings; after a long phrase nothing may follow, or the reader loses the thread."""
    if len(np.split()) > 8:
        wordings = tuple(w for w in wordings if w.rstrip("?").endswith("{np}")) or wordings
    return rng.choice(wordings).format(np=np, kind=kind or "place", verb=verb, extra=extra)


def maker_verb(line: str) -> str:
    """What the maker did, from the line that names the maker: "1818 novel by …" -> "wrote"."""
    if match := _VERB_BY.search(line):
        return _MAKER_VERBS.get(match[1], match[1])
    words = set(re.findall(r"[a-z]+", line.split(" by ")[0].lower()))
    return next((verb for verb, works in _WORKS.items() if words & set(works.split())), "wrote")


def listing(names: list[str]) -> str:
    """ "A", "both A and B", "A, B and C"."""
    if len(names) == 1:
        return names[0]
    return f"{'both ' if len(names) == 2 else ''}{', '.join(names[:-1])} and {names[-1]}"

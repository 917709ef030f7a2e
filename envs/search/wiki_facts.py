"""Facts of the articles, read by rules that would rather miss one than get one wrong.

    Timbuktu        located_in -> Mali            from "City in Tombouctou Region, Mali"
    John Wycliffe   born = 1328, died = 1384      from "English theologian (1328–1384)"
    Gambia          borders_north -> …            from "… bordered by … to the north …"

A fact is in one line of its article. Its value is text (a year, a date, a number, a symbol) or another article.
Other statements are kept as they are said (see ``wiki_clauses``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from envs.search.wiki_corpus import Article, corpus, word_set
from envs.search.wiki_links import link_graph
from envs.search.wiki_phrases import phrase_of

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_MONTH = "|".join(MONTHS)
DATE = rf"(?:\d{{1,2}} (?:{_MONTH}) \d{{4}}|(?:{_MONTH}) \d{{1,2}}, \d{{4}})"
_NUMBER = r"\d[\d,]*(?:\.\d+)?(?: (?:million|billion|trillion))?"
_ABOUT = r"(?:(?:about|around|approximately|roughly|over|nearly|almost|more than|some|an estimated|estimated at) )*"

# What "was" in a sentence about the article itself can be asked for with "In which year was … ?"
VERBS = sorted(
    word_set(
        "founded established built opened completed published released premiered invented introduced signed "
        "launched created formed incorporated written composed painted discovered abolished dissolved annexed "
        "crowned elected inaugurated adopted ratified proclaimed assassinated executed"
    )
)

# relation -> pattern with the group "value", tried on sentences about the article itself
VALUE_RULES: dict[str, re.Pattern[str]] = {
    **{
        f"year_{verb}": re.compile(
            rf"\bwas (?:\w+ly )?(?:first )?{verb}\b[^.;]*?\bin (?:AD )?(?P<value>\d{{4}})\b(?!s| BC)"
        )
        for verb in VERBS
    },
    "independence": re.compile(
        r"\b(?:gained|became|achieved|declared)(?: its)? independen(?:ce|t)[^.;]*? in (?P<value>\d{4})\b"
    ),
    "fought_on": re.compile(rf"\b(?:fought|took place|occurred|signed|broke out|held) on (?P<value>{DATE})"),
    "population": re.compile(rf"\bpopulation (?:of|was|is) {_ABOUT}(?P<value>{_NUMBER})\b(?! (?:per|percent|%))"),
    "area": re.compile(rf"\barea (?:of|is) {_ABOUT}(?P<value>{_NUMBER}) (?:km2|square kilomet(?:re|er)s)"),
    "length": re.compile(rf"\blength (?:of|is) {_ABOUT}(?P<value>{_NUMBER}) (?:km|kilomet(?:re|er)s)\b"),
    "elevation": re.compile(
        rf"\b(?:elevation|height|altitude) (?:of|is) {_ABOUT}(?P<value>{_NUMBER}) (?:m|met(?:re|er)s)\b"
    ),
    "atomic_number": re.compile(r"\batomic number (?P<value>\d+)\b"),
    "symbol": re.compile(r"\bhas (?:the )?symbol (?P<value>[A-Z][a-z]?)\b"),
}
_PLACE_NUMBERS = frozenset(("population", "area", "length", "elevation"))
_LOOSE_LEAD = _PLACE_NUMBERS | {"atomic_number", "symbol", "fought_on"}
_OTHER_AREA = re.compile(
    r"\b(?:metropolitan|urban|agglomeration|surrounding|region|diaspora|drainage|basin|combined)\b"
)
_OF_THE_PLACE = re.compile(
    r"(?:With an? (?:estimated )?(?:population|area)|Covering|Spanning|"
    r"The (?:city|country|island|state|town|lake|river|mountain|desert|province|region|nation|capital)(?:'s)? )"
)
_DIRECTION = r"(?:north|south|east|west|northeast|northwest|southeast|southwest)"

# relation -> what stands before the named article; tried on sentences about the article itself
_CITY = r"(?: city| and (?:the )?(?:largest|most populous) city)?"
_MADE = (
    "written painted composed directed designed sculpted created developed formulated invented founded discovered "
    "proposed introduced established coined"
).replace(" ", "|")
_WORK = (
    "film novel novella painting poem play opera symphony ballet sculpture fresco book album song treatise triptych "
    "tragedy comedy concerto oratorio mural dialogue"
).replace(" ", "|")
_BY = r"by (?:the |an? )?(?:[\w-]+ ){0,4}$"
LINK_RULES: dict[str, tuple[re.Pattern[str], ...]] = {
    "capital_of": (re.compile(rf"\bis the (?:\w+ )?capital{_CITY}(?: city)? of (?:the )?$"),),
    "capital": (re.compile(rf"\b(?:[Ii]ts|[Tt]he|whose) (?:national )?capital{_CITY} is $"),),
    "family": (re.compile(r"\b(?:in|of|to) the (?:\w+ )?(?:family|order|genus|class|subfamily|phylum) $"),),
    "flows_into": (re.compile(r"\b(?:flow|empt|drain)(?:s|ies|ing|ying) into (?:the )?$"),),
    "tributary_of": (re.compile(r"\btributary of (?:the )?$"),),
    "born_in": (re.compile(r"\b[Bb]orn (?:and raised )?in $"),),
    "succeeded_by": (re.compile(r"\bsucceeded by (?:his |her |the )?(?:\w+ ){0,2}$"),),
    "maker": (re.compile(rf"^[^,;]*\b(?:{_MADE}) {_BY}"), re.compile(rf"^[^,;]*\b(?:{_WORK}) {_BY}")),
}
_BORDER = re.compile(rf"^ to the (?P<direction>{_DIRECTION})\b(?! and| by|,? and the)")
_DESCRIPTION_MAKER = re.compile(r"\b(?:by|directed by|written by) ")


_DIGIT = re.compile(r"\d")
_OF_WORKS = ("Arts", "Society and social sciences")  # topics; a battle has a year too, but is not from it


@dataclass(frozen=True)
class Fact:
    """``relation`` of article ``subject`` is ``value``, the title of article ``target`` when it is one.

    ``line`` is a position in the article's ``lines``.
    """

    subject: int
    relation: str
    value: str
    line: int
    target: int | None = None


@cache
def facts_of(number: int) -> tuple[Fact, ...]:
    """All typed facts of an article; of a relation with more than one value none."""
    article = corpus().articles[number]
    found: dict[tuple[str, str], Fact] = {}
    for fact in (*_from_description(article), *_from_sentences(article)):
        found.setdefault((fact.relation, fact.value), fact)
    facts = list(found.values())
    many = {f.relation for f in facts if sum(g.relation == f.relation for g in facts) > 1}
    return tuple(fact for fact in facts if fact.relation not in many)


def value_in(relation: str, line: str) -> str | None:
    """The value that a line of an article states for a relation whose value is text; None when it states none."""
    if relation in ("born", "died"):
        life = re.search(r"\((?:born )?(?P<born>\d{3,4})(?:\s*[–-]\s*(?P<died>\d{3,4}))?\)$", line)
        return life[relation] if life else None
    if relation in ("reign_start", "reign_end", "began", "ended"):
        reign = re.search(r" from (?:AD |CE )?(\d{2,4}) to (?:AD |CE )?(\d{2,4})$", line)
        return reign[1 + relation.endswith(("_end", "ended"))] if reign else None
    if relation == "work_year":
        work = re.match(r"(?:An? )?(\d{4}) ", line)
        return work[1] if work else None
    match = VALUE_RULES[relation].search(line)
    return match["value"] if match else None


def dated(article: Article) -> Iterator[Fact]:
    """The facts of an article that its description gives a year for."""
    phrase = phrase_of(article.number)
    if phrase is None:
        return
    years = {
        "born": phrase.born,
        "died": phrase.died,
        "reign_start" if phrase.person else "began": phrase.years and phrase.years[0],
        "reign_end" if phrase.person else "ended": phrase.years and phrase.years[1],
        "work_year": phrase.work_year if article.topic in _OF_WORKS else None,
    }
    for relation, year in years.items():
        if year and value_in(relation, article.lines[0]) == str(year):
            yield Fact(article.number, relation, str(year), 0)


def _from_description(article: Article) -> Iterator[Fact]:
    if phrase_of(article.number) is None:
        return
    yield from dated(article)
    # "City in Tombouctou Region, Mali": the country is the last name, and the text must link it too
    if place := re.search(r"\b(?:in|of) (?:[^,]+, )*(?:the )?([A-Z][\w .'-]+)$", article.description):
        target = corpus().find(place[1])
        if target and article.topic == "Geography" and target.number in link_graph().links[article.number]:
            kind = phrase_of(target.number)
            if kind and kind.head in ("country", "state") and " and " not in place[1]:
                yield Fact(article.number, "located_in", target.title, 0, target.number)
    if (by := _DESCRIPTION_MAKER.search(article.description)) and article.topic in ("Arts", "Philosophy and religion"):
        target = corpus().find(article.description[by.end() :])
        if target and _is_person(target.number):
            yield Fact(article.number, "maker", target.title, 0, target.number)


def _from_sentences(article: Article) -> Iterator[Fact]:
    offset = len(article.lines) - len(article.sentences)
    for position, sentence in enumerate(article.sentences):
        own = _about_itself(article, position, sentence)
        if not own and not _about_the_place(article, sentence):
            continue
        for relation, rule in VALUE_RULES.items() if _DIGIT.search(sentence) else ():
            if not own and relation not in _PLACE_NUMBERS:
                continue
            matches = list(rule.finditer(sentence))
            if len(matches) != 1 or (relation.startswith("year_") and len(re.findall(r"\b\d{4}\b", sentence)) != 1):
                continue
            lead = sentence[: matches[0].start()]
            if relation not in _LOOSE_LEAD and (
                len(lead.split()) > 6 or re.search(r"[,;]|\b(?:that|which|who)\b", lead)
            ):
                continue  # the verb belongs to something else that the sentence speaks of
            if relation in _PLACE_NUMBERS and not _counts_for(article, relation, sentence):
                continue
            yield Fact(article.number, relation, matches[0]["value"], offset + position)
    for link in link_graph().links[article.number].values():
        sentence = article.sentences[link.sentence]
        if not _about_itself(article, link.sentence, sentence):
            continue
        title = corpus().articles[link.target].title
        at = sentence.find(title)
        if at < 0:
            continue
        before, after = sentence[:at], sentence[at + len(title) :]
        for relation in _relations(article, link.target, before, after):
            yield Fact(article.number, relation, title, offset + link.sentence, link.target)


def _about_the_place(article: Article, sentence: str) -> bool:
    """ "With a population of …", "The city has …", "Covering an area of …" in the article on a place."""
    if article.topic != "Geography" or _OF_THE_PLACE.match(sentence) is None:
        return False
    return re.search(r"\b(?:largest city|capital city|each|other|neighbou?ring|rural|ethnic)\b", sentence) is None


def _counts_for(article: Article, relation: str, sentence: str) -> bool:
    """Whether a number is the place's own: said once, and not of its surroundings."""
    said = sum(other.count(relation) for other in article.sentences)
    return said == 1 and article.topic == "Geography" and _OTHER_AREA.search(sentence) is None


def _relations(article: Article, target: int, before: str, after: str) -> Iterator[str]:
    for relation, rules in LINK_RULES.items():
        if not any(rule.search(before) for rule in rules):
            continue
        if relation != "family" and re.match(r"(?:,| and| or) (?:the )?[A-Z]", after) and relation != "capital_of":
            continue  # a list: the relation has several values
        if relation == "maker" and (not _is_person(target) or re.search(r"\b(?:not|whose|which|who|that)\b", before)):
            continue
        if relation == "family" and article.topic != "Biology and health sciences":
            continue
        if relation in ("capital_of", "capital") and not _is_place(target):
            continue
        yield relation
    border = _BORDER.match(after)
    alone = re.search(r"(?:\bby|\bborders|\bto the \w+,?(?: and)?|,(?: and)?|;) (?:the )?$", before)
    shared = re.search(r"[A-Z][\w-]+,? (?:and )?(?:the )?$", before)  # "Mali and Niger to the north"
    if border and alone and not shared and re.search(r"\bborder", before) and _is_place(target):
        yield f"borders_{border['direction']}"


def _about_itself(article: Article, position: int, sentence: str) -> bool:
    """Whether the subject of a sentence is the article's own: it begins with its name or with a pronoun."""
    if position == 0 or sentence.startswith(("It ", "He ", "She ", "Its ")):
        return True
    start = sentence
    for word in ("The ", "An ", "A "):
        start = start.removeprefix(word)
    name = article.name.split(",")[0]
    for known in (name, name.split()[-1]):
        rest = start.removeprefix(known)
        if rest != start and (rest.startswith((",", "'s", "’s")) or (rest[:1] == " " and rest[1:2].islower())):
            return True
    return False


def _is_person(number: int) -> bool:
    phrase = phrase_of(number)
    return phrase is not None and phrase.person


def _is_place(number: int) -> bool:
    return corpus().articles[number].topic == "Geography"

"""Naming an article without its title: its short description as an English noun phrase, and what kind of thing it is.

    John Wycliffe   "English theologian (1328–1384)"   -> phrase "English theologian", kind "English theologian",
                                                          head "theologian", born 1328, died 1384
    Timbuktu        "City in Tombouctou Region, Mali"  -> phrase "city in Tombouctou Region, Mali", kind "city"

Wikipedia's short descriptions are noun phrases nearly always; what does not read like one is left out (None).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from envs.search.wiki_corpus import Article, corpus, word_set
from envs.search.wiki_links import lower_case_share

_LIFE = re.compile(r"\s*\((?:(?P<born>\d{3,4})\s*[–-]\s*(?P<died>\d{3,4})|born (?P<since>\d{4}))\)$")
_BRACKETS = re.compile(r"\s*\([^)]*\)$")
_REIGN = re.compile(r" from (?:AD |CE )?(\d{2,4}) to (?:AD |CE )?(\d{2,4})$")
_WORK = re.compile(r"^(?:c\. )?(1\d{3}|20\d\d) (?!BC|AD|CE)")
# Where the kind of thing ends and what sets it apart begins; not inside "Decimal-based" or "in-line".
_KIND_END = re.compile(
    r"\s*(?:,|;|:|\(|(?<![-–])\b(?:(?:north|south|east|west|(?:north|south)(?:east|west))(?:ern)? of|in|by|from|for|"
    r"with|on|at|to|between|during|that|which|who|whose|where|when|used|using|off|together|located|found|based|near|made|"
    r"consisting|containing|covering|describing|about|under|within|around|along|through|across|since|known|of|and|or|"
    r"as|into|against|than|involving|founded|written|linking|dealing|concerned|focused|caused|characterized|including|"
    r"without|over|after|before|set|originating|developed|produced|formed|created|played|spoken|native|related|"
    r"belonging|active)\b(?![-–]))"
)
# "family of birds" is a kind, "family" is not; nor is "modern form".
_NEEDS_OF = word_set(
    "family genus order species class group type form branch series set member part kind method process body "
    "study style division term act state subfamily suborder infraorder superfamily clade phylum taxon piece "
    "aspect name one"
)
# Of these the last word alone says too little: "mountain range", "chemical element".
_TWO_WORDS = word_set(
    "range element compound minister genre unit park star system game instrument party group body area city "
    "book form organization organisation alliance museum art style language dynasty sport company tool novel"
)
_NOT_A_KIND = word_set(
    "use person people wife husband son daughter overview list history result way lack name concept ability "
    "property change head outside inside place area aspect worn activity practice range loss collective number "
    "description interplay void emission portion division explanation result set south north event half figure "
    "occurrence phenomenon something amount quantity value quality characteristic feature idea"
)
_NO_PERSONS = word_set(
    "religious military political social spiritual track civil human literary art film music musical opera jazz women "
    "theatre television stage science scientific economic moral legal public business media medical natural cultural "
    "founder co-founder pioneer director leader first early late nuclear theoretical experimental stoic holy royal "
    "field"
)
_VAGUE = word_set("founder co-founder leader pioneer member head chief")
_COUNTS = word_set(
    "several various many any all some each every two three four five six seven either both other another"
)
_SUPERLATIVE = re.compile(
    r"^(?:(?:second|third|fourth|fifth|sixth|seventh|eighth)(?:[- ]|$))?(?:\w+est |\w+most |most \w+ |last |first |"
    r"major |only |main |former |current |important |popular )?(?=\w)(?!of\b|in\b)"
)
_ROLES = word_set(
    "leader king queen emperor empress president minister pope caliph sultan dictator monarch ruler chancellor "
    "shah tsar pharaoh prince duke general statesman politician premier khan regent governor bishop archbishop"
)
_PERSON_TOPIC, _NO_TOPIC = "People", "Uncategorized"
_TITLE_WORDS = word_set(
    "Prime Holy Grand Crown Vice Supreme Great United New Old Chief King Queen High Cold World Near Middle Far"
)
_GROUPS = word_set("band group duo trio quartet family dynasty house brothers sisters couple pair")


@dataclass(frozen=True)
class Phrase:
    """``phrase`` follows "the"; ``kind`` follows "which" or "the" (None: no good one); years are None when unsaid."""

    phrase: str
    kind: str | None
    head: str
    person: bool
    born: int | None = None
    died: int | None = None
    years: tuple[int, int] | None = None  # "from 1869 to 1948": in power, or lasting
    work_year: int | None = None

    @property
    def lived(self) -> str:
        if self.born and self.died:
            return f"the {self.phrase} who lived from {self.born} to {self.died}"
        return f"the {self.phrase} who was born in {self.born}" if self.born else f"the {self.phrase}"


@cache
def phrase_of(number: int) -> Phrase | None:
    """The phrase of an article, or None when its description is missing or no plain noun phrase."""
    return make_phrase(corpus().articles[number])


def make_phrase(article: Article) -> Phrase | None:
    text = article.description
    life = _LIFE.search(text)
    text = re.sub(r"^(?:The|An?) ", "", _BRACKETS.sub("", text)).strip(" .")
    words = text.split()
    if not 1 <= len(words) <= 14 or re.search(r"[/;:\[\]]|Overview|Wikimedia|disambiguation|\bis\b|\bare\b", text):
        return None
    text = _uncapitalise(text)
    reign = _REIGN.search(text)
    work = _WORK.match(text)
    kind = _kind(text, article.topic == _PERSON_TOPIC) or _defined_kind(article)
    head = (kind or _KIND_END.split(text)[0]).split(" of ")[0].split()[-1:] or [""]
    role = head[0].lower()
    person = role in _ROLES or (article.topic == _PERSON_TOPIC and role not in _GROUPS)
    person = person or (life is not None and article.topic == _NO_TOPIC and role in _heads_of_persons())
    born = person and life and (life["born"] or life["since"])
    return Phrase(
        phrase=text,
        kind=kind,
        head=head[0].lower(),
        person=person,
        born=int(born) if born else None,
        died=int(life["died"]) if born and life and life["died"] else None,
        years=(int(reign[1]), int(reign[2])) if reign else None,
        work_year=int(work[1]) if work else None,
    )


@cache
def _heads_of_persons() -> frozenset[str]:
    """What persons are called in their descriptions: "poet", "mathematician"."""
    people = (article.description for article in corpus().articles if article.topic == _PERSON_TOPIC)
    firsts = (_KIND_END.split(_BRACKETS.sub("", text))[0].split() for text in people)
    counts = Counter(words[-1].lower() for words in firsts if words)
    return frozenset(word for word, count in counts.items() if count >= 3 and word not in _GROUPS)


_DEFINED = re.compile(r"^[^.;:]{2,120}? (?:is|was) (?:an?|the) (?P<noun>[^.;,]+)")


def _defined_kind(article: Article) -> str | None:
    """The kind that the first sentence gives: "Timbuktu is an ancient city in Mali"."""
    first = re.sub(r" ?\([^()]*\)", "", article.sentences[0]) if article.sentences else ""
    match = _DEFINED.match(first)
    return _kind(match["noun"], article.topic == _PERSON_TOPIC) if match else None


def _uncapitalise(text: str) -> str:
    """The first word in lower case, unless it is a name or begins one ("Roman poet", "Prime Minister")."""
    words = text.split()
    first = re.split(r"[-–,]", words[0])[0]
    begins_title = len(words) > 1 and words[1][:1].isupper() and first in _TITLE_WORDS
    share = lower_case_share(first)
    if share is None:
        name = re.search(r"(?:ble|al|ic|ive|ous|ing|ed|ly|er|est)$", first) is None
    else:
        name = share < 0.15
    return text if first.isupper() or begins_title or name else text[0].lower() + text[1:]


def _kind(text: str, person: bool) -> str | None:
    text = _SUPERLATIVE.sub("", _WORK.sub("", text))
    ends = _KIND_END.search(text)
    kind = text[: ends.start()].strip() if ends else text
    if ends and ends[0].strip() in ("and", "or") and not person:
        return None  # "supranational political and economic union": what is cut off is the noun
    words = kind.split()
    if not words or len(words) > 4 or words[0].lower() in _COUNTS or any(c.isdigit() for c in kind):
        return None
    head = words[-1].lower()
    if person and ends and ends[0].strip() in ("and", "or") and head in _NO_PERSONS:
        return None  # "religious and military leader"
    if head.endswith("est") and head not in ("forest", "rainforest", "priest", "contest", "harvest", "guest", "nest"):
        return None  # "the smallest of the four main islands"
    participle = head.endswith("ed") and head not in ("breed", "seed", "weed", "bed")
    if person and len(words) == 1 and head in _VAGUE:
        return None  # of what?
    if head in _NOT_A_KIND or not head[0].isalpha() or head.endswith("ly") or participle:
        return None
    if head in _NEEDS_OF:
        rest = re.match(rf"{re.escape(kind)} of (?:[a-z-]+ )?[a-z]+$", text)
        return rest[0] if rest else None
    if head.endswith("s") and not head.endswith(("ss", "us", "is", "os")):
        return None  # plural: "which" wants one
    return kind if kind[0].islower() or len(words) > 1 else None


def short_kind(kind: str) -> str:
    """The kind without its adjectives: "mathematician" for "French mathematician", but "mountain range" whole."""
    if " of " in kind:
        return kind
    words = kind.split()
    keep = 2 if words[-1].lower() in _TWO_WORDS and len(words) > 1 and words[-2].islower() else 1
    short = " ".join(words[-keep:])
    return kind if words[-1][:1].isupper() else short

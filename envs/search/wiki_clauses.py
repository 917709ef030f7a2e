"""What an article says of its own subject, as verb phrases that can follow "who" or "which".

    Metamorphoses   "The Metamorphoses is a Latin narrative …"        ->  "is a Latin narrative poem from 8 CE by the …"
    Antioch         "Founded in 300 BC, Antioch became …"             ->  "was founded in 300 BC"
    Ovid            "He was a younger contemporary of Virgil and …"   ->  "was a younger contemporary of Virgil"

A sentence counts when its subject is the article's: its name, or a pronoun after such a sentence. The phrase ends where
another clause begins, and is dropped rather than cut in the middle of a list. What points outside of the phrase
("this", "the latter"), what only praises, and what has neither a name nor a number in it is dropped too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from envs.search.wiki_corpus import Article, corpus, word_set
from envs.search.wiki_links import link_graph
from envs.search.wiki_phrases import phrase_of

MIN_WORDS, MAX_WORDS = 3, 22
_MIN_WORDS_WITHOUT_NAMES = 6

# Verbs that a phrase may begin with; regular past forms are known by their ending.
# Finite verbs that neither "-ed" nor "-s" tells; the word after the subject is one when it ends so.
_VERBS = word_set(
    "won wrote made led built took began held fought gave ran left sold grew lost met drew spoke taught sang rose "
    "fell found came went spent became overthrew chose brought broke bore beat shot sent sought saw oversaw set put "
    "swept spread split struck underwent"
)
_NOT_VERBS = word_set(
    "hundred sacred red need seed as its this thus always perhaps sometimes besides across towards less species series"
)
_LEADS = word_set("later originally eventually subsequently initially formerly")
_SKIPPED = re.compile(r"\b(?:also|likewise|furthermore|additionally|notably)\b ?")

# Where the phrase is complete and something else begins.
_ENDS = re.compile(
    r"(?:;|:| [–—] |—|, (?:and |or |but |yet )?(?:is|are|was|were|has|had|he|she|it|they|his|her|its|their|"
    r"which|who|whose|where|when|while|whereas|although|though|but|yet|because|since|after|before|until|with|as|if|so|then|including|"
    r"such|especially|particularly|usually|often|mostly|making|giving|becoming|leading|causing|resulting|serving|being|"
    r"forming|allowing|using|having|ending|creating|marking|known|based|located|named|called|due|about|around|just|"
    r"followed|where|near|along|both|one|the (?:first|second|third|last|latter|former|most|largest|oldest|only|year)|"
    r"\w+ing|\w+ed|a|an)\b|,? (?:while|whereas|although|though|because|so that)\b|, (?:and )?(?:became|won|wrote|"
    r"led|made|took|began|held)\b| and (?:starring|featuring|serving|including|becoming|winning)\b)"
)
# What a reader could not resolve or judge.
_POINTS = re.compile(
    r"\b(?:this|these|those|such|former|latter|however|thus|therefore|hence|respectively|aforementioned|"
    r"the (?:same|two|three|four|above|following|other|others|entire|whole|rest|name|term|word|title|article)|"
    r"another|each|there|here|them|they|both(?! .*\band\b)|which|whose|that of|those of|we|our|you|your|I)\b"
)
_PRAISE = re.compile(
    r"\b(?:consider(?:ed)?|regarded|deemed|hailed|acclaimed|renowned|celebrated|famous|famously|notable|prominent|"
    r"influential|important|significant|successful|popular|among the|one of|widely|believed|thought|said|claimed|"
    r"attributed|may|might|could|would|refers?|referred|spelled|pronounced|translates?|abbreviated|romanized|term|word|"
    r"today|currently|now|recent(?:ly)?|various|several|many)\b"
)
_NAME_OR_NUMBER = re.compile(r"(?<=\s)(?:[A-ZÀ-Þ][\w'’.-]+|\d[\d,.]*)")
_PARTICIPLE = re.compile(
    r"^(?P<verb>Founded|Established|Built|Completed|Written|Composed|Painted|Directed|Located|Situated|Born|Raised|"
    r"Educated|Discovered|Invented|Developed|Designed|Published|Released|Opened|Introduced|Formed|Created|Constructed|"
    r"Launched) (?P<rest>[^,]+(?:, \d{4})?), (?P<subject>it|he|she|the \w+|[A-Z][\w'’. -]*?) "
    r"(?:is|was|has|had|became|[a-z]+ed)\b"
)
_WHEN = re.compile(r"^(?P<when>(?:In|On|From|During|Between) (?:[^,]*?\d{3,4}[^,]*)), (?=he |she |it |[A-Z])")
_AND_THEN = re.compile(
    r",? and (?:he |she |it )?(?=(?:was|is|became|won|led|wrote|served|died|moved|founded|has|had)\b)"
)
_DEFINED = re.compile(r"[^.;:]{2,120}? (?=(?:is|was) (?:an?|the) )")
_UNSURE_COMMA = re.compile(r"\w, [A-Z]")  # where a phrase is cut: "of Denmark, Estonia" is no place in Estonia
# What may follow a name when the phrase is to end with it.
_AFTER_A_NAME = re.compile(
    r"$|,|\s(?:and|or|in|on|at|by|for|during|from|after|before|until|with|to|as|near|against|via)\b"
)
# "the country", which one is said elsewhere in the text
_OF_THE_TEXT = re.compile(
    r"\bthe (?:country|city|state|region|film|novel|book|band|area|province|island|river|games|war|period|company|team|"
    r"group|king|emperor|empire|movement|work|play|series|album|game|nation|kingdom|dynasty|party|church|town|"
    r"community|world's|family|club|league|season|show|story|plot|poem|text|site|building|structure|model|system|"
    r"process|theory|concept|field|subject|process|species|genus|disease|condition|disorder)(?:'s|’s)?"
    r"(?! (?:of|in|that|which|who|for|between)\b)|\b(?:likely|possible|true|clear|unclear|estimated) that\b|\bit\b"
)
_PLACED = ("Located", "Situated")
# "X is an English mathematician who …", "X is a 1972 film directed by …": the noun phrase is all small words and
# adjectives of nations, so that what follows belongs to it.
_APPOSED = re.compile(
    r"(?:is|was|are|were) (?:an?|the) (?P<noun>(?:[\w-]+ ){1,7}?)(?P<rel>who|that|which|written|directed|"
    r"composed|painted|located|situated|founded|established|developed|created|published|produced|starring|discovered|"
    r"invented|designed|named after|based on|released)\b (?P<rest>.+)"
)
_BARE = word_set("that who which")


@dataclass(frozen=True)
class Mention:
    """Another article named in a phrase: ``text[start:end]``."""

    target: int
    start: int
    end: int


@dataclass(frozen=True)
class Clause:
    """A verb phrase that is true of ``article``, from line ``line`` of it. ``mentions``: the names in it, in order."""

    article: int
    line: int
    text: str
    mentions: tuple[Mention, ...]

    @property
    def verb(self) -> str:
        """Its first words, by which phrases are counted as of one kind: "was founded by"."""
        words = self.text.split()
        return " ".join(words[: 2 if words[0] in ("is", "was", "has", "had") else 1])


@cache
def clauses_of(number: int) -> tuple[Clause, ...]:
    """The phrases of an article, in the order of its lines: whole ones, and their beginnings up to a name."""
    article = corpus().articles[number]
    offset = len(article.lines) - len(article.sentences)
    found: dict[str, Clause] = {}
    for position, raw in _predicates(article):
        whole = _begin(raw)
        mentions = _mentions(number, whole)
        cuts = [mention.end for mention in mentions if _may_end(whole, mention.end)]
        for end in dict.fromkeys((*cuts, len(whole))):
            text = whole[:end]
            if text not in found and _is_sound(text) and (end == len(whole) or _UNSURE_COMMA.search(text) is None):
                inside = tuple(mention for mention in mentions if mention.end <= end)
                found[text] = Clause(number, offset + position, text, inside)
    return tuple(found.values())


def _predicates(article: Article) -> Iterator[tuple[int, str]]:
    """(sentence, what is said) of every sentence about the article's subject."""
    phrase = phrase_of(article.number)
    person = phrase is not None and phrase.person
    head = phrase.head if phrase is not None else ""
    own = True  # whether the sentence before was about the subject too: then a pronoun means it
    for position, full in enumerate(article.sentences):
        sentence = re.sub(r" ?\([^()]*\)", "", full)
        if position == 0:
            match = _DEFINED.match(sentence)
            if match is None:
                continue
            rest = sentence[match.end() :]
            yield position, rest
            if apposed := _APPOSED.match(rest):
                yield from ((position, text) for text in _from_apposed(apposed))
            continue
        if (led := _PARTICIPLE.match(sentence)) and _is_subject(article, led["subject"], person, head, own):
            verb = led["verb"].lower()
            yield position, f"{'is' if led['verb'] in _PLACED else 'was'} {verb} {led['rest']}"
            own = True
            continue
        own_before, when = own, ""
        if timed := _WHEN.match(sentence):
            when, sentence = timed["when"], sentence[timed.end() :]
            sentence = sentence[0].upper() + sentence[1:] if sentence.startswith(("he ", "she ", "it ")) else sentence
        subject = _subject(article, sentence, person, head, own_before)
        own = subject is not None
        if subject is not None:
            yield from ((position, said) for said in _coordinated(sentence[len(subject) :].strip(), when))


def _coordinated(rest: str, when: str) -> Iterator[str]:
    """What a sentence says of its subject, one by one: "was born in A, and later moved to B"."""
    for number, piece in enumerate(_AND_THEN.split(rest)):
        if not when:
            yield piece
        elif number == 0 and not re.search(r"\d{4}", piece):
            said = _ENDS.split(piece)[0].strip().rstrip(".").rstrip()
            yield f"{said} {when[0].lower()}{when[1:]}"


def _from_apposed(match: re.Match[str]) -> Iterator[str]:
    noun = match["noun"].split()
    nested = "by" in noun or any(word in ("of", "in", "from", "and") for word in noun[:-1])
    if nested and match["rel"] in _BARE:
        return  # "the son of the king who …": whose relative clause is it?
    if match["rel"] in _BARE:
        yield match["rest"]
    elif match["rel"] in ("located", "situated", "named after", "based on"):
        yield f"is {match['rel']} {match['rest']}"
    elif match["rel"] == "starring":
        yield f"stars {match['rest']}"
    else:
        yield f"was {match['rel']} {match['rest']}"


def _subject(article: Article, sentence: str, person: bool, head: str, own: bool) -> str | None:
    """The words at the beginning of a sentence that mean the article's subject."""
    first = sentence.split(" ", 1)[0]
    if person and first in ("He", "She"):
        return first  # in the article on a person, whatever the sentence before was about
    if not person and first == "It":
        return first if own else None
    if own and not person and head and sentence.startswith(f"The {head} "):
        return f"The {head}"
    name = article.name.split(",")[0]
    known = [name, f"The {name}"]
    if person and len(name.split()) > 1:
        known.append(name.split()[-1])
    return next((k for k in known if sentence.startswith(f"{k} ") and sentence[len(k) + 1 :][:1].islower()), None)


def _is_subject(article: Article, word: str, person: bool, head: str, own: bool) -> bool:
    if word in ("it", "he", "she"):
        return own and (word != "it") == person
    return word in (article.name, article.name.split()[-1], f"the {head}")


def _may_end(text: str, end: int) -> bool:
    """Whether a phrase may stop after a name: not in the middle of "between A and B" or "from A to B"."""
    before, after = text[:end], text[end:]
    if not after:
        return True
    pair = after.startswith((" and ", " to ", " or ", ", ")) and re.search(r"\b(?:between|from|both|either)\b", before)
    half = re.match(r" (?:from|to|with|and|into)\b", after) and re.search(
        r"\b(?:separat|connect|extend|stretch|mov|emigrat|link|join)", before
    )
    return _AFTER_A_NAME.match(after) is not None and not pair and not half


def _begin(raw: str) -> str:
    """What is said, up to where another clause begins."""
    text = _SKIPPED.sub("", raw).strip()
    ends = _ENDS.search(text)
    return (text[: ends.start()] if ends else text).strip().rstrip(".!?").strip()


def _is_sound(text: str) -> bool:
    """Whether a verb phrase is complete and readable out of its place."""
    words = text.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not _is_verb(words[1] if words[0] in _LEADS else words[0]):
        return False
    if re.search(r"[\"“”\[\]()/:;=+*]|\d/|[^\x00-\u024f–—’‘]|\.\s", text.replace(". ", "").replace("U.S.", "US")):
        return False
    if _POINTS.search(text) or _PRAISE.search(text) or _OF_THE_TEXT.search(text):
        return False
    if not _NAME_OR_NUMBER.search(text) and len(words) < _MIN_WORDS_WITHOUT_NAMES:
        return False
    return _commas_are_sound(text) and words[-1] not in _DANGLING


_NO_NAMES = ("Nobel Prize", "American football", "Earth")  # what is said is of a part of it, or of everything
_DANGLING = word_set(
    "and or of in on at to by for with from the a an as is was that who which not than its his her their between both "
    "into under over about"
)


def _is_verb(word: str) -> bool:
    return word in _VERBS or (word.endswith(("ed", "s")) and word.islower() and word not in _NOT_VERBS)


def _commas_are_sound(text: str) -> bool:
    """Every comma is in a date, a number, a place ("Paris, Texas") or a list that ends with "and"."""
    plain = re.sub(r"(?<=\d),(?= ?\d)", "", text)
    plain = re.sub(r"(?<= )([A-Z][\w'’-]+), (?=[A-Z][\w-]+$)", r"\1 ", plain)
    if "," not in plain:
        return True
    after = plain.rsplit(",", 1)[1]
    return re.match(r"(?: [\w'’-]+){1,4}? (?:and|or) \w|(?: and| or) \w", after) is not None


def _mentions(number: int, text: str) -> tuple[Mention, ...]:
    found = []
    for target in link_graph().named_in(number, text):
        title = corpus().articles[target].title
        match = re.search(rf"(?<![\w-]){re.escape(title)}(?![\w-])", text)
        if match and title[:1].isupper() and title not in _NO_NAMES:
            found.append(Mention(target, match.start(), match.end()))
    return tuple(sorted(found, key=lambda mention: mention.start))

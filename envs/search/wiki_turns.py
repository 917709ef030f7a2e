"""Statements with something else in the place of the name at their end, and statements asked from that end.

before_name("was written by the French author")      "was written by": a description can follow
inverted("was written by | Ovid")                    "by" whom it "was" "written"
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from envs.search.wiki_clauses import Clause, Mention

# What may stand before a name in whose place a description is put: a preposition, "and", or a verb; and between them
# what the name is called ("by the French author …").
_BEFORE = re.compile(
    r"^(?P<kept>(?:.* )?(?:of|in|on|at|by|from|to|into|with|for|near|through|after|before|against|under|over|"
    r"between|across|as|around|along|off|towards?|via|within|about|during|including|\w+ed|won|wrote|met|led|left|beat|"
    r"borders|contains|includes|forms|connects|separates|stars|features|depicts|describes|orbits|comprises))$"
)


def before_name(text: str) -> str | None:
    """The words before a name without what the name is called there; None when a description cannot follow them."""
    text = text.strip()
    for called in (" the", ""):
        bare = text.removesuffix(called) if called else text
        match = _BEFORE.match(bare)
        if match:
            return bare
    # "by the French author Émile Zola": all of the apposition goes
    words = text.split()
    for at in range(len(words) - 1, max(0, len(words) - 5), -1):
        head, tail = " ".join(words[:at]), " ".join(words[at:])
        match = _BEFORE.match(head)
        if match and re.match(rf"^(?:(?:the|an?|his|her) )?(?:[\w-]+ ){{0,2}}(?:{_CALLINGS})$", tail):
            return head
    return None


_CALLINGS = (
    r"[a-z-]+(?:ist|ian|wright|writer|grapher|smith|maker|ologist|ographer|mystic|detective|scholar)|Sir|King|Queen|Pope|"
    r"Emperor|General|President|Saint|leader|conductor|designer|guitarist|drummer|dancer|actor|actress|monk|saint|god|"
    "goddess|hero|prophet|author|writer|poet|novelist|playwright|composer|painter|artist|sculptor|architect|physicist|chemist|mathematician|"
    "astronomer|scientist|philosopher|engineer|inventor|explorer|king|queen|emperor|president|general|director|filmmaker|"
    "musician|singer|botanist|biologist|naturalist|historian|economist|brother|sister|father|mother|wife|husband|son|"
    "daughter|teacher|city|town|river|mountain|island|physician|navigator|theologian|politician|dramatist"
)


@dataclass(frozen=True)
class Inverted:
    """A statement asked from its other end: "by" "was" "written" of "was written by"; "" where there is none."""

    preposition: str
    auxiliary: str
    rest: str


_PARTICIPLES = (
    "written|built|born|made|found|led|held|drawn|won|known|given|taken|sung|chosen|fought|overthrown|bought|sold|driven|"
    "taught|brought|beaten|bound|spoken|\\w+ed"
)
_PASSIVE = re.compile(
    rf"^(?P<be>is|was) (?P<rest>(?:first |formally |officially |originally )?(?:{_PARTICIPLES})"
    r"(?: in \d{4}| and \w+ed)?) "
    r"(?P<by>by|in|to|from|on|at|after|near|into|for|with)$"
)
_OF = re.compile(r"^(?P<be>is|was) (?P<rest>the (?:[\w’'-]+ ){1,5}?)(?P<by>of|in|to)$")
_ACTIVE = re.compile(
    r"^(?P<rest>(?:\w+ed|won|wrote|met|led|left|beat|borders|contains|flows|orbits|runs|lies|drains|empties|ran|fought|"
    r"grew|rose|overlooks|separates|crosses|forms|shares)"
    r"(?: (?:in|into|to|on|with|from|at|through|over|against|under|near|along|across))?)$"
)


def inverted(clause: Clause, mention: Mention) -> Inverted | None:
    """How to ask for what a statement names last, or None."""
    said = before_name(clause.text[: mention.start])
    if said is None:
        return None
    if match := _PASSIVE.match(said):
        return Inverted(match["by"], match["be"], match["rest"])
    if (match := _OF.match(said)) and not re.search(r" (?:of|in|to|and|by|from) ", match["rest"]):
        return Inverted(match["by"], match["be"], match["rest"].strip())
    if match := _ACTIVE.match(said):
        return Inverted("", "", match["rest"])
    return None

"""Whether an answer is right: normalised match with the forms in which a title, a number or a date may be written.

"20 May 1927" = "May 20, 1927" = "1927-05-20"     "8.5 million" = "8,500,000"     "The Gambia" = "Gambia"
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from envs.final_answer import normalise
from envs.search.wiki_facts import MONTHS
from envs.search.wiki_links import ALIASES

_SCALE = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_UNIT = r"(?:km2|km²|square kilomet(?:re|er)s|kilomet(?:re|er)s|km|met(?:re|er)s|m|people|inhabitants)"
_PREFIX = re.compile(r"^(?:the )?(?:final )?answer(?: is|:)\s*", re.IGNORECASE)
_MONTH_NUMBER = {month.lower(): number for number, month in enumerate(MONTHS, 1)}


def is_right(given: str | None, accepted: Iterable[str]) -> bool:
    """Whether ``given`` is one of the accepted answers, in whatever form."""
    if given is None or not given.strip():
        return False
    mine = canonical(given)
    return any(mine == canonical(answer) for answer in accepted)


def accepted_forms(value: str, is_title: bool) -> list[str]:
    """The answers to accept for a value: of a title also its name without brackets, and its other names."""
    if not is_title:
        return [value]
    forms = [value, re.sub(r"\s*\([^)]*\)$", "", value)]
    forms += [alias for alias, title in ALIASES.items() if title == value]
    return list(dict.fromkeys(forms))


def canonical(text: str) -> str:
    """One spelling for all forms of an answer."""
    plain = normalise(_PREFIX.sub("", text.strip()))
    for read in (_date, _number):
        if (found := read(plain)) is not None:
            return found
    folded = unicodedata.normalize("NFKD", plain)
    plain = "".join(c for c in folded if not unicodedata.combining(c))
    return " ".join(re.sub(r"^(?:the|an?) ", "", plain).replace("-", " ").replace("–", " ").split())


def _date(text: str) -> str | None:
    iso = re.fullmatch(r"(\d{4})-(\d{1,2})-(\d{1,2})", text)
    if iso:
        return f"date {int(iso[1])}-{int(iso[2])}-{int(iso[3])}"
    words = [
        w for w in re.findall(r"[a-z]+|\d+", re.sub(r"(\d)(?:st|nd|rd|th)\b", r"\1", text)) if w not in ("the", "of")
    ]
    if len(words) != 3:
        return None
    month = next((_MONTH_NUMBER[word] for word in words if word in _MONTH_NUMBER), None)
    numbers = [int(word) for word in words if word.isdigit()]
    if month is None or len(numbers) != 2:
        return None
    day, year = sorted(numbers)
    return f"date {year}-{month}-{day}"


def _number(text: str) -> str | None:
    match = re.fullmatch(
        rf"(?:ad |ce )?(\d[\d,]*(?:\.\d+)?)(?: (thousand|million|billion|trillion))?(?: (?:ad|ce))?(?: ?{_UNIT})?", text
    )
    if match is None:
        return None
    value = float(match[1].replace(",", "")) * _SCALE.get(match[2] or "", 1.0)
    return f"number {round(value, 6):.12g}"

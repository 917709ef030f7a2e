"""Needle documents: facts hidden in a long haystack, questions about them at the end.

    <bos> w5 w1 K7=V3 w9 K1=V9 w2 ... w4 <ask> K1 V9 K7 V3 ...
                facts in the haystack          questions, each followed by its answer

A fact is one word that binds a key to a value; every key is bound at most once in a document, so each question has
exactly one right answer, and only by looking the fact up: values are drawn with replacement, so that answers given
before say nothing about the next. Only answers are targets. The vocabulary is the documents' own: retrieval (and
what sparse attention does to it) is all there is to learn.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge

from rl.bounds import Bounded, PositiveInt, Seed
from rl.types import TokenStream

Split = Literal["train", "held_out"]
BOS, ASK = 0, 1
_HELD_OUT_SHARE = 8  # one set of facts in so many is held out
_LEAST_SETS = 512  # different sets of facts that a task must have, so that both splits surely get some


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


@dataclass
class NeedleTask(Bounded):
    """Which documents: the same settings, split, index and length always give the same document."""

    section: ClassVar[str] = "data.needles"

    keys: PositiveInt = 64  # different keys
    values: Annotated[int, Ge(2)] = 8  # different values: guessing is right in one of so many
    fillers: PositiveInt = 64  # different filler words
    facts: PositiveInt = 64  # facts hidden in each document, about different keys
    questions: PositiveInt = 64  # questions at the end of each document, about different facts
    seed: Seed = 0  # of the documents

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.facts > self.keys:
            raise ValueError(f"data.needles.facts={self.facts}: use 1 to keys={self.keys}, a key is bound only once")
        if self.questions > self.facts:
            raise ValueError(f"data.needles.questions={self.questions}: use 1 to facts={self.facts}")
        sets = math.comb(self.keys, self.facts) * self.values**self.facts
        if sets < _LEAST_SETS:
            raise ValueError(
                f"data.needles: facts={self.facts} of keys={self.keys} with values={self.values} make only {sets} "
                f"different sets of facts; use more, so that there are at least {_LEAST_SETS} to split"
            )

    def words(self) -> list[str]:
        """The vocabulary in the order of its ids."""
        keys, values = [f"K{k}" for k in range(self.keys)], [f"V{v}" for v in range(self.values)]
        return ["<bos>", "<ask>", *keys, *values, *(f"{k}={v}" for k in keys for v in values), *self._filler_words()]

    def _filler_words(self) -> list[str]:
        return [f"w{i}" for i in range(self.fillers)]

    @property
    def vocab_size(self) -> int:
        return 2 + self.keys + self.values + self.keys * self.values + self.fillers

    @property
    def min_length(self) -> int:
        """Tokens of a document without any filler."""
        return 2 + self.facts + 2 * self.questions

    def document(self, split: Split, index: int, length: int) -> NeedleDocument:
        """Document ``index`` of ``split``, exactly ``length`` tokens.

        No set of facts is in both splits: its checksum decides to which one it belongs. Raises ValueError when
        ``length`` has no room for facts and questions.
        """
        if length < self.min_length:
            raise ValueError(
                f"a needle document of {length} tokens has no room for {self.facts} facts and {self.questions} "
                f"questions: use a length of at least {self.min_length}"
            )
        rng = np.random.default_rng([self.seed, split == "held_out", index, length])
        while True:
            key = rng.permutation(self.keys)[: self.facts]
            value = rng.integers(0, self.values, self.facts)
            if _is_held_out(key * self.values + value) == (split == "held_out"):
                break
        first_value = 2 + self.keys
        first_fact = first_value + self.values
        first_filler = first_fact + self.keys * self.values
        haystack = length - 2 - 2 * self.questions
        tokens = rng.integers(first_filler, first_filler + self.fillers, length)
        tokens[0], tokens[1 + haystack] = BOS, ASK
        fact_at = 1 + rng.permutation(haystack)[: self.facts]
        tokens[fact_at] = first_fact + key * self.values + value
        asked = rng.permutation(self.facts)[: self.questions]
        answer_at = 3 + haystack + 2 * np.arange(self.questions)
        tokens[answer_at - 1], tokens[answer_at] = 2 + key[asked], first_value + value[asked]
        loss_mask = np.zeros(length, dtype=bool)
        loss_mask[answer_at] = True
        depth = fact_at[asked] / (1 + haystack)
        return NeedleDocument(tokens.astype(np.int32), loss_mask, depth, fact_at=fact_at[asked], answer_at=answer_at)

    def save_tokenizer(self, directory: str | Path) -> None:
        """A word-level tokenizer of this vocabulary (text: words between spaces), as transformers and vLLM read it."""
        from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(self.words())}, unk_token="<ask>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens([AddedToken("<bos>", special=True)])
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(path / "tokenizer.json"))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<ask>"}
        (path / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def _is_held_out(facts: np.ndarray) -> bool:
    return zlib.crc32(np.sort(facts).astype(np.int32).tobytes()) % _HELD_OUT_SHARE == 0

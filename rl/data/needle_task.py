"""Which needle documents: their vocabulary and how much is hidden in them (``rl.data.needles`` makes them).

Without numpy: the schema of the commands holds it, and `--help` should not wait for arrays.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge

from rl.bounds import Bounded, PositiveInt, Seed

_LEAST_SETS = 512  # different sets of facts that a task must have, so that both splits surely get some


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

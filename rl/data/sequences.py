"""Training sequences of one length for DSA adaptation: synthetic needle documents, or a text file cut to pieces.

Both sources give the same thing: endless training sequences by index, and a fixed list of held-out ones that no
training sequence repeats: ``validation`` ones to choose settings by, or ``test`` ones to report. What is trained on is
the same with both. Targets are marked, so that one trainer and one measurement serve both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from rl.data.needle_task import NeedleTask
from rl.data.needles import HeldOut, Sample, needle_document

if TYPE_CHECKING:
    from configs.schema import AdaptDataConfig

_READERS = {".txt": "from_text", ".jsonl": "from_json", ".json": "from_json", ".parquet": "from_parquet"}


class SampleSource(Protocol):
    """Where sequences come from."""

    held_out: list[Sample]

    def training(self, index: int, length: int) -> Sample:
        """Training sequence ``index`` (any number from 0), ``length`` tokens."""
        ...


class NeedleSource:
    """Needle documents of any length; held-out ones have the full length."""

    def __init__(self, task: NeedleTask, length: int, held_out: int, split: HeldOut) -> None:
        self.task = task
        self.held_out: list[Sample] = [needle_document(task, split, i, length) for i in range(held_out)]

    def training(self, index: int, length: int) -> Sample:
        return needle_document(self.task, "train", index, length)


class TextSource:
    """All documents of a file, joined by the policy's end token and cut into pieces of ``length`` tokens.

    The last ``held_out`` pieces are the test ones, as many before them the validation ones; training takes the others
    in a new random order every epoch.
    """

    def __init__(self, stream: np.ndarray, length: int, held_out: int, split: HeldOut, seed: int) -> None:
        pieces = len(stream) // length
        if pieces <= 2 * held_out:
            raise ValueError(
                f"data.path has {len(stream)} tokens, {pieces} pieces of data.length={length}: too few to hold out "
                f"twice data.held_out={held_out} (validation, test) and train on the rest; give more text or shorter "
                "pieces"
            )
        self.pieces = np.asarray(stream[: pieces * length], dtype=np.int32).reshape(pieces, length)
        self.seed, self.train_pieces = seed, pieces - 2 * held_out
        first = self.train_pieces + (held_out if split == "test" else 0)
        self.held_out = [self._sample(piece) for piece in self.pieces[first : first + held_out]]

    def training(self, index: int, length: int) -> Sample:
        if length != self.pieces.shape[1]:
            raise ValueError(f"the text was cut into pieces of {self.pieces.shape[1]} tokens, not {length}")
        epoch, at = divmod(index, self.train_pieces)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.train_pieces)
        return self._sample(self.pieces[order[at]])

    @staticmethod
    def _sample(piece: np.ndarray) -> Sample:
        mask = np.ones(len(piece), dtype=bool)
        mask[0] = False
        return Sample(piece, mask)


def open_source(config: AdaptDataConfig, policy_dir: str | Path | None, cache_dir: str | Path) -> SampleSource:
    """The source that ``data`` names. Text is tokenised with the tokenizer of ``policy_dir``."""
    split = cast(HeldOut, config.split)
    if config.source == "needles":
        return NeedleSource(config.needles, config.length, config.held_out, split)
    if config.path is None:
        raise ValueError("data.path is missing: a .txt, .jsonl or .parquet file, or use data.source=needles")
    if policy_dir is None:
        raise ValueError("policy.path is missing: data.source=text needs a dense checkpoint and its tokenizer")
    stream = read_text(Path(config.path), config.column, policy_dir, cache_dir)
    return TextSource(stream, config.length, config.held_out, split, config.seed)


def read_text(path: Path, column: str, policy_dir: str | Path, cache_dir: str | Path) -> np.ndarray:
    """Token ids int32 of all documents of ``path`` (.txt: one document), each followed by the end token."""
    import datasets

    from rl.chat.tokenizer import ChatTokenizer

    if path.suffix not in _READERS:
        raise ValueError(f"data.path={path}: expected one of {', '.join(_READERS)}")
    if not path.is_file():
        raise FileNotFoundError(f"data.path={path}: no such file")
    datasets.disable_progress_bars()
    options: dict[str, Any] = {"sample_by": "document"} if path.suffix == ".txt" else {}
    reader = getattr(datasets.Dataset, _READERS[path.suffix])
    table = reader(str(path), cache_dir=str(Path(cache_dir) / "datasets"), **options)
    if column not in table.column_names:
        raise ValueError(f"data.column={column!r} is not in {path}: it has {table.column_names}")
    tokenizer = ChatTokenizer.load(policy_dir)
    ids: list[int] = []
    for text in table[column]:
        ids += [*tokenizer.encode(text), tokenizer.eos_id]
    return np.asarray(ids, dtype=np.int32)

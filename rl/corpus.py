"""The synthetic corpus of the tiny base policy: demonstrations of the training split, plus drills.

Documents are token streams with a loss mask on what an assistant wrote. Demonstrations come from environments
built with ``split="train"``; held-out tasks are in no document, because no held-out taskset is ever opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from envs.types import Message

from .demos import demonstrations, tokenise
from .drills import drill

if TYPE_CHECKING:
    from envs.taskset import Taskset

    from .chat.renderer import Renderer

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Document:
    """One token stream: ``tokens`` int32 [T], ``loss_mask`` bool [T], and where it comes from."""

    tokens: np.ndarray
    loss_mask: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.tokens)


def dialogues(
    taskset: Taskset,
    demos: int,
    novice_share: float,
    drills: int,
    max_facts: int,
    seed: int,
    tick: Tick = lambda n: None,
) -> Iterator[tuple[str, bool, tuple[Message, ...]]]:
    """(source, thinking, messages) of every document: ``demos`` demonstrations, then ``drills`` drills."""
    if taskset.split != "train":
        raise ValueError(f"the corpus may only hold training tasks, this taskset has split={taskset.split!r}")
    for demo in demonstrations(taskset, range(demos), novice_share, seed):
        tick(1)
        yield demo.family, True, demo.messages
    for i in range(drills):
        kind, messages = drill(seed, i, max_facts)
        tick(1)
        yield kind, False, tuple(messages)


def encode(renderer: Renderer, items: Sequence[tuple[str, bool, tuple[Message, ...]]]) -> list[Document]:
    """Token streams of ``dialogues``, in order."""
    documents = []
    for source, thinking, messages in items:
        tokens, mask = tokenise(renderer, messages, thinking=thinking)
        documents.append(Document(tokens, mask, source))
    return documents


def batches(documents: Sequence[Document], tokens_per_step: int, seed: int) -> Iterator[list[Document]]:
    """Endless batches of about ``tokens_per_step`` tokens: a new random order every epoch."""
    if not documents:
        raise ValueError("no documents to train on: raise base.corpus.demos or coldstart.demos")
    rng = np.random.default_rng(seed)
    batch: list[Document] = []
    size = 0
    while True:
        for i in rng.permutation(len(documents)):
            document = documents[i]
            if batch and size + len(document) > tokens_per_step:
                yield batch
                batch, size = [], 0
            batch.append(document)
            size += len(document)

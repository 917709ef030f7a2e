"""The synthetic corpus of the tiny base policy: demonstrations of the training split, plus drills.

Documents are token streams with a loss mask on what an assistant wrote. Demonstrations come from environments
built with ``split="train"``; held-out tasks are in no document, because no held-out taskset is ever opened here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from envs.types import Message
from rl.data.demos import demonstrated, demonstrations, tokenise
from rl.data.drills import drill
from rl.types import OUTCOME, TokenStream, Trajectory

if TYPE_CHECKING:
    from envs.taskset import Taskset
    from rl.chat.renderer import Renderer

Tick = Callable[[int], None]


@dataclass
class Document(TokenStream):
    """One token stream of a corpus, and where it comes from."""

    source: str


class Dialogue(NamedTuple):
    """Messages that become documents; ``turns``: how many of its assistant messages, from the end, are learned (None:
    all)."""

    source: str
    thinking: bool
    messages: tuple[Message, ...]
    turns: int | None = None


def dialogues(
    taskset: Taskset,
    demos: int,
    novice_share: float,
    drills: int,
    max_facts: int,
    seed: int,
    tick: Tick = lambda n: None,
) -> Iterator[Dialogue]:
    """``demos`` demonstrations (fewer where the taskset has fewer tasks), then ``drills`` drills."""
    if taskset.split != "train":
        raise ValueError(f"the corpus may only hold training tasks, this taskset has split={taskset.split!r}")
    for demo in demonstrations(taskset, demonstrated(taskset, demos), novice_share, seed, tick=lambda: tick(1)):
        yield Dialogue(demo.family, True, demo.messages, demo.turns)
    for i in range(drills):
        kind, messages = drill(seed, i, max_facts)
        tick(1)
        yield Dialogue(kind, False, tuple(messages))


def encode(renderer: Renderer, items: Iterable[Dialogue]) -> list[Document]:
    """Token streams of ``dialogues``, in order; a dialogue whose history changes has several."""
    return [
        Document(stream.tokens, stream.loss_mask, item.source)
        for item in items
        for stream in tokenise(renderer, item.messages, thinking=item.thinking, turns=item.turns)
    ]


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


def documents(trajectories: Sequence[Trajectory]) -> list[Document]:
    """One document per segment with sampled tokens: its token ids and loss mask as they are."""
    return [
        Document(segment.tokens, segment.loss_mask, t.family)
        for t in trajectories
        for segment in t.segments
        if segment.loss_mask.any()
    ]


def save_data(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """The kept rollouts as a ``datasets`` directory: one row per segment, readable messages next to the token truth.

    No rollout makes an empty directory (``datasets`` cannot read one of its own that has no row).
    """
    from datasets import Dataset, Features, Value, disable_progress_bars
    from datasets import Sequence as Rows

    disable_progress_bars()  # the run shows its own
    features = Features(
        {
            "task_id": Value("string"),
            "family": Value("string"),
            "outcome": Value("float64"),
            "messages": Value("string"),
            "tokens": Rows(Value("int32")),
            "loss_mask": Rows(Value("bool")),
        }
    )
    path.mkdir(parents=True, exist_ok=True)
    rows = [(t, document) for t in trajectories for document in documents([t])]
    if not rows:
        return
    columns = {
        "task_id": [t.task_id for t, _ in rows],
        "family": [t.family for t, _ in rows],
        "outcome": [t.reward_parts[OUTCOME] for t, _ in rows],
        "messages": [json.dumps(t.messages, ensure_ascii=False) for t, _ in rows],
        "tokens": [document.tokens for _, document in rows],
        "loss_mask": [document.loss_mask for _, document in rows],
    }
    Dataset.from_dict(columns, features=features).save_to_disk(str(path))


def load_data(path: Path) -> list[Document]:
    """The documents that ``save_data`` has written."""
    from datasets import load_from_disk

    if not any(path.iterdir()):
        return []
    rows: Any = load_from_disk(str(path))
    return [
        Document(np.asarray(row["tokens"], np.int32), np.asarray(row["loss_mask"], bool), row["family"]) for row in rows
    ]

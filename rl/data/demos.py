"""Demonstrations: an environment's own oracle (or its imperfect novice) acts, tokens come out with a loss mask.

They serve three purposes: documents for the base policy, the cold start (V3.2 sec. 3.2.2: right formats, doubtful
decisions), and the proof that every task is solvable. Environments are really run: each tool result in a
demonstration is what the tool answered.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from envs.episode import play_episode
from envs.types import Message

if TYPE_CHECKING:
    from envs.taskset import Taskset
    from rl.chat.renderer import Renderer
    from rl.data.corpus import Document

log = logging.getLogger(__name__)
MAX_TURNS = 8  # of one demonstration


@dataclass(frozen=True)
class Demo:
    """One demonstrated episode; ``outcome`` is the environment's score of it."""

    task_id: str
    family: str
    messages: tuple[Message, ...]
    outcome: float


class DemonstrationError(RuntimeError):
    """Most demonstrations failed: the environment is broken, not a task."""


def demonstrations(
    taskset: Taskset, indices: Sequence[int], novice_share: float, seed: int, *, threads: int = 4
) -> Iterator[Demo]:
    """Demonstrations of the tasks at ``indices``, in order; deterministic in all arguments.

    A share ``novice_share`` is by the imperfect demonstrator, the others by the oracle. Threads overlap the
    waiting for sandboxed processes; the order of the results does not depend on them. A task whose environment or
    demonstrator raises is left out (so fewer demonstrations come than indices were given).

    Raises:
        DemonstrationError: more than half of them failed; says what the last one raised.
    """

    def one(index: int) -> Demo | Exception:
        try:
            return play(index)
        except Exception as error:
            return error

    def play(index: int) -> Demo:
        task = taskset.task(index)
        env = taskset.environment(task)
        rng = random.Random(f"demo/{seed}/{task.id}")
        imperfect = rng.random() < novice_share

        def act(history: Sequence[Message]) -> Message:
            return env.novice(history, rng) if imperfect else env.oracle(history)

        episode, scores = play_episode(task, env, act, MAX_TURNS)
        return Demo(task.id, task.family, episode.messages, float(scores["outcome"]))

    failed = 0
    with ThreadPoolExecutor(threads) as pool:
        for index, result in zip(indices, pool.map(one, indices), strict=True):
            if isinstance(result, Demo):
                yield result
                continue
            failed += 1
            log.warning("no demonstration of task %d: %s: %s", index, type(result).__name__, result)
            if failed > len(indices) // 2:
                raise DemonstrationError(
                    f"{failed} of {len(indices)} demonstrations failed, the last one (task {index}) with "
                    f"{type(result).__name__}: {result}; run envs-check on this environment, or set "
                    "coldstart.enabled=false"
                ) from result


def tokenise(renderer: Renderer, messages: Sequence[Message], *, thinking: bool) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 [T] and loss mask bool [T] (True on what the assistant wrote) of one demonstrated episode.

    Built as a rollout builds it: the prompt ends with the generation prefix, each assistant message is the span that a
    policy would have sampled, tool results are appended with mask False. Raises ValueError when the rendering is
    not append-only, since then no single token stream holds the episode.
    """
    tokens: list[int] = []
    mask: list[bool] = []
    for i, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = renderer.render(messages[:i], thinking=thinking)
        after = renderer.render(messages[: i + 1], thinking=thinking)
        if before[: len(tokens)] != tokens or after[: len(before)] != before:
            raise ValueError(
                f"rendering of message {i} is not append-only: the episode cannot be one token stream; "
                "coldstart.as_rollouts=true plays demonstrations as rollouts, which may branch"
            )
        mask += [False] * (len(before) - len(tokens)) + [True] * (len(after) - len(before))
        tokens = after
    return np.asarray(tokens, np.int32), np.asarray(mask, bool)


def save_demos(path: Path, demos: Sequence[Demo], documents: Sequence[Document]) -> None:
    """The demonstrations as a ``datasets`` directory: readable messages, token truth and outcome of each."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()  # the run shows its own
    Dataset.from_list(
        [
            {
                "task_id": demo.task_id,
                "family": demo.family,
                "outcome": demo.outcome,
                "messages": json.dumps([m.to_json() for m in demo.messages], ensure_ascii=False),
                "tokens": document.tokens,
                "loss_mask": document.loss_mask,
            }
            for demo, document in zip(demos, documents, strict=True)
        ]
    ).save_to_disk(str(path))

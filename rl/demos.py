"""Demonstrations: an environment's own oracle (or its imperfect novice) acts, tokens come out with a loss mask.

They serve three ends: documents for the base policy, the cold start (recipe 4.2: right formats, doubtful
decisions), and the proof that every task is solvable. Environments are really run: each tool result in a
demonstration is what the tool answered.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from envs.environment import Environment
from envs.types import Episode, Message, StopReason, Task

if TYPE_CHECKING:
    from envs.taskset import Taskset

    from .chat.v32 import V32Renderer

Actor = Callable[[Environment, Sequence[Message], random.Random], Message]


def oracle(env: Environment, history: Sequence[Message], rng: random.Random) -> Message:
    """The right next message."""
    return env.oracle(history)


def novice(env: Environment, history: Sequence[Message], rng: random.Random) -> Message:
    """The imperfect demonstrator's next message."""
    return env.novice(history, rng)


@dataclass(frozen=True)
class Demo:
    """One demonstrated episode. ``outcome`` is the environment's score of it, None when not scored."""

    task_id: str
    family: str
    messages: tuple[Message, ...]
    outcome: float | None


def demonstrate(env: Environment, task: Task, actor: Actor, seed: int, *, score: bool, max_turns: int = 8) -> Demo:
    """Let ``actor`` act in ``env`` until the episode ends or ``max_turns`` assistant messages were made."""
    rng = random.Random(f"{task.id}/{seed}")
    try:
        history = list(env.reset())
        stop = StopReason.MAX_TURNS
        turns = 0
        while turns < max_turns:
            action = actor(env, tuple(history), rng)
            history.append(action)
            turns += 1
            result = env.step(action)
            history.extend(result.messages)
            if result.terminated:
                stop = StopReason.ANSWERED
                break
        outcome = None
        if score:
            outcome = float(env.score(Episode(task, tuple(history), stop, turns))["outcome"])
        return Demo(task.id, task.family, tuple(history), outcome)
    finally:
        env.close()


def demonstrations(
    taskset: Taskset,
    indices: Iterable[int],
    novice_share: float,
    seed: int,
    *,
    score: bool = False,
    threads: int = 4,
) -> Iterator[Demo]:
    """Demonstrations of the tasks at ``indices``, in order; deterministic in all arguments.

    Threads overlap the waiting for sandboxed processes; the order of the results does not depend on them.
    """

    def one(index: int) -> Demo:
        task = taskset.task(index)
        choose = random.Random(f"demo/{seed}/{index}")
        actor = novice if choose.random() < novice_share else oracle
        return demonstrate(taskset.environment(task), task, actor, seed, score=score)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, indices)


def tokenise(renderer: V32Renderer, messages: Sequence[Message], *, thinking: bool) -> tuple[np.ndarray, np.ndarray]:
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
            raise ValueError(f"rendering of message {i} is not append-only: the episode cannot be one token stream")
        mask += [False] * (len(before) - len(tokens)) + [True] * (len(after) - len(before))
        tokens = after
    return np.asarray(tokens, np.int32), np.asarray(mask, bool)

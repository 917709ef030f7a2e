"""Playing an episode without a model: anything that makes assistant messages may act.

What ``envs.check``, ``envs.play`` and tests share. Rollouts with a policy live in ``rl.rollout``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from envs.environment import Environment
from envs.types import Episode, Message, StepResult, StopReason, Task

Actor = Callable[[Sequence[Message]], Message]


def resolve(value: Any) -> Any:
    """The value of an environment method that may be ``async def``."""
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def close(environment: Environment) -> None:
    """Close an environment whose close() may be ``async def``."""
    closing: Callable[[], Any] = environment.close
    resolve(closing())


def play_episode(
    task: Task,
    environment: Environment,
    actor: Actor,
    max_turns: int = 16,
    observe: Callable[[Message], None] | None = None,
) -> tuple[Episode, dict[str, float]]:
    """Let ``actor`` act until the episode ends or ``max_turns`` messages were made; close the environment.

    ``observe`` is called with every message, as it happens. Returns the episode and its scores.
    """
    history: list[Message] = []
    counts: Counter[str] = Counter()

    def add(messages: Sequence[Message]) -> None:
        for message in messages:
            history.append(message)
            if observe is not None:
                observe(message)

    try:
        add(resolve(environment.reset()))
        stop, turns = StopReason.MAX_TURNS, 0
        while turns < max_turns:
            action = actor(tuple(history))
            add((action,))
            turns += 1
            result: StepResult = resolve(environment.step(action))
            add(result.messages)
            counts.update(result.info.get("counts", {}))
            if result.terminated:
                stop = StopReason.ANSWERED
                break
        episode = Episode(task, tuple(history), stop, turns, counts=dict(counts))
        return episode, dict(resolve(environment.score(episode)))
    finally:
        close(environment)

"""Playing an episode without a model: anything that makes assistant messages may act.

    episode, scores = play_episode(task, environment, environment.oracle)

What ``envs.check``, ``envs.play``, the task factory and tests share. Rollouts with a policy live in ``rl.rollout``.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from envs.driven_episode import play_driven
from envs.driving import DrivingEnvironment
from envs.environment import Environment
from envs.types import Episode, Message, StepResult, StopReason, Task

Actor = Callable[[Sequence[Message]], Message]  # may be async, as every method of an environment


class NoDemonstratorError(NotImplementedError):
    """The environment has no oracle (and no novice): nobody can show how a task is done."""


class Resolver:
    """Waits for environment methods that are ``async def``, all of one environment in one event loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()  # makes its loop when it is first needed

    def __call__(self, value: Any) -> Any:
        """The value, or its result when it is a coroutine."""
        return self._runner.run(value) if inspect.iscoroutine(value) else value

    def close(self, environment: Environment) -> None:
        """Close the environment, then the loop."""
        closing: Callable[[], Any] = environment.close
        try:
            self(closing())
        finally:
            self.close_loop()

    def close_loop(self) -> None:
        self._runner.close()


def close(environment: Environment) -> None:
    """Close an environment that was not played."""
    Resolver().close(environment)


def demonstrator(environment: Environment, novice: random.Random | None = None) -> Actor:
    """The environment's oracle as an actor; with a random stream its novice. What it does raises NoDemonstratorError
    where the environment has none."""

    def act(history: Sequence[Message]) -> Any:
        try:
            said: Any = environment.oracle(history) if novice is None else environment.novice(history, novice)
        except NotImplementedError as error:
            raise NoDemonstratorError(str(error)) from error
        return late(said) if inspect.isawaitable(said) else said

    async def late(said: Awaitable[Message]) -> Message:
        try:
            return await said
        except NotImplementedError as error:
            raise NoDemonstratorError(str(error)) from error

    return act


def has_novice(environment: Environment) -> bool:
    """Whether it has an imperfect demonstrator of its own; otherwise the oracle is asked."""
    return type(environment).novice is not Environment.novice


def has_demonstrator(environment: Environment) -> bool:
    """False when it surely has none, which is known without playing."""
    return has_novice(environment) or getattr(environment.oracle, "__func__", None) is not Environment.oracle


def play_episode(
    task: Task,
    environment: Environment,
    actor: Actor,
    max_turns: int = 16,
    observe: Callable[[Message], None] | None = None,
) -> tuple[Episode, dict[str, float]]:
    """Let ``actor`` act until the episode ends or ``max_turns`` messages were made; close the environment.

    ``observe`` is called with every message, as it happens. Returns the episode and its scores. Where a program drives
    (``envs.driving``) it asks ``actor``.
    """
    resolve = Resolver()
    if isinstance(environment, DrivingEnvironment):
        asked = Resolver()  # in the threads of the program's requests
        try:
            act = lambda history: asked(actor(tuple(history)))  # noqa: E731
            return play_driven(task, environment, act, max_turns, observe or (lambda message: None), resolve)
        finally:
            asked.close_loop()
            resolve.close(environment)
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
            action = resolve(actor(tuple(history)))
            if history and history[-1].prefix:  # the action is all of the message that the prompt begins
                history.pop()
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
        resolve.close(environment)

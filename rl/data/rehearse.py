"""Demonstrations that are played by the rollout loop itself: the demonstrator takes the engine's place.

Window, context policy and retention then act on a demonstration as they act on a rollout, and what is trained on are
the segments that a rollout of the same messages has: a branch for every history that changed, each with its own
prompt. ``rl.data.demos`` is the plain way, without limits; it cannot show summaries or discarded history
(``coldstart.as_rollouts`` chooses).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envs.episode import NoDemonstratorError, demonstrator
from envs.types import Message, StopReason, Task
from envs.waiting import result_of
from rewards.compose import default_composer
from rl.chat.session import Session
from rl.data.demos import FAILED, NO_ORACLE, Dropped, acts_imperfectly, fault, thought, written
from rl.rollout.rollout import rollout
from rl.types import OUTCOME, Trajectory

if TYPE_CHECKING:
    from envs.environment import Environment
    from envs.taskset import Taskset
    from rl.chat.renderer import Renderer
    from rl.rollout.config import RolloutConfig
    from rl.rollout.engine_api import Generation

log = logging.getLogger(__name__)
AT_ONCE = 4  # episodes that overlap their waiting for sandboxed processes


@dataclass
class Demonstrator:
    """One episode's demonstrator in the engine's place: the novice where ``imperfect``, else the oracle."""

    taskset: Taskset
    renderer: Renderer
    config: RolloutConfig
    rng: random.Random
    novice_share: float
    imperfect: bool = field(default=False, init=False)
    environment: Environment | None = field(default=None, init=False)
    session: Session | None = field(default=None, init=False)

    def open_env(self, task: Task) -> Environment:
        self.environment = self.taskset.environment(task)
        self.imperfect = acts_imperfectly(self.environment, self.rng, self.novice_share)
        return self.environment

    def open_session(self, prompt: Sequence[Message]) -> Session:
        config = self.config
        self.session = Session(self.renderer, prompt, thinking=config.thinking, max_context=config.max_context)
        return self.session

    async def generate(self, prompt_tokens: list[int], max_tokens: int) -> Generation:
        """The demonstrator's next message as tokens. It sees what a policy would see: the context, not all that was
        said. Raises ValueError when the renderer cannot write the message behind that context."""
        from rl.rollout.engine_api import Generation

        assert self.environment is not None
        assert self.session is not None
        context = self.session.context
        message = self._act(self.environment, context)
        if inspect.isawaitable(message):
            message = await message
        thinking = self.config.thinking
        tokens = written(self.renderer, context, thought(message) if thinking else message, thinking=thinking)
        reason = "stop" if len(tokens) <= max_tokens else "length"
        tokens = tokens[:max_tokens]
        return Generation(tokens, [0.0] * len(tokens), reason, 0, [0] * len(tokens))  # type: ignore[arg-type]

    def _act(self, environment: Environment, context: tuple[Message, ...]) -> Message:
        if context[-1] == Message("user", self.config.context.summary_request):
            return environment.summarise(context[:-1])
        return demonstrator(environment, self.rng if self.imperfect else None)(context)


def rehearse(
    taskset: Taskset,
    indices: Sequence[int],
    novice_share: float,
    seed: int,
    renderer: Renderer,
    config: RolloutConfig,
    tick: Callable[[], None] = lambda: None,
    dropped: Dropped | None = None,
    *,
    only_good: bool = True,
) -> list[Trajectory]:
    """Demonstrations of the tasks at ``indices``, in order, played under ``config``; deterministic in all arguments.

    ``tick`` is called after every task. What is kept, and what is left out and counted in ``dropped``, is as in
    ``rl.data.demos.demonstrations``; here the turn and token limits of ``config`` cut too. ``only_good=False`` keeps
    whatever was scored: that measures a demonstrator.

    Raises:
        DemonstrationError: more than half of them raised; says what the first one did.
    """
    left_out = Dropped() if dropped is None else dropped

    async def one(index: int, slots: asyncio.Semaphore) -> Trajectory | tuple[str, str]:
        async with slots:
            try:
                task = taskset.task(index)
                rng = random.Random(f"demo/{seed}/{task.id}")
                player = Demonstrator(taskset, renderer, config, rng, novice_share)
                trajectory = await rollout(
                    task, player.open_env, player.open_session, player.generate, default_composer(), config,
                    f"demo-{index}",
                )  # fmt: skip
            except NoDemonstratorError as error:
                return NO_ORACLE, str(error)
            except Exception as error:  # of the demonstrator: an engine's errors would end the run, these do not
                return FAILED, f"task {index}: {type(error).__name__}: {error}"
            finally:
                tick()
        if OUTCOME not in trajectory.reward_parts:
            return FAILED, f"task {index}: {trajectory.failure_detail}"
        outcome, ended = trajectory.reward_parts[OUTCOME], trajectory.stop_reason is StopReason.ANSWERED
        problem = fault(not player.imperfect, ended, outcome)
        if only_good and problem is not None:
            return problem, f"{task.id}: {trajectory.stop_reason} in turn {trajectory.turns}, outcome {outcome:g}"
        return trajectory

    async def every() -> list[Trajectory | tuple[str, str]]:
        slots = asyncio.Semaphore(AT_ONCE)
        return list(await asyncio.gather(*(one(index, slots) for index in indices)))

    played = []
    for result in result_of(every()):
        if isinstance(result, Trajectory):
            played.append(result)
            continue
        left_out.add(*result)
        if result[0] == FAILED:
            log.warning("no demonstration of %s", result[1])
    left_out.check(len(indices))
    return played

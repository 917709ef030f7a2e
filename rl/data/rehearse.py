"""Demonstrations that are played by the rollout loop itself: the demonstrator takes the engine's place.

Window, context policy and retention then act on a demonstration as they act on a rollout, and what is trained on are
the segments that a rollout of the same messages has: a branch for every history that changed, each with its own
prompt. ``rl.data.demos`` is the plain way, one token stream per episode; it cannot show summaries, discarded history or
reasoning that was dropped (``coldstart.as_rollouts`` chooses).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envs.types import Message, Task
from envs.waiting import result_of
from rewards.compose import default_composer
from rl.chat.session import Session
from rl.data.demos import DemonstrationError
from rl.rollout.rollout import rollout
from rl.types import OUTCOME, Trajectory

if TYPE_CHECKING:
    from envs.environment import Environment
    from envs.taskset import Taskset
    from rl.chat.renderer import Renderer
    from rl.rollout.config import RolloutConfig
    from rl.rollout.engine import Generation

log = logging.getLogger(__name__)
AT_ONCE = 4  # episodes that overlap their waiting for sandboxed processes


@dataclass
class Demonstrator:
    """One episode's demonstrator in the engine's place. ``imperfect``: the novice, else the oracle."""

    taskset: Taskset
    renderer: Renderer
    config: RolloutConfig
    rng: random.Random
    imperfect: bool
    environment: Environment | None = field(default=None, init=False)
    session: Session | None = field(default=None, init=False)

    def open_env(self, task: Task) -> Environment:
        self.environment = self.taskset.environment(task)
        return self.environment

    def open_session(self, prompt: Sequence[Message]) -> Session:
        config = self.config
        self.session = Session(self.renderer, prompt, thinking=config.thinking, max_context=config.max_context)
        return self.session

    async def generate(self, prompt_tokens: list[int], max_tokens: int) -> Generation:
        """The demonstrator's next message as tokens. It sees what a policy would see: the context, not all that was
        said. Raises ValueError when the renderer cannot write the message behind that context."""
        from rl.rollout.engine import Generation

        assert self.environment is not None
        assert self.session is not None
        context = self.session.context
        message = self._act(self.environment, context)
        if inspect.isawaitable(message):
            message = await message
        thinking, stops = self.config.thinking, self.renderer.stop_token_ids
        before = self.renderer.render(context, thinking=thinking)
        tokens = self.renderer.render([*context, message], thinking=thinking)
        if tokens[: len(before)] != before:
            raise ValueError("the demonstrator's message cannot be rendered behind its prompt")
        tokens = tokens[len(before) :]
        ends = [i for i, token in enumerate(tokens) if token in stops]
        tokens = tokens[: ends[-1] + 1] if ends else tokens  # a template may write on behind the stop token
        reason = "stop" if len(tokens) <= max_tokens else "length"
        tokens = tokens[:max_tokens]
        return Generation(tokens, [0.0] * len(tokens), reason, 0, [0] * len(tokens))  # type: ignore[arg-type]

    def _act(self, environment: Environment, context: tuple[Message, ...]) -> Message:
        if context[-1] == Message("user", self.config.context.summary_request):
            return environment.summarise(context[:-1])
        return environment.novice(context, self.rng) if self.imperfect else environment.oracle(context)


def rehearse(
    taskset: Taskset,
    indices: Sequence[int],
    novice_share: float,
    seed: int,
    renderer: Renderer,
    config: RolloutConfig,
    tick: Callable[[int], None] = lambda n: None,
) -> list[Trajectory]:
    """Demonstrations of the tasks at ``indices``, in order, played under ``config``; deterministic in all arguments.

    ``tick`` is told how many are done. A task whose environment or demonstrator raises is left out.

    Raises:
        DemonstrationError: more than half of them failed; says what the last one raised.
    """
    failed: list[str] = []
    done = 0

    async def one(index: int, slots: asyncio.Semaphore) -> Trajectory | None:
        nonlocal done
        async with slots:
            task = taskset.task(index)
            rng = random.Random(f"demo/{seed}/{task.id}")
            player = Demonstrator(taskset, renderer, config, rng, imperfect=rng.random() < novice_share)
            try:
                trajectory = await rollout(
                    task, player.open_env, player.open_session, player.generate, default_composer(), config,
                    f"demo-{index}",
                )  # fmt: skip
                problem = trajectory.failure_detail if OUTCOME not in trajectory.reward_parts else ""
            except Exception as error:  # of the demonstrator: an engine's errors would end the run, these do not
                problem = f"{type(error).__name__}: {error}"
        done += 1
        tick(done)
        if not problem:
            return trajectory
        failed.append(f"task {index}: {problem}")
        log.warning("no demonstration of %s", failed[-1])
        return None

    async def every() -> list[Trajectory | None]:
        slots = asyncio.Semaphore(AT_ONCE)
        return list(await asyncio.gather(*(one(index, slots) for index in indices)))

    played = [trajectory for trajectory in result_of(every()) if trajectory is not None]
    if len(failed) > len(indices) // 2:
        raise DemonstrationError(
            f"{len(failed)} of {len(indices)} demonstrations failed, the last one: {failed[-1]}; run envs-check on "
            "this environment, or set coldstart.enabled=false"
        )
    return played

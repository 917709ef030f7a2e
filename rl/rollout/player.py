"""Plays groups of episodes: many at once on one event loop, each environment in a thread of its own, against an engine
that is asked by a function. A rollout worker has both (``rl.rollout.worker``); an environment worker plays alone, and
asks engines of other processes (``rl.rollout.env_worker``).

There is no barrier: whenever an episode ends the next waiting one takes its place.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from envs.types import Message
from rl.policy.handover import divided
from rl.rollout.config import RolloutConfig
from rl.rollout.env_runner import EnvRunner
from rl.rollout.gateway import Gateway
from rl.rollout.orders import GroupSpec, WorkerSetup
from rl.rollout.rollout import Scored, rollout
from rl.rollout.selection import fewest_steps
from rl.tracking.handed import handed_bytes
from rl.types import Group, Trajectory

if TYPE_CHECKING:
    from rewards.compose import RewardComposer
    from rl.chat.session import Session
    from rl.rollout.engine_api import GenerateRequest, Generation


class Asked:
    """What one rollout has asked of its engine: a deterministic engine is told who asks, so that nothing of its answer
    depends on others.

    Args:
        identity: names the rollout among all that are played with one seed of the run.
    """

    def __init__(self, identity: str) -> None:
        self._identity, self._requests = identity, 0
        self._sequences: list[list[int]] = []  # token sequences whose rows were computed for this rollout

    def next_seed(self) -> int:
        """The seed of the next request's noise, 63 bits: a hash of the rollout and the request's number."""
        self._requests += 1
        digest = hashlib.blake2b(f"{self._identity}/{self._requests}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) >> 1

    def known_tokens(self, prompt_tokens: Sequence[int]) -> int:
        """How many of the first tokens of a prompt were computed for this rollout before."""
        return max((_common(prompt_tokens, sequence) for sequence in self._sequences), default=0)

    def computed(self, tokens: list[int]) -> None:
        """The rows of ``tokens`` have been computed."""
        self._sequences.append(tokens)


Sample = Callable[["GenerateRequest"], Awaitable["Generation"]]  # gives the request its id; raises EngineDied


def in_parts(spec: GroupSpec, group: Group) -> tuple[Any, ...]:
    """The ``group`` of ``spec`` for the learner to fetch what it needs of it (``rl.policy.handover``)."""
    if not spec.records:
        for segment in (segment for t in group.trajectories for segment in t.segments):
            segment.replay = None
    group.handed = handed_bytes(group.trajectories)
    return divided(group)


class Player:
    """See the module. All methods are coroutines; calls may overlap.

    Args:
        index: its place among those of its kind.
        python_path: the driver's ``sys.path``, so that an environment's module is found here as it is there.
        setup: a pickled ``WorkerSetup``; None: it is brought later.
    """

    setup: WorkerSetup
    config: RolloutConfig

    def __init__(self, index: int, python_path: Sequence[str] = (), setup: bytes | None = None) -> None:
        self.index = index
        self._closing = ExitStack()
        self._gateway: Gateway | None = None
        self._doing: dict[str, tuple[str, float]] = {}  # trajectory id → what it waits for, since when
        self._episodes_done = 0
        self._failures = 0
        self._busy_s, self._busy_since = 0.0, 0.0  # in which an episode was played; since when one is
        if setup is not None:
            self._take(python_path, setup)

    def _take(self, python_path: Sequence[str], setup: bytes) -> None:
        sys.path += [path for path in python_path if path not in sys.path]
        self.setup = _unpickled(setup)
        self.config = self.setup.config
        self._slots = asyncio.Semaphore(self.config.episodes_at_once)
        self._closing.callback(self.setup.composer.close)

    async def play(self, spec: GroupSpec, sample: Sample) -> Group:
        """Play the rollouts of ``spec``. Environment failures are in the trajectories. Raises EngineDied."""
        finished: dict[str, Scored] = {}
        n = spec.parallel
        episodes = (self._episode(spec, i, sample, finished) for i in range(spec.size * n))
        trajectories = list(await asyncio.gather(*episodes))
        if n > 1:
            trajectories = [fewest_steps(trajectories[i : i + n]) for i in range(0, len(trajectories), n)]
        await add_group_terms(self.setup.composer, trajectories, finished, spec.version)
        self._failures += sum(t.failure_kind is not None for t in trajectories)
        return Group(spec.id, spec.task_index, spec.task.id, spec.task.family, spec.version, trajectories)

    def played(self) -> dict[str, float]:
        """What it was and is busy with."""
        return {
            "episodes_done": self._episodes_done,
            "episodes_failed": self._failures,
            "episodes_running": len(self._doing),
            "busy_s": self._busy_s + (time.monotonic() - self._busy_since if self._doing else 0.0),
            "env_calls_abandoned": EnvRunner.abandoned_alive(),
        }

    async def doing(self) -> dict[str, str]:
        """What each running episode waits for, and for how long. Answers even when the engine hangs."""
        now = time.monotonic()
        return {name: f"{what} for {now - since:.0f} s" for name, (what, since) in self._doing.items()}

    async def pid(self) -> int:
        return os.getpid()

    async def node(self) -> str:
        """Id of the machine that it runs on, as Ray has it."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    async def close(self) -> None:
        """Release the reward's processes and the endpoint before the actor is killed."""
        self._closing.close()

    @cached_property
    def renderer(self) -> Any:
        """The chat renderer, once the policy's folder is seen to be here."""
        self.setup.check_files()
        return self.setup.open_renderer()

    async def _episode(self, spec: GroupSpec, position: int, sample: Sample, finished: dict[str, Scored]) -> Trajectory:
        name = f"{spec.taskset}-{spec.id}-{position}"
        config = replace(self.config, **spec.settings) if spec.settings else self.config
        async with self._slots:
            self._begins(name)
            try:
                trajectory = await rollout(
                    spec.task,
                    self.setup.tasksets[spec.taskset].environment,
                    partial(self._open_session, config),
                    partial(self._generate, spec, config, sample, Asked(f"{self.config.seed}/{name}/{spec.task.id}")),
                    self.setup.composer,
                    config,
                    name,
                    watch=lambda what: self._doing.__setitem__(name, (what, time.monotonic())),
                    version=spec.version,
                    scored=lambda what: finished.__setitem__(name, what),
                    open_gateway=self._open_gateway,
                )
            finally:
                self._ends(name)
        self._episodes_done += 1
        return trajectory

    def _open_gateway(self) -> Gateway:
        if self._gateway is None:
            self._gateway = Gateway()
            self._closing.callback(self._gateway.close)
        return self._gateway

    def _begins(self, name: str) -> None:
        now = time.monotonic()
        if not self._doing:
            self._busy_since = now
        self._doing[name] = ("its beginning", now)

    def _ends(self, name: str) -> None:
        del self._doing[name]
        if not self._doing:
            self._busy_s += time.monotonic() - self._busy_since

    def _open_session(self, config: RolloutConfig, prompt: Sequence[Message]) -> Session:
        from rl.chat.session import Session

        return Session(self.renderer, prompt, thinking=config.thinking, max_context=config.max_context)

    async def _generate(
        self,
        spec: GroupSpec,
        config: RolloutConfig,
        sample: Sample,
        asked: Asked,
        prompt_tokens: list[int],
        max_tokens: int,
    ) -> Generation:
        from rl.rollout.engine_api import GenerateRequest

        counts = self.config.deterministic  # else nobody reads it, and to keep and compare every prompt costs
        known = asked.known_tokens(prompt_tokens) if counts else 0
        generation = await sample(
            GenerateRequest(
                request_id="",
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                stop_token_ids=tuple(self.renderer.stop_token_ids),
                temperature=config.temperature if spec.temperature is None else spec.temperature,
                top_p=config.top_p,
                top_k=config.top_k,
                min_p=config.min_p,
                seed=asked.next_seed(),
                known_tokens=known,
            )
        )
        if counts:
            asked.computed(prompt_tokens + generation.tokens[:-1])
        return generation


async def add_group_terms(
    composer: RewardComposer, trajectories: Sequence[Trajectory], finished: Mapping[str, Scored], version: int
) -> None:
    """Add the terms of the group parts to the trajectories of one task, in place.

    ``finished``: by trajectory id, what the rewards so far were made of. Trajectories without a reward, or masked, keep
    what they have; those whose group term could not be computed are masked.
    """
    there = [t for t in trajectories if t.id in finished]
    of = [finished[t.id] for t in there]
    before = [one.reward for one in of]
    after = await composer.score_group([one.episode for one in of], [one.scores for one in of], before, version)
    for trajectory, reward, old in zip(there, after, before, strict=True):
        if reward is old:
            continue
        trajectory.reward, trajectory.reward_parts = reward.total, dict(reward.parts)
        if reward.masked is not None:
            trajectory.failure_kind, trajectory.failure_detail = reward.masked, reward.detail
            events = Counter(trajectory.counts) + Counter(reward.counts) + Counter([reward.masked])
            trajectory.counts = dict(events)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _unpickled(setup: bytes) -> WorkerSetup:
    loaded = pickle.loads(setup)
    assert isinstance(loaded, WorkerSetup)
    return loaded

"""RolloutWorker: a Ray actor with one vLLM engine, many episodes at once, weights updated between steps.

All episodes are coroutines of one event loop; the engine runs in its own thread, each environment in its own.
There is no barrier: whenever an episode ends the next waiting one takes its place, and whatever prompts are
pending share the next engine step. Threads are set on purpose: Ray starts an actor of one CPU with one.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.taskset import Taskset
from envs.types import Message, Task
from rl.policy.handover import divided
from rl.policy.packed_weights import Packed, unpack
from rl.rollout.config import RolloutConfig
from rl.rollout.engine_thread import EngineThread
from rl.rollout.engines import open_engine
from rl.rollout.env_runner import EnvRunner
from rl.rollout.gateway import Gateway
from rl.rollout.rollout import Scored, rollout
from rl.rollout.selection import fewest_steps
from rl.rollout.weights import probe_mismatch
from rl.tracking.handed import handed_bytes
from rl.types import Group, ReplayRecord, Trajectory

if TYPE_CHECKING:
    import torch

    from rewards.compose import RewardComposer
    from rl.chat.session import Session
    from rl.policy.rendezvous import Receipt, Rendezvous
    from rl.policy.weight_stream import Links
    from rl.rollout.engine_api import Generation, RolloutEngine


@dataclass(frozen=True)
class GroupSpec:
    """An order for ``size`` rollouts of one task, admitted at policy version ``version``.

    ``taskset`` names which of the pool's tasksets makes the environments; ``temperature`` replaces the
    configured one (evaluation). ``settings``: fields of ``RolloutConfig`` that differ for these rollouts: those
    that an episode reads (limits and deadlines), not those of the engine. ``parallel``: independent runs for
    each of the ``size`` rollouts; the finished one with the fewest steps comes back (``rl.rollout.selection``).
    """

    id: int
    task: Task
    task_index: int
    size: int
    version: int
    taskset: str = "train"
    temperature: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    parallel: int = 1


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker is made from; sent to every new actor (pickled, see ``RolloutWorker``).

    ``open_renderer`` runs in the worker and makes the chat renderer (with its tokenizer). ``record_indexer``:
    trajectories carry the DSA indexer's choices.
    """

    config: RolloutConfig
    model_dir: str
    open_renderer: Callable[[], Any]
    tasksets: Mapping[str, Taskset]
    composer: RewardComposer
    record_indexer: bool = False


@dataclass(frozen=True)
class Reference:
    """What the learner computes on probe tokens at the current version: log-probs float32 [T-1]."""

    tokens: list[int]
    logprobs: np.ndarray
    tolerance: float


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


class RolloutWorker:
    """See the module. All methods are coroutines; calls may overlap.

    Args:
        python_path: the driver's ``sys.path``, so that an environment's module is found here as it is there.
        setup: a pickled ``WorkerSetup``.
        weights: packed weights of policy version ``version``; None keeps those of ``model_dir``.
        base: what ``weights`` are added to when they are an adapter.
        awaits: why the engine samples nothing until it has received weights; empty: it may begin.
        reference: checked once, right after ``weights`` were applied (a replacement worker in the middle of a run).
    """

    def __init__(
        self,
        index: int,
        python_path: Sequence[str],
        setup: bytes,
        weights: Packed | None = None,
        version: int = 0,
        reference: Reference | None = None,
        base: Packed | None = None,
        awaits: str = "",
    ) -> None:
        # Before torch is loaded: its threads would otherwise spin at every barrier, and when the cores are shared
        # (with the learner, the environments) two of them made 100 tokens/s instead of 2,300.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        sys.path += [path for path in python_path if path not in sys.path]
        self.index, self.setup = index, _unpickled(setup)
        self.config = self.setup.config
        self._initial: tuple[Packed | None, int, Reference | None] = (weights, version, reference)
        self._base = base
        self._awaits = awaits
        self._links: Links | None = None  # of adapters, which come into this process
        self._store: Any = None  # where an engine meets one that gets its weights from it
        self._thread: EngineThread | None = None
        self._gateway: Gateway | None = None
        self._renderer = self.setup.open_renderer()
        self._slots = asyncio.Semaphore(self.config.max_concurrency)
        self._serial = itertools.count()
        self._doing: dict[str, tuple[str, float]] = {}  # trajectory id → what it waits for, since when
        self._episodes_done = 0
        self._failures = 0
        self._busy_s, self._busy_since = 0.0, 0.0  # in which an episode was played; since when one is

    async def ready(self) -> dict[str, float]:
        """Return when the engine is up and holds its weights. Raises EngineDied when it cannot start."""
        return asdict(await self._engine.call(lambda engine: engine.stats()))

    async def hand_over(self, spec: GroupSpec) -> tuple[Any, ...]:
        """``run_group`` in parts, for the learner to fetch what it needs (``rl.policy.handover``)."""
        group = await self.run_group(spec)
        group.handed = handed_bytes(group.trajectories)
        return divided(group)

    async def run_group(self, spec: GroupSpec) -> Group:
        """Play the rollouts of ``spec``. Environment failures are in the trajectories. Raises EngineDied."""
        finished: dict[str, Scored] = {}
        n = spec.parallel
        trajectories = list(await asyncio.gather(*(self._episode(spec, i, finished) for i in range(spec.size * n))))
        if n > 1:
            trajectories = [fewest_steps(trajectories[i : i + n]) for i in range(0, len(trajectories), n)]
        await add_group_terms(self.setup.composer, trajectories, finished, spec.version)
        self._failures += sum(t.failure_kind is not None for t in trajectories)
        return Group(spec.id, spec.task_index, spec.task.id, spec.task.family, spec.version, trajectories)

    async def update_weights(self, weights: Packed, version: int) -> float:
        """Copy the weights in place between two engine steps; seconds it took. Episodes go on."""
        return await self._engine.call(lambda engine: engine.update_weights(self._whole(weights), version))

    async def receive_weights(self, meeting: Rendezvous, rank: int, adapter: bool) -> list[Receipt]:
        """The weights that come in a stream to ``meeting``, between two engine steps; what each rank of the engine has
        received. ``rank``: of its first. ``adapter``: they are added to what ``take_base`` brought."""
        if adapter:
            return [await self._engine.call(partial(self._receive_adapter, meeting, rank))]
        host = own_host()
        return await self._engine.call(lambda engine: engine.receive_weights(meeting, rank, host))

    def _receive_adapter(self, meeting: Rendezvous, rank: int, engine: RolloutEngine) -> Receipt:
        from rl.policy.weight_stream import Links
        from rl.rollout.taking import AdapterTaker, receive

        self._links, taker = self._links or Links(), AdapterTaker()
        receipt = receive(self._links, taker, meeting, rank, own_host())
        engine.update_weights(self._added(taker.named), meeting.version)
        return receipt

    async def meet(self, timeout_s: float) -> tuple[str, int]:
        """Where another worker's engine meets this one's, to get its weights: address and port."""
        from rl.policy.meeting import open_meeting

        if self._store is None:
            self._store = open_meeting(own_host(), 2, timeout_s)
        return own_host(), self._store.port

    async def send_weights(self, meeting: Rendezvous) -> list[Receipt]:
        """The engine's weights to the other worker's of ``meeting``."""
        host = own_host()
        return await self._engine.call(lambda engine: engine.send_weights(meeting, host))

    async def check(self, reference: Reference) -> float:
        """The engine's largest difference from what the learner computes. Raises WeightSyncError."""
        return await self._engine.call(partial(self._checked, reference))

    def _checked(self, reference: Reference, engine: RolloutEngine) -> float:
        where = f"the new worker {self.index}"
        found = engine.score(reference.tokens)[0]
        return probe_mismatch(where, engine.version, found, reference.logprobs, reference.tolerance)

    async def take_base(self, base: Packed) -> None:
        """What adapters are added to from now on."""
        self._base = base

    def _whole(self, weights: Packed) -> dict[str, torch.Tensor]:
        from rl.policy.lora import holds_adapter  # loads torch

        named = unpack(weights)
        return self._added(named) if holds_adapter(named) else named

    def _added(self, adapter: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        from rl.policy.lora import merge

        if self._base is None:
            raise ValueError("an adapter without what it is added to: take_base comes first")
        return merge(unpack(self._base), adapter)

    async def probe(self, tokens: list[int]) -> tuple[np.ndarray, ReplayRecord | None, int]:
        """The engine's log-probs of tokens[1:], the choices it made, and its policy version."""
        return await self._engine.call(lambda engine: (*engine.score(tokens), engine.version))

    async def stats(self) -> dict[str, float]:
        """Engine totals since its start, and what this worker is busy with."""
        engine = await self._engine.call(lambda engine: engine.stats())
        return asdict(engine) | {
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

    async def close(self) -> None:
        """Release the engine (vLLM's executor) and the reward's processes before the actor is killed."""
        self.setup.composer.close()
        if self._gateway is not None:
            self._gateway.close()
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.close)

    @property
    def _engine(self) -> EngineThread:
        if self._thread is None:  # made on first use: Ray's event loop is not running in __init__ yet
            self._thread = EngineThread(self._open_engine)
        return self._thread

    def _open_engine(self) -> RolloutEngine:
        own = replace(self.config, seed=self.config.seed + self.index)
        engine = open_engine(self.setup.model_dir, own, record_indexer=self.setup.record_indexer)
        weights, version, reference = self._initial
        self._initial = (None, 0, None)
        if weights is not None:
            engine.update_weights(self._whole(weights), version)
        if reference is not None:
            self._checked(reference, engine)
        if self._awaits:
            engine.hold(self._awaits)
        return engine

    async def _episode(self, spec: GroupSpec, position: int, finished: dict[str, Scored]) -> Trajectory:
        name = f"{spec.taskset}-{spec.id}-{position}"
        config = replace(self.config, **spec.settings)
        async with self._slots:
            self._begins(name)
            try:
                trajectory = await rollout(
                    spec.task,
                    self.setup.tasksets[spec.taskset].environment,
                    partial(self._open_session, config),
                    partial(self._generate, spec, config, Asked(f"{self.config.seed}/{name}/{spec.task.id}")),
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

        return Session(self._renderer, prompt, thinking=config.thinking, max_context=config.max_context)

    async def _generate(
        self, spec: GroupSpec, config: RolloutConfig, asked: Asked, prompt_tokens: list[int], max_tokens: int
    ) -> Generation:
        from rl.rollout.engine_api import GenerateRequest

        counts = self.config.deterministic  # else nobody reads it, and to keep and compare every prompt costs
        known = asked.known_tokens(prompt_tokens) if counts else 0
        generation = await self._engine.generate(
            GenerateRequest(
                request_id=str(next(self._serial)),
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                stop_token_ids=tuple(self._renderer.stop_token_ids),
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


def own_host() -> str:
    """Address of this machine, as Ray's other machines reach it."""
    from ray.util import get_node_ip_address

    host: str = get_node_ip_address()
    return host


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

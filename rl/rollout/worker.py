"""RolloutWorker: a Ray actor with one vLLM engine, many episodes at once, weights updated between steps.

All episodes are coroutines of one event loop; the engine runs in its own thread, each environment in its own. Whatever
prompts are pending share the next engine step, those of episodes that environment workers play among them
(``rl.rollout.env_worker``). Threads are set on purpose: Ray starts an actor of one CPU with one.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.policy.packed_weights import Packed, unpack
from rl.rollout.config import RolloutConfig
from rl.rollout.engine_thread import EngineDied, EngineThread
from rl.rollout.engines import load_engine, open_engine
from rl.rollout.orders import GroupSpec
from rl.rollout.player import Player, in_parts
from rl.rollout.weights import probe_mismatch
from rl.types import Group, ReplayRecord

if TYPE_CHECKING:
    import torch

    from rl.policy.rendezvous import Receipt, Rendezvous
    from rl.policy.weight_stream import Links
    from rl.rollout.engine_api import GenerateRequest, Generation, RolloutEngine


@dataclass(frozen=True)
class Reference:
    """What the learner computes on probe tokens at the current version: log-probs float32 [T-1]."""

    tokens: list[int]
    logprobs: np.ndarray
    tolerance: float


class RolloutWorker(Player):
    """See the module. All methods are coroutines; calls may overlap.

    Args:
        index, python_path, setup: as of ``Player``.
        weights: packed weights of policy version ``version``; None keeps those of ``model_dir``.
        base: what ``weights`` are added to when they are an adapter.
        awaits: why the engine samples nothing until it has received weights; empty: it may begin.
        reference: checked once, right after ``weights`` were applied (a replacement worker in the middle of a run).
        ahead: where there is no ``setup`` yet: it loads what an engine of this configuration needs, until ``begin``.
    """

    def __init__(
        self,
        index: int,
        python_path: Sequence[str] = (),
        setup: bytes | None = None,
        weights: Packed | None = None,
        version: int = 0,
        reference: Reference | None = None,
        base: Packed | None = None,
        awaits: str = "",
        ahead: RolloutConfig | None = None,
    ) -> None:
        super().__init__(index, python_path, setup)
        self._initial: tuple[Packed | None, int, Reference | None] = (weights, version, reference)
        self._base = base
        self._awaits = awaits
        self._links: Links | None = None  # of adapters, which come into this process
        self._store: Any = None  # where an engine meets one that gets its weights from it
        self._thread: EngineThread | None = None
        self._serial = itertools.count()
        self._asking: defaultdict[str, set[asyncio.Future[Any]]] = defaultdict(set)  # by environment worker
        self._loading: threading.Thread | None = None
        if ahead is not None:
            self._loading = threading.Thread(target=load_engine, args=(ahead,), name="loading", daemon=True)
            self._loading.start()

    async def begin(self, python_path: Sequence[str], setup: bytes) -> dict[str, float]:
        """``ready``, of a worker that was started ahead of its ``setup``; before it nothing else is asked of it."""
        if self._loading is not None:  # what the setup imports may be what is being loaded
            await asyncio.to_thread(self._loading.join)
        try:
            self._take(python_path, setup)
        except Exception as error:
            raise EngineDied(f"its setup cannot be read: {type(error).__name__}: {error}") from error
        return await self.ready()

    async def ready(self) -> dict[str, float]:
        """Return when the engine is up and holds its weights. Raises EngineDied when it cannot start, ValueError
        where this machine does not see the policy's folder."""
        self.renderer  # noqa: B018 (opened here, as a first episode would wait for it)
        return asdict(await self._engine.call(lambda engine: engine.stats()))

    async def run_group(self, spec: GroupSpec) -> Group:
        """Play the rollouts of ``spec``. Environment failures are in the trajectories. Raises EngineDied."""
        return await self.play(spec, self._sample)

    async def hand_over(self, spec: GroupSpec) -> tuple[Any, ...]:
        """``run_group`` in parts."""
        return in_parts(spec, await self.run_group(spec))

    async def generate(self, asks: str, request: GenerateRequest) -> Generation:
        """Sample ``request`` for an episode that the environment worker ``asks`` plays. Raises EngineDied. Where the
        call is cancelled, the engine gives the request up."""
        sampling = asyncio.ensure_future(self._sample(request))
        self._asking[asks].add(sampling)
        try:
            return await sampling
        finally:
            self._asking[asks].discard(sampling)

    async def forget(self, asks: str) -> None:
        """The environment worker ``asks`` is gone: nobody waits for what it has asked for."""
        for sampling in self._asking.pop(asks, set()):
            sampling.cancel()

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
        return asdict(engine) | self.played()

    async def close(self) -> None:
        """Release the engine (vLLM's executor) and the reward's processes before the actor is killed."""
        await super().close()
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.close)

    @property
    def _engine(self) -> EngineThread:
        if self._thread is None:  # made on first use: Ray's event loop is not running in __init__ yet
            self._thread = EngineThread(self._open_engine)
        return self._thread

    async def _sample(self, request: GenerateRequest) -> Generation:
        return await self._engine.generate(replace(request, request_id=str(next(self._serial))))

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


def own_host() -> str:
    """Address of this machine, as Ray's other machines reach it."""
    from ray.util import get_node_ip_address

    host: str = get_node_ip_address()
    return host

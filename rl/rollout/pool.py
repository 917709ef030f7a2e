"""RolloutPool: the driver's side of the rollout workers. Submits groups, collects them as they finish, and keeps every
engine on the learner's weights.

A group goes to the worker with the fewest episodes left; where environment workers play, to the freest of either kind.
One that dies or hangs is replaced (``rl.rollout.crew``) with the CURRENT weights and its groups run again, so no group
is ever lost; one that keeps killing workers is found and skipped (``rl.rollout.losses``). Every wait has a deadline,
and what it raises names the groups, tasks and episodes that are still pending.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from envs.taskset import Taskset
from rl.policy.packed_weights import pack
from rl.rollout.config import RolloutConfig
from rl.rollout.crew import Crew
from rl.rollout.losses import Losses
from rl.rollout.order_book import OrderBook
from rl.rollout.orders import GroupSpec, WorkerSetup, files_of
from rl.rollout.placing import ONE_CPU, Placing
from rl.rollout.streams import Sender
from rl.rollout.weights import PROBE_MAX, live_mismatch, probe_mismatch, worst_of
from rl.rollout.worker import Reference
from rl.tracking.stall import StallError
from rl.types import Group, ProbeScores, ReplayRecord

if TYPE_CHECKING:
    import torch

    from rewards.compose import RewardComposer

LOOK_S = 0.2  # between two looks at whether a new worker's engine is up and can be given its weights
OnGroup = Callable[[Group], None]
# A state dict, or what has it put into Ray's store by the process that owns it and gives the reference; or, where they
# come in a stream (``rollout.weights``), who sends it.
Weights = Mapping[str, "torch.Tensor | np.ndarray"] | Callable[[], Any] | Sender
LearnerScores = Callable[[list[int], ReplayRecord | None], ProbeScores]


class Beside(Protocol):
    """Work on the groups of a ``take`` that goes on elsewhere while others are awaited (``rl.learner.overlap``)."""

    running: Any  # a reference that becomes ready when a part of it has ended; None: nothing runs

    def add(self, groups: Sequence[Group]) -> None:
        """Groups that are taken have arrived."""

    def ended(self) -> None:
        """``running`` is ready."""


@dataclass(frozen=True)
class SyncReport:
    """``seconds`` to bring the weights to every engine; ``mismatch``: largest log-prob difference found. ``metrics``:
    all that the probe has found, by the names of ``rl.tracking.metrics``, of the worst worker."""

    seconds: float
    mismatch: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class RolloutPool:
    """``config.workers`` rollout workers, and ``config.env_workers`` that play. Ray must be initialised. Used by one
    thread.

    Args:
        model_dir: policy in HF format, from which the engines start.
        open_renderer: makes the chat renderer; called in every worker (must be picklable).
        tasksets: by the names that ``GroupSpec.taskset`` uses.
        composer: the reward.
        version: policy version of ``model_dir``.
        record_indexer: trajectories carry the DSA indexer's choices (replay.indexer=check or force).
        given_up: set by another thread when nobody will use the pool: it stops waiting for its engines.
        placing: where the workers are, and what Ray reserves for each (an engine's threads are ``config.threads``);
            None: wherever there is a CPU for each. The pool gives the places back.
    Raises:
        StallError: there was no room, or an engine was not up, within ``config.start_s``.
        WorkerLost: an engine could not start; says why.
        ValueError: a machine does not see ``model_dir``.
    """

    on_finished: OnGroup | None = None  # told of every group as it arrives, before anybody has it

    def __init__(
        self,
        config: RolloutConfig,
        model_dir: str | Path,
        open_renderer: Callable[[], Any],
        tasksets: Mapping[str, Taskset],
        composer: RewardComposer,
        *,
        version: int = 0,
        record_indexer: bool = False,
        placing: Placing | None = None,
        given_up: Event | None = None,
    ) -> None:
        import ray

        self._ray = ray
        self.config = config
        self._tasksets = sorted(tasksets)
        setup = WorkerSetup(
            config, str(model_dir), open_renderer, dict(tasksets), composer, record_indexer, files_of(model_dir)
        )
        self.base: str | None = None  # name of what adapters are added to
        self._finished: deque[Group] = deque()
        if placing is None:
            placing = Placing(config.workers, ONE_CPU, config.env_workers, ONE_CPU)
        losses = Losses(config.max_restarts, config.restarts_s)
        self.crew = Crew(config, ray.cloudpickle.dumps(setup), placing, losses, version, given_up or Event())
        self.book = OrderBook(self.crew, losses, self._finish)
        # workers_restarted, env_workers_restarted, workers_hung, groups_resubmitted, groups_skipped
        self.counts: Counter[str] = self.crew.counts
        try:
            self.crew.start()
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int:
        """Policy version of the engines."""
        return self.crew.version

    # -- groups ------------------------------------------------------------------------------

    def submit(self, spec: GroupSpec) -> None:
        """Order a group from the worker with the fewest episodes left. Returns at once."""
        if spec.taskset not in self._tasksets:
            raise ValueError(f"group {spec.id}: taskset {spec.taskset!r} is unknown; the pool has {self._tasksets}")
        if spec.size < 1:
            raise ValueError(f"group {spec.id}: size {spec.size}; must be at least 1")
        self.book.submit(spec)

    def put(self, group: Group) -> None:
        """A group that is finished already, to be collected like the others."""
        self._finished.append(group)

    def receive_until(self, ref: Any, seconds: float) -> None:
        """Wait until ``ref`` is there, at most ``seconds``, and take in groups that finish meanwhile."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            ready, _ = self._ray.wait([ref, *self.book.refs], num_returns=1, timeout=min(left, 5.0))
            if ref in ready:
                return
            for order in ready:
                self.book.receive(order)

    @property
    def outstanding(self) -> int:
        """Groups ordered and not collected yet."""
        return len(self._finished) + len(self.book.pending())

    def pending(self) -> list[GroupSpec]:
        """Orders of the groups that are not finished."""
        return self.book.pending()

    def collect(self, n: int, deadline_s: float, beside: Beside | None = None) -> list[Group]:
        """The next ``n`` finished groups, in the order of finishing. ``beside`` is told when its part has ended.

        Raises:
            StallError: fewer finished within ``deadline_s``; names what is pending. Nothing is lost: finished
                groups are kept for the next call.
            WorkerLost: workers keep dying.
            ValueError: more asked for than ordered.
        """
        if n > self.outstanding:
            raise ValueError(f"collect({n}): only {self.outstanding} groups are out; submit more first")
        ends = time.monotonic() + deadline_s
        while len(self._finished) < n:
            left = ends - time.monotonic()
            if left <= 0:
                have = f"{n} rollout groups, {len(self._finished)} are here"
                raise StallError(f"{have}, {self.book.report()}", deadline_s)
            running = None if beside is None else beside.running
            watched = [*self.book.refs] if running is None else [running, *self.book.refs]
            timeout = min(left, LOOK_S if self.crew.is_hungry else 5.0)
            ready, _ = self._ray.wait(watched, num_returns=1, timeout=timeout)
            for ref in ready:
                if beside is not None and ref == running:
                    beside.ended()
                else:
                    self.book.receive(ref)
            self.crew.feed()
            self.book.replace_hung()
        return [self._finished.popleft() for _ in range(n)]

    def take(
        self,
        ids: Sequence[int],
        deadline_s: float,
        on_group: Callable[[int, Group], None] = lambda done, group: None,
        beside: Beside | None = None,
    ) -> list[Group]:
        """The groups with these ids, in this order, once all have finished; others stay for later calls.

        ``deadline_s`` bounds the wait for any one group. ``on_group(n, group)`` is called as the n-th of them arrives,
        and ``beside`` gets it. Raises as ``collect``; nothing is lost then.
        """
        wanted, found = set(ids), dict[int, Group]()
        others = [group for group in self._finished if group.id not in wanted]
        there = [group for group in self._finished if group.id in wanted]
        self._finished.clear()
        try:
            while len(found) < len(wanted):
                arrived = there or self.collect(1, deadline_s, beside)
                there = []
                others += [group for group in arrived if group.id not in wanted]
                arrived = [group for group in arrived if group.id in wanted]
                for group in arrived:
                    found[group.id] = group
                    on_group(len(found), group)
                if beside is not None and arrived:
                    beside.add(arrived)
        except BaseException:
            others += found.values()
            raise
        finally:
            self._finished.extendleft(reversed(others))
        return [found[i] for i in ids]

    def run(
        self,
        specs: Sequence[GroupSpec],
        deadline_s: float,
        on_group: Callable[[int, Group], None] = lambda done, group: None,
    ) -> list[Group]:
        """Submit ``specs`` and ``take`` their groups: in the order of the specs."""
        for spec in specs:
            self.submit(spec)
        return self.take([spec.id for spec in specs], deadline_s, on_group)

    # -- weights -----------------------------------------------------------------------------

    def take_base(self, name: str, weights: Weights) -> None:
        """What the adapters of the next ``sync``s are added to (``rl.policy.lora``), under a name for it (``base``).

        Engines read it where Ray keeps it, once per machine; they change at the next ``sync``.
        """
        self.base, self.crew.base = name, self._stored(weights)
        ref = self.crew.base
        self.crew.ask_all(
            "take the base of the adapter", lambda slot: slot.actor.take_base.remote(ref), self.config.sync_s
        )

    def sync(
        self,
        weights: Weights,
        version: int,
        probe_tokens: list[int] | None = None,
        learner_scores: LearnerScores | None = None,
    ) -> SyncReport:
        """Bring ``weights`` (the learner's state dict, or its adapter) to every engine as version ``version``, then
        compare each engine's log-probs of ``probe_tokens`` with ``learner_scores(probe_tokens, choices)``.

        Raises:
            WeightSyncError: an engine differs from the learner by more than ``config.probe_tolerance`` or, where that
                is None, than the learner says that rounding explains; or has received a tensor that was not sent.
            StallError: a worker took longer than ``config.sync_s``.
        """
        started = time.monotonic()
        crew = self.crew
        crew.weights = None  # the store need not hold two versions
        crew.version, crew.reference = version, None
        if crew.streams is not None:
            if not hasattr(weights, "meet"):
                raise ValueError(
                    f"rollout.weights={self.config.weights}: sync takes who sends the weights, not tensors"
                )
            crew.streams.sync(cast(Sender, weights), version)
        else:
            crew.weights = ref = self._stored(weights)
            crew.ask_all(
                f"take the weights of version {version}",
                lambda slot: slot.actor.update_weights.remote(ref, version),
                self.config.sync_s,
            )
        seconds = time.monotonic() - started
        if probe_tokens is None or learner_scores is None:
            return SyncReport(seconds)
        probes = crew.ask_all(
            f"probe version {version}", lambda slot: slot.actor.probe.remote(probe_tokens), self.config.sync_s,
            renewed=self._stream_again,
        )  # fmt: skip
        found: list[dict[str, float]] = []
        for index, (engine_logprobs, replay, engine_version) in enumerate(probes):
            expected = learner_scores(probe_tokens, replay)
            tolerance = self.config.probe_tolerance or expected.tolerance
            where = f"worker {index} (which says it is at version {engine_version})"
            forced = probe_mismatch(where, version, engine_logprobs, expected.logprobs, tolerance)
            found.append({PROBE_MAX: forced} | live_mismatch(engine_logprobs, expected))
            crew.reference = Reference(probe_tokens, expected.logprobs, tolerance)
        worst = worst_of(found)
        return SyncReport(seconds, worst[PROBE_MAX], worst)

    def _stream_again(self) -> None:
        """Streamed weights once more: a worker that was replaced since has none, and cannot be probed."""
        streams = self.crew.streams
        if streams is not None and streams.sender is not None:
            streams.sync(streams.sender, self.version)

    def _stored(self, weights: Weights) -> Any:
        return weights() if callable(weights) else self._ray.put(pack(cast(Mapping[str, Any], weights)))

    # -- the rest ----------------------------------------------------------------------------

    def stats(self) -> dict[str, float]:
        """Sums over the workers of what their ``stats`` give (``start_s``: the slowest), and the pool's own counts.
        Totals start again with a replaced worker."""
        crew, seconds = self.crew, self.config.sync_s
        each = crew.ask_all("give its statistics", lambda slot: slot.actor.stats.remote(), seconds)
        each += crew.ask_all("give its statistics", lambda slot: slot.actor.stats.remote(), seconds, crew.players)
        total = {key: float(sum(one.get(key, 0.0) for one in each)) for key in each[0]}
        total["start_s"] = max(one.get("start_s", 0.0) for one in each)
        for name in ("workers_restarted", "env_workers_restarted", "workers_hung", "groups_resubmitted"):
            total[name] = float(self.counts[name])
        return total

    def pids(self) -> list[int]:
        """Process ids of the rollout workers (for tests and for looking at them)."""
        return self.crew.ask_all("give its pid", lambda slot: slot.actor.pid.remote(), self.config.start_s)

    def restart(self) -> None:
        """Forget all groups and begin again with new workers, which hold the weights of the last ``sync``."""
        self._finished.clear()
        self.book.clear()
        self.crew.restart()

    def close(self) -> None:
        """Release the engines and end the workers; unfinished groups are dropped."""
        self.crew.close()
        self.book.clear()

    def _finish(self, group: Group) -> None:
        if self.on_finished is not None:
            self.on_finished(group)
        self._finished.append(group)

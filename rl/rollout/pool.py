"""RolloutPool: the driver's side of the rollout workers. Submits groups, collects them as they finish, keeps
every engine on the learner's weights, and replaces workers that die or hang.

A group goes to the worker with the fewest episodes left. A replacement starts with the CURRENT weights and
the groups of the dead worker run again, so no group is ever lost; one that keeps killing workers is found and skipped
(``rl.rollout.losses``). Every wait has a deadline, and what it raises names the groups, tasks and episodes that are
still pending.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from envs.taskset import Taskset
from rl.policy.handover import PARTS, GroupRefs
from rl.policy.packed_weights import pack
from rl.rollout.config import STORE, RolloutConfig
from rl.rollout.engine_thread import EngineDied
from rl.rollout.losses import WORKER_LOST, Losses, skipped_group
from rl.rollout.streams import Sender, Streams
from rl.rollout.weights import PROBE_MAX, live_mismatch, probe_mismatch, worst_of
from rl.rollout.worker import GroupSpec, Reference, RolloutWorker, WorkerSetup
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


class WorkerLost(RuntimeError):
    """A worker could not start, or more of them died than ``rollout.max_restarts`` within ``restarts_s`` allows."""


@dataclass(frozen=True)
class SyncReport:
    """``seconds`` to bring the weights to every engine; ``mismatch``: largest log-prob difference found. ``metrics``:
    all that the probe has found, by the names of ``rl.tracking.metrics``, of the worst worker."""

    seconds: float
    mismatch: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Slot:
    """One place for a worker; its actor changes when it has to be replaced."""

    index: int
    actor: Any
    unfed: Any = None  # reference that is ready when its engine is up, and gets its weights from another; None: it has
    episodes: int = 0  # ordered and not back yet
    last_back: float = 0.0  # when a group came back from it last
    suspects: deque[GroupSpec] = field(default_factory=deque)  # groups that it runs alone: this one, and those to come


@dataclass
class _Order:
    spec: GroupSpec
    slot: Slot
    actor: Any
    since: float
    refs: GroupRefs


class RolloutPool:
    """``config.workers`` rollout workers. Ray must be initialised. Used by one thread.

    Args:
        model_dir: policy in HF format, from which the engines start.
        open_renderer: makes the chat renderer; called in every worker (must be picklable).
        tasksets: by the names that ``GroupSpec.taskset`` uses.
        composer: the reward.
        version: policy version of ``model_dir``.
        record_indexer: trajectories carry the DSA indexer's choices (replay.indexer=check or force).
        given_up: set by another thread when nobody will use the pool: it stops waiting for its engines.
        num_cpus, num_gpus: what Ray reserves for each worker (the engine's threads are ``config.threads``).
    Raises:
        StallError: an engine was not up within ``config.start_s``.
        WorkerLost: an engine could not start; says why.
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
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        given_up: Event | None = None,
    ) -> None:
        import ray

        self._ray = ray
        self.config = config
        self._tasksets = sorted(tasksets)
        setup = WorkerSetup(config, str(model_dir), open_renderer, dict(tasksets), composer, record_indexer)
        self._setup = ray.cloudpickle.dumps(setup)
        self._python_path = [str(Path(path or ".").resolve()) for path in sys.path]
        self._actor_class = ray.remote(RolloutWorker).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, max_concurrency=10_000
        )
        self.base: str | None = None  # name of what adapters are added to
        self._base: Any = None  # object reference of its packed weights
        self._weights: Any = None  # object reference of the packed weights of ``version``
        self.version = version
        self._reference: Reference | None = None
        self._orders: dict[Any, _Order] = {}
        self._finished: deque[Group] = deque()
        self._held: deque[GroupSpec] = deque()  # while every worker is busy with a suspect
        self._losses = Losses(config.max_restarts, config.restarts_s)
        self._given_up = given_up or Event()
        self._streams = None if config.weights == STORE else Streams(self)
        self.counts: Counter[str] = Counter()  # workers_restarted, workers_hung, groups_resubmitted, groups_skipped
        self.slots = [self._slot(i) for i in range(config.workers)]
        try:
            self._ask_all("start its engine", lambda actor: actor.ready.remote(), config.start_s, replace=False)
        except BaseException:
            self.close()
            raise

    # -- groups ------------------------------------------------------------------------------

    def submit(self, spec: GroupSpec) -> None:
        """Order a group from the worker with the fewest episodes left. Returns at once."""
        if spec.taskset not in self._tasksets:
            raise ValueError(f"group {spec.id}: taskset {spec.taskset!r} is unknown; the pool has {self._tasksets}")
        if spec.size < 1:
            raise ValueError(f"group {spec.id}: size {spec.size}; must be at least 1")
        if free := [slot for slot in self.slots if not slot.suspects]:
            self._order(spec, min(free, key=lambda s: s.episodes))
        else:
            self._held.append(spec)

    def put(self, group: Group) -> None:
        """A group that is finished already, to be collected like the others."""
        self._finished.append(group)

    def receive_until(self, ref: Any, seconds: float) -> None:
        """Wait until ``ref`` is there, at most ``seconds``, and take in groups that finish meanwhile."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            ready, _ = self._ray.wait([ref, *self._orders], num_returns=1, timeout=min(left, 5.0))
            if ref in ready:
                return
            for order in ready:
                self._receive(order)

    @property
    def outstanding(self) -> int:
        """Groups ordered and not collected yet."""
        return len(self._orders) + len(self._finished) + len(self._not_ordered())

    def pending(self) -> list[GroupSpec]:
        """Orders of the groups that are not finished."""
        return [order.spec for order in self._orders.values()] + self._not_ordered()

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
                raise StallError(self._pending_report(n), deadline_s)
            running = None if beside is None else beside.running
            watched = list(self._orders) if running is None else [running, *self._orders]
            hungry = any(slot.unfed is not None for slot in self.slots)
            ready, _ = self._ray.wait(watched, num_returns=1, timeout=min(left, LOOK_S if hungry else 5.0))
            for ref in ready:
                if beside is not None and ref == running:
                    beside.ended()
                else:
                    self._receive(ref)
            self._feed()
            self._replace_hung()
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
        self.base, self._base = name, self._stored(weights)
        ref = self._base
        self._ask_all("take the base of the adapter", lambda actor: actor.take_base.remote(ref), self.config.sync_s)

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
        self._weights = None  # the store need not hold two versions
        self.version, self._reference = version, None
        if self._streams is not None:
            if not hasattr(weights, "meet"):
                raise ValueError(
                    f"rollout.weights={self.config.weights}: sync takes who sends the weights, not tensors"
                )
            self._streams.sync(cast(Sender, weights), version)
        else:
            self._weights = ref = self._stored(weights)
            self._ask_all(
                f"take the weights of version {version}",
                lambda actor: actor.update_weights.remote(ref, version),
                self.config.sync_s,
            )
        seconds = time.monotonic() - started
        if probe_tokens is None or learner_scores is None:
            return SyncReport(seconds)
        probes = self._ask_all(
            f"probe version {version}", lambda actor: actor.probe.remote(probe_tokens), self.config.sync_s,
            renewed=self._stream_again,
        )  # fmt: skip
        found: list[dict[str, float]] = []
        for index, (engine_logprobs, replay, engine_version) in enumerate(probes):
            expected = learner_scores(probe_tokens, replay)
            tolerance = self.config.probe_tolerance or expected.tolerance
            where = f"worker {index} (which says it is at version {engine_version})"
            forced = probe_mismatch(where, version, engine_logprobs, expected.logprobs, tolerance)
            found.append({PROBE_MAX: forced} | live_mismatch(engine_logprobs, expected))
            self._reference = Reference(probe_tokens, expected.logprobs, tolerance)
        worst = worst_of(found)
        return SyncReport(seconds, worst[PROBE_MAX], worst)

    def _stream_again(self) -> None:
        """Streamed weights once more: a worker that was replaced since has none, and cannot be probed."""
        if self._streams is not None and self._streams.sender is not None:
            self._streams.sync(self._streams.sender, self.version)

    def _stored(self, weights: Weights) -> Any:
        return weights() if callable(weights) else self._ray.put(pack(cast(Mapping[str, Any], weights)))

    def ready(self) -> None:
        """Return when every engine is up; those found dead are replaced."""
        self._ask_all("start its engine", lambda actor: actor.ready.remote(), self.config.start_s)

    def _feed(self) -> None:
        """The weights to new workers whose engines are up, from another engine or the learner."""
        for slot in self.slots:
            if slot.unfed is None or self._streams is None or not self._ray.wait([slot.unfed], timeout=0)[0]:
                continue
            actor = slot.actor
            try:
                self._ray.get(slot.unfed)
                if not self._streams.feed(slot, self.version):
                    continue
                if self._reference is not None:
                    self.answer(actor.check.remote(self._reference), time.monotonic() + self.config.sync_s)
                slot.unfed = None
            except self._ray.exceptions.GetTimeoutError:
                what = f"the new worker {slot.index} to take its weights; {self.doing(slot)}"
                raise StallError(what, self.config.sync_s) from None
            except Exception as error:
                if not self.is_loss(error):
                    raise
                self.replace(slot, actor, error)

    # -- the rest ----------------------------------------------------------------------------

    def stats(self) -> dict[str, float]:
        """Sums over the workers of what ``RolloutWorker.stats`` gives (``start_s``: the slowest), and the
        pool's own counts. Engine totals start again with a replaced worker."""
        each = self._ask_all("give its statistics", lambda actor: actor.stats.remote(), self.config.sync_s)
        total = {key: float(sum(one[key] for one in each)) for key in each[0]}
        total["start_s"] = max(one["start_s"] for one in each)
        for name in ("workers_restarted", "workers_hung", "groups_resubmitted"):
            total[name] = float(self.counts[name])
        return total

    def pids(self) -> list[int]:
        """Process ids of the workers (for tests and for looking at them)."""
        return self._ask_all("give its pid", lambda actor: actor.pid.remote(), self.config.start_s)

    def restart(self) -> None:
        """Forget all groups and begin again with new workers, which hold the weights of the last ``sync``."""
        self._orders, self._finished, self._held = {}, deque(), deque()
        for slot in self.slots:
            self._ray.kill(slot.actor, no_restart=True)
        self.slots = [self._slot(slot.index) for slot in self.slots]
        self._ask_all("start its engine", lambda actor: actor.ready.remote(), self.config.start_s, replace=False)

    def close(self) -> None:
        """Release the engines and end the workers; unfinished groups are dropped."""
        closing = [slot.actor.close.remote() for slot in self.slots]
        self._ray.wait(closing, num_returns=len(closing), timeout=15.0)
        for slot in self.slots:
            self._ray.kill(slot.actor, no_restart=True)
        self.slots, self._orders, self._held = [], {}, deque()

    # -- supervision -------------------------------------------------------------------------

    def _slot(self, index: int) -> Slot:
        actor = self._spawn(index)
        return Slot(index, actor, actor.ready.remote() if self._streamed else None)

    def _spawn(self, index: int) -> Any:
        reference, awaits = self._reference, ""
        if self._streamed:
            reference, awaits = None, f"the weights of version {self.version} have yet to come"
        return self._actor_class.remote(
            index, self._python_path, self._setup, self._weights, self.version, reference, self._base, awaits
        )

    @property
    def _streamed(self) -> bool:
        """Whether engines hold weights that came in a stream: a new one gets them so too."""
        return self._streams is not None and self._streams.sender is not None

    def _order(self, spec: GroupSpec, slot: Slot) -> None:
        slot.episodes += spec.size
        refs = GroupRefs.of(slot.actor.hand_over.options(num_returns=PARTS + spec.size).remote(spec))
        self._orders[refs.books] = _Order(spec, slot, slot.actor, time.monotonic(), refs)

    def _not_ordered(self) -> list[GroupSpec]:
        return [*self._held, *(spec for slot in self.slots for spec in list(slot.suspects)[1:])]

    def _receive(self, ref: Any) -> None:
        order = self._orders.get(ref)
        if order is None:  # its worker was replaced while this round was handled
            return
        try:
            group = self._ray.get(ref)
            group.refs = order.refs
        except Exception as error:
            if not self.is_loss(error):
                raise
            self.replace(order.slot, order.actor, error)
            return
        del self._orders[ref]
        order.slot.episodes -= order.spec.size
        order.slot.last_back = time.monotonic()
        self._finish(order.spec, group)
        if order.slot.suspects:
            self._next_suspect(order.slot)

    def _finish(self, spec: GroupSpec, group: Group) -> None:
        self._losses.back(spec)
        if self.on_finished is not None:
            self.on_finished(group)
        self._finished.append(group)

    def _next_suspect(self, slot: Slot) -> None:
        """The suspect that ``slot`` ran has come back, or is skipped: the next one, or what had to wait for them."""
        slot.suspects.popleft()
        if slot.suspects:
            self._order(slot.suspects[0], slot)
            return
        held, self._held = self._held, deque()
        for spec in held:
            self.submit(spec)

    def is_loss(self, error: Exception) -> bool:
        """Whether ``error`` means that the worker is gone (process or engine); else the call was wrong."""
        if isinstance(error, self._ray.exceptions.RayTaskError):
            return isinstance(error.cause, EngineDied)
        return isinstance(error, (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError))

    def replace(self, slot: Slot, actor: Any, error: Exception | str) -> None:
        """A new worker in ``slot`` with the current weights; the groups of ``actor`` are ordered again."""
        if slot.actor is not actor:
            return  # replaced already
        if not self._losses.may_replace():
            raise WorkerLost(
                f"worker {slot.index} is gone after {self._losses.recent} replacements in {self.config.restarts_s:g} s "
                f"(rollout.max_restarts={self.config.max_restarts}, rollout.restarts_s); it had "
                f"{self._orders_of(slot)}; last reason: {_reason(error)}"
            ) from (error if isinstance(error, Exception) else None)
        self.counts["workers_restarted"] += 1
        self._ray.kill(actor, no_restart=True)
        lost = [ref for ref, order in self._orders.items() if order.slot is slot]
        again, alone, never = self._losses.divide([self._orders.pop(ref).spec for ref in lost])
        new = self._slot(slot.index)
        slot.actor, slot.unfed, slot.episodes = new.actor, new.unfed, 0
        for spec in never:
            self.counts["groups_skipped"] += 1
            self._finish(spec, skipped_group(spec, WORKER_LOST, f"it lost its worker, alone in it: {_reason(error)}"))
        if slot.suspects:  # the one that it ran was alone, so it is among those that never run again
            self._next_suspect(slot)
            return
        self.counts["groups_resubmitted"] += len(again) + len(alone)
        slot.suspects.extend(alone)
        if alone:
            self._order(alone[0], slot)
        for spec in again:
            self.submit(spec)

    def _replace_hung(self) -> None:
        for order in list(self._orders.values()):
            waited = time.monotonic() - max(order.since, order.slot.last_back)
            if waited > self.config.group_s and order.slot.actor is order.actor:
                self.counts["workers_hung"] += 1
                reason = (
                    f"nothing came back for {waited:.0f} s (rollout.group_s={self.config.group_s:g}); it has "
                    f"{self._orders_of(order.slot)}; {self.doing(order.slot)}"
                )
                self.replace(order.slot, order.actor, reason)

    def _ask_all(
        self, what: str, call: Callable[[Any], Any], seconds: float, *, replace: bool = True,
        renewed: Callable[[], None] | None = None,
    ) -> list[Any]:  # fmt: skip
        """``call`` on every worker, answers by index. A worker found dead is replaced and asked again, after
        ``renewed``; it may take ``start_s`` longer then."""
        asked = [(slot, slot.actor, call(slot.actor)) for slot in self.slots]
        ends = time.monotonic() + seconds
        answers = []
        for slot, actor, ref in asked:
            while True:
                try:
                    answers.append(self.answer(ref, ends))
                    break
                except self._ray.exceptions.GetTimeoutError:
                    raise StallError(f"worker {slot.index} to {what}; {self.doing(slot)}", seconds) from None
                except Exception as error:
                    if not self.is_loss(error):
                        raise
                    if not replace:
                        raise WorkerLost(f"worker {slot.index} could not {what}: {_reason(error)}") from error
                    self.replace(slot, actor, error)
                    if renewed is not None:
                        renewed()
                    actor, ref = slot.actor, call(slot.actor)
                    ends = time.monotonic() + self.config.start_s + seconds
        return answers

    def answer(self, ref: Any, ends: float) -> Any:
        """What ``ref`` gives until ``ends``; Ray's GetTimeoutError later, WorkerLost when nobody will use the pool."""
        while True:
            if self._given_up.is_set():
                raise WorkerLost("the pool was given up before its workers had answered")
            left = ends - time.monotonic()
            try:
                return self._ray.get(ref, timeout=max(min(left, 1.0), 0.01))
            except self._ray.exceptions.GetTimeoutError:
                if left <= 1.0:
                    raise

    def _pending_report(self, wanted: int) -> str:
        now = time.monotonic()
        out = "; ".join(
            f"group {o.spec.id} (task {o.spec.task.id}, worker {o.slot.index}, {now - o.since:.0f} s)"
            for o in sorted(self._orders.values(), key=lambda o: o.since)[:16]
        )
        doing = "; ".join(self.doing(slot) for slot in self.slots)
        have = f"{wanted} rollout groups, {len(self._finished)} are here"
        return f"{have}, {len(self.pending())} pending: {out}. {doing}"

    def _orders_of(self, slot: Slot) -> str:
        specs = [order.spec for order in self._orders.values() if order.slot is slot]
        return ", ".join(f"group {s.id} (task {s.task.id})" for s in specs[:16]) or "no groups"

    def doing(self, slot: Slot) -> str:
        try:
            doing = self._ray.get(slot.actor.doing.remote(), timeout=5.0)
        except Exception as error:  # dead or its event loop is stuck: that is the answer
            return f"worker {slot.index} does not answer ({type(error).__name__})"
        episodes = ", ".join(f"{name}: {what}" for name, what in list(doing.items())[:8])
        return f"worker {slot.index}: {episodes or 'no episode running'}"


def _reason(error: Exception | str) -> str:
    """What the worker said, without Ray's copy of its stack (that one is in the chained exception)."""
    return str(getattr(error, "cause", None) or error)

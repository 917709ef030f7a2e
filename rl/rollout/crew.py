"""The workers of a pool: started with the current weights, asked all at once, and replaced when they die or hang.

Engines are in rollout workers. Episodes are played there too or, with ``rollout.env_workers``, by environment workers,
each against any engine. Of a machine that is gone with several workers the loss counts once.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from rl.rollout.config import STORE, RolloutConfig
from rl.rollout.engine_thread import EngineDied
from rl.rollout.env_worker import EnvWorker
from rl.rollout.losses import Losses
from rl.rollout.placing import Placing
from rl.rollout.streams import Streams, reason
from rl.rollout.worker import Reference, RolloutWorker
from rl.tracking.stall import StallError

if TYPE_CHECKING:
    from rl.rollout.orders import GroupSpec

ANSWER_S = 5.0  # for a word from a worker that may hang
TELL_S = 10.0  # after which it is said that Ray has no room yet


class WorkerLost(RuntimeError):
    """A worker could not start, or more of them died than ``rollout.max_restarts`` within ``restarts_s`` allows."""


@dataclass(eq=False)
class Slot:
    """One place for a worker; its actor changes when it has to be replaced."""

    index: int
    actor: Any
    unfed: Any = None  # reference that is ready when its engine is up, and gets its weights from another; None: it has
    episodes: int = 0  # ordered and not back yet
    last_back: float = 0.0  # when a group came back from it last
    suspects: deque[GroupSpec] = field(default_factory=deque)  # groups that it runs alone: this one, and those to come
    has_engine: bool = True
    starting: Any = None  # reference that is ready when it is up; None: it is
    node: Any = None  # reference of the id of its machine
    broken: int = 0  # streams of weights to this worker that broke while nobody died

    @property
    def name(self) -> str:
        """For messages."""
        return f"worker {self.index}" if self.has_engine else f"environment worker {self.index}"


class Owner(Protocol):
    """Whose groups the workers play (``rl.rollout.order_book.OrderBook``)."""

    def lost(self, slot: Slot, why: str) -> None:
        """``slot`` has a new worker, and what the old one had is gone."""

    def orders_of(self, slot: Slot) -> str:
        """What it has, in words."""


class Crew:
    """Ray must be initialised. Used by one thread.

    Args:
        setup: a pickled ``WorkerSetup``.
        placing: where the workers are.
        losses: the books of lost workers.
        version: policy version of the setup's ``model_dir``.
        given_up: set by another thread when nobody will use the pool.
    """

    def __init__(
        self,
        config: RolloutConfig,
        setup: bytes,
        placing: Placing,
        losses: Losses,
        version: int,
        given_up: Event,
    ) -> None:
        import ray

        self._ray, self.config, self._setup = ray, config, setup
        self.owner: Owner | None = None  # told of losses
        self._python_path = [str(Path(path or ".").resolve()) for path in sys.path]
        self._placing, self._losses, self._given_up = placing, losses, given_up
        self.version = version
        self.base: Any = None  # object reference of the packed weights that adapters are added to
        self.weights: Any = None  # object reference of the packed weights of ``version``
        self.reference: Reference | None = None
        self.streams = None if config.weights == STORE else Streams(self)
        self.counts: Counter[str] = Counter()  # workers_restarted, env_workers_restarted, workers_hung
        self.slots = [self._slot(i) for i in range(config.workers)]
        self.players = [self._player(i) for i in range(config.env_workers)]

    # -- all of them -------------------------------------------------------------------------

    def start(self) -> None:
        """Return when all are up. Raises StallError after ``config.start_s``, WorkerLost when one cannot start."""
        self._find_places()
        for slots, what in ((self.players, "begin"), (self.slots, "start its engine")):
            self.ask_all(what, lambda slot: slot.starting, self.config.start_s, slots, replace=False)
        for slot in (*self.slots, *self.players):
            slot.starting = None

    def _find_places(self) -> None:
        began, told = time.monotonic(), False
        while not self._placing.wait(1.0):
            waited = time.monotonic() - began
            if self._given_up.is_set():
                raise WorkerLost("the pool was given up before its workers had a place")
            if waited > self.config.start_s:
                raise StallError(f"room in Ray for {self._placing.wanted()}", self.config.start_s)
            if waited > TELL_S and not told:
                told = True
                print(f"waiting for room in Ray for {self._placing.wanted()}", file=sys.stderr)

    def ready(self) -> None:
        """Return when every engine is up; those found dead are replaced."""
        self.ask_all("start its engine", lambda slot: slot.actor.ready.remote(), self.config.start_s)

    def restart(self) -> None:
        """New workers for all; engines hold the weights of the last sync."""
        for slot in (*self.slots, *self.players):
            self._ray.kill(slot.actor, no_restart=True)
        self.slots = [self._slot(slot.index) for slot in self.slots]
        self.players = [self._player(slot.index) for slot in self.players]
        self.start()

    def close(self) -> None:
        """Release the engines and end the workers."""
        slots = [*self.slots, *self.players]
        closing = [slot.actor.close.remote() for slot in slots]
        self._ray.wait(closing, num_returns=len(closing), timeout=15.0)
        for slot in slots:
            self._ray.kill(slot.actor, no_restart=True)
        self.slots, self.players = [], []
        self._placing.close()

    def ask_all(
        self, what: str, call: Callable[[Slot], Any], seconds: float, slots: list[Slot] | None = None, *,
        replace: bool = True, renewed: Callable[[], None] | None = None,
    ) -> list[Any]:  # fmt: skip
        """``call`` on every worker of ``slots`` (default: those with engines), answers by index. One that is found dead
        is replaced and asked again, after ``renewed``; it may take ``start_s`` longer then."""
        asked = [(slot, slot.actor, call(slot)) for slot in (self.slots if slots is None else slots)]
        ends = time.monotonic() + seconds
        if replace and any(self.is_starting(slot) for slot, *_ in asked):  # one that was replaced a moment ago
            ends += self.config.start_s
        answers = []
        for slot, actor, ref in asked:
            while True:
                try:
                    answers.append(self.answer(ref, ends))
                    break
                except self._ray.exceptions.GetTimeoutError:
                    raise StallError(f"{slot.name} to {what}; {self.doing(slot)}", seconds) from None
                except Exception as error:
                    if not self.is_loss(error):
                        raise
                    if not replace:
                        raise WorkerLost(f"{slot.name} could not {what}: {reason(error)}") from error
                    self.replace(slot, actor, error)
                    if renewed is not None:
                        renewed()
                    actor, ref = slot.actor, call(slot)
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

    # -- one of them -------------------------------------------------------------------------

    def is_loss(self, error: Exception) -> bool:
        """Whether ``error`` means that a worker is gone (process or engine); else the call was wrong."""
        if isinstance(error, self._ray.exceptions.RayTaskError):
            return isinstance(error.cause, EngineDied)
        return isinstance(error, (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError))

    def lost_engine(self, error: Exception) -> bool:
        """Of an error that a group ends with which an environment worker plays: whether its engine is gone, not it."""
        return isinstance(error, self._ray.exceptions.RayTaskError)

    def replace(self, slot: Slot, actor: Any, error: Exception | str) -> None:
        """A new worker in ``slot`` with the current weights; whose groups it had is told."""
        if slot.actor is not actor:
            return  # replaced already
        if not self._losses.may_replace(self._dead_node(slot)):
            raise WorkerLost(
                f"{slot.name} is gone after {self._losses.recent} replacements in {self.config.restarts_s:g} s "
                f"(rollout.max_restarts={self.config.max_restarts}, rollout.restarts_s); it had "
                f"{self._orders_of(slot)}; last reason: {reason(error)}"
            ) from (error if isinstance(error, Exception) else None)
        self.counts["workers_restarted" if slot.has_engine else "env_workers_restarted"] += 1
        self._ray.kill(actor, no_restart=True)
        if not slot.has_engine:  # what it has asked for is awaited by nobody
            for other in self.slots:
                other.actor.forget.remote(actor._actor_id.hex())
        new = self._slot(slot.index) if slot.has_engine else self._player(slot.index)
        slot.actor, slot.unfed, slot.starting, slot.node = new.actor, new.unfed, new.starting, new.node
        slot.episodes = slot.broken = 0
        if self.owner is not None:
            self.owner.lost(slot, reason(error))

    def replace_hung(self, slot: Slot, actor: Any, waited: float) -> None:
        """The same for one from which nothing has come for ``waited`` seconds."""
        self.counts["workers_hung"] += 1
        self.replace(
            slot,
            actor,
            f"nothing came back for {waited:.0f} s (rollout.group_s={self.config.group_s:g}); it has "
            f"{self._orders_of(slot)}; {self.doing(slot)}",
        )

    def forget(self, ref: Any) -> None:
        """What becomes of ``ref`` is of no matter: Ray else writes a stack for an error that nobody has looked at."""
        ref.future().add_done_callback(lambda future: future.exception())

    def is_starting(self, slot: Slot) -> bool:
        """Whether its worker is not up yet."""
        if slot.starting is not None and self._ray.wait([slot.starting], timeout=0)[0]:
            slot.starting = None
        return slot.starting is not None

    def samples(self, slot: Slot) -> bool:
        """Whether its engine answers."""
        try:
            self._ray.get(slot.actor.ready.remote(), timeout=ANSWER_S)
        except Exception:  # whatever it is, it does not
            return False
        return True

    def doing(self, slot: Slot) -> str:
        try:
            doing = self._ray.get(slot.actor.doing.remote(), timeout=ANSWER_S)
        except Exception as error:  # dead or its event loop is stuck: that is the answer
            return f"{slot.name} does not answer ({type(error).__name__})"
        episodes = ", ".join(f"{name}: {what}" for name, what in list(doing.items())[:8])
        return f"{slot.name}: {episodes or 'no episode running'}"

    # -- weights of new ones -----------------------------------------------------------------

    @property
    def is_hungry(self) -> bool:
        """Whether a new worker waits for streamed weights."""
        return any(slot.unfed is not None for slot in self.slots)

    def feed(self) -> None:
        """The weights to new workers whose engines are up, from another engine or the learner."""
        for slot in self.slots:
            if slot.unfed is None or self.streams is None or not self._ray.wait([slot.unfed], timeout=0)[0]:
                continue
            actor = slot.actor
            try:
                self._ray.get(slot.unfed)
                if not self.streams.feed(slot, self.version):
                    continue
                if self.reference is not None:
                    self.answer(actor.check.remote(self.reference), time.monotonic() + self.config.sync_s)
                slot.unfed = None
            except self._ray.exceptions.GetTimeoutError:
                what = f"the new worker {slot.index} to take its weights; {self.doing(slot)}"
                raise StallError(what, self.config.sync_s) from None
            except Exception as error:
                if not self.is_loss(error):
                    raise
                self.replace(slot, actor, error)

    def _slot(self, index: int) -> Slot:
        actor = self._placing.begun(index)
        if actor is not None:
            up = actor.begin.remote(self._python_path, self._setup)
            return Slot(index, actor, starting=up, node=actor.node.remote())
        actor = self._spawn(index)
        up = actor.ready.remote()
        streamed = self.streams is not None and self.streams.sender is not None
        return Slot(index, actor, up if streamed else None, starting=up, node=actor.node.remote())

    def _spawn(self, index: int) -> Any:
        weights, reference, awaits = self.weights, self.reference, ""
        if self.streams is not None and self.streams.sender is not None:  # it gets them so too
            reference, awaits = None, f"the weights of version {self.version} have yet to come"
        return self._placing.engine(
            RolloutWorker, index, self._python_path, self._setup, weights, self.version, reference, self.base, awaits
        )

    def _player(self, index: int) -> Slot:
        actor = self._placing.player(EnvWorker, index, self._python_path, self._setup)
        return Slot(index, actor, has_engine=False, starting=actor.ready.remote(), node=actor.node.remote())

    def _orders_of(self, slot: Slot) -> str:
        return "no groups" if self.owner is None else self.owner.orders_of(slot)

    def _dead_node(self, slot: Slot) -> str | None:
        """The machine of ``slot``, where it is gone."""
        try:
            node = str(self._ray.get(slot.node, timeout=0.1))
        except Exception:  # it was never up, or nobody knows
            return None
        return node if any(one["NodeID"] == node and not one["Alive"] for one in self._ray.nodes()) else None

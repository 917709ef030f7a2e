"""Weights in a stream from the learner's ranks to those of all engines, arranged by the driver: it sees no tensor.

    sync:        the learner sends, every engine receives; who has died meanwhile is replaced, and it begins again
    a new one:   gets the weights of another engine, or those of the learner where there is no other

A new connection is made when the set of engines has changed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from rl.policy.rendezvous import MIB, Receipt, Rendezvous, StreamBroken, StreamWrong
from rl.rollout.weights import WeightSyncError
from rl.tracking.stall import StallError

if TYPE_CHECKING:
    from rl.rollout.config import RolloutConfig
    from rl.rollout.crew import Slot

# Of rollout.sync_s: a wait of the ranks for each other. Three of them (to find where they meet, to connect, to get the
# next tensor) end before the driver gives up.
SHARE = 0.3
ATTEMPTS = 2  # where a connection breaks and nobody has died


class Sender(Protocol):
    """The learner, as engines' weights come from it."""

    adapts: bool  # it sends an adapter
    moved: bool  # its weights are newer than what it sent last

    def meet(self) -> tuple[str, int]:
        """Address and port where it is met."""

    def send(self, meeting: Rendezvous) -> Callable[[float], Receipt]:
        """Begin to send. What it gives waits for the end, for so many seconds; raises StreamBroken, and what the
        learner raises."""


class Workers(Protocol):
    """What a stream needs of those that have the engines (``rl.rollout.crew.Crew``)."""

    config: RolloutConfig
    slots: list[Slot]

    def is_loss(self, error: Exception) -> bool: ...
    def replace(self, slot: Slot, actor: Any, error: Exception | str) -> None: ...
    def doing(self, slot: Slot) -> str: ...
    def answer(self, ref: Any, ends: float) -> Any: ...
    def ready(self) -> None: ...


class Streams:
    """The streams of one pool. ``sender`` is whoever synced last."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._met: tuple[tuple[Any, ...], Rendezvous] | None = None  # actors that are connected, and where
        self.sender: Sender | None = None

    def sync(self, sender: Sender, version: int) -> list[Receipt]:
        """``sender``'s weights to every engine, as ``version``; what each of their ranks has received.

        Raises:
            WeightSyncError: a rank has received something else than was sent, or the connection breaks again and again.
            StallError: a worker took longer than ``rollout.sync_s``.
        """
        self.sender = sender
        broken = 0
        while True:
            self._workers.ready()
            slots = list(self._workers.slots)
            meeting = self._meeting(sender, [slot.actor for slot in slots], version)
            found, lost, breaks = self._stream(sender, slots, meeting)
            if not lost and not breaks:
                for slot in slots:
                    slot.unfed = None
                return found
            self._met = None
            for slot, actor, error in lost:
                self._workers.replace(slot, actor, error)
            broken += not lost
            if broken >= ATTEMPTS:
                raise WeightSyncError(f"weights of version {version} did not reach the engines: {breaks[0]}")

    def feed(self, slot: Slot, version: int) -> bool:
        """The current weights to the new worker of ``slot``, whose engine is up. False: the learner has newer ones
        already, and the next sync brings these; or the connection broke, and it is tried again or replaced."""
        workers = self._workers
        source = next((other for other in workers.slots if other is not slot and other.unfed is None), None)
        ends = time.monotonic() + workers.config.sync_s
        if source is None:
            if self.sender is None or self.sender.moved:
                return False
            meeting = self._meeting(self.sender, [slot.actor], version)
            found, lost, breaks = self._stream(self.sender, [slot], meeting)
            self._met = None
            for at, actor, error in lost:
                workers.replace(at, actor, error)
            if breaks and not lost:
                self._broke(slot, version, breaks[0])
            return bool(found) and not breaks
        actor, peer = slot.actor, source.actor
        try:
            host, port = workers.answer(peer.meet.remote(self._timeout_s), ends)
            meeting = self._rendezvous(host, port, 2, version, "peer")
            sent, received = peer.send_weights.remote(meeting), actor.receive_weights.remote(meeting, 1, False)
        except Exception as error:
            if not workers.is_loss(error):
                raise
            workers.replace(source, peer, error)
            return False
        breaks = []
        lost_one = False
        totals: list[list[Receipt]] = []
        for at, who, ref in ((source, peer, sent), (slot, actor, received)):
            try:
                totals.append(workers.answer(ref, ends))
            except StreamBroken as error:
                breaks.append(reason(error))
            except StreamWrong as error:
                raise WeightSyncError(f"the new worker {slot.index}: {reason(error)}") from error
            except Exception as error:
                if not workers.is_loss(error):
                    raise
                lost_one = True
                workers.replace(at, who, error)
        if lost_one:
            return False
        if breaks:
            self._broke(slot, version, breaks[0])
            return False
        check(totals[0], totals[1], f"the new worker {slot.index}")
        return True

    def _broke(self, slot: Slot, version: int, why: str) -> None:
        """A stream to the new worker of ``slot`` broke, and nobody has died: tried again, then with another worker."""
        slot.broken += 1
        if slot.broken >= ATTEMPTS:
            self._workers.replace(slot, slot.actor, f"weights of version {version} did not reach it: {why}")

    def _stream(
        self, sender: Sender, slots: list[Slot], meeting: Rendezvous
    ) -> tuple[list[Receipt], list[tuple[Slot, Any, Exception]], list[str]]:
        """What came of one attempt: receipts, workers that are lost, broken connections."""
        workers, ranks = self._workers, workers_ranks(self._workers.config, sender)
        ends = time.monotonic() + workers.config.sync_s
        asked = [
            (slot, slot.actor, slot.actor.receive_weights.remote(meeting, 1 + i * ranks, sender.adapts))
            for i, slot in enumerate(slots)
        ]
        sent = sender.send(meeting)
        received: list[tuple[Slot, list[Receipt]]] = []
        lost: list[tuple[Slot, Any, Exception]] = []
        breaks: list[str] = []
        wrong: Exception | None = None
        for slot, actor, ref in asked:
            try:
                received.append((slot, workers.answer(ref, ends)))
            except workers_timeout() as error:
                what = f"worker {slot.index} to take the weights of version {meeting.version}; {workers.doing(slot)}"
                raise StallError(what, workers.config.sync_s) from error
            except StreamBroken as error:
                breaks.append(reason(error))
            except StreamWrong as error:
                wrong = wrong or WeightSyncError(f"worker {slot.index}: {reason(error)}")
            except Exception as error:
                if workers.is_loss(error):
                    lost.append((slot, actor, error))
                else:
                    wrong = wrong or error
        try:
            total = sent(max(1.0, ends - time.monotonic()))
        except StreamBroken as error:
            if wrong is None and not lost:
                breaks.append(reason(error))
        else:
            for slot, found in received:
                check([total] * len(found), found, f"worker {slot.index}")
        if wrong is not None:
            self._met = None
            raise wrong
        return [one for _, found in received for one in found], lost, breaks

    def _meeting(self, sender: Sender, actors: list[Any], version: int) -> Rendezvous:
        if self._met is not None and self._met[0] == (sender, *actors):
            old = self._met[1]
            return self._rendezvous(old.host, old.port, old.size, version, "learner", old.key)
        size = 1 + len(actors) * workers_ranks(self._workers.config, sender)
        meeting = self._rendezvous(*sender.meet(), size, version, "learner")
        self._met = ((sender, *actors), meeting)
        return meeting

    def _rendezvous(self, host: str, port: int, size: int, version: int, source: str, key: str = "") -> Rendezvous:
        config = self._workers.config
        return Rendezvous(
            host=host,
            port=port,
            key=key or f"{source} {secrets.token_hex(8)}",
            size=size,
            way=config.weights,
            timeout_s=self._timeout_s,
            bucket_bytes=config.bucket_mb * MIB,
            version=version,
            source=source,
        )

    @property
    def _timeout_s(self) -> float:
        return self._workers.config.sync_s * SHARE


def check(sent: list[Receipt], received: list[Receipt], where: str) -> None:
    """Raise WeightSyncError unless every rank has received what was sent, to the bit."""
    for rank, (one, other) in enumerate(zip(sent, received, strict=True)):
        if one != other:
            raise WeightSyncError(f"{where}, rank {rank}: sent was {one}, received {other}")


def workers_ranks(config: RolloutConfig, sender: Sender) -> int:
    """Who receives in one worker: every rank of its engine, or the worker itself, which adds an adapter to its base."""
    return 1 if sender.adapts else config.tensor_parallel


def workers_timeout() -> type[Exception]:
    """What Ray raises when an answer is not there in time."""
    import ray

    kind: type[Exception] = ray.exceptions.GetTimeoutError
    return kind


def reason(error: Exception | str) -> str:
    """What a process said, without Ray's copy of its stack."""
    return str(getattr(error, "cause", None) or error)

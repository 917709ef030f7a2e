"""Which worker plays what: a group goes to the freest, and runs again where a worker is lost.

Where environment workers play, a group has two: whose engine samples, and who plays. Groups that were there more than
once when a worker died are *suspects*: they run one after the other, each alone (``rl.rollout.losses``).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rl.policy.handover import PARTS, GroupRefs
from rl.rollout.losses import WORKER_LOST, Losses, skipped_group

if TYPE_CHECKING:
    from rl.rollout.crew import Crew, Slot
    from rl.rollout.orders import GroupSpec
    from rl.types import Group


@dataclass(eq=False)
class _Order:
    """``slot``: whose engine samples; ``player``: the environment worker that plays, None: the first one does."""

    spec: GroupSpec
    slot: Slot
    actor: Any
    since: float
    parts: GroupRefs
    player: Slot | None = None
    player_actor: Any = None

    @property
    def slots(self) -> list[Slot]:
        return [self.slot] if self.player is None else [self.slot, self.player]


def _handed_over(actor: Any, spec: GroupSpec, *engine: Any) -> GroupRefs:
    """References to the parts of a group that ``actor`` begins to play."""
    return GroupRefs.of(actor.hand_over.options(num_returns=PARTS + spec.size).remote(spec, *engine))


class OrderBook:
    """The orders of one pool. ``finish`` gets every group as it comes back, or as it is skipped."""

    def __init__(self, crew: Crew, losses: Losses, finish: Callable[[Group], None]) -> None:
        import ray

        self._ray, self.crew, self._losses, self._finish = ray, crew, losses, finish
        self._orders: dict[Any, _Order] = {}
        self._held: deque[GroupSpec] = deque()  # while every worker is busy with a suspect
        crew.owner = self

    @property
    def refs(self) -> Iterable[Any]:
        """References that are ready when a group has ended."""
        return self._orders.keys()

    def clear(self) -> None:
        """Forget all groups."""
        self._orders, self._held = {}, deque()

    def pending(self) -> list[GroupSpec]:
        """Groups that have not come back: those that run, and those that wait for suspects."""
        waiting = (list(slot.suspects)[1:] for slot in (*self.crew.slots, *self.crew.players))
        running = [order.spec for order in self._orders.values()]
        return [*running, *self._held, *(spec for specs in waiting for spec in specs)]

    def submit(self, spec: GroupSpec) -> None:
        """Order a group from the freest; where a suspect runs on each, when one of them is done with it."""
        kinds = [self.crew.slots] + ([self.crew.players] if self.crew.players else [])
        if all(any(not slot.suspects for slot in slots) for slots in kinds):
            self._order(spec)
        else:
            self._held.append(spec)

    def _order(self, spec: GroupSpec, at: Slot | None = None) -> None:
        """Order a group at ``at``, and where there are two kinds of workers from one of the other kind too: one that
        is up and no suspect runs on, if there is one, with the fewest episodes left."""
        crew = self.crew
        slot = at if at is not None and at.has_engine else self._freest(crew.slots)
        player = None
        if crew.players:
            player = at if at is not None and not at.has_engine else self._freest(crew.players)
        now = time.monotonic()
        if player is None:
            order = _Order(spec, slot, slot.actor, now, _handed_over(slot.actor, spec))
        else:
            parts = _handed_over(player.actor, spec, slot.actor)
            order = _Order(spec, slot, slot.actor, now, parts, player, player.actor)
        for one in order.slots:
            one.episodes += spec.size
        self._orders[order.parts.books] = order

    def _freest(self, slots: Sequence[Slot]) -> Slot:
        return min(slots, key=lambda slot: (bool(slot.suspects), self.crew.is_starting(slot), slot.episodes))

    def receive(self, ref: Any) -> None:
        """``ref`` is ready: its group has ended, or its worker is lost and is replaced."""
        order = self._orders.get(ref)
        if order is None:  # its worker was replaced while this round was handled
            return
        try:
            group = self._ray.get(ref)
            group.refs = order.parts
        except Exception as error:
            if not self.crew.is_loss(error):
                raise
            if order.player is None or self.crew.lost_engine(error):
                self.crew.replace(order.slot, order.actor, error)
            else:
                self.crew.replace(order.player, order.player_actor, error)
            return
        del self._orders[ref]
        for slot in order.slots:
            slot.episodes -= order.spec.size
            slot.last_back = time.monotonic()
        self._end(order.spec, group)
        self._go_on(self._advance(order))

    def _end(self, spec: GroupSpec, group: Group) -> None:
        self._losses.back(spec)
        self._finish(group)

    def _advance(self, *ended: _Order) -> list[Slot]:
        """These orders run no more: workers on which one of them was a suspect, which has left the queue."""
        found = []
        for order in ended:
            for slot in order.slots:
                if slot.suspects and slot.suspects[0] is order.spec:
                    slot.suspects.popleft()
                    found.append(slot)
        return found

    def _go_on(self, slots: Sequence[Slot]) -> None:
        """The next suspects of ``slots``; where there are none, what had to wait for them."""
        for slot in slots:
            if slot.suspects:
                self._order(slot.suspects[0], slot)
        held, self._held = self._held, deque()
        for spec in held:
            self.submit(spec)

    def lost(self, slot: Slot, why: str) -> None:
        """The worker of ``slot`` was replaced: what it had is ordered again, or skipped."""
        refs = [ref for ref, order in self._orders.items() if slot in order.slots]
        gone = [self._orders.pop(ref) for ref in refs]
        for ref in refs:
            self.crew.forget(ref)
        for order in gone:
            for other in order.slots:
                other.episodes -= 0 if other is slot else order.spec.size
        again, alone, never = self._losses.divide([order.spec for order in gone])
        for spec in never:
            self.crew.counts["groups_skipped"] += 1
            self._end(spec, skipped_group(spec, WORKER_LOST, f"it lost its worker, alone in it: {why}"))
        self.crew.counts["groups_resubmitted"] += len(again) + len(alone)
        others = [other for other in self._advance(*gone) if other is not slot]
        slot.suspects.extend(alone)
        self._go_on([slot, *others])
        for spec in again:
            self.submit(spec)

    def replace_hung(self) -> None:
        """Replace workers from which nothing came back for ``rollout.group_s``."""
        for order in list(self._orders.values()):
            waits = {
                slot: waited
                for slot, actor in ((order.slot, order.actor), (order.player, order.player_actor))
                if slot is not None and slot.actor is actor
                and (waited := time.monotonic() - max(order.since, slot.last_back)) > self.crew.config.group_s
            }  # fmt: skip
            if order.slot in waits and (order.player is None or not self.crew.samples(order.slot)):
                self.crew.replace_hung(order.slot, order.actor, waits[order.slot])
            elif order.player in waits:
                self.crew.replace_hung(order.player, order.player_actor, waits[order.player])

    def report(self) -> str:
        """What is pending, and what the workers do."""
        now = time.monotonic()
        out = "; ".join(
            f"group {o.spec.id} (task {o.spec.task.id}, {', '.join(s.name for s in o.slots)}, {now - o.since:.0f} s)"
            for o in sorted(self._orders.values(), key=lambda o: o.since)[:16]
        )
        doing = "; ".join(self.crew.doing(slot) for slot in (self.crew.players or self.crew.slots))
        return f"{len(self.pending())} pending: {out}. {doing}"

    def orders_of(self, slot: Slot) -> str:
        """Its groups, in words."""
        specs = [order.spec for order in self._orders.values() if slot in order.slots]
        return ", ".join(f"group {s.id} (task {s.task.id})" for s in specs[:16]) or "no groups"

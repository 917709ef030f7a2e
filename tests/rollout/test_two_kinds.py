"""Orders that an environment worker plays against an engine: who has what, and what becomes of it when one is lost."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from rollout_doubles import AddTaskset

from rl.rollout.config import RolloutConfig
from rl.rollout.crew import Slot
from rl.rollout.losses import Losses
from rl.rollout.order_book import OrderBook
from rl.rollout.orders import GroupSpec


class Calls:
    """An actor whose ``hand_over`` gives (its name, the group, the engine)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hand_over = SimpleNamespace(options=self._returning)

    def _returning(self, num_returns: int) -> SimpleNamespace:
        more = [None] * (num_returns - 1)
        return SimpleNamespace(remote=lambda spec, engine: [(self.name, spec.id, engine.name), *more])


class Played(OrderBook):
    def __init__(self, engines: int, players: int) -> None:
        slots = [Slot(i, Calls(f"engine {i}")) for i in range(engines)]
        played = [Slot(i, Calls(f"player {i}"), has_engine=False) for i in range(players)]
        crew: Any = SimpleNamespace(
            config=RolloutConfig(group_s=100.0), counts=Counter(), forget=lambda ref: None,
            slots=slots, players=played, is_starting=lambda slot: slot in self.new, samples=lambda slot: self.alive,
            replace_hung=lambda slot, actor, waited: self.hung.append(slot.name),
        )  # fmt: skip
        self.finished: list[Any] = []
        super().__init__(crew, Losses(9, 100.0), self.finished.append)
        self.new: list[Slot] = []
        self.alive, self.hung = True, list[str]()

    def lose(self, slot: Slot) -> None:
        slot.episodes = 0  # as Crew.replace does
        self.lost(slot, "killed")

    def back(self, number: int) -> None:
        ref = next(ref for ref in self._orders if ref[1] == number)
        self._ray = SimpleNamespace(get=lambda ref: SimpleNamespace(id=number))
        self.receive(ref)

    @property
    def running(self) -> list[tuple[str, int, str]]:
        return sorted(self._orders)


def spec(number: int) -> GroupSpec:
    return GroupSpec(number, AddTaskset().task(number), number, 2, 0)


def test_a_group_goes_to_the_freest_of_either_kind() -> None:
    pool = Played(2, 3)
    pool.new = [pool.crew.players[1]]
    for number in range(4):
        pool.submit(spec(number))
    assert pool.running == [
        ("player 0", 0, "engine 0"),
        ("player 0", 2, "engine 0"),
        ("player 2", 1, "engine 1"),
        ("player 2", 3, "engine 1"),
    ]
    pool.back(2)
    assert [slot.episodes for slot in (*pool.crew.slots, *pool.crew.players)] == [2, 4, 2, 0, 4]


def test_what_is_lost_with_one_of_them_runs_again_and_the_other_is_free_of_it() -> None:
    pool = Played(2, 2)
    for number in range(4):
        pool.submit(spec(number))
    pool.lose(pool.crew.players[0])
    assert {number for _, number, _ in pool.running} == {0, 1, 2, 3}
    assert pool.crew.counts["groups_resubmitted"] == 2
    assert sum(slot.episodes for slot in pool.crew.slots) == sum(slot.episodes for slot in pool.crew.players) == 8
    pool.lose(pool.crew.slots[1])
    assert sorted(s.id for s in pool.pending()) == [0, 1, 2, 3]


def test_a_group_that_kills_environment_workers_is_found_and_the_rest_comes_back() -> None:
    pool = Played(1, 1)
    player = pool.crew.players[0]
    for number in range(3):
        pool.submit(spec(number))
    pool.lose(player)  # 1 did it; all run again
    assert len(pool.running) == 3
    pool.lose(player)  # twice: each alone
    assert pool.running == [("player 0", 0, "engine 0")]
    pool.submit(spec(7))
    assert [s.id for s in pool.pending()] == [0, 7, 1, 2]
    pool.back(0)
    assert [number for _, number, _ in pool.running] == [1]
    pool.lose(player)
    assert pool.crew.counts["groups_skipped"] == 1
    assert [number for _, number, _ in pool.running] == [2]
    pool.back(2)
    assert [number for _, number, _ in pool.running] == [7]  # it waited for the suspects
    pool.back(7)
    assert [group.id for group in pool.finished] == [0, 1, 2, 7]
    assert (pool.crew.slots[0].episodes, player.episodes, pool.pending()) == (0, 0, [])


def test_a_suspect_that_is_lost_with_the_other_kind_leaves_its_queue() -> None:
    pool = Played(1, 1)
    engine, player = pool.crew.slots[0], pool.crew.players[0]
    for number in range(2):
        pool.submit(spec(number))
    pool.lose(player)
    pool.lose(player)
    assert ([s.id for s in player.suspects], [number for _, number, _ in pool.running]) == ([0, 1], [0])
    pool.lose(engine)  # alone, and not for the first time
    assert pool.crew.counts["groups_skipped"] == 1
    assert ([s.id for s in player.suspects], [number for _, number, _ in pool.running]) == ([1], [1])
    pool.back(1)
    assert (list(player.suspects), list(engine.suspects), pool.running) == ([], [], [])


def test_who_hangs() -> None:
    pool = Played(1, 2)
    for number in range(2):
        pool.submit(spec(number))
    for order in pool._orders.values():
        order.since -= 200.0
    pool.crew.players[1].last_back = pool.crew.slots[0].last_back = order.since + 150.0
    pool.replace_hung()
    assert pool.hung == ["environment worker 0"]
    pool.crew.slots[0].last_back = 0.0
    pool.alive, pool.hung = False, []
    pool.replace_hung()
    assert set(pool.hung) == {"worker 0"}
    pool.alive, pool.hung = True, []
    pool.crew.players[0].last_back = order.since + 150.0
    pool.replace_hung()
    assert pool.hung == []  # slow, as other groups come back

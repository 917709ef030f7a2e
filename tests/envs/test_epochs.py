"""The order of epochs: permutations, the same for the same name, from any turn on."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from envs.epochs import EpochOrder


@given(size=st.integers(1, 40), name=st.sampled_from("abc"), epochs=st.integers(1, 4))
def test_every_epoch_is_a_permutation(size: int, name: str, epochs: int) -> None:
    order = EpochOrder(name, size)
    for epoch in range(epochs):
        rows = [order.index(epoch * size + position) for position in range(size)]
        assert sorted(rows) == list(range(size))


@given(size=st.integers(1, 40), turns=st.lists(st.integers(0, 200), min_size=1, max_size=20))
def test_any_turn_can_be_asked_for_in_any_order(size: int, turns: list[int]) -> None:
    order = EpochOrder("a", size)
    straight = [order.index(turn) for turn in range(201)]
    other = pickle.loads(pickle.dumps(order))
    assert [other.index(turn) for turn in turns] == [straight[turn] for turn in turns]


def test_orders_differ_by_epoch_and_by_name() -> None:
    def first_two(name: str) -> list[list[int]]:
        order = EpochOrder(name, 50)
        return [[order.index(turn) for turn in range(start, start + 50)] for start in (0, 50)]

    seen = [rows for name in ("seed 0", "seed 1") for rows in first_two(name)]
    assert len({tuple(rows) for rows in seen}) == 4
    assert list(range(50)) not in seen
    assert first_two("seed 1") == seen[2:]

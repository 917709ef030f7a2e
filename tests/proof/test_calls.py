"""Many questions at once: sizes, order, the bound on calls under way, failures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rewards.judge import JudgeError
from rl.proof.calls import Calls, together


def test_answers_come_in_order_from_calls_of_the_right_size() -> None:
    async def go() -> None:
        calls, sizes = Calls(concurrency=2, per_call=3), []

        async def ask(n: int) -> Sequence[int]:
            sizes.append(n)
            number = len(sizes)
            await asyncio.sleep(0.01 / number)  # the later ones come back first
            return [number] * n

        assert await calls.samples(ask, 7) == [1, 1, 1, 2, 2, 2, 3]
        assert sizes == [3, 3, 1]
        assert await calls.samples(ask, 0) == []
        assert (calls.made, calls.failed) == (3, 0)

    asyncio.run(go())


def test_no_more_calls_are_under_way_than_allowed_and_no_fewer() -> None:
    async def go() -> None:
        calls, now, most = Calls(concurrency=5, per_call=1), 0, 0

        async def ask(n: int) -> Sequence[int]:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            return [0] * n

        await together(calls.samples(ask, 10) for _ in range(4))
        assert most == 5

    asyncio.run(go())


def test_failed_calls_are_counted_and_all_failed_is_an_error() -> None:
    async def go() -> None:
        calls = Calls(concurrency=4, per_call=1)
        calls.check()  # nothing was asked

        async def fails(n: int) -> Sequence[int]:
            raise JudgeError("connection refused")

        async def works(n: int) -> Sequence[int]:
            return [1] * n

        assert await calls.samples(fails, 2) == []
        with pytest.raises(JudgeError, match="all 2 calls failed, the last one: connection refused"):
            calls.check()
        assert await calls.samples(works, 1) == [1]
        calls.check()
        assert (calls.made, calls.failed) == (3, 2)

    asyncio.run(go())


def test_a_defect_goes_up_and_leaves_nothing_running() -> None:
    async def go() -> None:
        cancelled = []

        async def slow() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        async def broken() -> None:
            await asyncio.sleep(0)
            raise TypeError("a defect")

        with pytest.raises(TypeError, match="a defect"):
            await together([slow(), broken(), slow()])
        assert cancelled == [True, True]

    asyncio.run(go())


@pytest.mark.parametrize(("fields", "name"), [((0, 1), "concurrency"), ((1, 0), "per_call")])
def test_sizes_are_checked(fields: tuple[int, int], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        Calls(*fields)

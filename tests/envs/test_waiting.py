"""A coroutine's result, with and without an event loop around it."""

from __future__ import annotations

import asyncio

import pytest

from envs.waiting import result_of


async def half(n: int) -> int:
    await asyncio.sleep(0)
    if n % 2:
        raise ValueError(f"{n} is odd")
    return n // 2


async def inside(n: int) -> int:
    return result_of(half(n))


def test_with_and_without_a_running_loop() -> None:
    assert result_of(half(4)) == asyncio.run(inside(4)) == 2
    for call in (lambda: result_of(half(3)), lambda: asyncio.run(inside(3))):
        with pytest.raises(ValueError, match="3 is odd"):
            call()

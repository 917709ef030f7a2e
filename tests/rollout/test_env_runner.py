"""Deadlines on environment code: threads, coroutines, abandoned calls, late closing."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time

import pytest

from rl.rollout.env_runner import EnvError, EnvRunner, EnvTimeout


def run(coroutine):
    return asyncio.run(coroutine)


def test_result_of_a_function_and_of_a_coroutine():
    async def both():
        runner = EnvRunner("e")

        async def doubled(x: int) -> int:
            await asyncio.sleep(0)
            return 2 * x

        values = [await runner.run("f", 60, lambda x: x + 1, 1), await runner.run("g", 60, doubled, 21)]
        runner.stop()
        return values

    assert run(both()) == [2, 42]


def test_all_calls_of_an_episode_share_one_thread():
    """An SQLite connection refuses to be used from another thread than the one that opened it."""

    async def episode():
        runner = EnvRunner("e")
        connection = await runner.run("open", 60, sqlite3.connect, ":memory:")
        rows = await runner.run("query", 60, lambda: connection.execute("select 7").fetchall())
        runner.stop()
        return rows

    assert run(episode()) == [(7,)]


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3), StopIteration(1), KeyboardInterrupt()])
def test_whatever_the_environment_raises_is_an_env_error(error: BaseException):
    async def episode():
        runner = EnvRunner("episode-7")

        def fail() -> None:
            raise error

        with pytest.raises(EnvError, match=f"episode-7: step raised {type(error).__name__}") as caught:
            await runner.run("step", 60, fail)
        assert caught.value.cause is error
        assert await runner.run("step", 60, lambda: "still usable") == "still usable"
        runner.stop()

    run(episode())


def _until(condition, seconds: float = 60.0) -> bool:
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        time.sleep(0.01)
    return condition()


def test_a_hanging_loop_is_interrupted_and_the_environment_closed():
    closed = threading.Event()
    before = EnvRunner.abandoned_alive()

    def spin() -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:  # environment code that swallows everything it may
                continue

    async def episode():
        runner = EnvRunner("e")
        runner.closer = closed.set
        started = time.monotonic()
        with pytest.raises(EnvTimeout, match=r"step took longer than 0\.1 s"):
            await runner.run("step", 0.1, spin)
        assert time.monotonic() - started < 60  # it would never end
        with pytest.raises(EnvTimeout, match="close was not tried"):
            await runner.run("close", 1, lambda: None)

    run(episode())
    assert _until(closed.is_set)
    assert _until(lambda: EnvRunner.abandoned_alive() == before)


def test_a_blocking_call_is_left_behind_and_counted():
    release, closed = threading.Event(), threading.Event()
    before = EnvRunner.abandoned_alive()

    async def episode():
        runner = EnvRunner("e")
        runner.closer = closed.set
        with pytest.raises(EnvTimeout):
            await runner.run("reset", 0.05, release.wait)
        return EnvRunner.abandoned_alive()

    assert run(episode()) == before + 1
    assert not closed.is_set()
    release.set()
    assert _until(closed.is_set)
    assert _until(lambda: EnvRunner.abandoned_alive() == before)


def test_a_hanging_coroutine_is_cancelled():
    cleaned = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    async def episode():
        with pytest.raises(EnvTimeout):
            await EnvRunner("e").run("step", 0.5, hang)  # it has begun by then

    run(episode())
    assert _until(cleaned.is_set)


def test_cancelling_the_episode_abandons_the_call():
    release = threading.Event()
    before = EnvRunner.abandoned_alive()

    async def episode():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await EnvRunner("e").run("step", 60, release.wait)
        return EnvRunner.abandoned_alive()

    assert run(episode()) == before + 1
    release.set()
    assert _until(lambda: EnvRunner.abandoned_alive() == before)

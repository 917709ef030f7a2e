"""The thread around an engine: steps only while something runs, commands land between, death is told."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from rl.rollout.engine_api import GenerateRequest, Generation
from rl.rollout.engine_thread import EngineDied, EngineThread


class CountingEngine:
    """Finishes a request after as many steps as it wants tokens; a token is the version at its step."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.running: dict[str, tuple[int, list[int]]] = {}
        self.version, self.steps, self.closed = 0, 0, False
        self.aborted: list[str] = []

    def add(self, request: GenerateRequest) -> None:
        if not request.prompt_tokens:
            raise ValueError("empty prompt")
        self.running[request.request_id] = (request.max_tokens, [])

    def abort(self, request_id: str) -> None:
        self.running.pop(request_id)
        self.aborted.append(request_id)

    def has_unfinished(self) -> bool:
        return bool(self.running)

    def step(self) -> list[tuple[str, Generation]]:
        assert threading.get_ident() == self.thread
        time.sleep(0.0005)
        if self.steps == 400:
            raise MemoryError("cache")
        self.steps += 1
        done = []
        for name, (n, tokens) in list(self.running.items()):
            tokens.append(self.version)
            if len(tokens) == n:
                done.append((name, Generation(tokens, [0.0] * n, "length", self.version, tokens)))
                del self.running[name]
        return done

    def close(self) -> None:
        self.closed = True


def request(name: str, tokens: int, prompt: list[int] | None = None) -> GenerateRequest:
    return GenerateRequest(name, [1] if prompt is None else prompt, tokens)


def test_requests_share_steps_and_commands_land_between_them():
    async def run():
        thread = EngineThread(CountingEngine)  # type: ignore[arg-type]

        def advance(engine) -> None:
            engine.version = 1

        both = [asyncio.create_task(thread.generate(request(n, 100))) for n in "ab"]
        await asyncio.sleep(0)
        await thread.call(advance)
        first, second = await asyncio.gather(*both)
        engine = await thread.call(lambda engine: engine)
        await asyncio.to_thread(thread.close)
        return first, second, engine

    first, second, engine = asyncio.run(run())
    assert len(first.tokens) == len(second.tokens) == 100
    assert set(first.tokens) <= {0, 1}
    assert first.tokens[-1] == 1
    assert engine.steps < 200  # shared, and none while idle
    assert engine.closed


def test_a_refused_request_or_command_leaves_the_engine_running():
    async def run():
        thread = EngineThread(CountingEngine)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="empty prompt"):
            await thread.generate(request("a", 3, []))
        with pytest.raises(ZeroDivisionError):
            await thread.call(lambda engine: 1 / 0)
        return await thread.generate(request("b", 3))

    assert len(asyncio.run(run()).tokens) == 3


def test_cancelling_aborts_in_the_engine():
    async def run():
        thread = EngineThread(CountingEngine)  # type: ignore[arg-type]
        waiting = asyncio.create_task(thread.generate(request("a", 100_000)))
        await thread.call(lambda engine: None)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return await thread.call(lambda engine: (engine.aborted, engine.running))

    assert asyncio.run(run()) == (["a"], {})


def test_a_failing_step_reaches_everybody_now_and_later():
    async def run():
        thread = EngineThread(CountingEngine)  # type: ignore[arg-type]
        waiting = [asyncio.create_task(thread.generate(request(n, 5000))) for n in "ab"]
        for task in waiting:
            with pytest.raises(EngineDied, match="MemoryError: cache"):
                await task
        with pytest.raises(EngineDied):
            await thread.call(lambda engine: None)

    asyncio.run(run())


def test_an_engine_that_says_so_is_dead_for_everybody():
    def lose(engine):
        raise EngineDied("its processes have ended")

    async def run():
        thread = EngineThread(CountingEngine)  # type: ignore[arg-type]
        waiting = asyncio.create_task(thread.generate(request("a", 100_000)))
        for _ in range(2):
            with pytest.raises(EngineDied, match=r"^its processes have ended$"):
                await thread.call(lose)
        with pytest.raises(EngineDied, match=r"^its processes have ended$"):
            await waiting

    asyncio.run(run())


def test_an_engine_that_does_not_start():
    def fail():
        raise OSError("no such model")

    async def run():
        with pytest.raises(EngineDied, match="OSError: no such model"):
            await EngineThread(fail).call(lambda engine: None)

    asyncio.run(run())

"""Tasksets that break one promise each, importable by name: what envs-check must find."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from envs.environment import Environment, tool
from envs.taskset import Taskset
from envs.types import Episode, Message, StepResult, Task, ToolCall

WORDS = {"apple", "pear", "plum", "cherry", "quince", "medlar", "sloe", "damson"}


class Echo(Environment):
    def oracle(self, history: Sequence[Message]) -> Message:
        return Message("assistant", str(self.task.answer))


class HashOrder(Taskset):
    """The order of a set decides: the same in this process, not in the next."""

    family, env_class = "hash order", Echo

    def task(self, index: int) -> Task:
        word = list(WORDS)[index % len(WORDS)]
        prompt = (Message("user", f"{self.split} {index} {word}"),)
        return Task(self.task_id(index), self.family, prompt, word, {"key": f"{self.split} {index}"})


class SharedGroup(Taskset):
    """Keys differ, but both splits take them from the same book."""

    family, env_class = "shared group", Echo

    def task(self, index: int) -> Task:
        metadata = {"key": f"{self.split} {index}", "group": f"book {index % 3}"}
        return Task(self.task_id(index), self.family, (Message("user", f"{self.split} {index}"),), "a", metadata)


class Lever(Environment):
    """Pulling the only lever is the whole task."""

    @tool
    def pull(self) -> str:
        """Pull the lever."""
        return "click"

    def score(self, episode: Episode) -> dict[str, float]:
        return {"outcome": float(any(m.content == "click" for m in episode.messages))}

    def oracle(self, history: Sequence[Message]) -> Message:
        if history[-1].role == "tool":
            return Message("assistant", "Done.")
        return Message("assistant", tool_calls=(ToolCall("pull"),))


class Levers(SharedGroup):
    family, env_class = "levers", Lever

    def task(self, index: int) -> Task:
        prompt = (Message("user", f"{self.split} {index}"),)
        return Task(self.task_id(index), self.family, prompt, "a", {"key": f"{self.split} {index}", "table": {1: "a"}})


class IntegerKeys(Echo):
    """Reads metadata with a key that JSON turns into text."""

    def oracle(self, history: Sequence[Message]) -> Message:
        return Message("assistant", self.task.metadata["table"].get(1, "lost"))


class NeedsIntegerKeys(Levers):
    family, env_class = "integer keys", IntegerKeys


class VerifiesNothing(Levers):
    family, env_class = "verifies nothing", Echo

    def verify(self, task: Task) -> str | None:
        return "too_dull"


class AsyncEnvironment(Environment):
    """Every method is async, and all of them need the event loop that reset() ran in."""

    async def reset(self) -> tuple[Message, ...]:  # type: ignore[override]
        self.loop = asyncio.get_running_loop()
        self.lock = asyncio.Lock()
        return super().reset()

    @tool
    async def look(self, where: str) -> str:
        """Look somewhere."""
        await asyncio.sleep(0)
        return str(self.task.answer) if where == self.task.metadata["key"] else "nothing"

    async def step(self, action: Message) -> StepResult:  # type: ignore[override]
        async with self.lock:
            assert asyncio.get_running_loop() is self.loop
            await asyncio.sleep(0)
        return super().step(action)

    async def score(self, episode: Episode) -> dict[str, float]:  # type: ignore[override]
        assert asyncio.get_running_loop() is self.loop
        return super().score(episode)

    async def close(self) -> None:  # type: ignore[override]
        assert getattr(self, "loop", None) in (None, asyncio.get_running_loop())

    async def oracle(self, history: Sequence[Message]) -> Message:  # type: ignore[override]
        if history[-1].role == "tool":
            return Message("assistant", history[-1].content)
        return Message("assistant", tool_calls=(ToolCall("look", {"where": self.task.metadata["key"]}),))


class AsyncTaskset(Taskset):
    family, env_class = "async", AsyncEnvironment

    def task(self, index: int) -> Task:
        key, answer = self.draw(index, lambda rng: (f"place {rng.randint(0, 999)}", rng.randint(0, 10**6)))
        return Task(self.task_id(index), self.family, (Message("user", f"{key}?"),), str(answer), {"key": key})

"""Episodes that programs outside open, drive and close: the office of a gateway (``envs.bridges.openai_exchange``).

    open    {"task": "t17"} → a key of its own; the first request under a name opens the episode of that name
    close   → its reward, turns, tokens; or by itself, ``step_s`` / 2 after ``episode_s``

Each is a ``rollout`` like those of training: the same limits, counts, segments and reward. The office is called in the
threads of requests and works in the event loop that it was made on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import re
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from envs.bridges.openai_exchange import ChatRefusal
from envs.driving import Endpoint
from envs.outside import OutsideEnvironment
from envs.types import Message, Task
from rl.rollout.config import RolloutConfig
from rl.types import OUTCOME, Trajectory

if TYPE_CHECKING:
    from envs.environment import Environment

T = TypeVar("T")
FAMILY = "outside"
_NAME = re.compile(r"[\w.:@+-]{1,128}", re.ASCII)
_WANTED = "must be 1 to 128 letters, digits and . _ : @ + -"


class Play(Protocol):
    """Plays an episode: ``rl.rollout.rollout`` with an engine behind it."""

    def __call__(
        self, task: Task, open_env: Callable[[Task], Environment], name: str
    ) -> Coroutine[Any, Any, Trajectory]: ...


@dataclass(eq=False)
class _Open:
    """An episode that is not over. ``closing``: it is to end."""

    name: str
    playing: asyncio.Task[Trajectory]
    closing: threading.Event = field(default_factory=threading.Event)
    key: str = ""


class Outside:
    """See the module. ``ended`` gets every trajectory. ``failed``: what ``play`` or ``ended`` raised, after which no
    further episode can be had."""

    def __init__(self, play: Play, config: RolloutConfig, ended: Callable[[Trajectory], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._play, self._config, self._ended = play, config, ended
        self._serial = itertools.count()
        self._all: dict[str, _Open] = {}  # by name
        self._keys: dict[str, asyncio.Task[str]] = {}  # by name, also of episodes that are over
        self._over = False
        self.failed: BaseException | None = None
        self.closed = self.scored = 0
        self._sum = 0.0

    # -- in the threads of requests ----------------------------------------------------------

    def open(self, order: Mapping[str, Any]) -> tuple[str, str]:
        """A new episode: (its name, its key)."""
        if unknown := sorted(order.keys() - {"task"}):
            raise ChatRefusal(400, f"{unknown[0]}: an episode is opened with task alone, or with nothing")
        if (task := order.get("task")) is not None and not (isinstance(task, str) and _NAME.fullmatch(task)):
            raise ChatRefusal(400, f"task={task!r:.80}: {_WANTED}")
        return self._call(self._open_new(task))

    def named(self, name: str) -> str:
        """The key of the episode ``name``, whose task has that name too."""
        if not _NAME.fullmatch(name):
            raise ChatRefusal(400, f"the episode {name!r:.80} in the base URL: {_WANTED}")
        return self._call(self._open_once(name))

    def close(self, key: str) -> Mapping[str, Any]:
        """End the episode; how it went."""
        return self._call(self._close(key))

    def shown(self) -> Mapping[str, Any]:
        """Episodes that are open, how many are over, and the mean outcome of those that have one."""
        mean = self._sum / self.scored if self.scored else None
        return {"open": sorted(self._all), "closed": self.closed, "scored": self.scored, "mean": mean}

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except (concurrent.futures.CancelledError, RuntimeError):  # RuntimeError: the loop is closed
            work.close()
            raise ChatRefusal(503, "the gateway is closing", "closing") from None

    # -- in the event loop -------------------------------------------------------------------

    async def finish(self) -> None:
        """Close all that is open; nothing can be opened any more."""
        self._over = True
        episodes = list(self._all.values())
        for episode in episodes:
            episode.closing.set()
        await asyncio.gather(*(episode.playing for episode in episodes), return_exceptions=True)

    async def _open(self, name: str, task_name: str | None) -> _Open:
        if self._over or self.failed is not None:
            raise ChatRefusal(503, "the gateway is closing", "closing")
        if len(self._all) >= (most := self._config.max_concurrency):
            raise ChatRefusal(429, f"{most} episodes are open (rollout.max_concurrency): close one first", "too_many")
        endpoint: asyncio.Future[Endpoint] = self._loop.create_future()

        def opened(where: Endpoint) -> None:
            self._loop.call_soon_threadsafe(endpoint.set_result, where)

        closing = threading.Event()
        task = Task(task_name or name, FAMILY, (Message("user", task_name or name),))
        open_env = partial(
            OutsideEnvironment,
            opened=opened,
            closing=closing,
            longest_s=self._config.episode_s + self._config.step_s / 2,
        )
        episode = _Open(name, asyncio.ensure_future(self._played(task, open_env, name)), closing)
        self._all[name] = episode
        either: set[asyncio.Future[Any]] = {endpoint, episode.playing}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not endpoint.done():
            endpoint.cancel()
            why = episode.playing.exception() or episode.playing.result().failure_detail
            raise ChatRefusal(500, f"no episode can be opened: {why}")
        episode.key = endpoint.result().api_key
        return episode

    async def _open_new(self, task_name: str | None) -> tuple[str, str]:
        name = next(name for n in self._serial if (name := f"outside-{n}") not in self._keys)
        return name, await self._key(name, task_name)

    async def _open_once(self, name: str) -> str:
        key = await self._key(name, name)
        if name not in self._all:
            raise ChatRefusal(403, f"the episode {name} is over; another one needs another name", "episode_over")
        return key

    async def _key(self, name: str, task_name: str | None) -> str:
        """The key of the episode ``name``, which is opened by whoever asks first."""
        if (opening := self._keys.get(name)) is None:

            async def key() -> str:
                return (await self._open(name, task_name)).key

            opening = self._keys[name] = asyncio.ensure_future(key())
        try:
            return await asyncio.shield(opening)
        except ChatRefusal:
            self._keys.pop(name, None)  # it may be tried again
            raise

    async def _close(self, key: str) -> Mapping[str, Any]:
        episode = next((one for one in self._all.values() if one.key == key), None)
        if episode is None:
            raise ChatRefusal(403, "the episode is over", "episode_over")
        episode.closing.set()
        t = await asyncio.shield(episode.playing)
        return {
            "id": t.id,
            "outcome": t.reward_parts.get(OUTCOME),
            "reward": t.reward if t.reward_parts else None,
            "stop_reason": t.stop_reason.value,
            "turns": t.turns,
            "sampled_tokens": t.sampled_tokens,
            "segments": len(t.segments),
            "counts": t.counts,
            "failure": t.failure_kind and f"{t.failure_kind}: {t.failure_detail.splitlines()[0]}",
        }

    async def _played(self, task: Task, open_env: Callable[[Task], Environment], name: str) -> Trajectory:
        try:
            trajectory = await self._play(task, open_env, name)
            if OUTCOME in trajectory.reward_parts:
                self.scored, self._sum = self.scored + 1, self._sum + trajectory.reward_parts[OUTCOME]
            self._ended(trajectory)
            return trajectory
        except BaseException as error:
            self.failed = self.failed or error
            raise
        finally:
            self._all.pop(name, None)
            self.closed += 1

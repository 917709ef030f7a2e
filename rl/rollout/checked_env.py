"""An environment as a rollout sees it: typed results, deadlines, one thread; its errors are EnvError or EnvTimeout."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from envs.driving import DrivingEnvironment, Endpoint
from envs.types import Episode, Message, StepResult, Task
from rl.rollout.config import RolloutConfig
from rl.rollout.env_runner import EnvError, EnvRunner, EnvTimeout

if TYPE_CHECKING:
    from envs.environment import Environment

T = TypeVar("T")


class CheckedEnv:
    """One environment, made by ``reset`` and released by ``close``."""

    def __init__(self, name: str, task: Task, config: RolloutConfig, watch: Callable[[str], None]) -> None:
        self._runner = EnvRunner(f"{name} ({task.family}, task {task.id})")
        self._task, self._config = task, config
        self._watch = watch
        self._env: Environment | None = None

    @property
    def is_driving(self) -> bool:
        """Whether a program of the environment drives the episode."""
        return isinstance(self._env, DrivingEnvironment)

    async def reset(self, open_env: Callable[[Task], Environment]) -> tuple[Message, ...]:
        def open_and_reset() -> Any:
            # a copy: the group's other episodes and the scorer have the same task, and must not see what one does to it
            self._env = open_env(copy.deepcopy(self._task))
            self._runner.closer = self._env.close
            return self._env.reset()

        prompt = await self.run("reset", self._config.reset_s, open_and_reset)
        return checked("reset", _messages, prompt)

    async def step(self, action: Message) -> StepResult:
        assert self._env is not None
        result = await self.run("step", self._config.step_s, self._env.step, action)
        return checked("step", _step_result, result, self._config.longest_observation)

    async def drive(self, endpoint: Endpoint) -> None:
        """The program's run. It has what a step may take to notice that the episode's time is over."""
        assert isinstance(self._env, DrivingEnvironment)
        await self.run("drive", self._config.episode_s + self._config.step_s, self._env.drive, endpoint)

    async def score(self, episode: Episode) -> dict[str, float]:
        assert self._env is not None
        scores = await self.run("score", self._config.score_s, self._env.score, episode)
        return checked("score", _scores, scores)

    async def run(self, what: str, seconds: float, function: Callable[..., Any], *args: Any) -> Any:
        self._watch(f"task {self._task.id}: {what}")
        return await self._runner.run(what, seconds, function, *args)

    async def close(self) -> bool:
        """Close the environment; False when it raised or hangs. Never raises."""
        try:
            if self._env is not None:
                await self._runner.run("close", self._config.close_s, self._env.close)
            return True
        except (EnvError, EnvTimeout):
            return False
        finally:
            self._runner.stop()


def checked(what: str, function: Callable[..., T], *args: Any) -> T:
    """``function(*args)`` on something an environment made: its errors are the environment's."""
    try:
        return function(*args)
    except Exception as cause:
        raise EnvError(f"{what}: {type(cause).__name__}: {cause}", cause) from cause


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(m, Message) for m in value):
        raise TypeError(f"expected a tuple of envs.types.Message, got {value!r:.200}")
    return tuple(value)


def _step_result(value: Any, longest: int) -> StepResult:
    if not isinstance(value, StepResult):
        raise TypeError(f"expected envs.types.StepResult, got {value!r:.200}")
    _messages(value.messages)
    counts = value.info.get("counts", {})
    if not isinstance(counts, Mapping) or not all(isinstance(n, int) for n in counts.values()):
        raise TypeError(f"info['counts'] must map names to integers, got {counts!r:.200}")
    if not value.terminated and not value.messages:
        raise ValueError("no messages although the episode goes on: return what the policy sees next")
    messages = tuple(shortened(m, longest) for m in value.messages)
    if cut := sum(len(m.content) > longest for m in value.messages):
        counts = {**counts, "output_truncated": counts.get("output_truncated", 0) + cut}
    return replace(value, messages=messages, info={**value.info, "counts": counts})


def shortened(message: Message, longest: int) -> Message:
    """At most ``longest`` characters, all of them such as a tokenizer takes."""
    return replace(message, content=_encodable(_cut(message.content, longest)))


def _cut(text: str, longest: int) -> str:
    """Megabytes would hold up every episode of the worker while they become tokens, of which none fits the window."""
    return text if len(text) <= longest else f"{text[:longest]}\n[cut: {longest} of {len(text)} characters shown]"


def _encodable(text: str) -> str:
    """A tool may repeat half a surrogate pair that the policy wrote; no tokenizer takes one."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _scores(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected a dict of named scores, got {value!r:.200}")
    return dict(value)

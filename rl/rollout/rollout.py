"""One episode: the policy and an environment take turns until something ends it.

reset → prompt tokens → generate → parse → step → append → … → score → reward. Tokens stay as the
engine sampled them (``Session`` only appends). The policy's mistakes are part of the episode: they
become observations. Failures of the environment are not: such a trajectory carries a
``failure_kind``, is masked from loss and advantage, and is never scored 0. Everything that went
wrong is counted in ``Trajectory.counts``.

What the policy causes is never masked, or it would learn to cause it. So ``episode_s`` ends the sampling and nothing
else: an episode that is not over by then is truncated and scored, like one that has used up its tokens.
A step, the scores and the reward have deadlines of their own, above what the environment allows the policy to take
(``rl.run.deadlines``).
"""

from __future__ import annotations

import asyncio
import copy
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from envs.types import Episode, Message, StepResult, StopReason, Task
from rl.chat.context_manager import ContextManager
from rl.rollout.config import RolloutConfig
from rl.rollout.env_runner import EnvError, EnvRunner, EnvTimeout
from rl.rollout.message import Generate, sample_message
from rl.types import Trajectory, Usage

if TYPE_CHECKING:
    from envs.environment import Environment
    from rewards.compose import Reward, RewardComposer
    from rl.chat.session import Session
    from rl.rollout.engine import Generation

T = TypeVar("T")


@dataclass(frozen=True)
class Scored:
    """A finished episode with the environment's scores and the reward made of them."""

    episode: Episode
    scores: Mapping[str, float]
    reward: Reward


class EpisodeTimeout(Exception):
    """``rollout.episode_s`` ran out while the policy was to speak."""


async def rollout(
    task: Task,
    open_env: Callable[[Task], Environment],
    open_session: Callable[[Sequence[Message]], Session],
    generate: Generate,
    composer: RewardComposer,
    config: RolloutConfig,
    trajectory_id: str,
    watch: Callable[[str], None] = lambda what: None,
    version: int = 0,
    scored: Callable[[Scored], None] = lambda what: None,
    observe: Callable[[Message], None] = lambda message: None,
) -> Trajectory:
    """Play ``task`` once.

    Args:
        open_env: makes the environment; called on the environment's own thread, under ``config.reset_s``.
        open_session: makes the token stream for the prompt that ``reset`` returned.
        watch: told what the episode begins to wait for, so that a stall can be named.
        version: policy version at which the group was admitted; scheduled reward weights read it.
        scored: told what the reward was computed from, once it is, for the parts that look at the whole group.
        observe: called with every message of policy and environment, as it comes.
        generate: the engine. What it raises is not caught: without an engine there is no episode.
    Returns:
        The trajectory. ``failure_kind`` is None, ``env_error``, ``env_timeout``, ``aborted`` (engine gave the request
        up), ``reward_error``, ``reward_timeout`` or what a reward part masks for.
    """
    started = time.monotonic()
    counts: Counter[str] = Counter()
    session: Session | None = None
    stop: StopReason | None = None
    last: tuple[Message, ...] = ()  # messages of the final step: seen by the scorer, never by the policy
    turns = sampled_tokens = 0
    reward: Reward | None = None
    failure, detail = None, ""
    ends = started
    env = _Env(trajectory_id, task, config, watch)

    async def ask(prompt_tokens: list[int], max_tokens: int) -> Generation:
        watch(f"task {task.id}: generate")
        if (left_s := ends - time.monotonic()) <= 0:
            raise EpisodeTimeout
        try:
            async with asyncio.timeout(left_s) as timer:
                return await generate(prompt_tokens, max_tokens)
        except TimeoutError:
            if not timer.expired():
                raise
            raise EpisodeTimeout from None

    try:
        session = _checked("reset's prompt", open_session, await env.reset(open_env))
        ends = time.monotonic() + config.episode_s  # how long reset took is not the policy's doing
        _tell(observe, session.messages)
        context = ContextManager(config.context, session, counts)
        while stop is None:
            _checked("the managed context", context.before_turn)
            limits = {  # where several are equal the first one names the reason
                StopReason.MAX_TOKENS: context.turn_tokens(config.max_tokens),
                StopReason.CONTEXT: session.room(),
                StopReason.TOTAL_TOKENS: context.tokens_left(),
            }
            bound = min(limits, key=lambda reason: limits[reason])
            if (budget := limits[bound]) < 1:
                stop = bound
                break
            try:
                said = await sample_message(session, ask, budget, config.max_thinking)
            except EpisodeTimeout:
                stop = StopReason.EPISODE_TIME
                break
            turns, sampled_tokens = turns + 1, sampled_tokens + said.sampled_tokens
            counts.update(said.counts)
            _tell(observe, (said.message,))
            if said.finish_reason == "abort":
                stop, failure, detail = StopReason.ABORTED, "aborted", "the engine gave up the request"
            elif context.summarising:
                context.restart(said.message)
                stop = StopReason.MAX_TURNS if turns >= config.turn_limit else None
            elif said.finish_reason == "length":
                # a cut of the thinking takes room too: then the window may end before the budget
                stop = bound if said.sampled_tokens == budget else StopReason.CONTEXT
            else:
                result = await env.step(said.message)
                counts.update(result.info.get("counts", {}))
                _tell(observe, result.messages)
                if result.terminated or turns >= config.turn_limit:
                    stop = StopReason.ANSWERED if result.terminated else StopReason.MAX_TURNS
                    last = result.messages
                else:
                    _checked("step's messages", session.append_messages, result.messages)
        if failure is None:
            counts[stop.value] += stop is not StopReason.ANSWERED
            messages = (*session.dialogue, *last)
            thinking = session.usage.thinking
            episode = Episode(task, messages, stop, turns, sampled_tokens, dict(counts), thinking)
            scores = await env.score(episode)
            watch(f"task {task.id}: reward")
            reward = await composer.score(episode, scores, version)
            failure, detail = reward.masked, reward.detail
            counts.update(reward.counts)
            scored(Scored(episode, scores, reward))
    except EnvError as error:
        failure, stop = "env_error", StopReason.ENV_ERROR
        detail = f"{error}\n{''.join(traceback.format_exception(error.cause))}"
    except EnvTimeout as error:
        failure, stop, detail = "env_timeout", StopReason.ENV_TIMEOUT, str(error)
    finally:
        closed = await env.close()
    counts["env_close_failed"] += not closed
    if failure is not None:
        counts[failure] += 1
    return Trajectory(
        id=trajectory_id,
        task_id=task.id,
        family=task.family,
        segments=session.segments() if session is not None else [],
        messages=_shown(session, last) if session is not None else [m.to_json() for m in task.prompt],
        stop_reason=stop,
        reward=reward.total if reward is not None else 0.0,
        reward_parts=dict(reward.parts) if reward is not None else {},
        failure_kind=failure,
        failure_detail=detail,
        turns=turns,
        counts={name: n for name, n in counts.items() if n},
        wall_s=time.monotonic() - started,
        usage=session.usage if session is not None else Usage(),
    )


def _tell(observe: Callable[[Message], None], messages: Sequence[Message]) -> None:
    for message in messages:
        observe(message)


def _shown(session: Session, last: Sequence[Message]) -> list[dict[str, Any]]:
    """All that was said, as stored with the trajectory; ``context`` says where the context was rewritten, and by what.

    ``last`` came after the policy's last turn.
    """
    said = [m.to_json() for m in (*session.messages, *last)]
    for position, mark in session.marks.items():
        said[position]["context"] = mark
    return said


class _Env:
    """The environment as the episode loop sees it: typed results, deadlines, one thread."""

    def __init__(self, name: str, task: Task, config: RolloutConfig, watch: Callable[[str], None]) -> None:
        self._runner = EnvRunner(f"{name} ({task.family}, task {task.id})")
        self._task, self._config = task, config
        self._watch = watch
        self._env: Environment | None = None

    async def reset(self, open_env: Callable[[Task], Environment]) -> tuple[Message, ...]:
        def open_and_reset() -> Any:
            # a copy: the group's other episodes and the scorer have the same task, and must not see what one does to it
            self._env = open_env(copy.deepcopy(self._task))
            self._runner.closer = self._env.close
            return self._env.reset()

        prompt = await self.run("reset", self._config.reset_s, open_and_reset)
        return _checked("reset", _messages, prompt)

    async def step(self, action: Message) -> StepResult:
        assert self._env is not None
        result = await self.run("step", self._config.step_s, self._env.step, action)
        return _checked("step", _step_result, result, self._config.longest_observation)

    async def score(self, episode: Episode) -> dict[str, float]:
        assert self._env is not None
        scores = await self.run("score", self._config.score_s, self._env.score, episode)
        return _checked("score", _scores, scores)

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


def _checked(what: str, function: Callable[..., T], *args: Any) -> T:
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
    messages = tuple(replace(m, content=_encodable(_cut(m.content, longest))) for m in value.messages)
    if cut := sum(len(m.content) > longest for m in value.messages):
        counts = {**counts, "output_truncated": counts.get("output_truncated", 0) + cut}
    return replace(value, messages=messages, info={**value.info, "counts": counts})


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

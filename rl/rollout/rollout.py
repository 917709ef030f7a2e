"""One episode: the policy and an environment take turns until something ends it, or a program asks the policy.

reset → prompt tokens → generate → parse → step → append → … → score → reward. Tokens stay as the
engine sampled them (``Session`` only appends). What lies between reset and score is ``rl.rollout.turns``, or
``rl.rollout.driven`` where a program of the environment drives. The policy's mistakes are part of the episode: they
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
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envs.types import Episode, Message, NoRewardError, StopReason, Task
from rl.rollout.checked_env import CheckedEnv, checked
from rl.rollout.config import RolloutConfig
from rl.rollout.driven import Driven
from rl.rollout.env_runner import EnvError, EnvTimeout
from rl.rollout.message import EpisodeTimeout, Generate
from rl.rollout.turns import Playing, Turns
from rl.types import Trajectory, Usage

if TYPE_CHECKING:
    from envs.environment import Environment
    from rewards.compose import Reward, RewardComposer
    from rl.chat.session import Session
    from rl.rollout.engine_api import Generation
    from rl.rollout.gateway import Gateway


@dataclass(frozen=True)
class Scored:
    """A finished episode with the environment's scores and the reward made of them."""

    episode: Episode
    scores: Mapping[str, float]
    reward: Reward


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
    open_gateway: Callable[[], Gateway] | None = None,
) -> Trajectory:
    """Play ``task`` once.

    Args:
        open_env: makes the environment; called on the environment's own thread, under ``config.reset_s``.
        open_session: makes the token stream for the prompt that ``reset`` returned.
        watch: told what the episode begins to wait for, so that a stall can be named.
        version: policy version at which the group was admitted; scheduled reward weights read it.
        scored: told what the reward was computed from, once it is, for the parts that look at the whole group.
        observe: called with every message of policy and environment, as it comes.
        open_gateway: where programs that drive ask the policy; None: such an environment is an error.
        generate: the engine. What it raises is not caught: without an engine there is no episode.
    Returns:
        The trajectory. ``failure_kind`` is None, ``env_error``, ``env_timeout``, ``no_reward`` (nobody has scored it),
        ``aborted`` (engine gave the request up), ``reward_error``, ``reward_timeout`` or what a reward part masks for.
    """
    started = time.monotonic()
    counts: Counter[str] = Counter()
    playing: Playing | None = None
    reward: Reward | None = None
    failure, detail, stop = None, "", StopReason.ENV_ERROR
    ends = started
    env = CheckedEnv(trajectory_id, task, config, watch)

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
        prompt = await env.reset(open_env)
        if not env.is_driving:
            session = checked("reset's prompt", open_session, prompt)
            playing = Turns(session, ask, config, counts, observe)
        elif open_gateway is not None:
            playing = Driven(open_session, open_gateway().connect, ask, config, counts, observe)
        else:
            raise NotImplementedError(f"{task.family}: a program drives its episodes, and here is no gateway for it")
        ends = time.monotonic() + config.episode_s  # how long reset took is not the policy's doing
        ended = await playing.play(env)
        stop, failure, detail = ended.stop, ended.failure, ended.detail
        if failure is None:
            counts[stop.value] += stop is not StopReason.ANSWERED
            thinking = playing.usage.thinking
            episode = Episode(
                task, playing.dialogue, stop, playing.turns, playing.sampled_tokens, dict(counts), thinking,
                playing.said,
            )  # fmt: skip
            scores = {"outcome": ended.outcome} if ended.outcome is not None else await env.score(episode)
            watch(f"task {task.id}: reward")
            reward = await composer.score(episode, scores, version)
            failure, detail = reward.masked, reward.detail or detail
            counts.update(reward.counts)
            scored(Scored(episode, scores, reward))
    except EnvError as error:
        if isinstance(error.cause, NoRewardError):
            failure, detail = "no_reward", str(error.cause)
        else:
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
        segments=playing.segments() if playing is not None else [],
        messages=playing.shown if playing is not None else [m.to_json() for m in task.prompt],
        stop_reason=stop,
        reward=reward.total if reward is not None else 0.0,
        reward_parts=dict(reward.parts) if reward is not None else {},
        failure_kind=failure,
        failure_detail=detail,
        turns=playing.turns if playing is not None else 0,
        counts={name: n for name, n in counts.items() if n},
        wall_s=time.monotonic() - started,
        usage=playing.usage if playing is not None else Usage(),
    )

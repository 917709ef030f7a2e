"""How many turns an episode may have: what the environment needs, unless the user has said it.

A limit that is too small cuts every episode that could have solved its task, and nothing but a count of ``max_turns``
says so. A taskset knows best (``Taskset.max_turns``). For one that does not say, its oracle plays a few tasks: a policy
makes mistakes, so it gets twice the oracle's turns.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from envs.episode import NoDemonstratorError, close, demonstrator, has_demonstrator, play_episode
from envs.taskset import MAX_ORACLE_TURNS
from rl.rollout.config import LEAST_TURNS

if TYPE_CHECKING:
    from envs.taskset import Taskset
    from rl.rollout.config import RolloutConfig

TASKS = 8  # of a family whose oracle is watched
FOR_MISTAKES = 2  # turns that a policy gets for each of the oracle's


def settle_turns(rollout: RolloutConfig, taskset: Taskset) -> list[str]:
    """Set ``rollout.max_turns`` where it is null. Returns what is to be said: the limit, when it is not the usual one;
    a family that needs more than the user's own limit. Empty when there is nothing to say."""
    from rl.run.assemble import members_of

    needed = {family: turns_needed(member, rollout.episode_s) for family, member in members_of(taskset).items()}
    if rollout.max_turns is None:
        family = max(needed, key=lambda name: needed[name] or 0)
        rollout.max_turns = max(LEAST_TURNS, needed[family] or 0)
        if rollout.max_turns == LEAST_TURNS:
            return []
        return [f"rollout.max_turns={rollout.max_turns}: what the family {family} needs (set it to have another limit)"]
    short = {family: turns for family, turns in needed.items() if turns is not None and turns > rollout.max_turns}
    if not short:
        return []
    named = ", ".join(f"{family} {turns}" for family, turns in short.items())
    return [
        f"warning: rollout.max_turns={rollout.max_turns} is less than the environment needs ({named}): longer episodes "
        f"are cut; set rollout.max_turns={max(short.values())}, or leave it out"
    ]


def turns_needed(taskset: Taskset, deadline_s: float) -> int | None:
    """What the taskset declares, else twice what its oracle does; None: nobody knows."""
    if taskset.max_turns is not None:
        return taskset.max_turns
    turns = oracle_turns(taskset, deadline_s)
    return None if turns is None else FOR_MISTAKES * turns


def oracle_turns(taskset: Taskset, deadline_s: float) -> int | None:
    """The most turns of the oracle in the first tasks that it solves; None: there is no oracle, or it raises or hangs,
    which the cold start and ``envs-check`` report."""
    found: list[int] = []

    def watch() -> None:
        for index in range(min(TASKS, len(taskset))):
            task = taskset.task(index)
            environment = taskset.environment(task)
            if not has_demonstrator(environment):
                close(environment)
                return
            try:
                episode, _ = play_episode(task, environment, demonstrator(environment), MAX_ORACLE_TURNS)
            except NoDemonstratorError:
                return
            except Exception:  # whatever an author's code may raise
                continue
            found.append(episode.turns)

    thread = threading.Thread(target=watch, daemon=True)  # left behind when it hangs
    thread.start()
    thread.join(deadline_s)
    return max(found, default=None) if not thread.is_alive() else None

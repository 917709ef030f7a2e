"""Deadlines of the rollout lie above what an environment lets the policy take, or a run does not start.

A rollout that misses a deadline is masked as a failure of the infrastructure. Could the policy make that happen, by
a cell that sleeps, it would be paid for it: its bad episodes would leave the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envs.taskset import Taskset
    from rl.rollout.config import RolloutConfig


def check_deadlines(rollout: RolloutConfig, taskset: Taskset) -> None:
    """Raises ValueError, naming the setting to raise. An environment that does not know its limits is let through."""
    from rl.run.assemble import members_of

    for family, member in members_of(taskset).items():
        kind = member.env_class
        longest = {
            "step_s": kind.longest_step_s(member.config.get("tool_timeout_s")),
            "score_s": kind.longest_score_s(member.config),
        }
        for name, seconds in longest.items():
            allowed: float = getattr(rollout, name)
            if seconds is not None and seconds >= allowed:
                raise ValueError(
                    f"rollout.{name}={allowed:g}: the environment {family} lets the policy take {seconds:g} s, and "
                    f"what the policy causes must not be masked; set rollout.{name} above {seconds:g}"
                )

"""parallel_fewest_step: of independent runs of a task, the finished one with the fewest steps counts (V3.2 sec. 4.4).

A choice at evaluation time that needs no knowledge of the answer. Training does not choose: there a group's rollouts
are independent runs already, and each of them is a sample.
"""

from __future__ import annotations

from collections.abc import Sequence

from envs.types import StopReason
from rl.types import Trajectory, Usage

POLICY = "parallel_fewest_step"


def fewest_steps(runs: Sequence[Trajectory]) -> Trajectory:
    """The chosen one of ``runs``: finished before unfinished before failed, then fewest turns, then the first.

    It stands for all of them: its ``usage`` becomes that of all runs (what is paid for), and ``counts`` gets
    ``context_parallel_fewest_step`` (1) and what all runs took together, ``context_parallel_runs``, ``_turns``,
    ``_sampled_tokens`` and ``_total_tokens`` (the chosen run included).
    """

    def rank(run: Trajectory) -> tuple[bool, bool, int]:
        return run.failure_kind is not None, run.stop_reason is not StopReason.ANSWERED, run.turns

    chosen = min(runs, key=rank)
    chosen.counts |= {
        f"context_{POLICY}": 1,
        "context_parallel_runs": len(runs),
        "context_parallel_turns": sum(run.turns for run in runs),
        "context_parallel_sampled_tokens": sum(run.sampled_tokens for run in runs),
        "context_parallel_total_tokens": sum(run.total_tokens for run in runs),
    }
    chosen.usage = sum((run.usage for run in runs), Usage())
    return chosen

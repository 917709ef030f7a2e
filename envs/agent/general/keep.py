"""Keeping what a policy solves at least once in k tries (pass@k > 0): what nobody solves teaches nothing.

play = episodes_of(taskset, lambda task, attempt: my_actor(task, attempt))
kept = keep_solved(tasks, play, k=8)
kept.tasks, kept.reasons            ...  {"solved": 41, "never_solved": 9}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from envs.episode import Actor, play_episode
from envs.taskset import MAX_ORACLE_TURNS, Taskset
from envs.types import InfrastructureError, Task

Play = Callable[[Task, int], float]  # (task, number of the attempt) -> outcome


@dataclass
class Kept:
    """``rates``: solved share of the attempts that were played, by task id. ``reasons`` count every task once."""

    tasks: list[Task] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)


def keep_solved(tasks: Iterable[Task], play: Play, k: int, every: bool = False) -> Kept:
    """Play each task up to ``k`` times and keep those that were solved (outcome 1) once.

    Stops at the first success unless ``every``, which measures the rate over all k. An infrastructure failure
    says nothing about the task; a task of which no attempt could be played is counted as ``not_played``.
    """
    if k < 1:
        raise ValueError(f"k is {k}, must be at least 1")
    kept = Kept()
    for task in tasks:
        played = solved = 0
        for attempt in range(k):
            try:
                outcome = play(task, attempt)
            except InfrastructureError:
                continue
            played += 1
            solved += outcome >= 1.0
            if solved and not every:
                break
        if played:
            kept.rates[task.id] = solved / played
        if solved:
            kept.tasks.append(task)
        kept.reasons["solved" if solved else "never_solved" if played else "not_played"] += 1
    return kept


def episodes_of(taskset: Taskset, actor: Callable[[Task, int], Actor], max_turns: int = MAX_ORACLE_TURNS) -> Play:
    """``play`` for an actor that needs no model server: a fresh one for each attempt."""

    def play(task: Task, attempt: int) -> float:
        return play_episode(task, taskset.environment(task), actor(task, attempt), max_turns)[1]["outcome"]

    return play

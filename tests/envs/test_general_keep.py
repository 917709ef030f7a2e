"""pass@k > 0: what is solved once is kept, and every task is counted once."""

from __future__ import annotations

import pytest

from envs.agent.general.keep import episodes_of, keep_solved
from envs.agent.general.taskset import GeneralTaskset
from envs.episode import Actor
from envs.types import InfrastructureError, Message, Task


def tasks(count: int) -> list[Task]:
    return [Task(f"t{i}", "x", (Message("user", "?"),)) for i in range(count)]


def test_counts_by_reason() -> None:
    tried: list[tuple[str, int]] = []

    def play(task: Task, attempt: int) -> float:
        tried.append((task.id, attempt))
        if task.id == "t0":
            return float(attempt == 2)
        if task.id == "t1":
            return 0.99
        if task.id == "t2" or attempt == 0:
            raise InfrastructureError("no sandbox")
        return 1.0

    kept = keep_solved(tasks(4), play, k=4)
    assert [task.id for task in kept.tasks] == ["t0", "t3"]
    assert kept.reasons == {"solved": 2, "never_solved": 1, "not_played": 1}
    assert kept.rates == {"t0": pytest.approx(1 / 3), "t1": 0.0, "t3": 1.0}
    assert [attempt for name, attempt in tried if name == "t0"] == [0, 1, 2]


def test_every_measures_the_rate() -> None:
    kept = keep_solved(tasks(1), lambda task, attempt: float(attempt % 2), k=4, every=True)
    assert kept.rates == {"t0": 0.5}
    with pytest.raises(ValueError, match="k is 0"):
        keep_solved(tasks(1), lambda task, attempt: 1.0, k=0)


def test_real_episodes_of_scripted_policies() -> None:
    taskset = GeneralTaskset(categories=["library", "bank"], levels=[1])
    mine = [taskset.task(i) for i in range(3)]

    def actor(task: Task, attempt: int) -> Actor:
        if task.id == mine[0].id or attempt == 0:
            return lambda history: Message("assistant", "Done.")
        return taskset.environment(task).oracle

    kept = keep_solved(mine, episodes_of(taskset, actor), k=2)
    assert [task.id for task in kept.tasks] == [mine[1].id, mine[2].id]
    assert kept.reasons == {"solved": 2, "never_solved": 1}
    assert kept.rates[mine[1].id] == 0.5

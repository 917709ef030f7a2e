"""Held-out evaluation: k rollouts of n tasks a family with the engines' present weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rl.rollout.orders import GroupSpec
from rl.run.errors import explain
from rl.types import Group, Trajectory

if TYPE_CHECKING:
    from configs.schema import EvalConfig
    from envs.taskset import Taskset
    from envs.types import Task
    from rl.rollout.pool import RolloutPool

HELDOUT = "heldout"  # name of the held-out taskset in the pool


def heldout_tasks(taskset: Taskset, n_tasks: int, family: str | None = None) -> list[tuple[int, Task]]:
    """(index, task) of the first ``n_tasks`` tasks of every family (or of ``family`` alone), in taskset order. Each is
    there once, also where a mixture begins a small data set again. One that cannot be made is named and left out."""
    if taskset.split != "heldout":
        raise ValueError(f"evaluation needs a held-out taskset, this one has split={taskset.split!r}")
    taken: Counter[str] = Counter()
    ids: set[str] = set()
    tasks = []
    for index in range(len(taskset)):
        try:
            task = taskset.task(index)
        except Exception as error:  # whatever an author's code may raise
            print(f"held-out task {taskset.task_id(index)} cannot be made, and is left out: {explain(error)}")
            continue
        if taken[task.family] < n_tasks and family in (None, task.family) and task.id not in ids:
            taken[task.family] += 1
            ids.add(task.id)
            tasks.append((index, task))
    return tasks


def evaluate(
    pool: RolloutPool,
    taskset: Taskset,
    config: EvalConfig,
    *,
    deadline_s: float,
    family: str | None = None,
    settings: Mapping[str, Any] | None = None,
    on_group: Callable[[int, int, list[Trajectory]], None] = lambda done, total, trajectories: None,
) -> list[Trajectory]:
    """``config.k`` rollouts of every held-out task (of ``family``) with the engines' present weights, in task order.

    ``deadline_s`` bounds the wait for any one group. ``settings``: see ``GroupSpec``.
    """
    tasks = heldout_tasks(taskset, config.n_tasks, family)
    specs = [
        GroupSpec(
            number,
            task,
            index,
            config.k,
            pool.version,
            taskset=HELDOUT,
            parallel=pool.config.context.runs,
            settings=settings or {},
            records=False,
        )
        for number, (index, task) in enumerate(tasks)
    ]
    arrived: list[Trajectory] = []

    def on_arrival(done: int, group: Group) -> None:
        arrived.extend(group.trajectories)
        on_group(done, len(specs), arrived)

    groups = pool.run(specs, deadline_s, on_arrival)
    return [t for group in groups for t in group.trajectories]

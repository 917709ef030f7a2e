"""GRPO for agents, the whole algorithm on one screen.

    admit tasks → groups of rollouts → reward → advantage → learner step → weights v+1 → workers

Groups are admitted ahead by at most ``max_staleness`` batches and trained in the order of their admission, so a
group is at most that many versions old when it is trained: with 0 rollouts and learner alternate (every batch is
on-policy), with n the workers sample up to n batches ahead. No completed group is dropped as stale, and slow
tasks are trained on as much as quick ones.

Advantage, loss and optimiser step are ``rl.learner.learner.Learner.step``; what is written down is
``rl.run.stage_log.StageLog.step``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.rollout.worker import GroupSpec

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset
    from rl.learner.actor import LearnerHandle
    from rl.rollout.pool import RolloutPool
    from rl.run.stage_log import StageLog


@dataclass
class Position:
    """Where the loop is; stored in every checkpoint."""

    step: int = 0  # finished steps; also the policy version
    next_group: int = 0  # id of the next admitted group
    taskset: dict[str, Any] = field(default_factory=dict)  # its state_dict
    waiting: list[int] = field(default_factory=list)  # task indices admitted but not trained: run again on resume
    heldout: dict[str, Any] = field(default_factory=dict)  # what the held-out tasks are read from (Taskset.inputs)


def grpo(
    cfg: TrainConfig,
    pool: RolloutPool,
    learner: LearnerHandle,
    taskset: Taskset,
    at: Position,
    log: StageLog,
    checkpoints: Path,
) -> None:
    """Run GRPO from ``at`` to ``cfg.steps``, or until ``budget.rl_share`` is spent.

    What is admitted when the budget ends is still trained on (``max_staleness`` steps), nothing more is admitted.
    Every wait has a deadline. On return ``at`` is at the end, the workers hold the last weights, and
    ``log.totals.stop`` says why it ended.
    """
    pending: dict[int, int] = {}  # group id → task index, admitted and not yet trained
    again, at.waiting = list(at.waiting), []
    spent = log.spent()
    end = at.step + len(again) // cfg.prompts_per_step if spent else cfg.steps
    while at.step < end:
        ahead = min(1 + cfg.max_staleness, end - at.step) * cfg.prompts_per_step
        while len(pending) < ahead:
            index = again.pop(0) if again else taskset.next_index()
            pool.submit(GroupSpec(at.next_group, taskset.task(index), index, cfg.group_size, at.step))
            pending[at.next_group] = index
            at.next_group += 1
        log.begin()
        groups = pool.take(sorted(pending)[: cfg.prompts_per_step], cfg.step_deadline_s)
        log.store_batch(at.step + 1, groups, learner, end)
        log.lap("rollout")
        learned = learner.step(groups)
        log.lap("learner")
        at.step += 1
        probe = learner.sync(pool, at.step)
        log.lap("sync")
        for group in groups:
            del pending[group.id]
            taskset.observe(group.task_index, group.outcomes())
        at.taskset, at.waiting = taskset.state_dict(), list(pending.values())
        log.step(at.step, groups, learned | taskset.metrics(), probe)
        if not spent and (spent := log.spent()):
            end = min(end, at.step + len(pending) // cfg.prompts_per_step)
        if at.step % cfg.checkpoint_every == 0 or at.step == end:
            learner.save(checkpoints, at.step, {"at": asdict(at), "totals": asdict(log.totals)}, cfg.keep_checkpoints)
    log.totals.stop = spent or f"all {cfg.steps} steps are done"

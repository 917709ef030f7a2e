"""GRPO for agents, the whole algorithm on one screen.

    admit tasks → groups of rollouts → reward → advantage → learner step → weights v+1 → workers

Groups are admitted ahead by at most ``max_staleness`` batches and trained in the order of their admission, so a
group is at most that many versions old when it is trained: with 0 every batch is on-policy, with n the workers sample
up to n batches ahead. The learner works on the groups of a batch as they finish, and makes its optimiser step when all
are in (``learner.overlap``). No completed group is dropped as stale, and slow tasks are trained on as much as quick
ones. What was finished when a run was killed is taken from disk
(``rl.run.finished``) under the number that it had; the rest runs again.

Advantage, loss and optimiser step are ``rl.learner.learner.Learner.step``; what is written down is
``rl.run.stage_log.StageLog.step``.
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.types import Task
from rl.learner.group import LearnerLost
from rl.rollout.losses import TASK_ERROR, skipped_group
from rl.rollout.orders import GroupSpec
from rl.run.ending import asked, held, open_to
from rl.run.errors import explain
from rl.tracking.failures import first_line
from rl.tracking.stall import StallError

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset
    from rl.learner.actor import LearnerHandle
    from rl.rollout.pool import RolloutPool
    from rl.run.finished import FinishedGroups
    from rl.run.stage_log import StageLog


@dataclass
class Position:
    """Where the loop is; stored in every checkpoint."""

    step: int = 0  # finished steps; also the policy version
    next_group: int = 0  # id of the next admitted group
    taskset: dict[str, Any] = field(default_factory=dict)  # its state_dict
    waiting: list[int] = field(default_factory=list)  # tasks of the last groups before next_group: not yet trained
    heldout: dict[str, Any] = field(default_factory=dict)  # what the held-out tasks are read from (Taskset.inputs)


def grpo(
    cfg: TrainConfig,
    pool: RolloutPool,
    learner: LearnerHandle,
    taskset: Taskset,
    at: Position,
    log: StageLog,
    checkpoints: Path,
    finished: FinishedGroups,
) -> None:
    """Run GRPO from ``at`` to ``cfg.steps``, or until ``budget.rl_share`` is spent.

    What is admitted when the budget ends is still trained on (``max_staleness`` steps), nothing more is admitted.
    Every wait has a deadline. On return ``at`` is at the end, the workers hold the last weights, and
    ``log.totals.stop`` says why it ended.
    """
    pending: dict[int, int] = {}  # group id → task index, admitted and not yet trained
    again, at.waiting = list(at.waiting), []
    at.next_group -= len(again)  # they are admitted once more, under their numbers
    finished.begin(at.next_group)

    writing: list[int] = []  # the checkpoint on its way to disk: the first group that is not trained in it

    def save() -> None:
        written(wait=True)
        log.flush()  # a run that goes on from here finds the records of all steps before
        at.taskset, at.waiting = taskset.state_dict(), [*pending.values(), *again]
        extra = {"at": asdict(at) | {"next_group": at.next_group + len(again)}, "totals": asdict(log.totals)}
        learner.save(checkpoints, at.step, extra, cfg.keep_checkpoints)
        writing.append(at.next_group - len(pending))

    def written(wait: bool = False) -> None:
        if not writing:
            return
        first = writing.pop()  # before it is asked for: what has failed is not on disk, however often one asks
        if learner.saved(wait):
            finished.checkpoint(first)
        else:
            writing.append(first)

    spent = log.spent()
    end = at.step + len(again) // cfg.prompts_per_step if spent else cfg.steps
    saved = at.step
    pool.on_finished = finished.put
    try:
        with held():
            while at.step < end:
                ahead = min(1 + cfg.max_staleness, end - at.step) * cfg.prompts_per_step
                while len(pending) < ahead:
                    index = again.pop(0) if again else taskset.next_index()
                    turn = at.step + len(pending) // cfg.prompts_per_step  # the version that it will be trained from
                    if (group := finished.take(at.next_group, index, turn, cfg.max_staleness)) is not None:
                        pool.put(group)
                    else:
                        order(pool, taskset, index, at, cfg.group_size)
                    pending[at.next_group] = index
                    at.next_group += 1
                log.begin()
                batch = sorted(pending)[: cfg.prompts_per_step]
                with open_to():
                    beside = learner.overlap() if cfg.overlaps else None
                    groups = pool.take(batch, cfg.step_deadline_s, beside=beside)
                log.store_batch(at.step + 1, groups, learner, end)
                log.lap("rollout")
                learned = learner.step(groups, pool)
                log.lap("learner")
                at.step += 1
                probe = learner.sync(pool, at.step)
                log.lap("sync")
                for group in groups:
                    del pending[group.id]
                    taskset.observe(group.task_index, group.outcomes())
                reused = {"rollout/reused_groups": float(finished.reused)}
                log.step(at.step, groups, learned | taskset.metrics() | reused, probe)
                written()
                if not spent and (spent := log.spent()):
                    end = min(end, at.step + len(pending) // cfg.prompts_per_step)
                if at.step % cfg.checkpoint_every == 0 or at.step == end:
                    save()
                    saved = at.step
            written(wait=True)
    except KeyboardInterrupt:
        try:
            if saved < at.step and cfg.checkpoints_on(asked()):
                save()
            written(wait=True)
        except Exception as error:  # the signal has reached the learner too, or the disk is full
            print(f"no checkpoint of step {at.step}: {first_line(str(error))}; the steps since the last one run again")
        raise
    except (LearnerLost, StallError):  # nothing more comes of the learner, or the run has waited for long enough
        raise
    except Exception:
        with suppress(Exception):  # the learner's process ends with the run: what it is still writing would be lost
            written(wait=True)
        raise
    finally:
        pool.on_finished = None
        with suppress(Exception):  # what was put last may still be on its way to disk
            finished.flush()
        log.close()
    at.taskset, at.waiting = taskset.state_dict(), list(pending.values())
    finished.clear()
    log.totals.stop = spent or f"all {cfg.steps} steps are done"


def order(pool: RolloutPool, taskset: Taskset, index: int, at: Position, size: int) -> None:
    """Submit task ``index`` as the next group. A task that cannot be made is a group of masked rollouts
    (``task_error``): the run goes on with the others, and ``failed_steps`` ends one in which none can be made."""
    try:
        task = taskset.task(index)
    except Exception as error:  # whatever an author's code may raise
        nothing = GroupSpec(at.next_group, Task(taskset.task_id(index), taskset.family, ()), index, size, at.step)
        pool.put(skipped_group(nothing, TASK_ERROR, f"{explain(error)}\n{traceback.format_exc()}"))
        return
    pool.submit(GroupSpec(at.next_group, task, index, size, at.step))

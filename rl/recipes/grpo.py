"""GRPO for agents, the whole algorithm on one screen.

    admit tasks → groups of rollouts → reward → advantage → learner step → weights v+1 → workers

Groups are admitted ahead by at most ``max_staleness`` batches and trained in the order of their admission, so a
group is at most that many versions old when it is trained: with 0 rollouts and learner alternate (every batch is
on-policy), with n the workers sample up to n batches ahead. Nothing that was finished is thrown away for age, and slow
tasks are trained on as much as quick ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rl.rollout.worker import GroupSpec
from rl.run.batches import save_batch
from rl.tracking.metrics import rollout_metrics
from rl.tracking.rundir import RunDir, step_name
from rl.tracking.summary import event_counts
from rl.tracking.usage import add_tally, tally

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset
    from rl.learner.actor import LearnerHandle
    from rl.rollout.pool import RolloutPool
    from rl.run.ledger import StageMeter
    from rl.types import Group, Trajectory

OnStep = Callable[[int, dict[str, float], "list[Group]"], None]


@dataclass
class LoopState:
    """Where the loop is; stored in every checkpoint."""

    step: int = 0  # finished steps; also the policy version
    next_group: int = 0  # id of the next admitted group
    taskset: dict[str, Any] = field(default_factory=dict)
    tokens_sampled: int = 0
    tokens_trained: int = 0
    rollout_s: float = 0.0  # seconds the loop waited for rollouts
    sampling_s: float = 0.0  # seconds in which workers could sample: with staleness they do so beside the learner
    learner_s: float = 0.0
    sync_s: float = 0.0
    mismatch_max: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)  # rollout, learner: what a meter counted
    usage: dict[str, dict[str, int]] = field(default_factory=dict)  # tokens and solved rollouts by family
    stop: str = ""  # why the loop ended
    waiting: list[int] = field(default_factory=list)  # task indices admitted but not trained: run again on resume

    def summary(self) -> dict[str, Any]:
        """The loop's part of summary.json."""
        return {
            "steps": self.step,
            "stop_reason": self.stop,
            "tokens_sampled": self.tokens_sampled,
            "tokens_trained": self.tokens_trained,
            "rollout_tokens_per_s": round(self.tokens_sampled / max(self.sampling_s, 1e-9), 1),
            "learner_tokens_per_s": round(self.tokens_trained / max(self.learner_s, 1e-9), 1),
            "mismatch_max": self.mismatch_max,
            "time_s": {"rollout": self.rollout_s, "learner": self.learner_s, "sync": self.sync_s},
            "counts": self.counts,
            "failures": self.failures,
        }


def grpo(
    cfg: TrainConfig,
    pool: RolloutPool,
    learner: LearnerHandle,
    taskset: Taskset,
    run: RunDir,
    state: LoopState,
    on_step: OnStep,
    meter: StageMeter | None = None,
    stage: str = "grpo",
) -> None:
    """Run GRPO from ``state.step`` to ``cfg.steps``. ``learner`` is the learner actor's handle (``rl.learner.actor``).

    ``meter`` counts FLOPs and ends the loop when ``budget.rl_share`` is spent: what is admitted by then is still
    trained on (``max_staleness`` steps), nothing more is admitted. ``stage`` names the rows of metrics.jsonl.
    Every wait has a deadline. On return ``state`` is at the end and the workers hold the last weights.
    """
    pending: dict[int, int] = {}  # group id → task index, admitted and not yet trained
    finished: dict[int, Group] = {}  # collected, not yet trained
    redo = list(state.waiting)
    failed_in_a_row = 0
    state.waiting = []
    spent = meter.exhausted() if meter is not None else ""
    end = state.step + len(redo) // cfg.prompts_per_step if spent else cfg.steps
    while state.step < end:
        ahead = min(1 + cfg.max_staleness, end - state.step) * cfg.prompts_per_step
        while len(pending) < ahead:
            index = redo.pop(0) if redo else taskset.next_index()
            pool.submit(GroupSpec(state.next_group, taskset.task(index), index, cfg.group_size, state.step))
            pending[state.next_group] = index
            state.next_group += 1
        started = time.perf_counter()
        oldest = sorted(pending)[: cfg.prompts_per_step]
        while not finished.keys() >= set(oldest):
            finished |= {g.id: g for g in pool.collect(1, deadline_s=cfg.step_deadline_s)}
        groups = [finished.pop(i) for i in oldest]
        if cfg.tracking.saves_batch(state.step + 1, end):
            keep = cfg.tracking.keep_batches
            save_batch(run, state.step + 1, state.step, groups, cfg.rollout, learner.save_policy, keep)
        sampled = time.perf_counter()
        stats = learner.step(groups)
        trained = time.perf_counter()
        state.step += 1
        probe = learner.sync(pool, state.step)
        synced = time.perf_counter()
        engines = pool.stats()

        for group in groups:
            del pending[group.id]
            taskset.observe(group.task_index, group.outcomes())
        trajectories = [t for g in groups for t in g.trajectories]
        metrics = rollout_metrics(groups, state.step - 1) | stats | taskset.metrics()
        counts, failures = event_counts(trajectories)
        add(state.counts, counts)
        add(state.failures, failures)
        add_tally(state.usage, tally(trajectories))
        state.tokens_sampled += int(metrics["tokens/sampled"])
        state.tokens_trained += int(metrics["learner/tokens"])
        state.rollout_s += sampled - started
        sampling_s = (synced if cfg.max_staleness else sampled) - started
        state.sampling_s += sampling_s
        state.learner_s += trained - sampled
        state.sync_s += synced - trained
        state.mismatch_max = max(state.mismatch_max, metrics.get("mismatch/max", 0.0), probe)
        metrics |= {
            "time/rollout_s": sampled - started,
            "time/learner_s": trained - sampled,
            "time/sync_s": synced - trained,
            "time/step_s": synced - started,
            "mismatch/probe_max": probe,
            "tokens/sampled_total": float(state.tokens_sampled),
            "rollout/tokens_per_s": metrics["tokens/sampled"] / max(sampling_s, 1e-9),
            "rollout/prefix_hit_rate": engines["cached_prompt_tokens"] / max(engines["prompt_tokens"], 1.0),
            "rollout/restarted_workers": float(pool.counts["workers_restarted"]),
            "rollout/resubmitted_groups": float(pool.counts["groups_resubmitted"]),
        }
        if meter is not None:
            metrics |= meter.step(trajectories, metrics["learner/tokens"], engines)
            state.flops = dict(meter.flops)
            if not spent and (spent := meter.exhausted()):
                end = min(end, state.step + len(pending) // cfg.prompts_per_step)
        run.log_trajectories(step_name(state.step), trajectories, tokens=cfg.tracking.save_tokens)
        run.log_metrics(stage, state.step, metrics)
        failed_in_a_row = _count_failed(failed_in_a_row, trajectories, cfg.failed_steps)
        state.taskset = taskset.state_dict()
        state.waiting = list(pending.values())
        if state.step % cfg.checkpoint_every == 0 or state.step == end:
            learner.save(run.checkpoints, state.step, vars(state), cfg.keep_checkpoints)
        on_step(state.step, metrics, groups)
    state.stop = spent or f"all {cfg.steps} steps are done"


def _count_failed(so_far: int, trajectories: list[Trajectory], limit: int) -> int:
    """Steps in a row without a valid rollout; stops the run at ``limit`` of them with the reason."""
    if any(t.failure_kind is None for t in trajectories):
        return 0
    if so_far + 1 >= limit:
        t = trajectories[-1]
        raise RuntimeError(
            f"no valid rollout in {limit} steps (failed_steps={limit}); the last one, of task {t.task_id}, "
            f"failed with {t.failure_kind}: {t.failure_detail}"
        )
    return so_far + 1


def add(total: dict[str, int], more: dict[str, int]) -> None:
    """Add counts in place."""
    for key, value in more.items():
        total[key] = total.get(key, 0) + value

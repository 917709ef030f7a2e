"""The books of one GRPO stage: what a step sampled, trained and cost goes through ``StageLog.step`` and nowhere else.

trajectories/step_000012.jsonl, a row of metrics.jsonl, running totals (tokens, seconds, events, usage), the ledger of
FLOPs, and whoever listens (``on_step``: progress, wandb, summary.json). Files are written by a thread beside the loop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from rl.doctor.records import Settings, StepRecord
from rl.doctor.watch import Watch
from rl.policy.handover import PartsLost
from rl.rollout.losses import SKIPPED
from rl.run.batches import save_batch
from rl.run.beside import Beside
from rl.tracking.episodes import event_counts
from rl.tracking.failures import failure
from rl.tracking.findings import records_of
from rl.tracking.metrics import rollout_metrics
from rl.tracking.rundir import RunDir, step_name
from rl.tracking.usage import add_tally, tally
from rl.tracking.writer import Writer

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from rl.learner.actor import LearnerHandle
    from rl.rollout.pool import RolloutPool
    from rl.run.ledger import StageMeter
    from rl.types import Group, Trajectory

RECALLED = 3  # steps before a resume that detectors are shown
NAMED = 100  # skipped tasks that are named in the report, the last ones; all are counted
OnStep = Callable[[int, dict[str, float], "list[Group]"], None]


@dataclass
class Totals:
    """What a stage has sampled, trained and spent so far; stored in every checkpoint, next to the loop's position."""

    steps: int = 0
    tokens_sampled: int = 0
    tokens_trained: int = 0
    rollout_s: float = 0.0  # seconds the loop waited for rollouts
    sampling_s: float = 0.0  # seconds in which workers could sample: with staleness also while the learner works
    learner_s: float = 0.0  # seconds the learner worked, also while rollouts were awaited
    sync_s: float = 0.0
    mismatch_max: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)  # rollout, learner: what a meter counted
    usage: dict[str, dict[str, int]] = field(default_factory=dict)  # tokens and solved rollouts by family
    skipped: list[str] = field(default_factory=list)  # tasks that could not be made or lost their workers, and why
    stop: str = ""  # why the loop ended

    def summary(self) -> dict[str, Any]:
        """The stage's part of summary.json."""
        return {
            "steps": self.steps,
            "stop_reason": self.stop,
            "tokens_sampled": self.tokens_sampled,
            "tokens_trained": self.tokens_trained,
            "rollout_tokens_per_s": round(self.tokens_sampled / max(self.sampling_s, 1e-9), 1),
            "learner_tokens_per_s": round(self.tokens_trained / max(self.learner_s, 1e-9), 1),
            "mismatch_max": self.mismatch_max,
            "time_s": {"rollout": self.rollout_s, "learner": self.learner_s, "sync": self.sync_s},
            "counts": self.counts,
            "failures": self.failures,
            "skipped": self.skipped,
        }


class StageLog:
    """The log of one stage.

    Args:
        stage: names the rows of metrics.jsonl.
        files: trajectories, metrics and stored batches go there.
        totals: those of the checkpoint that the stage goes on from, else new ones.
        meter: counts FLOPs, and says when ``budget.rl_share`` is spent.
        on_step: told (step, metrics, groups) when a step is in the books.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        stage: str,
        files: RunDir,
        pool: RolloutPool,
        totals: Totals,
        meter: StageMeter | None = None,
        on_step: OnStep = lambda step, metrics, groups: None,
        restarts: int = 0,
    ) -> None:
        """``restarts``: of the learner, in this stage so far."""
        self.totals, self._restarts = totals, restarts
        self._cfg, self._stage, self._files, self._pool = cfg, stage, files, pool
        self._meter, self._on_step = meter, on_step
        self._laps: dict[str, float] = {}
        self._lap_began = 0.0
        self._failed_in_a_row = 0
        self._settings = Settings.of(cfg)
        self._watch = Watch()
        if totals.steps:  # a resume: detectors that compare steps know the last ones before it
            last = range(totals.steps - RECALLED + 1, totals.steps + 1)
            for record in records_of(files, stage, self._settings, last):
                self._watch.step(record)
        self._busy_s = self._busy(pool.stats())  # until the step before
        self.writer, self.beside = Writer(), Beside()  # threads of this process, and a process of its own

    def begin(self) -> None:
        """A step begins: its laps are timed from here; what has passed since the last one is its lap ``between``."""
        between = time.perf_counter() - self._lap_began if self._laps else 0.0
        self._laps, self._lap_began = {"between": between}, time.perf_counter()

    def lap(self, what: str) -> None:
        """The part ``what`` (rollout, learner, sync) of the step has ended."""
        now = time.perf_counter()
        self._laps[what], self._lap_began = now - self._lap_began, now

    def store_batch(self, step: int, groups: list[Group], learner: LearnerHandle, last: int) -> None:
        """Keep the batch of ``step`` with the weights before its update, if ``tracking.save_batch_every`` says so."""
        tracking = self._cfg.tracking
        if tracking.saves_batch(step, last):
            with suppress(PartsLost):  # the learner, which is next to want them, says so
                keep, policy = tracking.keep_batches, learner.save_policy
                save_batch(self._files, step, step - 1, groups, self._cfg.rollout, policy, keep, self.beside)

    def step(self, step: int, groups: list[Group], learned: Mapping[str, float], probe: Mapping[str, float]) -> None:
        """Enter step ``step``: its groups, the learner's and taskset's metrics, what the probe has found.

        Raises RuntimeError when ``failed_steps`` steps in a row had no valid rollout; it says why the last one failed.
        """
        trajectories = [t for g in groups for t in g.trajectories]
        engines = self._pool.stats()
        metrics = rollout_metrics(groups, step - 1) | dict(learned)
        metrics |= self._times(metrics["tokens/sampled"], metrics["learner/seconds"], engines)
        metrics |= probe
        self._add(step, trajectories, metrics)
        metrics |= {
            "tokens/sampled_total": float(self.totals.tokens_sampled),
            "rollout/prefix_hit_rate": metrics["usage/cached"] / max(metrics["usage/prompt"], 1.0),
            "rollout/restarted_workers": float(self._pool.counts["workers_restarted"]),
            "rollout/restarted_env_workers": float(self._pool.counts["env_workers_restarted"]),
            "learner/restarts": float(self._restarts),
            "rollout/resubmitted_groups": float(self._pool.counts["groups_resubmitted"]),
        }
        if self._meter is not None:
            taught = metrics.get("learner/tokens_taught", 0.0)
            metrics |= self._meter.step(trajectories, metrics["learner/tokens_distinct"], engines, taught)
            self.totals.flops = dict(self._meter.flops)
        for alarm in self._watch.step(StepRecord(step, metrics, groups, self._settings)):
            metrics[f"alarm/{alarm.detector.name}"] = 1.0
            if alarm.new:
                print(f"{self._stage}, step {step}: {alarm.sentence}", file=sys.stderr)
        self.writer.put(f"step {step}", partial(self._write, step, trajectories, metrics))
        self._check_failures(trajectories)
        self._on_step(step, metrics, groups)

    def flush(self) -> None:
        """Return when all that was entered is on disk. Raises what writing it raised."""
        self.writer.flush()

    def close(self) -> None:
        """``flush``; nothing is entered any more."""
        self.writer.close()

    def _write(self, step: int, trajectories: Sequence[Trajectory], metrics: Mapping[str, float]) -> None:
        self._files.log_trajectories(step_name(step), trajectories, tokens=self._cfg.tracking.save_tokens)
        self._files.log_metrics(self._stage, step, metrics)

    def spent(self) -> str:
        """Why the budget allows no further admission; empty while it does."""
        return self._meter.exhausted() if self._meter is not None else ""

    def _times(self, sampled: float, learner_s: float, engines: Mapping[str, float]) -> dict[str, float]:
        laps = self._laps
        whole = sum(laps.values())
        sampling_s = whole if self._cfg.max_staleness else laps["rollout"]
        before, self._busy_s = self._busy_s, self._busy(engines)
        self.totals.rollout_s += laps["rollout"]
        self.totals.sampling_s += sampling_s
        self.totals.learner_s += learner_s
        self.totals.sync_s += laps["sync"]
        return {f"time/{what}_s": seconds for what, seconds in laps.items()} | {
            "time/step_s": whole,
            # A worker that was replaced counts from 0 again.
            "time/rollout_busy_s": max(self._busy_s - before, 0.0),
            "rollout/tokens_per_s": sampled / max(sampling_s, 1e-9),
        }

    def _busy(self, engines: Mapping[str, float]) -> float:
        return engines["busy_s"] / self._cfg.rollout.players

    def _add(self, step: int, trajectories: list[Trajectory], metrics: Mapping[str, float]) -> None:
        totals = self.totals
        totals.steps = step
        counts, failures = event_counts(trajectories)
        add(totals.counts, counts)
        add(totals.failures, failures)
        named = {t.task_id: t for t in trajectories if t.failure_kind in SKIPPED}
        totals.skipped += [f"{name} ({t.failure_kind}): {failure(t.failure_detail)}" for name, t in named.items()]
        totals.skipped = totals.skipped[-NAMED:]
        add_tally(totals.usage, tally(trajectories))
        totals.tokens_sampled += int(metrics["tokens/sampled"])
        totals.tokens_trained += int(metrics["learner/tokens"])
        totals.mismatch_max = max(totals.mismatch_max, metrics.get("mismatch/max", 0.0), metrics["mismatch/probe_max"])

    def _check_failures(self, trajectories: Sequence[Trajectory]) -> None:
        if any(t.failure_kind is None for t in trajectories):
            self._failed_in_a_row = 0
            return
        self._failed_in_a_row += 1
        limit = self._cfg.failed_steps
        if self._failed_in_a_row >= limit:
            t = trajectories[-1]
            raise RuntimeError(
                f"no valid rollout in {limit} steps (failed_steps={limit}); the last one, of task {t.task_id}, "
                f"failed with {t.failure_kind}: {failure(t.failure_detail)}"
            )


def add(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts in place."""
    for key, value in more.items():
        total[key] = total.get(key, 0) + value

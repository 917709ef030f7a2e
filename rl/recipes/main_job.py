"""The main job:  base policy → cold start → held-out evaluation → GRPO → held-out evaluation → report.

With ``pipeline.enabled`` GRPO is specialists, their data, a distillation and a mixed GRPO
(``rl.recipes.v32_pipeline``), or specialists that teach one policy (``rl.recipes.v4_pipeline``); with
``self_verification.enabled`` it is a verifier and a prover in turn.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from envs.taskset import Taskset
    from rl.rollout.pool import RolloutPool
    from rl.run.job import Job
    from rl.run.stage_cache import StageResult
    from rl.tracking.rundir import RunDir


BEFORE, GRPO, AFTER, REPORT = "evaluation before", "GRPO", "evaluation after", "report"


def main_job(cfg: TrainConfig, rundir: RunDir, tasksets: dict[str, Taskset], about: dict[str, Any]) -> dict[str, Any]:
    """All stages of ``cfg`` in ``rundir``; returns the summary that is also in its summary.json.

    ``about``: what its summary begins with: ``reward`` (what it consists of, ``RewardComposer.describe``) and
    ``certificates`` of the families (``rl.run.certified``).
    """
    from rich.console import Console

    from envs.waiting import result_of
    from rl.recipes import self_verification as selfverify
    from rl.recipes import v4_pipeline, v32_pipeline
    from rl.recipes.cold_start import FIGURES
    from rl.recipes.policy_stages import BASE, COLD, base_stage, coldstart_stage
    from rl.recipes.stages import WORKERS, opening
    from rl.run.assemble import cluster, members_of, open_judge, open_pool
    from rl.run.job import Job, figures_of
    from rl.run.ledger import open_ledger
    from rl.run.room import cpus_beside_learner
    from rl.tracking.progress import Progress
    from rl.tracking.summary import summary_table
    from rl.tracking.usage import UsageBook
    from rl.tracking.wandb_log import WandbLog

    # A log file has no width: give the tables room instead of rich's 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(f"run [bold]{rundir.name}[/bold] · {rundir.path} · {describe(cfg)}", highlight=False)
    console.print(about["reward"], highlight=False, markup=False)
    summary = rundir.read_summary() | {"run": rundir.name, "seed": cfg.seed, **about}
    body, middle = plain, [BEFORE, GRPO, AFTER]
    if cfg.pipeline.enabled:
        made = v4_pipeline if cfg.pipeline.teaches else v32_pipeline
        body, middle = made.pipeline, made.stage_names(list(members_of(tasksets["train"])))
    if cfg.self_verification.enabled:
        body, middle = selfverify.self_verification, selfverify.stage_names(cfg.self_verification)
    stages = [BASE, COLD, WORKERS, *middle, REPORT]
    with (
        ExitStack() as ends,
        Progress(stages, console=console, plain_every_s=cfg.tracking.plain_every_s) as progress,
    ):
        cpus = cpus_beside_learner(cfg.rollout, cfg.judge, cfg.ray) + cfg.learner.ranks
        with cluster(cfg.ray, cpus, cfg.deterministic):
            base = base_stage(cfg, rundir, progress)
            ledger = open_ledger(cfg.budget, base.path, summary.get("compute", {}).get("stages"))
            usage = UsageBook(summary.get("usage", {}).get("stages"))
            # The engines start beside the cold start, from the base policy; they get the weights by the first sync.
            records = cfg.replay.indexer != "off"
            engine_start = partial(open_pool, cfg, base.path, tasksets, record_indexer=records)
            with (
                open_judge(cfg, base.path) as judge,
                opening(lambda given_up: engine_start(given_up=given_up)) as pool,
            ):
                wandb_log = WandbLog(cfg.tracking, rundir, asdict(cfg))  # a second, beside the engines' start
                ends.callback(wandb_log.finish)
                job = Job(cfg, rundir, tasksets, progress, wandb_log, ledger, summary, usage)
                start = coldstart_stage(cfg, base, tasksets["train"], rundir, progress, summary)
                if start != base:
                    ledger.put(COLD, "supervised", learner=ledger.cost.supervised(figures_of(start.path, FIGURES)))
                body(job, start, pool)
                if judge is not None:  # what it was asked is no trajectory's, so it has its own place
                    summary["judge"] = result_of(judge.stats())
        with progress.stage(REPORT):
            _finish(job)
    console.print(summary_table(summary, str(rundir.report)))
    if cfg.push_to_hub is not None:
        console.print(summary.get("push_failed") or f"uploaded: {summary['pushed']}", highlight=False, markup=False)
    return summary


def plain(job: Job, start: StageResult, opening: Future[RolloutPool]) -> None:
    """Evaluation, GRPO over all families, evaluation; the final policy is ``<run>/policy``."""
    from rl.recipes.evaluation_stage import evaluation_stage
    from rl.recipes.stages import grpo_stage, learner_of, workers

    with learner_of(job, start.path, job.rundir.path) as learner, workers(job, opening) as pool:
        before = evaluation_stage(job, BEFORE, "eval_before", pool, learner=learner, cache_key=start.key)
        job.summary["eval_before"] = before
        job.write()
        state = grpo_stage(job, GRPO, "grpo", job.cfg, learner, pool, job.tasksets["train"], job.rundir)
        learner.save_policy(job.rundir.path / "policy")
        job.summary["eval_after"] = evaluation_stage(job, AFTER, "eval_after", pool)
        job.summary |= state.summary() | {"workers": pool.stats()}


def _finish(job: Job) -> None:
    """summary.json, the model card, report.html; the upload last, when all that is to be kept is kept."""
    from rl.run.hub import push
    from rl.run.model_card import write_model_card
    from rl.tracking.report import write_report

    policy, hub_id = job.rundir.path / "policy", job.cfg.push_to_hub
    job.summary |= job.spent()
    job.rundir.write_summary(job.summary)
    write_model_card(policy, job.cfg, job.summary, describe(job.cfg))
    write_report(job.rundir)
    if hub_id is not None:
        try:
            job.summary["pushed"] = push(policy, hub_id, public=job.cfg.push_public)
        except ValueError as error:  # the run is whole without it
            job.summary["push_failed"] = str(error)
        job.rundir.write_summary(job.summary)
    job.wandb_log.log_summary(job.summary)


def describe(cfg: TrainConfig) -> str:
    """The plan in one line, in the four words of batch size."""
    plan = (
        f"{cfg.steps} steps of {cfg.prompts_per_step} prompts × {cfg.group_size} rollouts, "
        f"{cfg.learner.minibatches} minibatch(es), {cfg.rollout.workers} rollout worker(s)"
        + (f", {cfg.rollout.env_workers} environment worker(s)" if cfg.rollout.env_workers else "")
    )
    if cfg.self_verification.enabled:
        v = cfg.self_verification
        return (
            f"{v.iterations} iterations: verifier {v.verify_steps} steps of {v.verify_prompts} × {cfg.group_size}, "
            f"prover {v.prove_steps} steps of {v.prove_prompts} × {cfg.group_size}, labels for {v.label_problems} "
            f"problems × {v.label_samples}"
        )
    if not cfg.pipeline.enabled:
        return plan
    p = cfg.pipeline
    last = "on-policy distillation" if p.teaches else "mixed"
    return f"specialists: {p.specialist_steps} steps of {p.specialist_prompts} × {cfg.group_size}; {last}: {plan}"

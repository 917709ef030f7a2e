"""`rl-train`: the main job.

    base policy → cold start → held-out evaluation → GRPO → held-out evaluation → report

The stages are in ``rl.recipes.main_job``. Finished stages are cached under ``cache/`` and reused while nothing they
depend on changes; ``rl-train resume=<run>`` goes on from the last checkpoint of a run that was stopped.
"""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from rl.tracking.rundir import RunDir


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("train", run)


def run(cfg: TrainConfig, folder: RunDir | None = None) -> dict[str, Any]:
    """The whole job; returns the summary that is also in ``runs/<name>/summary.json``.

    ``folder``: of the new run, where it is there already (``new_folder``).
    Raises ConfigurationError before there is a run, RunStopped for what ends it later.
    """
    if cfg.plan:
        show_plan(cfg)
    from envs.mixture import families_of
    from rl.recipes.main_job import main_job
    from rl.recipes.stages import check_resume
    from rl.run.ahead import begun
    from rl.run.assemble import open_composer, open_tasksets
    from rl.run.certified import standings
    from rl.run.deadlines import check_deadlines
    from rl.run.driver_lock import driving
    from rl.run.ending import allow, asked
    from rl.run.errors import stopped, stopped_without_folder
    from rl.run.places import find_places
    from rl.run.preflight import (
        about_dtypes,
        about_renderer,
        check_environments,
        check_model,
        check_start,
        configuration,
    )
    from rl.run.ray_watch import telling
    from rl.run.room import about_places
    from rl.run.turn_limit import settle_turns
    from rl.tracking.rundir import RunDir

    resumed = cfg.resume is not None
    with ExitStack() as held:
        with configuration():  # before a run folder exists
            if resumed:
                cfg = stored_config(cfg)
            tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
            reward = open_composer(cfg.reward).describe()
            directory, renderer = check_start(cfg, families_of(tasksets["train"]))
            check_environments(
                tasksets["train"], renderer, thinking=cfg.rollout.thinking, context=cfg.rollout.context.policy
            )
            check_deadlines(cfg.rollout, tasksets["train"])
            said = [] if cfg.ray.address is not None else find_places(cfg.ray.object_store_mb)
            certificates, more = standings(tasksets["train"], cfg.certificate, cfg.certificates)
            said += more + settle_turns(cfg.rollout, tasksets["train"]) + about_dtypes(cfg) + about_renderer(renderer)
            said += about_places(cfg.rollout, cfg.ray)
            rundir = RunDir.existing(Path(cfg.runs_dir) / str(cfg.name)) if resumed else None
            if rundir is not None:
                held.enter_context(driving(rundir.path))
                damaged = check_resume(rundir, tasksets, cfg.learner.lora)
                said += [f"warning: {found}; the run goes on from the one before" for found in damaged]
        allow(cfg.stop_s)
        ray = held.enter_context(ExitStack())
        try:
            placing = ray.enter_context(begun(cfg))
        except Exception as error:
            made = folder if rundir is None else rundir
            why = stopped_without_folder(error) if made is None else stopped(made, error, resumed=resumed)
            raise why from error
        with configuration():  # still before it; what has begun loads its libraries meanwhile
            check_model(cfg, directory)
        for sentence in said:
            print(sentence)
        if rundir is None:
            rundir = new_run(cfg, folder)
            held.enter_context(driving(rundir.path))
        held.enter_context(telling(partial(stopped, rundir, resumed=resumed)))
        try:
            return main_job(cfg, rundir, tasksets, {"reward": reward, "certificates": certificates}, placing, ray)
        except KeyboardInterrupt:
            if (signum := asked()) is not None:
                print(f"ended by {signal.Signals(signum).name}; go on with resume={rundir.name}", file=sys.stderr)
            raise
        except Exception as error:
            raise stopped(rundir, error, resumed=resumed) from error


def show_plan(cfg: TrainConfig) -> NoReturn:
    """Print the plan of ``cfg``, and end: with 0 if it can be run, else with 1. Starts nothing, writes nothing.

    Raises ConfigurationError: no policy to plan for.
    """
    from rich.console import Console

    from rl.run.plan_table import print_plan
    from rl.run.preflight import configuration
    from rl.run.run_plan import judge_sizes, plan_of, sizes_of

    with configuration():
        if cfg.resume is not None:
            raise ValueError(
                f"plan=true with resume={cfg.resume}: a run that is there keeps its settings; leave one out"
            )
        sizes, refused = sizes_of(cfg.policy, cfg.base.source, cfg.base.vocab_size, cfg.base.index_precision)
        judge = judge_sizes(cfg.judge)
    plan = plan_of(cfg, sizes, refused, judge)
    print_plan(plan, cfg, Console() if sys.stdout.isatty() else Console(width=120))
    sys.exit(0 if plan.runs else 1)


def stored_config(cfg: TrainConfig) -> TrainConfig:
    """The configuration of the run that ``cfg.resume`` names."""
    from configs.schema import TrainConfig
    from envs.url_secrets import without_credentials
    from rl.commands.hydra import given_overrides
    from rl.run.credentials import restore
    from rl.run.preflight import stored_settings
    from rl.tracking.rundir import RunDir

    assert cfg.resume is not None
    given = [o for o in given_overrides() if o.partition("=")[0] not in ("resume", "runs_dir")]
    _reject(cfg.resume, [o for o in given if without_credentials(o) == o])
    rundir = RunDir.existing(Path(cfg.runs_dir) / cfg.resume)
    stored = stored_settings(rundir.path, TrainConfig)
    _reject(cfg.resume, restore(stored, cfg.resume, given))
    stored.name, stored.runs_dir = rundir.name, cfg.runs_dir
    return stored


def new_folder(cfg: TrainConfig) -> RunDir:
    """An empty folder for a run of ``cfg``. Raises ValueError when none can be made."""
    from rl.run.paths import output_directory
    from rl.tracking.rundir import RunDir

    output_directory("runs_dir", cfg.runs_dir)
    return RunDir.new(cfg.runs_dir, cfg.name or f"demo-{cfg.seed}")


def new_run(cfg: TrainConfig, folder: RunDir | None = None) -> RunDir:
    """A new run's directory with the resolved configuration in it; sets ``cfg.name`` to a name that was free."""
    from omegaconf import OmegaConf

    rundir = new_folder(cfg) if folder is None else folder
    cfg.name = rundir.name
    rundir.write_config(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    return rundir


def _reject(name: str, others: list[str]) -> None:
    """A resumed run keeps its own configuration, but for the passwords that are not in it: other overrides would be
    dropped without a word."""
    if others:
        raise ValueError(
            f"resume={name} goes on with the configuration in its config.yaml: leave out {' '.join(others)}"
        )


if __name__ == "__main__":
    main()

"""`rl-train`: the main job.

    base policy → cold start → held-out evaluation → GRPO → held-out evaluation → report

The stages are in ``rl.recipes.main_job``. Finished stages are cached under ``cache/`` and reused while nothing they
depend on changes; ``rl-train resume=<run>`` goes on from the last checkpoint of a run that was stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from rl.tracking.rundir import RunDir


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("train", run)


def run(cfg: TrainConfig) -> dict[str, Any]:
    """The whole job; returns the summary that is also in ``runs/<name>/summary.json``."""
    from rl.recipes.main_job import main_job
    from rl.run.assemble import members_of, open_composer, open_tasksets
    from rl.run.preflight import check_environments, check_start, configuration
    from rl.run.turn_limit import settle_turns
    from rl.tracking.rundir import RunDir

    resumed = cfg.resume is not None
    with configuration():  # before a run folder exists
        if resumed:
            cfg = stored_config(cfg)
        tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
        reward = open_composer(cfg.reward).describe()
        check_start(cfg, list(members_of(tasksets["train"])))
        check_environments(tasksets["train"])
        said = settle_turns(cfg.rollout, tasksets["train"])
    for sentence in said:
        print(sentence)
    rundir = RunDir.existing(Path(cfg.runs_dir) / str(cfg.name)) if resumed else new_run(cfg)
    return main_job(cfg, rundir, tasksets, reward)


def stored_config(cfg: TrainConfig) -> TrainConfig:
    """The configuration of the run that ``cfg.resume`` names."""
    from configs.schema import TrainConfig
    from rl.run.preflight import stored_settings
    from rl.tracking.rundir import RunDir

    assert cfg.resume is not None
    _reject_overrides(cfg.resume)
    rundir = RunDir.existing(Path(cfg.runs_dir) / cfg.resume)
    stored = stored_settings(rundir.path, TrainConfig)
    stored.name, stored.runs_dir = rundir.name, cfg.runs_dir
    return stored


def new_run(cfg: TrainConfig) -> RunDir:
    """A new run's directory with the resolved configuration in it; sets ``cfg.name`` to a name that was free."""
    from omegaconf import OmegaConf

    from rl.tracking.rundir import RunDir

    rundir = RunDir.new(cfg.runs_dir, cfg.name or f"demo-{cfg.seed}")
    cfg.name = rundir.name
    rundir.write_config(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    return rundir


def _reject_overrides(name: str) -> None:
    """A resumed run keeps its own configuration: other overrides would be dropped without a word."""
    from hydra.core.hydra_config import HydraConfig

    given = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    if others := [o for o in given if o.partition("=")[0] not in ("resume", "runs_dir")]:
        sys.exit(f"resume={name} goes on with the configuration in its config.yaml: leave out {' '.join(others)}")


if __name__ == "__main__":
    main()

"""`rl-pretrain`: makes a tiny base policy from nothing (``rl.recipes.pretrain``).

rl-pretrain                                 the shipped tiny base, made again in runs/base
rl-pretrain out=my_base env=search          on the demonstrations of one family
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import PretrainConfig


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("pretrain", run)


def run(cfg: PretrainConfig) -> None:
    from rl.commands.hydra import line_reporter
    from rl.learner.trainer import Means
    from rl.recipes.pretrain import pretrain
    from rl.run.assemble import cluster, open_taskset
    from rl.run.paths import output_directory
    from rl.run.preflight import check_environments, check_preset, configuration
    from rl.run.room import check_trainer_room

    with configuration():
        out = output_directory("out", cfg.out)
        check_preset(cfg.policy, cfg.learner.expert_parallel)
        taskset = open_taskset(cfg.env, "train", cfg.base.seed)
        check_environments(taskset)
        check_trainer_room(cfg.learner, cfg.ray)
    means = Means.of(cfg)
    with cluster(cfg.ray, means.actors):
        figures = pretrain(cfg.policy, cfg.base, taskset, out, line_reporter(), means)
    print(f"saved {cfg.out}: {figures['parameters']:,} parameters, {figures['trained_tokens']:,} tokens")


if __name__ == "__main__":
    main()

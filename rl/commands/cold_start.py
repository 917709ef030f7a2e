"""`rl-coldstart`: the cold start alone (``rl.recipes.cold_start``).

rl-coldstart out=runs/start                               from the shipped base
rl-coldstart out=runs/start coldstart.novice_share=0      perfect demonstrations
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import ColdStartRunConfig


def main() -> None:
    """Console entry point."""
    from rl.commands.hydra import hydra_main

    hydra_main("coldstart", run)


def run(cfg: ColdStartRunConfig) -> None:
    from rl.commands.hydra import line_reporter
    from rl.learner.trainer import Means
    from rl.recipes.cold_start import coldstart, notices
    from rl.run.assemble import cluster, open_taskset
    from rl.run.paths import output_directory
    from rl.run.preflight import (
        check_environments,
        check_shared_rows,
        configuration,
        start_directory,
        start_renderer,
    )
    from rl.run.room import check_trainer_room
    from rl.run.turn_limit import settle_turns

    with configuration():
        out = output_directory("out", cfg.out)
        base = start_directory(cfg.policy, cfg.base.source)
        if base is None:
            raise ValueError("base.source=scratch: there is no policy to start from; make one with rl-pretrain")
        if cfg.base.index_precision is not None:
            raise ValueError(
                f"base.index_precision={cfg.base.index_precision}: a cold start leaves that as it is; set "
                "index_precision in the policy's config.json, or use rl-train"
            )
        renderer = start_renderer(cfg.policy, base, cfg.rollout.retention)
        check_shared_rows(base, cfg.learner.context_parallel)
        taskset = open_taskset(cfg.env, "train", cfg.seed)
        check_environments(taskset, renderer, thinking=cfg.rollout.thinking)
        said = settle_turns(cfg.rollout, taskset)
        check_trainer_room(cfg.learner, cfg.ray)
    for sentence in said:
        print(sentence)
    out.mkdir(parents=True, exist_ok=True)
    means, report = Means.of(cfg), line_reporter()
    with cluster(cfg.ray, means.actors):
        figures = coldstart(base, cfg.coldstart, taskset, cfg.seed, out, report, renderer, cfg.rollout, means)
    for sentence in notices(figures, cfg.rollout):
        print(f"cold start: {sentence}")
    if "off" in figures:
        sys.exit(f"nothing was trained: {figures['off']}")
    print(f"saved {out}: demonstrations' outcome {figures['demo_outcome']}, loss {figures['final_loss']}")


if __name__ == "__main__":
    main()

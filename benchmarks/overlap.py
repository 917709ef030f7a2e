"""What it saves to work on groups as they finish (``learner.overlap``), with and without it in turns.

    python -m benchmarks.overlap

GRPO as `rl-train` does it, with the shipped base policy in place of the demo's cold start: one pool and one learner,
and blocks of ``--block`` steps without and with the overlap, in the order ABBA. Wall is the whole step, records and
weight sync included. Busy: a worker plays an episode, or the learner computes. The ratio of the wall to the larger of
the two says how long both waited for each other; 1 is the best there is. Further arguments are overrides of
`rl-train`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import markdown

STEP, ROLLOUT, LEARNER, SYNC, BETWEEN = (
    "time/step_s", "time/rollout_busy_s", "learner/seconds", "time/sync_s", "time/between_s",
)  # fmt: skip


def measured(staleness: int, block: int, turns: int, overrides: Sequence[str]) -> dict[bool, list[dict[str, Any]]]:
    """Rows of metrics.jsonl by whether they were made with the overlap; the first step of a block is left out: the
    engine starts anew, and with staleness so do the batches ahead."""
    from rl.commands.hydra import composed
    from rl.learner.actor import LearnerHandle
    from rl.recipes.grpo import Position, grpo
    from rl.run.assemble import TRAIN, cluster, open_pool, open_tasksets
    from rl.run.finished import FOLDER, FinishedGroups
    from rl.run.paths import resolve
    from rl.run.stage_log import StageLog, Totals
    from rl.tracking.rundir import RunDir

    given = [f"max_staleness={staleness}", "tracking.save_batch_every=0", "checkpoint_every=1000000", *overrides]
    cfg = composed("train", given)
    policy = resolve("pkg://rl.bases/tiny_dsa_base")
    tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder, cluster(cfg.ray, cfg.rollout.workers):
        files = RunDir(Path(folder) / "run")
        pool = open_pool(cfg, policy, tasksets)
        learner = LearnerHandle(cfg, policy, files.path)
        at = Position()
        try:
            learner.sync(pool, 0)
            for overlap in [turn % 4 in (1, 2) for turn in range(turns)]:
                began, cfg.learner.overlap, cfg.steps = at.step, overlap, at.step + block
                log = StageLog(cfg, "grpo", files, pool, Totals())
                finished = FinishedGroups(files.path / FOLDER, "", 2**30, 2)
                grpo(cfg, pool, learner, tasksets[TRAIN], at, log, files.checkpoints, finished)
                new = [row for row in files.read_metrics("grpo") if row["step"] > began + 1]
                rows[overlap] += new
                print(f"staleness {staleness}, overlap {overlap}: {sum(r[STEP] for r in new) / len(new):.1f} s a step")
        finally:
            learner.close()
            pool.close()
    return rows


def line(staleness: int, overlap: bool, rows: Sequence[dict[str, Any]]) -> list[str]:
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in (STEP, ROLLOUT, LEARNER, SYNC, BETWEEN)}
    ratio = mean[STEP] / max(mean[ROLLOUT], mean[LEARNER])
    return [f"{staleness}", "on" if overlap else "off", *(f"{value:.2f}" for value in mean.values()), f"{ratio:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Wall time of a step with and without learner.overlap.")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--block", type=int, default=4, help="steps with one setting, the first not counted")
    parser.add_argument("--turns", type=int, default=4, help="blocks, half of them each way")
    parser.add_argument("overrides", nargs="*", default=[], help="of rl-train")
    args = parser.parse_args()
    table = []
    for staleness in args.staleness:
        rows = measured(staleness, args.block, args.turns, args.overrides)
        table += [line(staleness, overlap, rows[overlap]) for overlap in (False, True)]
    head = (
        "staleness",
        "overlap",
        "step s",
        "rollouts busy s",
        "learner busy s",
        "sync s",
        "between s",
        "wall / busier",
    )
    print(markdown(head, table))


if __name__ == "__main__":
    main()

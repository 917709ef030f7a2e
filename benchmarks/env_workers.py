"""What it costs to play in an environment worker, beside playing in the engine's process: the same episodes, in turns.

    OMP_NUM_THREADS=1 python -m benchmarks.env_workers [--groups 8] [--rounds 6] [--envs 1] [overrides …]

One engine with the shipped base policy (the demo's settings and tasks, ``deterministic=true``, so that both ways sample
the same tokens) and ``--envs`` environment workers. Each round plays ``--groups`` groups of 8 both ways, the order
changing from round to round; the first one warms up. Wall seconds, and CPU seconds of the engine's process and of the
environment workers' together. Trajectories of both ways are compared; a difference ends it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.runs import markdown

if TYPE_CHECKING:
    from rl.types import Group

BASE = "pkg://rl.bases/tiny_dsa_base"
WAYS = ("in the engine's process", "in environment workers")


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of these processes so far."""
    import psutil

    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


def sampled(groups: Sequence[Group]) -> list[Any]:
    """Tokens and log-probs, to compare."""
    segments = [s for group in groups for t in group.trajectories for s in t.segments]
    return [(s.tokens.tolist(), s.logprobs.tolist(), s.versions.tolist()) for s in segments]


def measure(args: argparse.Namespace) -> list[tuple[str, str, str, str]]:
    import ray

    from rl.commands.hydra import composed
    from rl.rollout.orders import GroupSpec
    from rl.run.assemble import TRAIN, cluster, open_pool, open_tasksets
    from rl.run.paths import resolve
    from rl.run.room import cpus_beside_learner
    from rl.run.turn_limit import settle_turns

    overrides = [f"rollout.env_workers={args.envs}", "deterministic=true", "rollout.threads=1", *args.overrides]
    cfg = composed("train", overrides)
    tasksets = open_tasksets(cfg.env, cfg.seed, cfg.eval)
    settle_turns(cfg.rollout, tasksets[TRAIN])
    walls: tuple[list[float], list[float]] = ([], [])
    cpus: tuple[list[float], list[float]] = ([], [])
    turns = 0
    with (
        cluster(cfg.ray, cpus_beside_learner(cfg.rollout, cfg.judge, cfg.ray), True),
        closing(open_pool(cfg, resolve(BASE), tasksets)) as pool,
    ):
        engine = pool.crew.slots[0].actor
        pids = [*pool.pids(), *ray.get([slot.actor.pid.remote() for slot in pool.crew.players])]
        plays: tuple[Callable[[list[GroupSpec]], list[Group]], ...] = (
            lambda specs: ray.get([engine.run_group.remote(spec) for spec in specs]),
            lambda specs: pool.run(specs, 600.0),
        )
        for number in range(args.rounds + 1):
            first = number * args.groups
            specs = [GroupSpec(i, tasksets[TRAIN].task(i), i, 8, 0) for i in range(first, first + args.groups)]
            found = {}
            for way in (0, 1) if number % 2 == 0 else (1, 0):
                cpu, wall = cpu_s(pids), time.perf_counter()
                groups = plays[way](specs)
                wall = time.perf_counter() - wall
                found[way] = sampled(groups)
                if number:
                    walls[way].append(wall)
                    cpus[way].append(cpu_s(pids) - cpu)
            turns += sum(t.turns for group in groups for t in group.trajectories) if number else 0
            if found[0] != found[1]:
                raise SystemExit(f"round {number}: the two ways sampled different tokens")
    episodes = 8 * args.groups
    print(f"{episodes} episodes a round, {turns / args.rounds / episodes:.2f} turns each", file=sys.stderr)
    return [row(what, both, episodes) for what, both in (("wall", walls), ("CPU of all processes", cpus))]


def row(what: str, both: tuple[list[float], list[float]], episodes: int) -> tuple[str, str, str, str]:
    """Milliseconds an episode each way, and the ratio of the rounds."""
    ratios = [away / here for here, away in zip(*both, strict=True)]
    here, away = (f"{1e3 * median(seconds) / episodes:.1f}" for seconds in both)
    return what, here, away, f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=8, help="of 8 episodes, a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--envs", type=int, default=1, help="environment workers")
    parser.add_argument("overrides", nargs="*", help="of rl-train's settings")
    args = parser.parse_args(arguments)
    print(markdown(("ms an episode", *WAYS, "ratio, median (range)"), measure(args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

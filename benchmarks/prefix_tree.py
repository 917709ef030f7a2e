"""Learner steps on stored batches of runs: every segment by itself, or batches as prefix trees, in turns.

    OMP_NUM_THREADS=1 python -m benchmarks.prefix_tree [runs/demo ...]

A run's folder must hold batches (``tracking.save_batch_every``); without one the default `rl-train`, shortened to
``--steps`` steps, is run into ``--out`` first. Each batch is trained on from the weights that it was sampled with, by
``Learner.step`` whole: packing, forward and backward passes, optimiser. Seconds are CPU seconds of one thread, to which
other work on the machine does not add. The gradients of both are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.runs import markdown, train
from rl.learner.config import LearnerConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.loading import load_policy
from rl.run.batches import StoredBatch, load_batch, stored_steps
from rl.tracking.rundir import RunDir


class Timed:
    """A learner that is put back to where it began before every step."""

    def __init__(self, batch: StoredBatch, share: bool, **changes: Any) -> None:
        settings = LearnerConfig(threads=1, share_prefixes=share, **changes)
        self.learner = Learner(load_policy(batch.policy), settings, ObjectiveConfig(), batch.policy.parent)
        self.learner.version = batch.version
        self.state = {name: value.clone() for name, value in self.learner.policy.module.state_dict().items()}
        self.optimizer = self.learner.optimizer
        self.gradient = torch.zeros(0)
        self.step, self.optimizer.step = self.optimizer.step, self._note  # type: ignore[method-assign]

    def _note(self, loss: float) -> dict[str, float]:
        grads = [p.grad.flatten() for p in self.learner.policy.module.parameters() if p.grad is not None]
        self.gradient = torch.cat(grads)
        return self.step(loss)

    def run(self, batch: StoredBatch) -> tuple[float, dict[str, float]]:
        """CPU seconds of a step on ``batch``, and its metrics."""
        self.learner.policy.module.load_state_dict(self.state)
        started = time.process_time()
        metrics = self.learner.step(batch.groups)
        return time.process_time() - started, metrics


def compare(name: str, batch: StoredBatch, turns: int, **changes: Any) -> list[str]:
    """A row of the table."""
    flat, tree = Timed(batch, False, **changes), Timed(batch, True, **changes)
    seconds: list[tuple[float, float]] = []
    for turn in range(turns + 1):
        one, before = flat.run(batch)
        other, after = tree.run(batch)
        if turn:  # the first warms up
            seconds.append((one, other))
    ratios = [a / b for a, b in seconds]
    difference = float((flat.gradient - tree.gradient).norm() / flat.gradient.norm())
    losses = abs(before["loss/total"] - after["loss/total"])
    return [
        name, f"{before['learner/tokens']:,.0f}", f"{after['learner/tokens_distinct']:,.0f}",
        f"{after['learner/sharing']:.2f}", *(f"{statistics.median(s):.2f}" for s in np.transpose(seconds)),
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", f"{losses:.0e}",
        f"{difference:.0e}",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs; default: a short one is made")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of the run that is made")
    parser.add_argument("--out", type=Path, default=Path("benchmark_runs"))
    parser.add_argument("--lora", type=int, default=0, help="train an adapter of this rank")
    args = parser.parse_args()
    if not args.runs:
        print(train("prefix-tree", [f"steps={args.steps}"], args.out), file=sys.stderr)
        args.runs = [args.out / "prefix-tree"]
    changes: dict[str, Any] = {}
    if args.lora:
        from rl.learner.config import LoraConfig

        changes["lora"] = LoraConfig(rank=args.lora)
    rows = []
    for path in args.runs:
        run = RunDir(path)
        for step in stored_steps(run):
            name = f"{path.name}, step {step}"
            rows.append(compare(name, load_batch(run, step), args.turns, **changes))
            print(" · ".join(rows[-1]), file=sys.stderr, flush=True)
    head = ["batch", "tokens", "distinct", "sharing", "flat, s", "tree, s", "ratio, median (range)"]
    print(markdown([*head, "losses differ by", "gradients differ by"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

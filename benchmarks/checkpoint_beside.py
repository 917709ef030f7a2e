"""How long a learner waits for a checkpoint that is written now, and for one that is written beside its training.

    python -m benchmarks.checkpoint_beside                     109M parameters; seconds, in turns, and their ratio

One process with the float32 weights of a random DSA/MoE policy and AdamW's moments. "Waits" is until its next call can
begin; with ``checkpoint_async`` that is the copy alone, and the file is there later (last column).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.small_policy import markdown
from rl.learner.config import LearnerConfig
from rl.learner.process import LearnerProcess
from rl.objective.config import ObjectiveConfig

SHAPE: dict[str, Any] = {
    "num_hidden_layers": 6, "hidden_size": 768, "intermediate_size": 2048, "moe_intermediate_size": 512,
    "n_routed_experts": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
}  # fmt: skip


def learner(folder: Path) -> LearnerProcess:
    """With moments, as after a step."""
    policy = {"preset": "tiny_dsa", "vocab_size": 32_000, "overrides": SHAPE}
    process = LearnerProcess(policy, LearnerConfig(threads=1), ObjectiveConfig(), str(folder))
    optimizer = process.learner.optimizer
    for parameter in optimizer.parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(0.0)
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        process = learner(Path(name))
        size = sum(p.numel() for p in process.learner.policy.module.parameters())
        waits: dict[bool, list[float]] = {False: [], True: []}
        there: list[float] = []
        for number in range(1, 2 * args.rounds + 1):
            beside, began = number % 2 == 0, time.perf_counter()
            process.save_checkpoint(f"{name}/c", number, keep=1, beside=beside)
            waits[beside].append(time.perf_counter() - began)
            process.checkpoint_written(wait=True)
            if beside:
                there.append(time.perf_counter() - began)
    now, copied = median(waits[False]), median(waits[True])
    print(f"{size / 1e6:.0f}M parameters, median of {args.rounds} (range)\n")
    rows = [
        ("written now", _cell(waits[False]), "1", _cell(waits[False])),
        ("beside the training", _cell(waits[True]), f"{copied / now:.2f}", _cell(there)),
    ]
    print(markdown(("checkpoint", "learner waits, s", "of the first", "on disk after, s"), rows))


def _cell(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


if __name__ == "__main__":
    main()

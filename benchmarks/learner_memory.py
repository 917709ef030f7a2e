"""Memory and time of one learner step of a dense model of SmolLM2-135M's shape, with each memory switch and with an
adapter beside full training; bytes of a weight sync and of a checkpoint.

    OMP_NUM_THREADS=1 python -m benchmarks.learner_memory
    OMP_NUM_THREADS=1 python -m benchmarks.learner_memory --rows adapter

Random weights, 64 sequences of 128 tokens of which 32 are sampled (8,192 tokens a step). Every row is a process of its
own: memory is the peak resident set above that of the process with model, gradients and optimiser state; seconds are
CPU seconds of forward, backward and the optimiser, of the second step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

_SMALL = {"max_tokens_per_microbatch": 2048}
ROWS: dict[str, dict[str, Any]] = {
    "8,192 tokens a pass": {"max_tokens_per_microbatch": 8192},
    "the same, recompute": {"max_tokens_per_microbatch": 8192, "recompute": True},
    "the same, recompute, head_rows=256": {"max_tokens_per_microbatch": 8192, "recompute": True, "head_rows": 256},
    "2,048 tokens a pass": {"max_tokens_per_microbatch": 2048},
    "2,048, recompute, head_rows=256": {**_SMALL, "recompute": True, "head_rows": 256},
    "2,048, full training": _SMALL,
    "2,048, adapter of rank 32": {**_SMALL, "lora": 32},
    "2,048, full training, bfloat16": {**_SMALL, "compute_dtype": "bfloat16"},
    "2,048, adapter of rank 32, bfloat16": {**_SMALL, "compute_dtype": "bfloat16", "lora": 32},
}
SETS = {"memory": list(ROWS)[:5], "adapter": list(ROWS)[5:]}
SEQUENCES, LENGTH, SAMPLED = 64, 128, 32


def measure(settings: dict[str, Any], layers: int) -> dict[str, float]:
    """One row, in this process."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from envs.types import StopReason
    from rl.learner.checkpoint import save_checkpoint
    from rl.learner.config import LearnerConfig, LoraConfig, ReplayConfig
    from rl.learner.learner import Learner
    from rl.objective.config import ObjectiveConfig
    from rl.policy.hf import HFPolicy
    from rl.policy.packed_weights import pack, packed_bytes
    from rl.types import Group, Segment, Trajectory

    torch.manual_seed(0)
    settings = settings | {"lora": LoraConfig(rank=settings.get("lora", 0))}
    begin = _resident()
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    policy = HFPolicy(LlamaForCausalLM(config))
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            policy, LearnerConfig(threads=1, **settings), ObjectiveConfig(), folder, replay=ReplayConfig(routing="off")
        )
        rng = np.random.default_rng(0)

        def step(sequences: int) -> None:
            items = []
            for i in range(sequences):
                tokens = rng.integers(0, 49152, LENGTH).astype(np.int32)
                mask = np.arange(LENGTH) >= LENGTH - SAMPLED
                logprobs = np.where(mask, -10.8, 0.0).astype(np.float32)
                segment = Segment(tokens, mask, logprobs, np.where(mask, 0, -1).astype(np.int32))
                items.append(Trajectory(str(i), "t", "f", [segment], [], StopReason.ANSWERED, float(i % 2), {}))
            learner.step([Group(0, 0, "t", "f", 0, items)])

        step(2)  # gradients and optimiser state are there from now on
        before, started = _resident(), time.process_time()
        step(SEQUENCES)
        seconds, peak = time.process_time() - started, _peak()
        sent = packed_bytes(pack(learner.compute.policy.weights()))
        path = save_checkpoint(f"{folder}/checkpoints", learner, 1)
        stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "held_mib": (before - begin) / 2**20, "mib": (peak - before) / 2**20, "seconds": seconds,
        "sync_mb": sent / 1e6, "checkpoint_mb": stored / 1e6,
    }  # fmt: skip


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory of a learner step.")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rows", choices=SETS, default="memory")
    parser.add_argument("--row", help="measure this one and print it as JSON")
    args = parser.parse_args()
    if args.row is not None:
        print(json.dumps(measure(ROWS[args.row], args.layers)))
        return 0
    print("| a step of 8,192 tokens | model, gradients, optimiser | peak above that | CPU s | a sync | a checkpoint |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in SETS[args.rows]:
        command = [sys.executable, "-m", "benchmarks.learner_memory", "--row", name, "--layers", str(args.layers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        figures = f"{found['held_mib']:,.0f} MiB | {found['mib']:,.0f} MiB | {found['seconds']:.0f}"
        print(f"| {name} | {figures} | {found['sync_mb']:,.0f} MB | {found['checkpoint_mb']:,.0f} MB |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Forward and backward of a batch of groups, prompts computed once or once per rollout, in turns.

    OMP_NUM_THREADS=1 python -m benchmarks.shared_prefix

A dense model of SmolLM2-135M's shape with fewer layers and random weights; 12 groups of 8 rollouts. Seconds are CPU
seconds; the gradients of both are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from unittest import mock

import numpy as np
import torch

from rl.policy.hf import HFPolicy

SHAPES = ((100, 8), (60, 40), (30, 90))  # tokens of a prompt, of a rollout's own (half to one and a half)


def batch(prompt: int, own: int) -> tuple[torch.Tensor, list[int]]:
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(12):
        start = rng.integers(0, 49152, prompt)
        lengths = rng.integers(own // 2, own + own // 2, 8)
        sequences += [np.concatenate((start, rng.integers(0, 49152, n))) for n in lengths]
    bounds = [0, *np.cumsum([len(s) for s in sequences]).tolist()]
    return torch.from_numpy(np.concatenate(sequences)), bounds


def run(policy: HFPolicy, tokens: torch.Tensor, bounds: list[int]) -> tuple[float, torch.Tensor]:
    """CPU seconds, and the whole gradient."""
    policy.module.zero_grad()
    started = time.process_time()
    hidden = policy.packed_hidden(tokens, bounds)
    (hidden * torch.linspace(-1, 1, hidden.shape[1])).sum().backward()
    seconds = time.process_time() - started
    return seconds, torch.cat([p.grad.flatten() for p in policy.module.parameters() if p.grad is not None])


def main() -> int:
    parser = argparse.ArgumentParser(description="Shared prompts once or once per rollout.")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=args.layers,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    policy = HFPolicy(LlamaForCausalLM(config))
    print("| prompt + own tokens | tokens | flat, s | shared, s | ratio, median (range) | gradients differ by |")
    print("|---|---:|---:|---:|---:|---:|")
    for prompt, own in SHAPES:
        tokens, bounds = batch(prompt, own)
        flat, shared, difference = [], [], 0.0
        for turn in range(args.turns + 1):
            with mock.patch("rl.policy.hf.find_shared", return_value=[]):
                one, gradient = run(policy, tokens, bounds)
            other, mine = run(policy, tokens, bounds)
            difference = max(difference, float((gradient - mine).norm() / gradient.norm()))
            if turn:  # the first warms up
                flat.append(one)
                shared.append(other)
        ratios = [a / b for a, b in zip(flat, shared, strict=True)]
        print(
            f"| {prompt} + {own} | {len(tokens):,} | {statistics.median(flat):.2f} | {statistics.median(shared):.2f} | "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | {difference:.0e} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

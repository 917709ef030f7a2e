"""Forward and backward of groups through a model of transformers, prompts once or once per rollout, in turns.

    OMP_NUM_THREADS=1 python -m benchmarks.shared_prefix [--experts]

A dense model of SmolLM2-135M's shape, or a Qwen3-MoE of its width, with fewer layers and random weights; 12 groups of 8
rollouts. Seconds are CPU seconds; the gradients of both are compared. Our own model: ``benchmarks.prefix_tree``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch

from rl.policy.api import CuSeqlens
from rl.policy.hf import HFPolicy
from rl.policy.prefix_tree import PrefixTree, by_prefix, row_bytes

SHAPES = ((100, 8), (60, 40), (30, 90))  # tokens of a prompt, of a rollout's own (half to one and a half)


def batch(prompt: int, own: int) -> tuple[torch.Tensor, PrefixTree]:
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(12):
        start = rng.integers(0, 49152, prompt)
        lengths = rng.integers(own // 2, own + own // 2, 8)
        sequences += [np.concatenate((start, rng.integers(0, 49152, n))) for n in lengths]
    order, shared = by_prefix([row_bytes([s]) for s in sequences])
    bounds = [0, *np.cumsum([len(sequences[i]) for i in order]).tolist()]
    return torch.from_numpy(np.concatenate([sequences[i] for i in order])), PrefixTree(bounds, shared)


def run(policy: HFPolicy, tokens: torch.Tensor, layout: CuSeqlens) -> tuple[float, torch.Tensor]:
    """CPU seconds, and the whole gradient."""
    policy.module.zero_grad()
    started = time.process_time()
    hidden = policy.packed_hidden(tokens, layout)
    (hidden * torch.linspace(-1, 1, hidden.shape[1])).sum().backward()
    seconds = time.process_time() - started
    return seconds, torch.cat([p.grad.flatten() for p in policy.module.parameters() if p.grad is not None])


def main() -> int:
    parser = argparse.ArgumentParser(description="Shared prompts once or once per rollout.")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--experts", action="store_true", help="a Qwen3-MoE, 2 of 16 experts of width 512")
    args = parser.parse_args()
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    shape: dict[str, Any] = dict(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=args.layers,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    if args.experts:
        experts = Qwen3MoeConfig(
            **shape, head_dim=64, moe_intermediate_size=512, num_experts=16, num_experts_per_tok=2, norm_topk_prob=True
        )
        policy = HFPolicy(Qwen3MoeForCausalLM(experts))
    else:
        policy = HFPolicy(LlamaForCausalLM(LlamaConfig(**shape)))
    head = "| prompt + own tokens | tokens | distinct | flat, s | shared, s | ratio, median (range) |"
    print(head + " gradients differ by |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for prompt, own in SHAPES:
        tokens, tree = batch(prompt, own)
        flat, shared, difference = [], [], 0.0
        for turn in range(args.turns + 1):
            one, gradient = run(policy, tokens, tree.bounds)
            other, mine = run(policy, tokens, tree)
            difference = max(difference, float((gradient - mine).norm() / gradient.norm()))
            if turn:  # the first warms up
                flat.append(one)
                shared.append(other)
        ratios = [a / b for a, b in zip(flat, shared, strict=True)]
        print(
            f"| {prompt} + {own} | {len(tokens):,} | {tree.nodes:,} | {statistics.median(flat):.2f} | "
            f"{statistics.median(shared):.2f} | "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | {difference:.0e} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Learner steps on one GPU: tokens/s, share of the card's peak (MFU) and peak memory against length and switches.

    python -m benchmarks.gpu                                    a dense and a DSA/MoE model of about 150 million weights
    python -m benchmarks.gpu --peak-tflops 989 --lengths 1024,8192,32768

Needs torch, transformers and a CUDA device; peft for the rows with an adapter. FLOPs by ``rl.policy.flops`` (6 N per
token and the attention); ``--peak-tflops``: the card's, for the dtype (H100 SXM: 989 in bfloat16). Prints a table with
the name of the card for docs/results.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch

from envs.types import StopReason
from rl.learner.config import LearnerConfig, LoraConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.flops import CostModel
from rl.policy.hf import HFPolicy
from rl.policy.loading import build_policy
from rl.types import Group, ReplayRecord, Segment, Trajectory

VOCAB = 32_000
SWITCHES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"compute_dtype": "bfloat16"},
    "bfloat16, recompute": {"compute_dtype": "bfloat16", "recompute": True, "head_rows": 2048},
    "bfloat16, recompute, triton": {"compute_dtype": "bfloat16", "recompute": True, "ops": "triton"},
    "bfloat16, recompute, offload": {
        "compute_dtype": "bfloat16", "recompute": True, "head_rows": 2048, "offload_optimizer": True,
    },
    "bfloat16, recompute, LoRA 32": {
        "compute_dtype": "bfloat16", "recompute": True, "head_rows": 2048, "lora": LoraConfig(rank=32),
    },
}  # fmt: skip
DSA: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 2048, "moe_intermediate_size": 512, "num_hidden_layers": 8,
    "n_routed_experts": 16, "num_attention_heads": 12, "num_key_value_heads": 12, "q_lora_rank": 384,
    "kv_lora_rank": 256, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "index_n_heads": 8,
    "index_head_dim": 64, "index_topk": 512,
}  # fmt: skip


def policy_of(kind: str) -> Policy:
    if kind == "dsa":
        return build_policy({"preset": "tiny_dsa", "vocab_size": VOCAB, "overrides": DSA})
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=768, intermediate_size=2048, num_hidden_layers=16, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=131_072,
    )  # fmt: skip
    return HFPolicy(LlamaForCausalLM(config))


def group_of(length: int, tokens: int, version: int) -> Group:
    """Rollouts of ``length`` random tokens, the last half sampled, ``tokens`` in all; no experts are recorded."""
    rng = np.random.default_rng(version)
    trajectories = []
    for i in range(max(2, tokens // length)):
        ids = rng.integers(0, VOCAB, length).astype(np.int32)
        mask = np.arange(length) >= length // 2
        logprobs = np.where(mask, -np.log(VOCAB), 0.0).astype(np.float32)
        versions = np.where(mask, version, -1).astype(np.int32)
        segment = Segment(ids, mask, logprobs, versions, ReplayRecord(np.zeros(length, bool)))
        trajectories.append(Trajectory(str(i), "t", "f", [segment], [], StopReason.ANSWERED, float(i % 2), {}))
    return Group(0, 0, "t", "f", version, trajectories)


def measure(kind: str, length: int, settings: dict[str, Any], steps: int, device: str) -> tuple[float, float, float]:
    """(tokens a second, FLOPs a second, peak GiB) of the learner's steps, the first left out."""
    policy = policy_of(kind)
    cost = CostModel.of(policy.module.config)
    policy.module.to(device)
    tokens = max(2 * length, 16_384)
    config = LearnerConfig(max_tokens_per_microbatch=max(length, 16_384), skip_zero_advantage=False, **settings)
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(policy, config, ObjectiveConfig(), folder, replay=ReplayConfig(routing="off"))
        learner.step([group_of(length, tokens, 0)])
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        seconds = done = 0.0
        for version in range(1, steps + 1):
            group = group_of(length, tokens, version)
            started = time.perf_counter()
            learner.step([group])
            if device == "cuda":
                torch.cuda.synchronize()
            seconds += time.perf_counter() - started
            done += sum(len(t.segments[0].tokens) for t in group.trajectories)
    flops = cost.training(cost.sequence(length).scaled(done))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return done / seconds, flops / seconds, peak


def main() -> int:
    parser = argparse.ArgumentParser(description="Learner steps on one GPU.")
    parser.add_argument("--lengths", default="1024,4096,16384")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, help="of the card; without it no MFU is printed")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: no CUDA device; this benchmark says nothing about a CPU", file=sys.stderr)
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {args.steps} steps a row\n")
    print("| model | length | switches | tokens/s | TFLOP/s | MFU | peak GiB |\n|---|---:|---|---:|---:|---:|---:|")
    for kind in ("dense", "dsa"):
        for length in map(int, args.lengths.split(",")):
            for name, settings in SWITCHES.items():
                try:
                    rate, flops, peak = measure(kind, length, settings, args.steps, "cuda")
                except torch.cuda.OutOfMemoryError:
                    print(f"| {kind} | {length:,} | {name} | out of memory | | | |", flush=True)
                    continue
                share = f"{flops / args.peak_tflops / 1e12:.0%}" if args.peak_tflops else ""
                row = f"{rate:,.0f} | {flops / 1e12:.1f} | {share} | {peak:.1f}"
                print(f"| {kind} | {length:,} | {name} | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

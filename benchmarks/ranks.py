"""Learner steps of one process and of several ranks, in turns, on the same batch: seconds and memory.

    python -m benchmarks.ranks [--ranks 2] [--threads 2]
    python -m benchmarks.ranks --long 4096 --layers 6 [--demo]

With ``--long``: of several ranks that take long sequences whole, one each, and of the same ranks when all of them share
each (``learner.context_parallel``), with micro-batches of as many tokens a rank less.

Both are what a run starts (``rl.learner.group``): Ray actors on this machine, over gloo. The policy: a dense model of
SmolLM2-135M's shape with fewer layers and random weights, or the shipped one (``--demo``), its experts chosen anew. The
threads are shared out: one process has all of them, each rank its part. Seconds are the driver's, from the call to the
end of the optimiser step on every rank. Memory is each process's largest, by the kernel, and how much more that is than
what it held before its first step. Gradients' norms are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.runs import markdown
from envs.types import StopReason
from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.group import LearnerGroup
from rl.learner.process import start_learner
from rl.objective.config import ObjectiveConfig
from rl.types import Group, Segment, Trajectory

DEADLINE_S = 1200.0


def groups(vocabulary: int, prompt: int, own: int, seed: int, long: int = 0, ranks: int = 1) -> list[Group]:
    """12 groups of 8 rollouts: tokens of a prompt, and of a rollout's own (half to one and a half). With ``long``: one
    group of a rollout of so many tokens for each rank."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(1 if long else 12):
        start = rng.integers(0, vocabulary, prompt)
        rollouts = []
        for i in range(ranks if long else 8):
            more = long - prompt if long else rng.integers(own // 2, own + own // 2)
            tokens = np.concatenate((start, rng.integers(0, vocabulary, more)))
            mask = np.arange(len(tokens)) >= prompt
            logprobs = np.where(mask, -np.log(vocabulary), 0.0).astype(np.float32)
            versions = np.where(mask, 0, -1).astype(np.int32)
            segment = Segment(tokens.astype(np.int32), mask, logprobs, versions)
            rollouts.append(Trajectory(f"{n}-{i}", "t", "f", [segment], [], StopReason.ANSWERED, float(i % 2), {}))
        made.append(Group(n, n, f"t{n}", "f", 0, rollouts))
    return made


def dense(folder: Path, layers: int) -> int:
    """A random policy of SmolLM2-135M's shape with so many layers, in ``folder``; returns its parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def memory(group: LearnerGroup, name: str) -> list[float]:
    """Resident memory of each process of ``group``, GB: "VmRSS" now, "VmHWM" the largest since ``begin_peaks``."""
    found = []
    for pid in pids(group):
        status = Path(f"/proc/{pid}/status").read_text()
        found.append(int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e9)
    return found


def begin_peaks(group: LearnerGroup) -> list[float]:
    """The largest so far is what is there now, from now on; GB."""
    for pid in pids(group):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory(group, "VmRSS")


def pids(group: LearnerGroup) -> list[int]:
    import ray

    found: list[int] = ray.get([rank.pid.remote() for rank in group._ranks])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Learner steps of one process and of several ranks, in turns.")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of one process, and of all ranks together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--prompt", type=int, default=100, help="tokens that the rollouts of a group begin with")
    parser.add_argument("--own", type=int, default=40, help="tokens of each rollout's own, in the mean")
    parser.add_argument("--tokens", type=int, default=2048, help="of a micro-batch")
    parser.add_argument("--long", type=int, default=0, help="tokens of long rollouts, which the ranks share, or not")
    parser.add_argument("--demo", action="store_true", help="the shipped base policy instead of a dense one")
    args = parser.parse_args()
    from configs.schema import RayConfig
    from rl.run.assemble import cluster
    from rl.run.paths import resolve

    with tempfile.TemporaryDirectory() as folder, cluster(RayConfig(object_store_mb=400), 2 * args.ranks):
        place = Path(folder) / "policy"
        if args.demo:
            policy, what = resolve("pkg://rl.bases/tiny_dsa_base"), "the shipped base policy"
            vocabulary = json.loads((policy / "config.json").read_text())["vocab_size"]
        else:
            millions = dense(place, args.layers) / 1e6
            policy, vocabulary, what = place, 49152, f"a dense model of {millions:.0f}M parameters"
        batch = groups(vocabulary, args.prompt, args.own, 0, args.long, args.ranks)
        tried = {name: start_group(str(policy), args, name, folder) for name in ways(args)}
        seconds: dict[str, list[float]] = {name: [] for name in tried}
        before = {name: begin_peaks(group) for name, group in tried.items()}
        metrics: dict[str, dict[str, float]] = {}
        for round_ in range(args.rounds + 1):
            for name in sorted(tried, reverse=bool(round_ % 2)):
                stored = tried[name].put(batch)
                started = perf_counter()
                done: dict[str, Any] = tried[name].get("a step", tried[name].call("step", stored), DEADLINE_S)
                if round_ == 0:
                    metrics[name] = done
                else:  # the first step loads and allocates
                    seconds[name].append(perf_counter() - started)
        held = {name: memory(group, "VmHWM") for name, group in tried.items()}
        for group in tried.values():
            group.kill()
    first, second = ways(args)
    one, several = metrics[first], metrics[second]
    print(
        f"{what}: {one['learner/tokens']:.0f} tokens, {one['learner/tokens_distinct']:.0f} distinct; micro-batches: "
        f"{one['learner/microbatches']:.0f} of {first}, {several['learner/microbatches']:.0f} of {second}; norm of the "
        f"gradient {one['learner/grad_norm']:.6g} and {several['learner/grad_norm']:.6g}\n"
    )
    rows = [
        [
            name, str(threads(args, name)), f"{median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}",
            ", ".join(f"{peak:.2f}" for peak in held[name]),
            ", ".join(f"{most - at:.2f}" for most, at in zip(held[name], before[name], strict=True)),
        ]
        for name, values in seconds.items()
    ]  # fmt: skip
    head = ["", "threads each", "median s", "fastest", "slowest", "GB at most, each process", "above the start"]
    print(markdown(head, rows))
    print(f"\nmedian of {second} over that of {first}: {median(seconds[second]) / median(seconds[first]):.2f}")
    return 0


def ways(args: argparse.Namespace) -> list[str]:
    """What is compared."""
    return [f"{args.ranks} ranks", f"{args.ranks} ranks that share"] if args.long else ["1 rank", f"{args.ranks} ranks"]


def threads(args: argparse.Namespace, name: str) -> int:
    """Of each process."""
    return max(1, args.threads // int(name.split()[0]))


def start_group(policy: str, args: argparse.Namespace, name: str, folder: str) -> LearnerGroup:
    """The learner of one of the ``ways``."""
    ranks = int(name.split()[0])
    settings: dict[str, Any] = {"max_tokens_per_microbatch": args.tokens}
    if args.long:
        sharers = ranks if name.endswith("share") else 1
        each = -(-args.long // sharers)
        settings = {"max_tokens_per_microbatch": each, "context_parallel": sharers, "head_rows": 256}
    config = LearnerConfig(ranks=ranks, threads=threads(args, name), lr=1e-6, **settings)
    start = partial(
        start_learner, {"path": policy}, config, ObjectiveConfig(), Path(folder),
        replay=ReplayConfig(routing="off"), timeout_s=DEADLINE_S,
    )  # fmt: skip
    return LearnerGroup(start, ranks, num_gpus=0.0)


if __name__ == "__main__":
    sys.exit(main())

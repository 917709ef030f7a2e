"""Forward and backward of sequences of unequal lengths: packed as the learner does, padded, and sorted into batches.

    OMP_NUM_THREADS=1 python -m benchmarks.ragged [--turns 5]

``--sequences`` sequences, their lengths log-normal, through the shipped DSA/MoE policy in float32: ours packed one
behind the other; the same weights in transformers' DeepseekV32ForCausalLM as one batch that is padded to the longest
(what TRL's loss computes), and sorted by length into batches of ``--batch``, each padded to its own longest. The loss
is the mean log-prob of all tokens but the first of each. All three in turns in one process, on one thread; seconds are
CPU seconds. Losses and gradients of the three are compared: with the four heads of the shipped policy's indexer, many
scores are exactly 0, and both break such ties in their own way. The last row is of a random policy of that shape with
64 heads, where nothing ties.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.runs import markdown
from rl.policy.loading import build_policy, load_policy
from rl.run.paths import resolve

BASE = "pkg://rl.bases/tiny_dsa_base"
PACKED, PADDED, SORTED = "packed", "padded", "sorted"


def sequences(n: int, median: float, sigma: float, longest: int, vocabulary: int, seed: int) -> list[Tensor]:
    """``n`` sequences of random tokens; lengths are exp(N(ln median, sigma²)), between 16 and ``longest``."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.exp(rng.normal(np.log(median), sigma, n)), 16, longest).astype(int)
    return [torch.from_numpy(rng.integers(0, vocabulary, length)) for length in lengths]


def picked(logits: Tensor, tokens: Tensor) -> Tensor:
    """Sum of the log-probs of ``tokens`` (n) under ``logits`` (n, vocabulary)."""
    return torch.log_softmax(logits, -1).gather(1, tokens[:, None]).sum()


def packed_loss(policy: Any, rows: Sequence[Tensor]) -> Tensor:
    bounds = [0, *np.cumsum([len(r) for r in rows]).tolist()]
    tokens = torch.cat(list(rows))
    logits = policy.packed_logits(tokens, bounds)
    here = torch.ones(len(tokens), dtype=torch.bool)
    here[[b - 1 for b in bounds[1:]]] = False  # the last of a sequence predicts nothing
    return picked(logits[here], tokens[1:][here[:-1]])


def padded_loss(model: Any, rows: Sequence[Tensor]) -> Tensor:
    """The batch is padded on the right, where causal attention does not look."""
    width = max(len(r) for r in rows)
    tokens = torch.stack([torch.nn.functional.pad(r, (0, width - len(r))) for r in rows])
    mask = torch.stack([torch.arange(width) < len(r) for r in rows])
    logits = model(input_ids=tokens, attention_mask=mask.long(), use_cache=False).logits
    real = mask[:, 1:]
    return picked(logits[:, :-1][real], tokens[:, 1:][real])


def batches(rows: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    ordered = sorted(rows, key=len)
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def step(module: torch.nn.Module, losses: Sequence[Callable[[], Tensor]], targets: int) -> tuple[float, float, float]:
    """CPU seconds of forward and backward of all ``losses``; their mean; the norm of the gradient."""
    module.zero_grad()
    started, total = time.process_time(), 0.0
    for loss in losses:
        part = -loss() / targets
        part.backward()
        total += part.item()
    seconds = time.process_time() - started
    norms = [p.grad.norm() for p in module.parameters() if p.grad is not None]
    return seconds, total, float(torch.stack(norms).norm())


def compared(policy: Any, model: Any, rows: Sequence[Tensor], batch: int, turns: int) -> list[str]:
    """A row of the table: the three ways in turns."""
    targets, ordered = sum(len(r) - 1 for r in rows), batches(rows, batch)
    ways: dict[str, Callable[[], tuple[float, float, float]]] = {
        PACKED: lambda: step(policy.module, [partial(packed_loss, policy, rows)], targets),
        PADDED: lambda: step(model, [partial(padded_loss, model, rows)], targets),
        SORTED: lambda: step(model, [partial(padded_loss, model, some) for some in ordered], targets),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 1):
        found = {way: run() for way, run in ways.items()}
        if turn:  # the first warms up
            for way, (seconds, _, _) in found.items():
                taken[way].append(seconds)
    ratios = [[b / a for a, b in zip(taken[PACKED], taken[w], strict=True)] for w in (PADDED, SORTED)]
    apart = max(abs(found[w][1] - found[PACKED][1]) for w in (PADDED, SORTED))
    norms = max(abs(found[w][2] / found[PACKED][2] - 1) for w in (PADDED, SORTED))
    longest, tokens = max(len(r) for r in rows), sum(len(r) for r in rows)
    return [
        f"{tokens:,}", f"{longest:,}", f"{len(rows) * longest / tokens:.1f}",
        *(f"{statistics.median(taken[w]):.2f}" for w in ways),
        *(f"{statistics.median(r):.1f} ({min(r):.1f} to {max(r):.1f})" for r in ratios),
        f"{apart:.0e}", f"{norms:.0e}",
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4, help="sequences of a sorted batch")
    parser.add_argument("--median", type=float, default=256.0, help="tokens")
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.6, 0.8], help="of the logarithm of lengths")
    parser.add_argument("--longest", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    from transformers import DeepseekV32ForCausalLM

    torch.set_num_threads(1)
    table = []
    with tempfile.TemporaryDirectory() as folder:
        overrides = {"index_n_heads": 64, "initializer_range": 0.04}
        build_policy({"preset": "tiny_dsa", "vocab_size": 512, "overrides": overrides, "seed": 0}).save(Path(folder))
        cases = [(resolve(BASE), "shipped", sigma) for sigma in args.sigma]
        for directory, name, sigma in [*cases, (Path(folder), "64 index heads", args.sigma[0])]:
            policy: Any = load_policy(directory)
            other: Any = DeepseekV32ForCausalLM.from_pretrained(str(directory), attn_implementation="sdpa")
            vocabulary = other.config.vocab_size
            rows = sequences(args.sequences, args.median, sigma, args.longest, vocabulary, args.seed)
            table.append([name, f"{sigma:g}", *compared(policy, other, rows, args.batch, args.turns)])
            print(" · ".join(table[-1]), file=sys.stderr, flush=True)
    head = [
        "policy",
        "sigma",
        "tokens",
        "longest",
        "padded to",
        "packed, s",
        "padded, s",
        "sorted, s",
        "padded / packed",
    ]
    print(markdown([*head, "sorted / packed", "losses differ by", "norms of gradients by"], table))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The operators of ``learner.ops`` on one GPU, at V3.2's sizes: milliseconds of torch's and of Triton's, and how near
Triton's come to what the card allows.

    python -m benchmarks.gpu_operators --peak-tflops 989 --peak-tbs 3.35        an H100 SXM's, bfloat16

The limit of an operator is the larger of (its FLOPs / the card's) and (bytes that must be read and written once / the
card's bandwidth). FLOPs are those of the result: what a backward pass computes a second time does not count. ``make
gpu-check`` runs this too. Needs torch, triton and a CUDA device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rl.objective.logprobs import scores_of_logits
from rl.policy.ops.operators import TORCH, Operators, choose_operators

SIZES = {
    "index": {"queries": 1024, "rows": 32_768, "heads": 64, "dim": 128},
    "attention": {"queries": 1024, "rows": 32_768, "heads": 128, "latent": 512, "rope": 64, "k": 2048},
    "head": {"tokens": 4096, "depth": 7168, "words": 129_280},
}


class Case(NamedTuple):
    """``forward`` of the operators with these ``inputs``; FLOPs of forward and backward, and bytes moved at least."""

    name: str
    inputs: list[Tensor]
    forward: Callable[[Operators], Tensor]
    flops: tuple[float, float]
    moved: tuple[float, float]


def drawn(*shape: int, device: str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device=device, dtype=dtype).requires_grad_()


def cases(sizes: dict[str, dict[str, int]], device: str) -> Iterator[Case]:
    torch.manual_seed(0)
    queries, rows, heads, dim = sizes["index"].values()
    q, k = drawn(queries, heads, dim, device=device), drawn(rows, dim, device=device)
    w = drawn(queries, heads, device=device, dtype=torch.float32)
    products = 2.0 * queries * rows * heads * dim
    read = 2.0 * (q.numel() + k.numel()) + 4.0 * w.numel()
    scores = 4.0 * queries * rows
    yield Case(
        "index scores", [q, w, k], lambda ops: ops.index_scores(q, w, k), (products, 2 * products),
        (read + scores, 2 * read + scores),
    )  # fmt: skip

    queries, rows, heads, latent, rope, chosen = sizes["attention"].values()
    width = latent + rope
    query, cache = drawn(queries, heads, width, device=device), drawn(rows, width, device=device)
    indices = torch.stack([torch.randperm(rows, device=device)[:chosen] for _ in range(queries)])
    pairs = 2.0 * queries * heads * chosen
    read = 2.0 * (query.numel() + cache.numel() + queries * heads * latent) + 8.0 * indices.numel()
    yield Case(
        "attention over chosen rows", [query, cache],
        lambda ops: ops.gathered_attention(query, cache, indices, 0.1, latent)[..., :latent],
        (pairs * (width + latent), pairs * (3 * width + 2 * latent)), (read, 2 * read),
    )  # fmt: skip

    tokens, depth, words = sizes["head"].values()
    hidden, weight = drawn(tokens, depth, device=device), drawn(words, depth, device=device)
    targets = torch.randint(words, (tokens,), device=device)
    products = 2.0 * tokens * depth * words
    read = 2.0 * (hidden.numel() + weight.numel())

    def score(ops: Operators) -> Tensor:
        if ops.head_scores is None:
            return scores_of_logits(hidden @ weight.T, targets).logprobs_N
        return ops.head_scores(hidden, weight, targets, 1.0, None)[0]

    yield Case("output head", [hidden, weight], score, (products, 2 * products), (read, 2 * read))


def milliseconds(call: Callable[[], Any], times: int) -> float:
    call()
    taken = []
    for _ in range(times):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end))
    return median(taken)


def passes(case: Case, ops: Operators) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The forward pass, and the backward pass alone."""
    out = case.forward(ops)
    grad = torch.randn_like(out)
    return lambda: case.forward(ops), lambda: torch.autograd.grad(out, case.inputs, grad, retain_graph=True)


def print_table(times: int, peak_tflops: float | None, peak_tbs: float | None) -> None:
    triton = choose_operators("triton", torch.device("cuda"))
    print("| operator | pass | torch, ms | Triton, ms | ratio | Triton, TFLOP/s | share of the limit |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for case in cases(SIZES, "cuda"):
        spent: dict[str, list[float | None]] = {}
        for ops in (TORCH, triton):
            try:
                spent[ops.name] = [milliseconds(run, times) for run in passes(case, ops)]
            except torch.cuda.OutOfMemoryError:
                spent[ops.name] = [None, None]
        for i, name in enumerate(("forward", "backward")):
            one, two = spent["torch"][i], spent["triton"][i]
            cells = ["out of memory" if ms is None else f"{ms:.2f}" for ms in (one, two)]
            cells.append(f"{one / two:.2f}" if one and two else "")
            cells.append(f"{case.flops[i] / two / 1e9:.0f}" if two else "")
            share = ""
            if peak_tflops and peak_tbs and two:  # 1e12 a second is 1e9 a millisecond
                share = f"{max(case.flops[i] / peak_tflops, case.moved[i] / peak_tbs) / 1e9 / two:.0%}"
            cells.append(share)
            print(f"| {case.name} | {name} | {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="The operators of learner.ops on one GPU.")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--peak-tflops", type=float, help="of the card in bfloat16")
    parser.add_argument("--peak-tbs", type=float, help="of the card's memory, TB/s; without both no share is printed")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: no CUDA device; this benchmark says nothing about a CPU", file=sys.stderr)
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, median of {args.times}\n")
    print_table(args.times, args.peak_tflops, args.peak_tbs)
    return 0


if __name__ == "__main__":
    sys.exit(main())

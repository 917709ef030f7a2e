"""Seconds from the learner's weights to those of a worker, through Ray's object store of the default size.

    python -m benchmarks.weight_sync

Two processes hold tensors of SmolLM2's shapes, cut to ``--million`` parameters in float32, with a head that is tied to
the embedding. "By reference" is what ``LearnerHandle.sync`` does: the learner's process puts them into the store, each
tensor once, and the worker copies them in place from there. "Through the driver" is the way of earlier versions: a copy
under every name, fetched by the driver and put into the store once more. Both ways in turns; no engine and no probe.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

from benchmarks.runs import markdown

VOCABULARY, WIDTH, INNER = 49_152, 576, 1_536  # SmolLM2-135M


def tensors(million: float) -> dict[str, Any]:
    """Weights by name: the embedding, layers of seven matrices until it is full, and the tied head."""
    import torch

    named = {"embed_tokens": torch.full((VOCABULARY, WIDTH), 0.5)}
    left, layer = million * 1e6 - VOCABULARY * WIDTH, 0
    shapes = [(WIDTH, WIDTH)] * 4 + [(INNER, WIDTH)] * 3
    size = sum(a * b for a, b in shapes)
    while left >= size:
        named |= {f"layers.{layer}.{i}": torch.full(shape, float(layer)) for i, shape in enumerate(shapes)}
        left, layer = left - size, layer + 1
    return named | {"lm_head": named["embed_tokens"]}


class Learner:
    """The process that owns the weights."""

    def __init__(self, million: float) -> None:
        self.named = tensors(million)

    def change(self, value: float) -> None:
        for tensor in self.named.values():
            tensor.fill_(value)

    def copies(self) -> dict[str, Any]:
        return {name: tensor.to("cpu", copy=True).numpy() for name, tensor in self.named.items()}

    def packed(self) -> tuple[Any, int]:
        from rl.policy.packed_weights import pack, packed_bytes

        packed = pack(self.named)
        return packed, packed_bytes(packed)


class Worker:
    """A process with the same weights, to be brought up to date."""

    def __init__(self, million: float) -> None:
        self.named = tensors(million)

    def update(self, packed: Any) -> float:
        from rl.policy.packed_weights import unpack

        for name, tensor in unpack(packed).items():
            self.named[name].copy_(tensor)
        return float(self.named["embed_tokens"][-1, -1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of a weight sync, by reference and through the driver.")
    parser.add_argument("--million", type=float, default=95.0, help="parameters")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    import ray

    from configs.schema import RayConfig
    from rl.policy.packed_weights import pack
    from rl.run.assemble import cluster

    seconds: dict[str, list[float]] = {"through the driver": [], "by reference": []}
    with cluster(RayConfig(num_cpus=2), 1):
        learner: Any = ray.remote(num_cpus=1)(Learner).remote(args.million)
        worker: Any = ray.remote(num_cpus=1)(Worker).remote(args.million)
        weights: Any = None  # the pool keeps those of the current version
        ray.get([learner.change.remote(0.0), worker.update.remote({})])
        for n in range(2 * args.rounds):
            way = list(seconds)[n % 4 in (1, 2)]
            ray.get(learner.change.remote(float(n)))
            began = time.perf_counter()
            if way == "by reference":
                weights = None
                weights, size = learner.packed.options(num_returns=2).remote()
                ray.get(size)
            else:
                weights = ray.put(pack(ray.get(learner.copies.remote())))
            found = ray.get(worker.update.remote(weights))
            seconds[way].append(time.perf_counter() - began)
            assert found == float(n), (found, n)
    low, high = ([f"{pick(s):.2f}" for s in seconds.values()] for pick in (min, max))
    middle = [f"{median(s):.2f}" for s in seconds.values()]
    rows = [[way, *figures] for way, *figures in zip(seconds, middle, low, high, strict=True)]
    print(markdown([f"{args.million:g}M parameters", "median s", "fastest", "slowest"], rows))


if __name__ == "__main__":
    main()

"""Seconds and memory from the learner's weights to those of a worker, by every way that there is, in one run.

    python -m benchmarks.weight_sync
    python -m benchmarks.weight_sync --million 1000 --dtype bfloat16 --store-mb 2500 --rounds 2

Two processes hold tensors of SmolLM2's shapes, cut to ``--million`` parameters, with a head that is tied to the
embedding. "Through the driver" is the way of earlier versions: a copy under every name, fetched by the driver and put
into the store once more. "By reference" is ``rollout.weights=store``: the learner's process puts them into Ray's store,
each tensor once, and the worker copies them in place from there. "Streamed" is ``rollout.weights=gloo``, with checksums
at both ends: through memory that both map, as on one machine, and over TCP, as between machines. Each way with
processes of its own, one after the other; no engine and no probe.

A time is given as it is and as a multiple of one copy of the same bytes, which the worker makes right after each sync.
On a machine with other work that says more of the work; CPU seconds of learner, worker and driver together, as a
multiple of those of the copy, depend on it less. Memory is what a process had at its most during the syncs above what
it had before the first, what it maps of Ray's store or of the stream's buckets among it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.runs import markdown

VOCABULARY, WIDTH, INNER = 49_152, 576, 1_536  # SmolLM2-135M
DRIVER, REFERENCE, MAPPED, TCP = "through the driver", "by reference", "streamed, mapped", "streamed, TCP"
HOST, BUCKET = "127.0.0.1", 32 * 2**20


def tensors(million: float, dtype: str) -> dict[str, Any]:
    """Weights by name: the embedding, layers of seven matrices until it is full, and the tied head."""
    import torch

    kind = getattr(torch, dtype)
    named = {"embed_tokens": torch.full((VOCABULARY, WIDTH), 0.5, dtype=kind)}
    left, layer = million * 1e6 - VOCABULARY * WIDTH, 0
    shapes = [(WIDTH, WIDTH)] * 4 + [(INNER, WIDTH)] * 3
    size = sum(a * b for a, b in shapes)
    while left >= size:
        named |= {f"layers.{layer}.{i}": torch.full(s, float(layer % 64), dtype=kind) for i, s in enumerate(shapes)}
        left, layer = left - size, layer + 1
    return named | {"lm_head": named["embed_tokens"]}


class Process:
    """One that holds weights, and what its memory was at most."""

    def __init__(self, million: float, dtype: str) -> None:
        from rl.policy.weight_stream import Links

        self.named = tensors(million, dtype)
        self.links = {MAPPED: Links(), TCP: Links()}
        self.before = 0.0

    def begin(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's highest mark begins anew
        self.before = status("VmRSS")

    def cpu(self) -> float:
        """Seconds of all threads since the process began."""
        return time.process_time()

    def peak(self) -> float:
        """MB above what there was when it began."""
        return status("VmHWM") - self.before

    def link(self, way: str, meeting: Any, rank: int) -> Any:
        from rl.policy.weight_stream import Link

        if way == TCP:
            Link._shared = lambda self, size: None  # type: ignore[method-assign, assignment, misc]
        return self.links[way].to(meeting, rank, HOST)


class Learner(Process):
    """The process that owns the weights."""

    def change(self, value: float) -> None:
        for tensor in self.named.values():
            tensor.fill_(value)

    def copies(self) -> Any:
        from rl.policy.packed_weights import pack

        return pack({name: tensor.clone() for name, tensor in self.named.items()})

    def packed(self) -> tuple[Any, int]:
        from rl.policy.packed_weights import pack, packed_bytes

        packed = pack(self.named)
        return packed, packed_bytes(packed)

    def meet(self) -> int:
        from rl.policy.meeting import open_meeting

        self.store = open_meeting(HOST, 2, 600.0)
        return int(self.store.port)

    def send(self, way: str, meeting: Any) -> Any:
        from rl.policy.weight_source import WeightSource

        source = WeightSource(self.named)
        with self.link(way, meeting, 0) as link:
            return link.send(source.plan(meeting.version, BUCKET), iter(source))


class Worker(Process):
    """A process with the same weights, to be brought up to date."""

    def update(self, packed: Any) -> float:
        from rl.policy.packed_weights import unpack

        for name, tensor in unpack(packed).items():
            self.named[name].copy_(tensor)
        return self.last()

    def receive(self, way: str, meeting: Any) -> float:
        with self.link(way, meeting, 1) as link:
            link.receive(self, meeting.version)
        return self.last()

    def begin(self, plan: Any = None) -> None:
        if plan is None:
            super().begin()

    def target(self, entry: Any) -> Any:
        return self.named[entry.name]

    def take(self, given: Any) -> None:
        raise AssertionError("every tensor has its place")

    def last(self) -> float:
        return float(self.named["embed_tokens"][-1, -1])

    def copy(self) -> tuple[float, float]:
        """Seconds of one copy of all weights, into memory that is there; and those of the CPU."""
        import torch

        own = {name: tensor for name, tensor in self.named.items() if name != "lm_head"}
        if not hasattr(self, "other"):
            self.other = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
        began, worked = time.perf_counter(), time.process_time()
        for name, tensor in own.items():
            self.other[name].copy_(tensor)
        return time.perf_counter() - began, time.process_time() - worked


def status(key: str) -> float:
    """MB of this process, by a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1e3 * 1.024


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of a weight sync, by every way.")
    parser.add_argument("--million", type=float, default=95.0, help="parameters")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store-mb", type=int, default=512, help="of Ray's object store")
    args = parser.parse_args()

    import ray

    from configs.schema import RayConfig
    from rl.policy.rendezvous import Rendezvous
    from rl.run.assemble import cluster

    ways = [DRIVER, REFERENCE, MAPPED, TCP]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    times: dict[str, list[float]] = {way: [] for way in ways}
    works: dict[str, list[float]] = {way: [] for way in ways}
    memory: dict[str, list[float]] = {}
    for way in ways:
        with cluster(RayConfig(num_cpus=2, object_store_mb=args.store_mb), 1):
            actor: Any = ray.remote(num_cpus=1)
            learner, worker = (actor(kind).remote(args.million, args.dtype) for kind in (Learner, Worker))
            port = ray.get(learner.meet.remote())
            weights: Any = None  # the pool keeps those of the current version
            ray.get([learner.change.remote(0.0), worker.copy.remote()])
            ray.get([learner.begin.remote(), worker.begin.remote()])
            for n in range(1, args.rounds + 2):
                ray.get(learner.change.remote(float(n)))
                worked = sum(ray.get([learner.cpu.remote(), worker.cpu.remote()])) + time.process_time()
                began = time.perf_counter()
                if way == DRIVER:
                    weights = ray.put(ray.get(learner.copies.remote()))
                    found = ray.get(worker.update.remote(weights))
                elif way == REFERENCE:
                    weights = None
                    weights, size = learner.packed.options(num_returns=2).remote()
                    ray.get(size)
                    found = ray.get(worker.update.remote(weights))
                else:
                    meeting = Rendezvous(HOST, port, way, 2, timeout_s=600.0, bucket_bytes=BUCKET, version=n)
                    sent = learner.send.remote(way, meeting)
                    found = ray.get(worker.receive.remote(way, meeting))
                    ray.get(sent)
                took = time.perf_counter() - began
                assert found == float(n), (way, found, n)
                worked = sum(ray.get([learner.cpu.remote(), worker.cpu.remote()])) + time.process_time() - worked
                copy, copying = ray.get(worker.copy.remote())
                if n > 1:  # the first is not counted: memory is met for the first time
                    seconds[way].append(took)
                    times[way].append(took / copy)
                    works[way].append(worked / copying)
            memory[way] = ray.get([learner.peak.remote(), worker.peak.remote()])
            del weights
    rows = []
    for way in ways:
        times_of = [f"{pick(times[way]):.1f}" for pick in (median, min)]
        peaks = [f"{peak:.0f}" for peak in memory[way]]
        rows.append([way, f"{median(seconds[way]):.2f}", *times_of, f"{median(works[way]):.1f}", *peaks])
    head = ["median s", "copies, median", "least", "CPU, copies", "learner's peak MB", "worker's peak MB"]
    print(markdown([f"{args.million:g}M parameters, {args.dtype}", *head], rows))


if __name__ == "__main__":
    main()

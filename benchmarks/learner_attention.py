"""Forward + backward of one sequence against its length: our sparse and dense attention, and transformers'.

    python -m benchmarks.learner_attention [--quick] [--svg docs/images/learner-attention.svg]

The same weights in every cell: ``sparse`` is DSA with the gather path, O(L*k) for the main attention; ``dense`` is full
causal attention by fused kernels; ``hf-sdpa`` and ``hf-eager`` are transformers' DeepseekV32ForCausalLM, which
computes the same top-k and then attends through an L x L mask. The index scores are O(L^2) everywhere; how much of a
sparse forward pass they and the top-k take is a column of its own. Every cell runs in a process of its own: peak memory
is that process's peak resident size above what it had after loading, time its CPU time on one thread, to which
other work on the machine does not add. A cell that needs more than --memory-gib or --seconds is shown as "over": the
limits are enforced on the process, not predicted.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("sparse", "dense", "hf-sdpa", "hf-eager")
LENGTHS = (1024, 2048, 4096, 8192, 16384)
# 8 heads x (2 * 128 + 32) = 2,304 multiply-adds per (query, key) in the main attention and 4 x 32 = 128 in the indexer:
# 18 to 1; DeepSeek-V3.2 has 139,264 to 8,192 = 17 to 1.
DIMS = dict(
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=8,
    q_lora_rank=128,
    kv_lora_rank=128,
    qk_rope_head_dim=32,
    index_n_heads=4,
    index_head_dim=32,
    index_topk=256,
    max_position_embeddings=65536,
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short length, one step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per cell, after one that is not timed")
    parser.add_argument("--memory-gib", type=float, default=6.0, help="limit of one cell, above the loaded model")
    parser.add_argument("--seconds", type=float, default=300.0, help="CPU time limit of one cell, loading included")
    parser.add_argument("--svg", type=Path, help="write the plot here")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--cell", nargs=3, metavar=("KIND", "LENGTH", "MODEL_DIR"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.cell:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(args.seconds), resource.RLIM_INFINITY))
        print(json.dumps(run_cell(args.cell[0], int(args.cell[1]), Path(args.cell[2]), args.steps, args.memory_gib)))
        return 0
    lengths, steps = ((256,), 1) if args.quick else (LENGTHS, args.steps)
    results: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in KINDS}
    with tempfile.TemporaryDirectory() as directory:
        save_model(Path(directory))
        for length in lengths:
            for kind in KINDS:
                results[kind][length] = start_cell(kind, length, directory, steps, args.memory_gib, args.seconds)
                print(f"{kind:9s} {length:6d}  {describe(results[kind][length])}", file=sys.stderr, flush=True)
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps(results))
    if args.svg:
        plot(results, args.svg)
    return 0


def save_model(directory: Path) -> None:
    import torch

    from rl.policy.loading import build_policy

    torch.set_num_threads(1)
    build_policy({"preset": "tiny_dsa", "vocab_size": 256, "overrides": DIMS, "seed": 0}).save(directory)


def start_cell(kind: str, length: int, directory: str, steps: int, gib: float, seconds: float) -> dict[str, Any]:
    """Runs one cell in a fresh process. ``{"over": what}`` when it hit a limit."""
    command = [sys.executable, "-m", "benchmarks.learner_attention", "--steps", str(steps), "--memory-gib", str(gib)]
    done = subprocess.run(
        [*command, "--seconds", str(seconds), "--cell", kind, str(length), directory],
        capture_output=True,
        text=True,
        timeout=60 + 20 * seconds,
    )
    if done.returncode == -signal.SIGXCPU:
        return {"over": f"over {seconds:g} s"}
    if done.returncode:
        raise RuntimeError(f"cell {kind} {length} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_cell(kind: str, length: int, directory: Path, steps: int, gib: float) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    choosing = [0.0]
    step = hf_step(directory, kind) if kind.startswith("hf") else our_step(directory, kind, choosing)
    ids = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(0))
    before = peak_gib()
    limit = int((data_gib() + gib) * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    times, shares = [], []
    try:
        for _ in range(1 + steps):
            choosing[0], started = 0.0, time.process_time()
            step(ids).square().mean().backward()
            times.append(time.process_time() - started)
            shares.append(choosing[0])
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        return {"over": f"over {gib:g} GiB"}
    return {
        "seconds": statistics.median(times[1:]),
        "choosing": statistics.median(shares[1:]),
        "gib": peak_gib() - before,
    }


def our_step(directory: Path, mode: str, choosing: list[float]) -> Callable[[Any], Any]:
    from rl.policy.attention_context import PackedContext
    from rl.policy.loading import load_policy

    policy = load_policy(directory, mode=mode)  # type: ignore[arg-type]
    for name in ("_choose", "_choose_rows"):  # index scores and top-k, with a mask and with positions as the result
        setattr(PackedContext, name, timed(getattr(PackedContext, name), choosing))
    return lambda ids: policy.packed_logits(ids, [0, len(ids)])


def hf_step(directory: Path, kind: str) -> Callable[[Any], Any]:
    from transformers import DeepseekV32ForCausalLM

    model = DeepseekV32ForCausalLM.from_pretrained(str(directory), attn_implementation=kind.removeprefix("hf-"))
    return lambda ids: model(input_ids=ids[None], use_cache=False).logits[0]


def timed(function: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        result = function(*args, **kwargs)
        total[0] += time.process_time() - started
        return result

    return wrapper


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def data_gib() -> float:
    """What RLIMIT_DATA counts now: private writable memory."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmData")).split()[1]) / 2**20


def describe(cell: dict[str, Any]) -> str:
    return cell.get("over") or f"{cell['seconds']:.2f} s, {cell['gib']:.2f} GiB"


def table(results: dict[str, dict[int, dict[str, Any]]]) -> str:
    lines = [
        "| length | " + " | ".join(KINDS) + " | scores + top-k of sparse |",
        "|---:|" + "---:|" * (len(KINDS) + 1),
    ]
    for length in results["sparse"]:
        cells = [describe(results[kind][length]) for kind in KINDS]
        choosing = results["sparse"][length].get("choosing")
        lines.append(f"| {length:,} | " + " | ".join(cells) + f" | {choosing:.2f} s |" if choosing is not None else "")
    return "\n".join(lines)


def plot(results: dict[str, dict[int, dict[str, Any]]], path: Path) -> None:
    from benchmarks.plot import save_charts
    from rl.tracking.svg import Series, line_chart

    names = {"sparse": "ours, sparse", "dense": "ours, dense", "hf-sdpa": "transformers sdpa", "hf-eager": "eager"}

    def chart(title: str, field: str) -> Callable[[tuple[int, int]], str]:
        series = [
            Series(
                names[kind],
                [(length / 1024, cell[field]) for length, cell in results[kind].items() if field in cell],
                color=i,
                bold=kind == "sparse",
            )
            for i, kind in enumerate(KINDS)
        ]
        return lambda offset: line_chart(title, series, x_label="length (thousands of tokens)", offset=offset)

    save_charts(path, [chart("Forward + backward (s)", "seconds"), chart("Peak memory (GiB)", "gib")])


if __name__ == "__main__":
    sys.exit(main())

"""Peak memory of reading a checkpoint as a policy, and of writing it again, beside the checkpoint's size.

    python -m benchmarks.checkpoint_memory

A random DSA/MoE policy is written as FP8 blocks in several files, the released layout; each row is a process of its
own, and what torch and transformers take when they are imported is not counted. The last rows: the policy as users get
it, in bfloat16, from two ranks that hold half of its float32 weights each, over gloo on the loopback; of the first
rank, above what it held before. "Gathered first" is what earlier versions did.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHARD = 50_000_000
SHAPE: dict[str, Any] = {
    "num_hidden_layers": 6, "hidden_size": 1024, "intermediate_size": 2816, "moe_intermediate_size": 512,
    "n_routed_experts": 32, "num_attention_heads": 8, "num_key_value_heads": 8,
}  # fmt: skip
COMMAND = (sys.executable, "-m", "benchmarks.checkpoint_memory")
MAKE = "make"
STREAMED, GATHERED = "two ranks write bfloat16", "two ranks, gathered first"
ROWS = ("read FP8 as float32", "write FP8 as bfloat16", "write float32 as FP8", STREAMED, GATHERED)
HOST, DEADLINE_S = "127.0.0.1", 300.0


def make(folder: Path) -> None:
    """``plain`` (float32, several files) and ``fp8`` in ``folder``."""
    from rl.policy.checkpoint_export import export
    from rl.policy.loading import build_policy

    build_policy({"preset": "tiny_dsa", "vocab_size": 32_000, "overrides": SHAPE}).save(folder / "whole")
    for _ in export(folder / "whole", folder / "plain", "float32", SHARD):
        pass
    for _ in export(folder / "plain", folder / "fp8", "float8", SHARD):
        pass


def measure(row: str, folder: Path) -> int:
    """Peak resident bytes above what was there before."""
    import transformers  # noqa: F401  (counted as there before)

    from rl.policy.checkpoint_export import export
    from rl.policy.loading import build_policy, load_policy

    build_policy({"preset": "tiny_dsa", "vocab_size": 64})
    if row in (STREAMED, GATHERED):
        return from_ranks(row, folder)
    before = _peak()
    if row == ROWS[0]:
        load_policy(folder / "fp8")
    else:
        source, form = ("fp8", "bfloat16") if row == ROWS[1] else ("plain", "float8")
        for _ in export(folder / source, folder / f"out-{form}", form, SHARD):
            pass
    return _peak() - before


def from_ranks(row: str, folder: Path) -> int:
    """The same of the first of two ranks; the other one is a process of its own."""
    from rl.policy.meeting import open_meeting

    meeting = open_meeting(HOST, 2, DEADLINE_S)
    other = [*COMMAND, "--row", row, "--folder", str(folder), "--port", str(meeting.port)]
    with subprocess.Popen(other, stdout=subprocess.DEVNULL) as second:
        try:
            return rank(row, folder, 0, meeting.port)
        finally:
            second.wait(DEADLINE_S)


def rank(row: str, folder: Path, number: int, port: int) -> int:
    """Half of the weights, then the policy into a folder; peak bytes above what was held before that."""
    import torch
    import torch.distributed as dist

    from benchmarks.weight_sync import status
    from rl.learner.ranks import Place, Ranks
    from rl.learner.sharded import ShardedWeights
    from rl.policy.dtypes import cast_copy
    from rl.policy.loading import load_policy
    from rl.policy.meeting import enter_meeting

    ranks = Ranks(Place(number, 2, 2, 1, 1), enter_meeting(HOST, port, 2, DEADLINE_S), HOST, DEADLINE_S)
    policy = load_policy(folder / "plain", empty=number > 0)
    sharded = ShardedWeights(policy, "bfloat16", ranks, torch.device("cpu"))
    del policy
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's highest mark begins anew
    before = status("VmRSS")
    if row == STREAMED:
        sharded.save(folder / "from-ranks")
    elif (whole := sharded.whole()) is not None:
        cast_copy(whole, torch.bfloat16).save(folder / "gathered")
    peak = status("VmHWM") - before
    dist.destroy_process_group()
    return int(peak * 1e6)


def _peak() -> int:
    """Largest resident set so far, bytes; pages of mapped files count while they are in it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory of reading and writing checkpoints.")
    parser.add_argument("--row", help="measure this one in --folder and print the bytes")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--port", type=int, help="where the first of two ranks waits for this one")
    args = parser.parse_args()
    if args.row == MAKE:
        make(args.folder)
        return 0
    if args.port is not None:
        rank(args.row, args.folder, 1, args.port)
        return 0
    if args.row is not None:
        print(json.dumps(measure(args.row, args.folder)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Not here: a child's peak begins with its parent's.
        subprocess.run([*COMMAND, "--row", MAKE, "--folder", name], check=True)
        size = {part: _size(folder / part) / 1e6 for part in ("fp8", "plain")}
        print(f"FP8 {size['fp8']:,.0f} MB, float32 {size['plain']:,.0f} MB, files of {SHARD / 1e6:.0f} MB\n")
        print("| | peak | of the float32 model's size |\n|---|---:|---:|")
        for row in ROWS:
            done = subprocess.run(
                [*COMMAND, "--row", row, "--folder", name], capture_output=True, text=True, check=True
            )
            peak = int(done.stdout.splitlines()[-1]) / 1e6
            print(f"| {row} | {peak:,.0f} MB | {peak / size['plain']:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What 8-bit integers in the indexer change: its choice of rows, attention recalled, agreement of engine and learner.

    OMP_NUM_THREADS=1 python -m benchmarks.index_precision [--groups 8] [--size 8]

The demo's rollouts of the shipped base policy, once as it is and once with ``index_precision`` int8: the same tasks and
seeds. Of the tokens that were sampled: the learner repeats each sequence with choices of its own (experts and rows) and
compares log-probs and rows with the engine's. Then, on the sequences of the float32 policy, both policies' learners:
the share of rows that both choose, and the attention that the chosen rows recall (``rl.policy.recall``).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rollouts import BASE, open_worker
from benchmarks.runs import markdown
from rl.run.paths import resolve

if TYPE_CHECKING:
    from rl.types import Segment

PRECISIONS = ("float32", "int8")


async def play(policy: str, groups: int, size: int) -> list[Segment]:
    """Segments of the demo's rollouts, with all choices of the engine."""
    from rl.rollout.worker import GroupSpec

    worker, tasks = open_worker([], policy, record_indexer=True)
    await worker.ready()
    specs = [GroupSpec(i, tasks.task(i), i, size, 0) for i in range(groups)]
    played = await asyncio.gather(*(worker.run_group(spec) for spec in specs))
    await worker.close()
    return [s for group in played for t in group.trajectories for s in t.segments]


def agreement(policy: Any, segments: Sequence[Segment], temperature: float) -> dict[str, float]:
    """Engine against a learner that chooses by itself: differences of log-probs, rows with another choice."""
    import numpy as np
    import torch

    from rl.policy.attention_context import PackedContext
    from rl.policy.replay import Record

    different = rows = 0
    gaps: list[np.ndarray] = []
    for segment in segments:
        ids, record = torch.as_tensor(segment.tokens, dtype=torch.long), Record(want_indexer=True)
        with torch.no_grad():
            logits = policy.module(ids, PackedContext([0, len(ids)]), record=record)
        scores = (logits / temperature).log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0].numpy()
        at = np.flatnonzero(segment.loss_mask)
        gaps.append(np.abs(scores[at - 1] - segment.logprobs[at]))
        own, replay = record.indexer.numpy(), segment.replay
        assert replay is not None
        assert replay.indexer is not None
        k = own.shape[2]
        chose = replay.valid & (np.arange(len(own)) >= k)
        rows += int(chose.sum()) * own.shape[1]
        different += int((own[chose] != replay.indexer[chose]).any(-1).sum())
    gap = np.concatenate(gaps)
    return {
        "tokens": len(gap), "mean": float(gap.mean()), "p99": float(np.quantile(gap, 0.99)), "max": float(gap.max()),
        "rows": rows, "different": different,
    }  # fmt: skip


def recall(policies: Sequence[Any], segments: Sequence[Segment]) -> dict[str, float]:
    """Attention mass that the choices of each policy recall, the best choice's, and the rows that both choose."""
    import torch

    from rl.policy.attention_context import PackedContext
    from rl.policy.recall import hidden_and_recall
    from rl.policy.replay import Record

    mass: dict[str, list[torch.Tensor]] = {name: [] for name in (*PRECISIONS, "oracle")}
    same, count = 0.0, 0
    for segment in segments:
        ids = torch.as_tensor(segment.tokens, dtype=torch.long)
        chosen: list[torch.Tensor] = []
        for name, policy in zip(PRECISIONS, policies, strict=True):
            _, found = hidden_and_recall(policy.module, ids, [0, len(ids)], "sparse")
            mass[name].append(found["indexer"].flatten())
            if name == PRECISIONS[0]:
                mass["oracle"].append(found["oracle"].flatten())
            record = Record(want_indexer=True)
            with torch.no_grad():
                policy.module.hidden(ids, PackedContext([0, len(ids)]), record=record)
            k = record.indexer.shape[2]
            chosen.append(record.indexer[k:])
        one, other = chosen
        same += float((one.unsqueeze(-1) == other.unsqueeze(-2)).any(-1).float().sum())
        count += one.numel()
    return {name: float(torch.cat(values).nanmean()) for name, values in mass.items()} | {"same": same / count}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--size", type=int, default=8, help="rollouts of a group")
    args = parser.parse_args(arguments)

    from rl.commands.hydra import composed
    from rl.policy.io import copy_with_precision
    from rl.policy.loading import load_policy

    temperature = composed("train", []).rollout.temperature
    policies: list[Any] = []
    lines: list[tuple[str, ...]] = []
    played: list[list[Segment]] = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            path = Path(folder) / precision
            copy_with_precision(resolve(BASE), path, precision)
            played.append(asyncio.run(play(str(path), args.groups, args.size)))
            policies.append(load_policy(path))
            found = agreement(policies[-1], played[-1], temperature)
            lines.append(
                (
                    precision, f"{found['tokens']:,.0f}", f"{found['mean']:.1e}", f"{found['p99']:.1e}",
                    f"{found['max']:.1e}", f"{found['different']:,.0f} of {found['rows']:,.0f}",
                )
            )  # fmt: skip
        masses = recall(policies, played[0])
    print(markdown(("indexer", "sampled tokens", "mean |d|", "p99", "max", "rows with another choice"), lines))
    shares = ", ".join(f"{name} {masses[name]:.4f}" for name in (*PRECISIONS, "oracle"))
    print(f"\nattention recalled: {shares}; rows that both choose: {masses['same']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What rollouts weigh on their way from the workers to the learner: bytes per token, by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rl.types import Trajectory

PREFIX = "bytes"


def handed_metrics(trajectories: Iterable[Trajectory]) -> dict[str, float]:
    """Bytes per token of all arrays of the segments, over all their tokens: ``bytes/total`` and of each part that is
    there. Messages, scores and Ray's own envelope are not in it. Empty without a token."""
    tokens = 0
    held: Counter[str] = Counter()
    for segment in (segment for t in trajectories for segment in t.segments):
        tokens += len(segment)
        held["tokens"] += segment.tokens.nbytes
        held["loss_mask"] += segment.loss_mask.nbytes
        held["logprobs"] += segment.logprobs.nbytes
        held["versions"] += segment.versions.nbytes
        if (replay := segment.replay) is None:
            continue
        held["valid"] += replay.valid.nbytes
        if replay.experts is not None:
            held["experts"] += replay.experts.nbytes
        if replay.indexer is not None:
            held["indexer"] += replay.indexer.nbytes
        if replay.support is not None:
            held["support"] += sum(row.nbytes for row in replay.support if row is not None)
    if not tokens:
        return {}
    found = {f"{PREFIX}/{part}": size / tokens for part, size in held.items()}
    return found | {f"{PREFIX}/total": held.total() / tokens}

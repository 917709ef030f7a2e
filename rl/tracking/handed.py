"""What rollouts weigh on their way from the workers to the learner: bytes per token, by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rl.types import Group, Trajectory

PREFIX = "bytes"
BOOKS = ("tokens", "loss_mask", "logprobs", "versions")  # what the driver takes of a group whose records stay away


def handed_bytes(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Bytes of all arrays of the segments, by part. Messages, scores and Ray's own envelope are not in it."""
    held: Counter[str] = Counter()
    for segment in (segment for t in trajectories for segment in t.segments):
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
    return dict(held)


def handed_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Bytes per token of the groups' tokens: ``bytes/total``, of each part that is there, and ``bytes/driver``, what
    goes into the driver and out of it again. Empty without a token."""
    tokens = sum(t.total_tokens for group in groups for t in group.trajectories)
    held: Counter[str] = Counter()
    driver = 0
    for group in groups:
        own = group.handed or handed_bytes(group.trajectories)
        held.update(own)
        driver += 2 * sum(own.values()) if group.refs is None else sum(own.get(part, 0) for part in BOOKS)
    if not tokens:
        return {}
    found = {f"{PREFIX}/{part}": size / tokens for part, size in held.items()}
    return found | {f"{PREFIX}/total": held.total() / tokens, f"{PREFIX}/driver": driver / tokens}

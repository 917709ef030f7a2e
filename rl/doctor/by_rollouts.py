"""Detectors that read rollouts alone: they work on the files of any toolkit."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict

import numpy as np

from envs.types import StopReason
from rl.doctor.detector import Memory, Reading
from rl.doctor.records import StepRecord, sampled_key, spans_of
from rl.types import OUTCOME, Segment, Trajectory

INFRASTRUCTURE = (StopReason.ENV_ERROR, StopReason.ENV_TIMEOUT, StopReason.ABORTED)
ENDS = (StopReason.ANSWERED, StopReason.MAX_TURNS)  # others may come before anything is sampled
OPENING = 1  # tokens before a turn that are compared
SHORT = 3  # context tokens between two sampled spans that end a thought and no turn
KINDS = 3  # of messages that follow a turn: a result, a user's, a summary's request
LEAST = 16  # of what a share is taken of


def twins(step: StepRecord, memory: Memory) -> Reading | None:
    """How many more rollouts of a group are the same than chance allows, in standard deviations.

    Of a pair drawn independently the second equals the first with p = exp(sum_t log p_t), so equal pairs have the mean
    E = sum over pairs of p, and a variance of at most E (0 where p is 1). Randomness of the environment makes fewer.
    """
    found = expected = variance = 0.0
    pairs = 0
    for group in step.groups:
        rollouts = [t for t in group.trajectories if t.failure_kind is None and t.sampled_tokens]
        if len(rollouts) < 2:
            continue
        logs = [float(sum(s.logprobs[s.loss_mask].sum(dtype=np.float64) for s in t.segments)) for t in rollouts]
        chance = [1.0 if log > 0.0 else math.exp(log) for log in logs]  # above 0: rounding, or no log-prob at all
        if not all(math.isfinite(p) for p in chance):
            return None  # log-probs were not stored
        keys = [sampled_key(t) for t in rollouts]
        for i in range(len(keys)):
            for j in range(i):
                p = min(1.0, (chance[i] + chance[j]) / 2)
                expected, variance, pairs = expected + p, variance + p * (1.0 - p), pairs + 1
                found += keys[i] == keys[j]
    if not pairs:
        return None
    # Pairs of one group are not independent: k equal rollouts make k (k - 1) / 2 of them at once.
    per_group = max((len(g.trajectories) for g in step.groups), default=2)
    z = (found - expected) / math.sqrt(variance * per_group / 2 + per_group)
    return Reading(max(0.0, z), f"{found:.0f} equal pairs of {pairs}, {expected:.1f} expected")


def verdicts(step: StepRecord, memory: Memory) -> Reading | None:
    """Share of repeated rollouts (the same tokens for the same task) that are not all judged alike."""
    judged: dict[tuple[str, bytes], set[float]] = defaultdict(set)
    count: Counter[tuple[str, bytes]] = Counter()
    for t in step.valid:
        if t.sampled_tokens:
            key = (t.task_id, sampled_key(t))
            judged[key].add(round(t.reward_parts.get(OUTCOME, t.reward), 6))
            count[key] += 1
    repeated = [key for key, n in count.items() if n > 1]
    if not repeated:
        return None
    bad = [key for key in repeated if len(judged[key]) > 1]
    return Reading(len(bad) / len(repeated), f"{len(bad)} of {len(repeated)}, first: {bad[0][0]}" if bad else "")


def reward_sum(step: StepRecord, memory: Memory) -> Reading | None:
    """Largest difference between a rollout's reward and the sum of its parts."""
    worst, where = -1.0, ""
    for t in step.valid:
        terms = [value for name, value in t.reward_parts.items() if "/" not in name]
        if terms and (apart := abs(t.reward - math.fsum(terms))) > worst:
            worst, where = apart, t.task_id
    return None if worst < 0 else Reading(worst, f"task {where}" if worst > 0 else "")


def turns(step: StepRecord, memory: Memory) -> Reading | None:
    """Share of rollouts with fewer sampled spans than turns: tokens of the environment count as sampled, or turns have
    been lost."""
    counted = [t for t in step.valid if t.turns and t.segments]
    if not counted:
        return None
    bad = [t for t in counted if sum(len(spans_of(s)) for s in t.segments) < t.turns]
    return Reading(len(bad) / len(counted), f"first: {bad[0].task_id}" if bad else "")


def separators(step: StepRecord, memory: Memory) -> Reading | None:
    """Share of later turns that do not begin as first turns do, or of messages that do not follow a turn as most do.

    A first turn follows the end of a rendered prompt, so the tokens before it are how this format opens a turn.
    """
    opens: set[tuple[int, ...]] = set()
    later: list[tuple[int, ...]] = []
    after: Counter[int] = Counter()
    for segment in _segments(step):
        spans = spans_of(segment)
        for number, (begin, end) in enumerate(spans):
            before = tuple(segment.tokens[max(0, begin - OPENING) : begin].tolist())
            if number == 0:
                opens.add(before)
            elif begin - spans[number - 1][1] > SHORT:
                later.append(before)
            if end < len(segment) and (number + 1 == len(spans) or spans[number + 1][0] - end > SHORT):
                after[int(segment.tokens[end])] += 1
    if len(later) < LEAST:
        return None
    other = sum(before not in opens for before in later) / len(later)
    usual = sum(n for _, n in after.most_common(KINDS)) / after.total()
    return Reading(max(other, 1.0 - usual), f"of {len(later)} turns")


def unmasked(step: StepRecord, memory: Memory) -> Reading | None:
    """Rollouts that count as valid although the infrastructure ended them, or they ended well and nothing was sampled,
    or there is no outcome where most of their family have one."""
    valid = step.valid
    if not valid:
        return None
    size = Counter(t.family for t in valid)
    with_outcome = Counter(t.family for t in valid if OUTCOME in t.reward_parts)
    tokens = any(t.segments for t in valid)
    bad = [
        t
        for t in valid
        if t.stop_reason in INFRASTRUCTURE
        or not math.isfinite(t.reward)
        or (tokens and not t.sampled_tokens and t.stop_reason in ENDS)
        or (OUTCOME not in t.reward_parts and 2 * with_outcome[t.family] > size[t.family])
    ]
    return Reading(float(len(bad)), f"first: {bad[0].task_id}" if bad else "")


def same_end(step: StepRecord, memory: Memory) -> Reading | None:
    """Share of rollouts that the environment ends with the same words, in three tasks and more, and that are paid less
    than the best: an error message that is scored. What it says to a message that could not be parsed does not count,
    nor what was said last before a limit."""
    valid = step.valid
    if not valid or len({t.reward for t in valid}) < 2:
        return None
    best = max(t.reward for t in valid)
    tasks: dict[str, set[str]] = defaultdict(set)
    count: Counter[str] = Counter()
    for t in valid:
        if t.turns and t.reward < best and _ended_by_environment(t):
            text = re.sub(r"\d+", "#", str(t.messages[-1].get("content", "")))[:200]
            tasks[text].add(t.task_id)
            count[text] += 1
    found = [text for text in count if len(tasks[text]) >= 3]
    if not found:
        return Reading(0.0)
    worst = max(found, key=lambda text: count[text])
    return Reading(count[worst] / len(valid), repr(worst[:60]))


def _ended_by_environment(trajectory: Trajectory) -> bool:
    before, last = [{}, {}, *trajectory.messages][-2:]
    said = last.get("role") in ("tool", "user") and not before.get("parse_error")
    return said and trajectory.stop_reason is StopReason.ANSWERED


def versions(step: StepRecord, memory: Memory) -> Reading | None:
    """Segments in which a later token comes from older weights, or a token from weights that were not there yet."""
    segments = [s for s in _segments(step) if s.loss_mask.any()]
    if not segments:
        return None
    newest = step.step - 1 if step.settings is not None else np.iinfo(np.int32).max
    bad = 0
    for segment in segments:
        own = segment.versions[segment.loss_mask]
        bad += bool((np.diff(own) < 0).any() or own.max() > newest)
    return Reading(float(bad))


def _segments(step: StepRecord) -> list[Segment]:
    return [s for t in step.valid for s in t.segments]

"""Detectors that compute a step's figures again from its rollouts, in another way, and compare."""

from __future__ import annotations

import math

from rl.doctor.detector import Memory, Reading
from rl.doctor.records import StepRecord
from rl.types import Group

EXACT = 1e-4  # nats of mean mismatch: above it the loss at ratio 1 says little


def advantages_of(group: Group, norm: str) -> list[float]:
    """A_i = R_i - mean(R), for ``norm`` std by their population deviation; of valid rollouts."""
    rewards = [t.reward for t in group.trajectories if t.failure_kind is None]
    mean = math.fsum(rewards) / max(1, len(rewards))
    if len(set(rewards)) == 1:
        mean = rewards[0]  # which the division may miss by a rounding
    centred = [r - mean for r in rewards]
    if norm == "mean":
        return centred
    scale = math.sqrt(math.fsum(a * a for a in centred) / max(1, len(centred))) + 1e-6
    return [a / scale for a in centred]


def advantages(step: StepRecord, memory: Memory) -> Reading | None:
    """Largest difference of the advantages' deviation and extremes from those of the rollouts' rewards in their
    groups."""
    if step.settings is None or step.number("advantage/std") is None:
        return None
    values = [a for group in step.groups for a in advantages_of(group, step.settings.norm)]
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((a - mean) ** 2 for a in values) / len(values))
    wanted = {"mean": mean, "std": deviation, "min": min(values), "max": max(values)}
    apart = {name: abs((step.number(f"advantage/{name}") or 0.0) - value) for name, value in wanted.items()}
    worst = max(apart, key=lambda name: apart[name])
    return Reading(
        apart[worst], f"advantage/{worst}: {step.metrics[f'advantage/{worst}']:.4f}, {wanted[worst]:.4f} here"
    )


def loss(step: StepRecord, memory: Memory) -> Reading | None:
    """Difference of loss/policy from what it is when every ratio is 1, by the advantages' deviation.

    sequence_mean: -1/groups sum_g 1/G sum_i A_i = 0     token_mean: -sum A_i |o_i| / sum |o_i|
    constant: -sum A_i |o_i| / (sequences c)
    """
    settings, reported = step.settings, step.number("loss/policy")
    if settings is None or reported is None or not settings.clips or settings.taught or not step.on_policy:
        return None
    if step.number("policy/masked_sequences"):  # the off-policy mask has taken some out
        return None
    if settings.coarse or (step.number("mismatch/mean") or 0.0) > EXACT:  # ratios are not 1
        return None
    pairs, groups = [], 0
    wanted = 0.0
    for group in step.groups:
        valid = [t for t in group.trajectories if t.failure_kind is None]
        own = [(a, t.sampled_tokens) for a, t in zip(advantages_of(group, settings.norm), valid, strict=True)]
        own = [pair for pair in own if pair[1]]
        groups += bool(own)
        wanted -= math.fsum(a for a, _ in own) / max(1, len(own))
        pairs += own
    if not pairs:
        return None
    if settings.aggregation == "sequence_mean":
        wanted /= groups
    else:
        tokens = {"token_mean": sum(n for _, n in pairs), "constant": len(pairs) * (settings.constant or 1)}
        wanted = -math.fsum(a * n for a, n in pairs) / tokens[settings.aggregation]
    deviation = math.sqrt(math.fsum(a * a for a, _ in pairs) / len(pairs))
    if deviation == 0.0:
        return None
    return Reading(abs(reported - wanted) / deviation, f"loss/policy {reported:.2e}, {wanted:.2e} here")


def groups(step: StepRecord, memory: Memory) -> Reading | None:
    """Groups that hold rollouts of several tasks, or not as many as a group has."""
    if not step.groups:
        return None
    size = None if step.settings is None else step.settings.group_size
    bad = [
        g
        for g in step.groups
        if len({t.task_id for t in g.trajectories}) > 1 or (size is not None and len(g.trajectories) != size)
    ]
    return Reading(float(len(bad)), f"first of them: {bad[0].task_id}" if bad else "")


def tasks(step: StepRecord, memory: Memory) -> Reading | None:
    """Tasks that were left out, or came a second time: numbers of groups, and of the tasks of each family, go on where
    they were, in tasksets whose tasks have numbers at the end of their ids and come in order.

    After the last task comes number 0. How many there are nobody says: the first return to 0 tells, and is found out
    when a number from there on comes after all.
    """
    numbers = sorted(g.id for g in step.groups)
    if step.settings is None or not numbers or numbers[0] < 0:
        return None
    wrong, where = 0, ""
    next_group = memory.get("next_group", numbers[0])
    if apart := abs(numbers[0] - next_group):
        wrong, where = apart, f"group {numbers[0]} where {next_group} was next"
    memory["next_group"] = numbers[-1] + 1
    following: dict[str, int] = memory.setdefault("following", {})
    ordered: dict[str, int] = memory.setdefault("ordered", {})  # steps in which the numbers went on; -1: they do not
    passes: dict[str, int] = memory.setdefault("passes", {})  # tasks of a whole pass
    for family in sorted({g.family for g in step.groups}):
        ends = [g.task_id.rpartition("/") for g in sorted(step.groups, key=lambda g: g.id) if g.family == family]
        ordinals = [int(end) for _, _, end in ends if end.isdigit()]
        if len(ordinals) != len(ends) or ordered.get(family, 0) < 0:
            ordered[family] = -1
            continue
        due, apart, said = following.get(family, ordinals[0]), 0, ""
        for ordinal in ordinals:
            if ordinal == 0 < due == passes.get(family, due):
                passes[family] = due
            elif ordinal != due or ordinal >= passes.get(family, ordinal + 1):
                again = passes.pop(family, 0) if ordinal == due else 0
                apart += max(1, again, abs(ordinal - due))
                said = said or f"{family}: task {ordinal} where {0 if again else due} was next"
            due = ordinal + 1
        if apart and ordered.get(family, 0) < 2:  # its tasks come in an order of their own
            ordered[family] = -1
            continue
        ordered[family] = ordered.get(family, 0) + (not apart)
        wrong, where = wrong + apart, where or said
        following[family] = due
    return Reading(float(wrong), where)

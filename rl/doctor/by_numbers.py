"""Detectors that read a step's metrics alone."""

from __future__ import annotations

import math
from collections import deque

from rl.doctor.detector import Memory, Reading
from rl.doctor.records import StepRecord

COARSE = 0.05  # nats of mean mismatch that 16 bits may explain: 6e-4 in docs/results.md, larger models have more
NEAR_TIES = 0.005  # share of the probe's choices
OFF_POLICY = (("policy/approx_kl", 0.05), ("policy/drift_p95", 0.5))
WINDOW = 5  # steps of a mean of the outcome, and of the surprise
LEARNED = 0.2  # outcome that a run must have reached before a fall is one


def ratio_mean(step: StepRecord, memory: Memory) -> Reading | None:
    """|mean importance ratio - 1|: the mean over tokens of pi / pi_sampler, which is 1 when both are distributions over
    the same tokens and the sampler drew from its own."""
    value = step.number("policy/ratio_mean")
    return None if value is None else Reading(abs(value - 1.0))


def mismatch(step: StepRecord, memory: Memory) -> Reading | None:
    """Mean |log pi_learner - log pi_sampler| at the same weights, above what 16 bits explain where they are used."""
    value = step.number("mismatch/mean")
    if value is None:
        return None
    coarse = step.settings is not None and step.settings.coarse
    return Reading(max(0.0, value - COARSE) if coarse else value)


def probe_live(step: StepRecord, memory: Memory) -> Reading | None:
    """The probe with choices of its own on each side: mean log-prob difference, where more choices differ than a
    near-tie or two that round otherwise (one such moves the mean by up to 5e-3), and above what 16 bits explain."""
    value = step.number("mismatch/probe_live_mean")
    overlaps = [step.number(f"replay/probe_{kind}_overlap") for kind in ("routing", "indexer")]
    differ = 1.0 - min((overlap for overlap in overlaps if overlap is not None), default=1.0)
    if value is None:
        return None
    coarse = COARSE if step.settings is not None and step.settings.coarse else 0.0
    return Reading(max(0.0, value - coarse) if differ > NEAR_TIES else 0.0, f"{differ:.1%} of the choices differ")


def choices(step: StepRecord, memory: Memory) -> Reading | None:
    """Share of the sampler's experts, or rows, that the learner would not choose at the very same weights."""
    if not step.on_policy or (step.settings is not None and step.settings.coarse):
        return None
    names = ("replay/routing_overlap", "replay/indexer_overlap")
    found = {name: 1.0 - value for name in names if (value := step.number(name)) is not None}
    if not found:
        return None
    worst = max(found, key=lambda name: found[name])
    return Reading(found[worst], worst)


def off_policy(step: StepRecord, memory: Memory) -> Reading | None:
    """The larger of approx_kl and drift_p95, each by the size at which trials began to collapse."""
    found = {name: value / limit for name, limit in OFF_POLICY if (value := step.number(name)) is not None}
    if not found:
        return None
    worst = max(found, key=lambda name: found[name])
    return Reading(found[worst], f"{worst} {step.metrics[worst]:.2g}")


def surprise(step: StepRecord, memory: Memory) -> Reading | None:
    """|z| of the surprise (``rl.objective.diagnostics``) over the last five steps, where it is also a tenth of the
    entropy: with many tokens a small bias, as of leaving out groups of equal rewards, is many standard errors."""
    z, mean, entropy = (step.number(f"policy/{n}") for n in ("surprise_z", "surprise", "entropy"))
    if z is None or mean is None or entropy is None:
        return None
    last: deque[tuple[float, float, float]] = memory.setdefault("last", deque(maxlen=WINDOW))
    last.append((z, mean, entropy))
    zs, means, entropies = (math.fsum(column) for column in zip(*last, strict=True))
    small = abs(means) <= 0.1 * entropies
    where = f"{len(last)} steps: mean {means / len(last):+.2g} nats, entropy {entropies / len(last):.2g}"
    return Reading(0.0 if small else abs(zs) / math.sqrt(len(last)), where)


def no_gradient(step: StepRecord, memory: Memory) -> Reading | None:
    """Share of groups whose rewards are all equal."""
    value, reward = step.number("group/zero_variance"), step.number("reward/mean")
    if value is None or (step.settings is not None and step.settings.taught):
        return None
    return Reading(value, "" if reward is None else f"mean reward {reward:.2f}")


def skipped_steps(step: StepRecord, memory: Memory) -> Reading | None:
    """Optimiser steps that were skipped in this step."""
    value = step.number("learner/skipped_steps")
    if value is None:
        return None
    before, memory["total"] = memory.get("total", 0.0), value
    return Reading(value - before)


def gradient(step: StepRecord, memory: Memory) -> Reading | None:
    """Times that the sum of gradients was changed from outside between two micro-batches or before the step."""
    value = step.number("learner/gradient_changed")
    return None if value is None else Reading(value)


def too_stale(step: StepRecord, memory: Memory) -> Reading | None:
    """Versions by which the oldest token is older than ``max_staleness`` allows."""
    value = step.number("staleness/max")
    if value is None or step.settings is None:
        return None
    return Reading(value - step.settings.max_staleness)


def learning_rate(step: StepRecord, memory: Memory) -> Reading | None:
    """By what share the learning rate is below an earlier step's: after its warm-up it is constant."""
    value, settings = step.number("learner/lr"), step.settings
    if value is None or settings is None or settings.minibatches > 1:  # a mean over minibatches with none left out
        return None
    highest = memory["highest"] = max(memory.get("highest", 0.0), value)
    return Reading(1.0 - value / highest if highest > 0 else 0.0)


def collapse(step: StepRecord, memory: Memory) -> Reading | None:
    """By what share the outcome of the last five steps is below that of the best five in a row."""
    value = step.number("score/outcome")
    if value is None:
        value = step.number("reward/mean")
    if value is None:
        return None
    last: deque[float] = memory.setdefault("last", deque(maxlen=WINDOW))
    last.append(value)
    if len(last) < WINDOW:
        return None
    mean = sum(last) / WINDOW
    best = memory["best"] = max(memory.get("best", 0.0), mean)
    return Reading(1.0 - mean / best if best >= LEARNED else 0.0, f"{best:.2f} to {mean:.2f}")

"""A batch on its way to its optimiser step: what has been added up so far, and what is divided by once it is whole.

    g = 1/d sum_groups g_group,    d = groups | sampled tokens | sequences    (``objective.loss_aggregation``)

A group's advantages need the group alone, and its loss all but d: so its forward and backward can run while the other
groups are still sampled, and the gradient is divided by d when the last one is in. The indexer's loss L_I is a mean
over the batch's tokens instead; it reaches the indexer's parameters alone, and nothing else does, so that every
parameter has one divisor.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from rl.learner.forward import is_indexer
from rl.learner.gradient_seal import GradientSeal
from rl.learner.replay_audit import ReplayBooks
from rl.objective.advantage import BatchSize
from rl.objective.diagnostics import Diagnostics
from rl.policy.handover import whole
from rl.types import Group

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Minibatch:
    """What one optimiser step sums over its micro-batches. The losses are sums, not yet divided."""

    index: int  # before the first one's update alone the weights are those of the published version
    groups: list[Group] = field(default_factory=list)
    size: BatchSize = field(default_factory=BatchSize)
    inputs: int = 0  # tokens of the forward passes
    distinct: int = 0  # those of them that were computed: what segments share counts once
    taught: int = 0  # and of those the ones that a teacher has computed too
    microbatches: int = 0
    loss: float = 0.0  # of policy, KL and teachers
    policy_loss: float = 0.0
    distill_loss: float = 0.0
    indexer_loss: float = 0.0  # L_I times tokens

    def add(self, sums: Sequence[float]) -> None:
        """Some micro-batches were run: how many, inputs, distinct and taught tokens, and the four losses."""
        self.microbatches += int(sums[0])
        self.inputs += int(sums[1])
        self.distinct += int(sums[2])
        self.taught += int(sums[3])
        self.loss += sums[4]
        self.policy_loss += sums[5]
        self.distill_loss += sums[6]
        self.indexer_loss += sums[7]

    def divide(self, named: Iterable[tuple[str, torch.nn.Parameter]], aggregation: str, ranks: int = 1) -> None:
        """Turn the gradients of ``named`` into those of the means: they are sums over the micro-batches and, what FSDP
        leaves, means over the ``ranks``."""
        for name, parameter in named:
            if parameter.grad is not None:
                divisor = self.inputs if is_indexer(name) else self.size.divisor(aggregation)
                parameter.grad /= divisor / ranks


@dataclass
class OpenBatch:
    """One call of ``Learner.step``, or what is between ``Learner.begin`` and ``Learner.finish``.

    ``delta``: threshold of the off-policy mask, from earlier batches: one for the whole of this one.
    """

    delta: float | None
    minibatches: list[Minibatch]
    seal: GradientSeal
    broken_seals: int = 0  # on this rank
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    books: ReplayBooks = field(default_factory=ReplayBooks)
    advantages: list[float] = field(default_factory=list)  # of valid trajectories
    totals: dict[str, float] = field(default_factory=dict)  # summed over the minibatches
    seconds: float = 0.0  # that the learner has worked on it

    @contextmanager
    def sealed(self) -> Iterator[None]:
        """The one place where the sum of gradients may change: that nobody has changed it since is noted, or not."""
        self.broken_seals += self.seal.broken()
        yield
        self.seal.put()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of ``loss`` to the sum."""
        with self.sealed():
            loss.backward()

    def notes(self) -> tuple[Diagnostics, ReplayBooks, int]:
        """What this rank has to say to the others."""
        return self.diagnostics, self.books, self.broken_seals

    def join(self, parts: Sequence[tuple[Diagnostics, ReplayBooks, int]]) -> None:
        """Take over the ``notes`` of all ranks, each on its share of the micro-batches."""
        self.diagnostics, self.books, self.broken_seals = Diagnostics(), ReplayBooks(), 0
        for diagnostics, books, broken_seals in parts:
            self.diagnostics.extend(diagnostics)
            self.books.extend(books)
            self.broken_seals += broken_seals

    def metrics(self, room: int) -> dict[str, float]:
        """Named as in ``rl.tracking.metrics``: means over the minibatches and their tokens. ``room``: tokens that a
        micro-batch can hold."""
        inputs = sum(m.inputs for m in self.minibatches)
        distinct = sum(m.distinct for m in self.minibatches)
        taught = sum(m.taught for m in self.minibatches)
        microbatches = sum(m.microbatches for m in self.minibatches)
        capacity = microbatches * room
        return {
            **{key: value / len(self.minibatches) for key, value in self.totals.items()},
            **self.diagnostics.summary(),
            **self.books.summary(),
            **_advantage_statistics(self.advantages),
            "learner/microbatches": float(microbatches),
            "learner/tokens": float(inputs),
            "learner/tokens_distinct": float(distinct),
            **({"learner/tokens_taught": float(taught)} if taught else {}),
            "learner/sharing": inputs / distinct if distinct else 1.0,
            "learner/tokens_per_s": inputs / self.seconds,
            "learner/packing": distinct / capacity if capacity else 1.0,
            "learner/gradient_changed": float(self.broken_seals),
            "learner/seconds": self.seconds,
        }


def _advantage_statistics(advantages: Sequence[float]) -> dict[str, float]:
    if not advantages:
        return {}
    values = np.asarray(advantages)
    return {
        "advantage/mean": float(values.mean()),
        "advantage/std": float(values.std()),
        "advantage/min": float(values.min()),
        "advantage/max": float(values.max()),
        "advantage/zero_share": float((values == 0.0).mean()),
    }


def keep_bad_batch(
    folder: Path, version: int, minibatch: int, groups: Sequence[Group], outcome: Mapping[str, float]
) -> None:
    """Write what a step was left out for into ``folder``: everything that is needed to run it again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"version_{version:06d}_minibatch_{minibatch}.pkl"
    with path.open("wb") as file:
        pickle.dump({"version": version, "metrics": dict(outcome), "groups": [whole(group) for group in groups]}, file)
    log.warning(
        "skipped an optimiser step: loss %s, gradient norm %s; its batch is in %s",
        outcome["loss/total"],
        outcome["learner/grad_norm"],
        path,
    )

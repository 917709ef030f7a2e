"""The teachers of on-policy distillation: frozen policies in the process (or processes) of the one that learns.

A micro-batch holds rollouts of one taught family, so one teacher scores it. Families with one directory share its
weights. Of several ranks each holds a shard, as of the policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from rl.learner.forward import Teacher, packed_scores, packed_states
from rl.learner.kl_reference import Reference
from rl.learner.packing import MicroBatch, PackItem
from rl.learner.precision import ComputeWeights
from rl.learner.sharded import ShardedWeights
from rl.objective.config import ObjectiveConfig
from rl.objective.logprobs import TokenScores
from rl.policy.loading import load_policy


class Teachers:
    """Those of ``objective.distill``, whose ``teachers`` are directories here, beside ``weights``.

    Raises ValueError for one with a vocabulary of another size, or a form that ``weights`` cannot compute.
    """

    def __init__(
        self, objective: ObjectiveConfig, weights: ComputeWeights | ShardedWeights, device: torch.device, first: bool
    ) -> None:
        self._objective, self._config = objective, objective.distill
        self._by_path: dict[str, Reference] = {}
        policy = weights.policy
        if self._config.teachers and self._config.form != "sampled" and policy.ops.head_scores is not None:
            raise ValueError(
                f"objective.distill.form={self._config.form} with learner.ops={policy.ops.name}: its head makes no "
                "logits; use learner.ops=torch, or form=sampled"
            )
        for path in dict.fromkeys(self._config.teachers.values()):
            given = load_policy(path, empty=not first)
            if given.vocab_size != policy.vocab_size:
                raise ValueError(
                    f"objective.distill.teachers: the one in '{path}' has a vocabulary of {given.vocab_size} tokens, "
                    f"the policy one of {policy.vocab_size}; they must be equal"
                )
            self._by_path[path] = Reference(weights, given, device, frozen_base=False)

    def of(self, family: str | None) -> Reference | None:
        """The teacher of a family; None where there is none."""
        path = None if family is None else self._config.teacher_for(family)
        return None if path is None else self._by_path[path]

    def parts(self, items: Sequence[PackItem], share: bool) -> list[tuple[list[PackItem], bool]]:
        """``items`` by the family that is taught, and whether beginnings of them are to be shared: ``share``, but for a
        teacher that cannot compute prefix trees."""
        found = []
        for family in sorted({item.taught for item in items}, key=lambda name: name or ""):
            teacher = self.of(family)
            shares = share and (teacher is None or teacher.policy.shares_prefixes)
            found.append(([item for item in items if item.taught == family], shares))
        return found

    @contextmanager
    def beside(
        self, batch: MicroBatch, sampling_mask: bool, head_rows: int | None
    ) -> Iterator[Teacher | TokenScores | None]:
        """What its teacher brings to ``batch``, as long as the block runs: the backward pass belongs into it."""
        teacher = self.of(batch.taught)
        if teacher is None:
            yield None
            return
        # Routed live: the recorded experts are the sampler's choice, not the teacher's.
        with teacher.active() as policy:
            with torch.no_grad():
                said: Teacher | TokenScores
                if self._config.form == "sampled":
                    said = packed_scores(
                        policy, batch, temperature=self._objective.temperature, sampling_mask=sampling_mask,
                        head_rows=head_rows,
                    )  # fmt: skip
                else:
                    top_k = self._config.top_k if self._config.form == "top_k" else None
                    said = Teacher(packed_states(policy, batch), policy.logits, top_k)
            yield said

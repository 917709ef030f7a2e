"""The teachers of on-policy distillation: frozen policies in the process (or processes) of the one that learns.

A micro-batch holds rollouts of one taught family, so one teacher scores it. Families with one directory share its
weights. Of several ranks each holds a shard, as of the policy. Where policy and teachers are adapters of one base
(``learner.lora`` in a pipeline), a teacher is its adapter alone, and computes in the policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from rl.learner.forward import Teacher, packed_scores, packed_states
from rl.learner.kl_reference import Reference
from rl.learner.pack_item import PackItem
from rl.learner.packing import MicroBatch
from rl.learner.precision import ComputeWeights
from rl.learner.sharded import ShardedWeights
from rl.objective.config import ObjectiveConfig
from rl.objective.logprobs import TokenScores
from rl.policy.api import Policy
from rl.policy.checkpoint_files import ADAPTER
from rl.policy.loading import load_policy
from rl.policy.lora import LoraPolicy
from rl.policy.sharding import local, reshard


class Adapter:
    """A teacher that is another adapter of the policy's base: the policy's own makes room while it computes.

    ``directory``: as ``LoraPolicy.save_adapter`` writes it. Raises ValueError for an adapter of another form.
    """

    def __init__(self, weights: ComputeWeights | ShardedWeights, directory: str) -> None:
        policy = weights.policy
        if not isinstance(policy, LoraPolicy):
            raise ValueError(f"'{directory}' is an adapter, and the policy that it is to teach has none: learner.lora")
        self.policy = policy
        mine = self._parts()
        policy.load_adapter(directory)
        self._its = self._parts()
        self._put(mine)

    @contextmanager
    def active(self) -> Iterator[LoraPolicy]:
        """The policy with this adapter, for as long as the block runs: no forward pass of its own may be open."""
        mine = self._parts()
        self._put(self._its)
        try:
            yield self.policy
        finally:
            reshard(self.policy)
            self._put(mine)

    def _parts(self) -> list[torch.Tensor]:
        """Copies of what this rank holds of the policy's adapter."""
        return [local(value).clone() for value in self._adapter()]

    @torch.no_grad()
    def _put(self, parts: list[torch.Tensor]) -> None:
        for value, part in zip(self._adapter(), parts, strict=True):
            local(value).copy_(part)

    def _adapter(self) -> list[torch.nn.Parameter]:
        return [value for name, value in self.policy.named_parameters() if ".lora_" in name]


class Teachers:
    """Those of ``objective.distill``, whose ``teachers`` are directories here, beside ``weights``.

    Raises ValueError for one with a vocabulary of another size, or a form that ``weights`` cannot compute.
    """

    def __init__(
        self, objective: ObjectiveConfig, weights: ComputeWeights | ShardedWeights, device: torch.device, first: bool
    ) -> None:
        self._objective, self._config = objective, objective.distill
        self._by_path: dict[str, Reference | Adapter] = {}
        policy = weights.policy
        if self._config.teachers and self._config.form != "sampled" and policy.ops.head_scores is not None:
            raise ValueError(
                f"objective.distill.form={self._config.form} with learner.ops={policy.ops.name}: its head makes no "
                "logits; use learner.ops=torch, or form=sampled"
            )
        for path in dict.fromkeys(self._config.teachers.values()):
            if (Path(path) / ADAPTER).is_file():
                self._by_path[path] = Adapter(weights, path)
                continue
            given = load_policy(path, empty=not first)
            if given.vocab_size != policy.vocab_size:
                raise ValueError(
                    f"objective.distill.teachers: the one in '{path}' has a vocabulary of {given.vocab_size} tokens, "
                    f"the policy one of {policy.vocab_size}; they must be equal"
                )
            self._by_path[path] = Reference(weights, given, device, frozen_base=False)

    def of(self, family: str | None) -> Reference | Adapter | None:
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
        if isinstance(teacher, Adapter):  # its head is the policy's, and an adapter has no part in it
            with teacher.active() as adapted:
                said = self._said(adapted, batch, sampling_mask, head_rows)
            yield said
            return
        with teacher.active() as policy:
            yield self._said(policy, batch, sampling_mask, head_rows)

    @torch.no_grad()
    def _said(
        self, policy: Policy, batch: MicroBatch, sampling_mask: bool, head_rows: int | None
    ) -> Teacher | TokenScores:
        # Routed live: the recorded experts are the sampler's choice, not the teacher's.
        if self._config.form == "sampled":
            return packed_scores(
                policy, batch, temperature=self._objective.temperature, sampling_mask=sampling_mask,
                head_rows=head_rows,
            )  # fmt: skip
        top_k = self._config.top_k if self._config.form == "top_k" else None
        return Teacher(packed_states(policy, batch), policy.logits, top_k)

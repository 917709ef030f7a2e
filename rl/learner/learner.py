"""The learner: groups of rollouts in, one or more optimiser steps, new weights out.

    theta <- AdamW(theta, clip(grad loss)),   loss = rl.objective.loss over packed micro-batches

The order of things in ``step``: minibatches of groups -> advantages and loss weights per group -> packing ->
forward, backward per micro-batch -> one optimiser step per minibatch. A batch of one minibatch may also come group by
group, as they finish: ``begin``, ``accumulate``, ``finish`` (``rl.learner.open_batch``). A minibatch whose loss or
gradient is not finite changes nothing, is counted, and is kept on disk with everything needed to run it again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.forward import Teacher, device_of, is_indexer, packed_scores, scores_and_lesson, sequence_logprobs
from rl.learner.gradient_seal import GradientSeal
from rl.learner.items import items_of
from rl.learner.kl_reference import Reference
from rl.learner.moments import Moments
from rl.learner.open_batch import Minibatch, OpenBatch, keep_bad_batch
from rl.learner.optim import Optimizer, schedule
from rl.learner.packing import MicroBatch, Planned, plan
from rl.learner.precision import coarser
from rl.learner.ranks import Ranks
from rl.learner.replay_audit import ReplayBooks, replay_of, require_records
from rl.learner.sharded import taken_up
from rl.learner.sync_probe import probe_scores
from rl.learner.teachers import Teachers
from rl.learner.whole import Whole, on_host
from rl.objective.config import ObjectiveConfig
from rl.objective.drift import DriftWindow
from rl.objective.logprobs import TokenScores, check_sampler_logprobs
from rl.objective.loss import grpo_loss
from rl.objective.teaching import Lesson
from rl.policy.api import Policy
from rl.policy.lora import LoraPolicy
from rl.policy.ops.operators import choose_operators
from rl.policy.replay import Record
from rl.policy.sharding import reshard
from rl.types import Group, ProbeScores, ReplayRecord

log = logging.getLogger(__name__)


class Learner:
    """Owns the policy that learns. ``version``: number of ``step`` calls so far; it names the weights."""

    def __init__(
        self,
        policy: Policy,
        config: LearnerConfig,
        objective: ObjectiveConfig,
        run_dir: str | Path,
        reference: Policy | None = None,
        replay: ReplayConfig | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """``reference``: pi_ref of the KL term, when ``objective.kl_coef`` is above 0; default a copy of ``policy`` as
        it is now, and with ``config.lora`` the policy without its adapter. ``run_dir/bad_batches`` receives batches
        that were skipped. ``replay``: default V3.2's (experts forced, sampling mask kept). ``ranks``: the processes
        that train together; each makes the same calls, with the same groups, and works on its share of the tokens. The
        first one's ``policy`` counts, the others' may be empty (``load_policy``)."""
        beside = 1 if ranks is None else ranks.beside
        torch.set_num_threads(config.threads or max(1, len(os.sched_getaffinity(0)) // beside))
        self.ranks = ranks
        self.lora: LoraPolicy | None = None
        if config.lora.rank:
            adapter = config.lora
            policy = self.lora = LoraPolicy(policy, adapter.rank, adapter.alpha, adapter.modules, config.seed)
        self.policy, self.config, self.objective = policy, config, objective
        self.replay = replay if replay is not None else ReplayConfig()
        self.drift = DriftWindow(objective.opsm_window)
        self.bad_batches = Path(run_dir) / "bad_batches"
        self.device = device_of(policy) if ranks is None else ranks.device
        self.version = 0
        self.skipped = 0
        self._open: OpenBatch | None = None
        self.rng = np.random.default_rng(config.seed)
        named = list(policy.named_parameters())
        self.train_indexer = config.train_indexer == "kl"
        has_indexer = any(is_indexer(name) for name, _ in named)
        if self.train_indexer and not has_indexer:
            raise ValueError("learner.train_indexer='kl', but this policy has no DSA indexer; use 'frozen'")
        if self.replay.indexer != "off" and not has_indexer:
            raise ValueError(f"replay.indexer={self.replay.indexer!r}, but this policy has no DSA indexer; use 'off'")
        for name, parameter in named:
            learns = ".lora_" in name if self.lora is not None else self.train_indexer or not is_indexer(name)
            parameter.requires_grad_(learns)
        ops = choose_operators(config.ops, self.device)
        policy.set_ops(ops)
        self.operators = f"learner.ops={ops.name}: {ops.where}"
        log.info("%s", self.operators)
        if ops.head_scores is not None:
            policy.head_weight()  # a head that has no kernel ends the run here, not in its first step
        adapts = self.lora is not None
        self.compute, self.deal = taken_up(policy, config.compute_dtype, ranks, config.offload_optimizer, adapts)
        policy = self.policy = self.compute.masters
        self.lora = policy if isinstance(policy, LoraPolicy) else None
        self.compute.policy.set_recompute(config.recompute)
        if adapts and objective.ref_refresh_every and objective.uses_reference:
            raise ValueError("objective.ref_refresh_every: with an adapter pi_ref is the base policy; use 0")
        self.reference: Reference | None = None
        if objective.uses_reference:
            self.reference = Reference(self.compute, reference, self.device, frozen_base=adapts)
        self.teachers = Teachers(objective, self.compute, self.device, self.first)
        self.optimizer = Optimizer(
            policy.named_parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
            grad_clip=config.grad_clip,
            share=schedule("constant", config.warmup_steps),
        )

    def step(self, groups: Sequence[Group]) -> dict[str, float]:
        """Train on ``groups`` once; ``version`` goes up by one.

        Returns metrics named as in ``rl.tracking.metrics``, means over the minibatches and their tokens.
        Trajectories with a ``failure_kind`` are left out of advantage and loss. Raises ValueError for a
        malformed trajectory or missing sampler log-probs, ReplayError for records that are missing or not used
        exactly once (both name the trajectory); a bad loss or gradient raises nothing: that step is skipped.
        """
        if not groups:
            raise ValueError("Learner.step got no groups; collect at least one")
        started = time.perf_counter()
        parts = self._minibatches(groups)
        batch = self.begin(len(parts))
        packed = [self._pack(part, m, batch) for part, m in zip(parts, batch.minibatches, strict=True)]
        if self.objective.old_policy == "learner":
            self._note_old_logprobs(packed)
        for minibatch, microbatches in zip(batch.minibatches, packed, strict=True):
            self._backward(microbatches, minibatch, batch)
            self._update(minibatch, batch)
        batch.seconds += time.perf_counter() - started
        return self._close(batch)

    def begin(self, minibatches: int = 1) -> OpenBatch:
        """Open a batch. What an earlier one has left without ``finish`` is dropped: the weights never saw it."""
        self.optimizer.zero_grad()
        parts, seal = [Minibatch(i) for i in range(minibatches)], GradientSeal(self.optimizer.parameters)
        self._open = OpenBatch(self.drift.delta(self.objective), parts, seal)
        return self._open

    def accumulate(self, groups: Sequence[Group]) -> None:
        """Forward and backward of some groups of the next batch, in any order and number; the weights stay as they are.

        ``begin``, this for all groups and ``finish`` are ``step`` but for the order of additions. With
        ``config.minibatches`` above 1 that is not so: later minibatches see other weights. Raises as ``step``.
        """
        if self.config.minibatches > 1:
            raise ValueError(f"learner.minibatches={self.config.minibatches}: only a batch of one can be accumulated")
        started = time.perf_counter()
        batch = self._open or self.begin()
        (minibatch,) = batch.minibatches
        try:
            microbatches = self._pack(groups, minibatch, batch)
            if self.objective.old_policy == "learner":
                self._note_old_logprobs([microbatches])
            self._backward(microbatches, minibatch, batch)
        except BaseException:
            self._open = None  # a part of its gradient is there: no step may be made of it
            raise
        batch.seconds += time.perf_counter() - started

    def finish(self, ids: Sequence[int]) -> dict[str, float]:
        """The optimiser step on what was accumulated, the groups ``ids``; metrics as of ``step``, with the seconds of
        ``accumulate``. Raises ValueError when those are not the groups that were accumulated, each once."""
        started, batch = time.perf_counter(), self._open
        found = [] if batch is None else [group.id for group in batch.minibatches[0].groups]
        if batch is None or not found or sorted(found) != sorted(ids):
            raise ValueError(f"Learner.finish of the groups {sorted(ids)}: accumulated were {sorted(found)}")
        self._update(batch.minibatches[0], batch)
        batch.seconds += time.perf_counter() - started
        return self._close(batch)

    def _close(self, batch: OpenBatch) -> dict[str, float]:
        """The batch is trained: what follows from it, and its metrics."""
        self._open = None
        if self.ranks is not None:
            batch.join(self.ranks.gather(batch.notes()))
        batch.books.close()
        for drift_S in batch.diagnostics.drifts:
            self.drift.add(drift_S)
        self.version += 1
        every = self.objective.ref_refresh_every
        if self.reference is not None and every and self.version % every == 0:
            self.reference.refresh()
        room = self.config.max_tokens_per_microbatch * (1 if self.deal is None else self.deal.sharers)
        return batch.metrics(room) | {"learner/skipped_steps": float(self.skipped)}

    @property
    def first(self) -> bool:
        """Whether this process speaks for the learner: writes its files, and keeps what ranks gather."""
        return self.ranks is None or self.ranks.rank == 0

    def weights(self) -> dict[str, np.ndarray | torch.Tensor]:
        """A copy of everything an engine needs, by name, on the host, in the dtype that the learner computes in; of a
        policy with an adapter only that (``rl.policy.lora.merge`` adds it to ``base_weights``).

        numpy arrays (zero-copy in Ray's object store), but tensors for bfloat16, which numpy lacks. Of several ranks
        all call it, and the first gets them.
        """
        return on_host(self.compute.weights())

    def base_weights(self) -> dict[str, np.ndarray | torch.Tensor]:
        """What ``weights`` are added to; empty without an adapter."""
        return on_host(self.compute.base_weights())

    @torch.no_grad()
    def probe_logprobs(self, tokens: Sequence[int] | np.ndarray, replay: ReplayRecord | None = None) -> np.ndarray:
        """float32 [T-1]: log-prob of tokens 1..T-1 at temperature 1, whole vocabulary; for the sync check.

        ``replay`` forces the engine's experts and, when recorded, its indexer's choice, so that a near-tie
        that flips is not taken for a failed sync. Rows the engine did not run are live.
        """
        return sequence_logprobs(self.compute.policy, tokens, replay, self.device).cpu().numpy()

    def probe(
        self, tokens: Sequence[int] | np.ndarray, replay: ReplayRecord | None = None, engine_dtype: str = "float32"
    ) -> ProbeScores:
        """``probe_logprobs``, and how far from them an engine that computes in ``engine_dtype`` may be
        (``rl.learner.sync_probe``)."""
        return probe_scores(self.compute, tokens, replay, coarser(engine_dtype, self.config.compute_dtype), self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything but weights (and the reference's) and AdamW's moments: schedule position, shuffle, drift,
        counters. It does not depend on how many ranks there are."""
        return {
            "optimizer_steps": self.optimizer.steps,
            "rng": self.rng.bit_generator.state,
            "version": self.version,
            "skipped": self.skipped,
            "drift": self.drift.state_dict(),
        }

    def whole(self) -> Whole | None:
        """All that a checkpoint holds, of however many ranks; all of them call it, and those but the first get None."""
        policy = self.compute.whole()
        reference = None if self.reference is None else self.reference.whole()
        state = self.state_dict()
        return None if policy is None else Whole(policy, reference, state)

    def load_state_dict(self, state: dict[str, Any], moments: Moments) -> None:
        """Take over ``state_dict`` and ``optimizer.moments()`` of a learner of any number of ranks."""
        self.optimizer.load(int(state["optimizer_steps"]), moments)
        self.rng.bit_generator.state = state["rng"]
        self.version, self.skipped = int(state["version"]), int(state["skipped"])
        self.drift.load_state_dict(state["drift"])
        self.compute.refresh()

    def _minibatches(self, groups: Sequence[Group]) -> list[list[Group]]:
        count = min(self.config.minibatches, len(groups))
        if count == 1:
            return [list(groups)]
        order = self.rng.permutation(len(groups))
        return [[groups[i] for i in part] for part in np.array_split(order, count)]

    def _pack(self, groups: Sequence[Group], minibatch: Minibatch, batch: OpenBatch) -> list[Planned]:
        """The micro-batches of ``groups``, which join ``minibatch``; checks what the sampler recorded."""
        items = items_of(groups, self.objective, self.version, self._skips_zero(), minibatch.size, batch.advantages)
        for item in items:
            logprobs = None if item.logprobs is None else item.logprobs[item.loss_mask]
            check_sampler_logprobs(logprobs, item.name)
        require_records(items, self.replay, self.policy)
        share, planned = self.config.share_prefixes and self.compute.policy.shares_prefixes, []
        for part, shares in self.teachers.parts(items, share):
            planned += plan(part, self.config.max_tokens_per_microbatch, self.device, shares, self.deal)
        if self.first:
            batch.books.expect(items)
        minibatch.groups += groups
        return planned

    def _skips_zero(self) -> bool:
        # With a KL term or a learning indexer a zero advantage still has a gradient.
        return self.config.skip_zero_advantage and not self.objective.uses_reference and not self.train_indexer

    def _scores(
        self,
        batch: MicroBatch,
        teacher: Teacher | TokenScores | None = None,
        record: Record | None = None,
        books: ReplayBooks | None = None,
    ) -> tuple[TokenScores, Lesson | None]:
        """Scores under the policy as it is now, with the sampler's choices repeated as ``replay`` says."""
        replay = replay_of(batch, self.replay)
        found = scores_and_lesson(
            self.compute.policy, batch, teacher, temperature=self.objective.temperature, replay=replay, record=record,
            sampling_mask=self._masks, head_rows=self.config.head_rows,
        )  # fmt: skip
        if books is not None and not batch.padding:
            books.use(batch, replay)
        return found

    @property
    def _masks(self) -> bool:
        return self.replay.sampling_mask == "auto"

    @torch.no_grad()
    def _note_old_logprobs(self, minibatches: Sequence[Sequence[Planned]]) -> None:
        for batches in minibatches:
            for planned in batches:
                planned.old_logprobs_N = self._scores(planned.collate())[0].logprobs_N
        reshard(self.compute.policy)

    def _backward(self, planned: Sequence[Planned], minibatch: Minibatch, batch: OpenBatch) -> None:
        """Forward and backward of one micro-batch after another; gradients and losses are summed for ``_update``."""
        counts = np.zeros(4)  # micro-batches, inputs, distinct and taught tokens
        losses = torch.zeros(4, device=self.device)  # all, policy, teacher, indexer
        for one in planned:
            microbatch = one.collate()
            batch.books.pack(microbatch)
            reference_N = self._reference_logprobs(microbatch)  # first: nothing comes between forward and backward
            with self.teachers.beside(microbatch, self._masks, self.config.head_rows) as teacher:
                losses += self._backward_one(microbatch, reference_N, teacher, minibatch, batch)
            if microbatch.counts:
                distinct = microbatch.distinct
                counts += (1, len(microbatch.tokens_T), distinct, distinct * (microbatch.taught is not None))
        sums = [*counts.tolist(), *losses.tolist()]
        minibatch.add(sums if self.ranks is None else self.ranks.sum(sums))

    def _backward_one(
        self,
        microbatch: MicroBatch,
        reference_N: torch.Tensor | None,
        teacher: Teacher | TokenScores | None,
        minibatch: Minibatch,
        batch: OpenBatch,
    ) -> torch.Tensor:
        """The same of one; its losses [4]: all but the indexer's, policy, teacher, indexer. 0 for a padding."""
        record = Record(want_experts=False, want_indexer_kl="sparse") if self.train_indexer else None
        scores, lesson = self._scores(microbatch, teacher, record, batch.books)
        taught = 0.0 if microbatch.taught is None else self.objective.distill.weight_for(microbatch.taught)
        inputs_N = microbatch.loss_inputs(scores.logprobs_N, reference_N, lesson, taught)
        terms = grpo_loss(inputs_N, self.objective, batch.delta)
        loss, indexer_loss = terms.loss, torch.zeros_like(terms.policy_loss)
        if record is not None:
            kl = record.indexer_kl / record.indexer_kl_tokens * len(microbatch.tokens_T)
            indexer_loss = kl.detach()
            loss = loss + self.config.indexer_kl_coef * kl
        if microbatch.padding:
            batch.backward(loss * 0.0)
            return torch.zeros(4, device=self.device)
        batch.backward(loss)
        if not microbatch.counts:  # of what is the whole micro-batch's; of L_I each rank has its own rows' share
            zero = torch.zeros_like(indexer_loss)
            return torch.stack((zero, zero, zero, indexer_loss))
        exact_N = microbatch.exact_N & (minibatch.index == 0)
        batch.diagnostics.add(terms, scores.logprobs_N, microbatch.sampler_logprobs_N, scores.entropy_N, exact_N)
        if lesson is not None:
            batch.diagnostics.add_lesson(str(microbatch.taught), lesson)
        return torch.stack((terms.loss.detach(), terms.policy_loss, terms.distill_loss, indexer_loss))

    def _update(self, minibatch: Minibatch, batch: OpenBatch) -> None:
        """One optimiser step on what was accumulated (or none, when a number is bad)."""
        metrics = {"loss/total": 0.0, "loss/policy": 0.0}
        if minibatch.microbatches:  # else every advantage is 0: momentum alone must not move the policy
            divisor = minibatch.size.divisor(self.objective.loss_aggregation)
            metrics = {"loss/total": minibatch.loss / divisor, "loss/policy": minibatch.policy_loss / divisor}
            if self.objective.distill.teachers:
                metrics["loss/distill"] = minibatch.distill_loss / divisor
            if self.train_indexer:
                metrics["loss/indexer"] = minibatch.indexer_loss / minibatch.inputs
                metrics["loss/total"] += self.config.indexer_kl_coef * metrics["loss/indexer"]
            ranks = 1 if self.ranks is None else self.ranks.size
            with batch.sealed():
                minibatch.divide(self.policy.named_parameters(), self.objective.loss_aggregation, ranks)
                outcome = self.optimizer.step(metrics["loss/total"])
            self.compute.refresh()
            metrics |= {"learner/grad_norm": outcome["grad_norm"], "learner/lr": outcome["lr"]}
            if not outcome["applied"]:
                self._keep_bad_batch(minibatch.groups, minibatch.index, metrics)
        for key, value in metrics.items():
            batch.totals[key] = batch.totals.get(key, 0.0) + value

    @torch.no_grad()
    def _reference_logprobs(self, batch: MicroBatch) -> torch.Tensor | None:
        # Routed live: the recorded experts are the sampler's choice, not pi_ref's. On the sampler's support.
        if self.reference is None:
            return None
        with self.reference.active() as policy:
            return packed_scores(
                policy, batch, temperature=self.objective.temperature, sampling_mask=self._masks,
                head_rows=self.config.head_rows,
            ).logprobs_N  # fmt: skip

    def _keep_bad_batch(self, groups: Sequence[Group], minibatch: int, outcome: dict[str, float]) -> None:
        self.skipped += 1
        if not self.first:
            return
        keep_bad_batch(self.bad_batches, self.version, minibatch, groups, outcome)

"""Supervised training on packed token streams: pre-training, cold start, indexer warm-up.

    loss = - 1/N sum_{t in targets} log pi_theta(x_t | x_<t)  +  c L_I

L_I is the indexer's KL loss (mean over tokens and layers); its inputs and its target are detached, so the
indexer learns from L_I alone and everything else from the cross-entropy alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rl.learner.config import MeansConfig, SFTConfig
from rl.learner.forward import device_of, is_indexer, packed_scores
from rl.learner.optim import Optimizer, schedule
from rl.learner.pack_item import PackItem
from rl.learner.packing import MicroBatch, pack
from rl.learner.ranks import Ranks
from rl.learner.sharded import taken_up
from rl.policy.api import Policy
from rl.policy.attention_context import AttentionMode
from rl.policy.flops import active_parameters
from rl.policy.replay import Record
from rl.policy.sharding import reshard
from rl.types import TokenStream


class SFTTrainer:
    """``step(examples)`` is one optimiser step on their mean token loss; ``evaluate`` only measures.

    Sets ``requires_grad`` of the policy's parameters as the config says (indexer frozen, trained, or alone).
    ``ranks``: the processes that train together; each makes the same calls, with the same examples, and works on its
    share of the tokens. The first one's ``policy`` counts, the others' may be empty (``load_policy``).
    """

    def __init__(
        self, policy: Policy, config: SFTConfig, means: MeansConfig | None = None, ranks: Ranks | None = None
    ) -> None:
        means = means or MeansConfig()
        self.config, self._head_rows = config, means.head_rows
        self.ranks = ranks
        self.device = device_of(policy) if ranks is None else ranks.device
        self.tokens = 0  # input tokens trained on so far
        self.skipped = 0  # steps left out because loss or gradient was not finite
        named = list(policy.named_parameters())
        self.has_indexer = any(is_indexer(name) for name, _ in named)
        if config.indexer_only and not self.has_indexer:
            raise ValueError("sft.indexer_only=true, but this policy has no DSA indexer; set it to false")
        if config.router_bias_gamma > 0 and not policy.num_moe_layers:
            raise ValueError(
                f"sft.router_bias_gamma={config.router_bias_gamma}, but this policy has no MoE layers; use 0"
            )
        self.train_indexer = self.has_indexer and config.indexer_kl_coef > 0
        for name, parameter in named:
            parameter.requires_grad_(self.train_indexer if is_indexer(name) else not config.indexer_only)
        self.compute, self.deal = taken_up(policy, config.compute_dtype, ranks, means.offload_optimizer)
        self.policy = self.compute.masters
        self.compute.policy.set_recompute(means.recompute)
        self.optimizer = Optimizer(
            self.policy.named_parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
            grad_clip=config.grad_clip,
            share=schedule(config.schedule, config.warmup_steps, config.total_steps, config.final_lr_share),
        )

    @property
    def steps(self) -> int:
        """Optimiser steps applied so far."""
        return self.optimizer.steps

    def step(self, examples: Sequence[TokenStream]) -> dict[str, float]:
        """One optimiser step on ``examples``.

        Returns ``sft/loss`` (nats per target), ``sft/accuracy`` (share of targets that are the arg-max),
        ``sft/indexer_kl`` (nats per token and layer) when it was computed, ``sft/grad_norm``, ``sft/lr``,
        ``sft/tokens`` (input tokens), ``sft/targets``, ``sft/tokens_per_s``, ``sft/skipped`` (so far).
        Raises ValueError when no example has a target.
        """
        started = time.perf_counter()
        config = self.config
        items = self._items(examples)
        inputs, targets = sum(item.inputs for item in items), sum(len(item.targets) for item in items)
        totals = torch.zeros(3, device=self.device)  # loss, accuracy, indexer KL
        counts: torch.Tensor | None = None
        kl_now = self.train_indexer and self.steps % config.indexer_kl_every == 0
        for batch in self._pack(items):
            record = Record(
                want_experts=config.router_bias_gamma > 0,
                want_indexer_kl=self.policy.mode if kl_now else "off",
            )
            scores = packed_scores(self.compute.policy, batch, record=record, head_rows=self._head_rows)
            loss = -(batch.weights_N * scores.logprobs_N).sum()
            sums = [loss.detach(), (batch.weights_N * scores.greedy_N).sum(), torch.zeros_like(totals[0])]
            if kl_now:
                kl = record.indexer_kl / record.indexer_kl_tokens * (len(batch.tokens_T) / inputs)
                sums[2] = kl.detach()
                kl = config.indexer_kl_coef * kl
                loss = kl if config.indexer_only else loss + kl
            if batch.padding:  # made for the other ranks' sake
                (loss * 0.0).backward()
                continue
            loss.backward()
            totals += torch.stack(sums) * torch.tensor([batch.counts, batch.counts, True], device=self.device)
            if config.router_bias_gamma > 0:
                load = _expert_load(record.experts, self.policy.num_experts)
                counts = load if counts is None else counts + load
        loss_value, accuracy, kl_value = self._sum(totals.tolist())
        if self.ranks is not None:
            for parameter in self.optimizer.parameters:
                if parameter.grad is not None:
                    parameter.grad *= self.ranks.size  # FSDP leaves the mean over the ranks; weights are for the sum
            if config.router_bias_gamma > 0:
                shape = (self.policy.num_moe_layers, self.policy.num_experts)
                own = torch.zeros(shape, dtype=torch.long, device=self.device) if counts is None else counts
                counts = torch.tensor(self._sum(own.flatten().tolist()), device=self.device).view(shape)
        outcome = self.optimizer.step(loss_value + kl_value)
        self.skipped += outcome["applied"] == 0.0
        if counts is not None and outcome["applied"]:
            self.policy.update_router_bias(counts, config.router_bias_gamma)
        self.compute.refresh()
        self.tokens += inputs
        metrics = {
            "sft/loss": loss_value,
            "sft/accuracy": accuracy,
            "sft/grad_norm": outcome["grad_norm"],
            "sft/lr": outcome["lr"],
            "sft/tokens": float(inputs),
            "sft/targets": float(targets),
            "sft/tokens_per_s": inputs / (time.perf_counter() - started),
            "sft/skipped": float(self.skipped),
        }
        if kl_now:
            metrics["sft/indexer_kl"] = kl_value
        return metrics

    @torch.no_grad()
    def evaluate(self, examples: Sequence[TokenStream]) -> dict[str, float]:
        """``sft/eval_loss`` (nats per target), ``sft/eval_accuracy`` (share of targets that are the arg-max)
        and ``sft/eval_exact`` (share of examples whose targets all are), under teacher forcing."""
        loss = accuracy = exact = segments = 0.0
        for batch in self._pack(self._items(examples)):
            scores = packed_scores(self.compute.policy, batch, head_rows=self._head_rows)
            if not batch.counts:
                continue
            loss -= float((batch.weights_N * scores.logprobs_N).sum())
            accuracy += float((batch.weights_N * scores.greedy_N).sum())
            wrong_N = (~scores.greedy_N).float()
            wrong_S = torch.zeros(batch.segments, device=self.device).index_add_(0, batch.segment_N, wrong_N)
            exact += float((wrong_S == 0).sum())
            segments += batch.segments
        reshard(self.compute.policy)
        loss, accuracy, exact, segments = self._sum([loss, accuracy, exact, segments])
        return {"sft/eval_loss": loss, "sft/eval_accuracy": accuracy, "sft/eval_exact": exact / segments}

    def set_mode(self, mode: AttentionMode) -> None:
        """Dense or sparse attention from now on."""
        self.policy.mode = self.compute.policy.mode = mode

    def save(self, directory: str | Path) -> None:
        """The weights that learn, in float32 and the hub's layout; written by the first rank."""
        self.compute.save(directory, masters=True)

    def figures(self) -> dict[str, Any]:
        """What was trained: ``parameters``, ``steps`` applied and ``skipped_steps``, ``trained_tokens``, ``flops`` (6 N
        per token), ``threads``."""
        return {
            "steps": self.steps,
            "skipped_steps": self.skipped,
            "parameters": sum(p.numel() for _, p in self.policy.named_parameters()),
            "trained_tokens": self.tokens,
            "flops": 6 * active_parameters(self.policy.module) * self.tokens,
            "threads": torch.get_num_threads(),
        }

    def _items(self, examples: Sequence[TokenStream]) -> list[PackItem]:
        """Those with targets, each target weighted by one over the number of all."""
        targets = sum(int(e.loss_mask.sum()) for e in examples)
        if targets == 0:
            raise ValueError(f"none of the {len(examples)} examples has a target: every loss_mask is False")
        items = [PackItem(e.tokens, e.loss_mask, weight=1.0 / targets) for e in examples]
        return [item for item in items if item.inputs > 0]

    def _pack(self, items: Sequence[PackItem]) -> list[MicroBatch]:
        """Micro-batches; of several ranks this one's."""
        return pack(items, self.config.max_tokens_per_microbatch, self.device, deal=self.deal)

    def _sum(self, values: list[float]) -> list[float]:
        """Each of ``values``, over all ranks."""
        return values if self.ranks is None else self.ranks.sum(values)


def _expert_load(experts_TLK: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Tokens per expert [L, E] of one forward pass."""
    layers = experts_TLK.shape[1]
    offset = torch.arange(layers, device=experts_TLK.device)[None, :, None] * num_experts
    return torch.bincount((experts_TLK + offset).flatten(), minlength=layers * num_experts).view(layers, num_experts)

"""The one supervised loop: pre-training, cold start, distillation and DSA adaptation all train through ``train``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rl.chat.tokenizer import copy_tokenizer
from rl.data.corpus import Document, batches
from rl.learner.config import SFTConfig
from rl.learner.sft import SFTTrainer
from rl.policy.flops import active_parameters
from rl.policy.loading import load_policy
from rl.types import TokenStream

if TYPE_CHECKING:
    from configs.schema import SupervisedConfig
    from rl.run.job import Report


def train(
    trainer: SFTTrainer,
    stream: Iterator[Sequence[TokenStream]],
    steps: range,
    on_step: Callable[[int, dict[str, float]], None],
) -> dict[str, float]:
    """One optimiser step on the next batch of ``stream`` for every number in ``steps``; ``on_step(number, metrics)``
    after each. Returns the metrics of the last (``SFTTrainer.step``); empty without a step."""
    metrics: dict[str, float] = {}
    for step in steps:
        metrics = trainer.step(next(stream))
        on_step(step, metrics)
    return metrics


def supervised(
    base_dir: Path, config: SupervisedConfig, documents: Sequence[Document], seed: int, out: Path, report: Report
) -> dict[str, Any]:
    """Train the policy of ``base_dir`` on ``documents`` with sparse attention; policy and tokenizer go into ``out``.

    Returns figures: documents, corpus_tokens, steps, trained_tokens, flops (6 N per token), final_loss.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    policy = load_policy(base_dir)
    tokens = sum(len(d) for d in documents)
    steps = max(1, math.ceil(config.epochs * tokens / config.tokens_per_step))
    trainer = SFTTrainer(
        policy,
        SFTConfig(
            compute_dtype=config.compute_dtype,
            lr=config.lr,
            schedule="linear",
            warmup_steps=min(10, steps // 4),
            total_steps=steps,
            final_lr_share=0.0,
            indexer_kl_coef=config.indexer_kl_coef,
            indexer_kl_every=config.indexer_kl_every,
            router_bias_gamma=config.router_bias_gamma,
            # a document is never cut: the longest one has a pass of its own
            max_tokens_per_microbatch=max([SFTConfig.max_tokens_per_microbatch, *(len(d) for d in documents)]),
        ),
    )
    torch.manual_seed(seed)
    metrics = train(
        trainer,
        batches(documents, config.tokens_per_step, seed),
        range(steps),
        lambda step, metrics: report("supervised", step + 1, steps, metrics),
    )
    policy.save(out)
    copy_tokenizer(base_dir, out)
    return {
        "documents": len(documents),
        "corpus_tokens": tokens,
        "steps": steps,
        "trained_tokens": trainer.tokens,
        "flops": 6 * active_parameters(policy.module) * trainer.tokens,
        "final_loss": round(metrics["sft/loss"], 4),
    }

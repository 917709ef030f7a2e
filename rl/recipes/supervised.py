"""The one supervised loop: pre-training, cold start, distillation and DSA adaptation all train through ``train``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.chat.tokenizer import copy_tokenizer
from rl.data.corpus import Document, batches
from rl.learner.config import SFTConfig
from rl.learner.trainer import Means, Trainer, open_trainer
from rl.types import TokenStream

if TYPE_CHECKING:
    from configs.schema import SupervisedConfig
    from rl.run.job import Report


def train(
    trainer: Trainer,
    stream: Iterator[Sequence[TokenStream]],
    steps: range,
    on_step: Callable[[int, dict[str, float]], None],
) -> dict[str, float]:
    """One optimiser step on the next batch of ``stream`` for every number in ``steps``; ``on_step(number, metrics)``
    after each. Returns the metrics of the last (``rl.learner.sft.SFTTrainer.step``); empty without a step."""
    metrics: dict[str, float] = {}
    for step in steps:
        metrics = trainer.step(next(stream))
        on_step(step, metrics)
    return metrics


def supervised(
    base_dir: Path, config: SupervisedConfig, documents: Sequence[Document], seed: int, out: Path, report: Report,
    means: Means | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train the policy of ``base_dir`` on ``documents`` with sparse attention; policy and tokenizer go into ``out``.

    Returns figures: documents, corpus_tokens, steps, trained_tokens, flops (6 N per token), final_loss.
    """
    means = means or Means()
    tokens = sum(len(d) for d in documents)
    steps = max(1, math.ceil(config.epochs * tokens / config.tokens_per_step))
    settings = SFTConfig(
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
        max_tokens_per_microbatch=means.config.tokens_for(max((len(d) for d in documents), default=0)),
    )
    with open_trainer({"path": str(base_dir)}, settings, means, config.threads) as trainer:
        metrics = train(
            trainer,
            batches(documents, config.tokens_per_step, seed),
            range(steps),
            lambda step, metrics: report("supervised", step + 1, steps, metrics),
        )
        trainer.save(out)
        figures = trainer.figures()
    copy_tokenizer(base_dir, out)
    return {
        "documents": len(documents),
        "corpus_tokens": tokens,
        "steps": steps,
        "trained_tokens": figures["trained_tokens"],
        "flops": figures["flops"],
        "final_loss": round(metrics["sft/loss"], 4),
    }

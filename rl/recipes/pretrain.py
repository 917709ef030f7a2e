"""`rl-pretrain`: make the tiny base policy from nothing.

Tokenizer and corpus first, then two stages as in DeepSeek's sparse adaptation (V3.2 sec. 2.1.1), from random weights:
dense attention with the indexer trained beside by its KL loss, then top-k sparse attention with the KL over the
selected set. What was done is written into the policy's own README.md: seed, tokens, FLOPs, time, scores.

    rl-pretrain                          writes runs/base
    rl-pretrain out=/tmp/base base.dense_steps=500
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import BaseConfig, PolicyConfig
    from envs.taskset import Taskset
    from rl.data.corpus import Document
    from rl.learner.trainer import Means, Trainer
    from rl.run.job import Report

_VALIDATION_EVERY = 53  # documents
_VALIDATE_EVERY = 250  # steps


def pretrain(
    policy_config: PolicyConfig, config: BaseConfig, taskset: Taskset, out: Path, report: Report,
    means: Means | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train tokenizer and policy, save both into ``out``; returns the card's figures."""
    from rl.chat.tokenizer import ChatTokenizer, train_tokenizer
    from rl.chat.v32 import V32Renderer, render_text
    from rl.data.corpus import batches, dialogues, encode
    from rl.data.demos import thought
    from rl.learner.config import SFTConfig
    from rl.learner.trainer import Means, open_trainer
    from rl.recipes.supervised import train as train_steps

    means = means or Means()
    started = time.perf_counter()
    corpus = config.corpus
    total = corpus.demos + corpus.drills
    done = 0

    def tick(n: int) -> None:
        nonlocal done
        done += n
        if done % 200 == 0:
            report("corpus", done, total, {})

    items = list(
        dialogues(taskset, corpus.demos, corpus.novice_share, corpus.drills, corpus.max_facts, config.seed, tick)
    )
    # A random choice: every n-th document would beat with the period in which a mixture deals its families.
    chosen = random.Random(config.seed).sample(items, min(corpus.texts_for_tokenizer, len(items)))
    texts = (render_text([thought(m) for m in d.messages], thinking=d.thinking) for d in chosen)
    tokenizer: ChatTokenizer = train_tokenizer(texts, config.vocab_size)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    documents = encode(V32Renderer(tokenizer), items)
    corpus_s = time.perf_counter() - started

    train, validation = split_validation(documents)
    described = {
        "preset": policy_config.preset,
        "vocab_size": tokenizer.vocab_size,
        "overrides": overrides(policy_config, config),
        "seed": config.seed,
        "mode": "dense",
    }
    steps = config.dense_steps + config.sparse_steps
    settings = SFTConfig(
        lr=config.lr,
        schedule="cosine",
        warmup_steps=min(100, steps // 10),
        total_steps=steps,
        final_lr_share=0.02,
        weight_decay=0.01,
        max_tokens_per_microbatch=means.config.max_tokens_per_microbatch,
        indexer_kl_coef=config.indexer_kl_coef,
        indexer_kl_every=config.indexer_kl_every,
        router_bias_gamma=config.router_bias_gamma,
    )
    stream = batches(train, config.tokens_per_step, config.seed)
    with open_trainer(described, settings, means, config.threads) as trainer:

        def on_step(step: int, metrics: dict[str, float]) -> None:
            stage = f"{'dense' if step < config.dense_steps else 'sparse'} stage"
            report(stage, step + 1, steps, metrics)
            if (step + 1) % _VALIDATE_EVERY == 0:
                exact = {f"exact {k}": v for k, v in exactness(trainer, validation).items()}
                report(f"{stage}, validation", step + 1, steps, exact)

        train_steps(trainer, stream, range(config.dense_steps), on_step)
        trainer.set_mode("sparse")
        train_steps(trainer, stream, range(config.dense_steps, steps), on_step)
        wall_s = time.perf_counter() - started
        scores = exactness(trainer, validation)
        trainer.save(out)
        trained = trainer.figures()
    figures = {
        "preset": policy_config.preset,
        "parameters": trained["parameters"],
        "vocab_size": tokenizer.vocab_size,
        "seed": config.seed,
        "documents": len(documents),
        "corpus_tokens": int(sum(len(d) for d in documents)),
        "dense_steps": config.dense_steps,
        "sparse_steps": config.sparse_steps,
        "trained_tokens": trained["trained_tokens"],
        "flops": trained["flops"],
        "corpus_s": round(corpus_s, 1),
        "wall_s": round(wall_s, 1),
        "threads": trained["threads"],
        "validation_exact": scores,
    }
    write_card(out, figures)
    return figures


def overrides(policy: PolicyConfig, config: BaseConfig) -> dict[str, Any]:
    """Fields of the model's configuration that are not the preset's."""
    chosen = {} if config.index_precision is None else {"index_precision": config.index_precision}
    return {**policy.overrides, **chosen}


def split_validation(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """(train, validation): every 53rd document is kept for validation.

    A prime, so that it does not beat with the period in which a mixture deals its families.
    """
    every = _VALIDATION_EVERY
    train = [d for i, d in enumerate(documents) if i % every]
    return train, [d for i, d in enumerate(documents) if i % every == 0]


def exactness(trainer: Trainer, documents: Sequence[Document]) -> dict[str, float]:
    """Per source: share of documents whose every assistant token is the greedy choice, teacher forced."""
    sources = sorted({d.source for d in documents})
    return {
        source: round(trainer.evaluate([d for d in documents if d.source == source])["sft/eval_exact"], 4)
        for source in sources
    }


def write_card(out: Path, figures: dict[str, Any]) -> None:
    """README.md and card.json beside the weights."""
    (out / "card.json").write_text(json.dumps(figures, indent=1) + "\n")
    rows = "\n".join(f"| {k} | {v} |" for k, v in figures.items() if k != "validation_exact")
    exact = "\n".join(f"| {k} | {v:.3f} |" for k, v in figures["validation_exact"].items())
    (out / "README.md").write_text(
        "# The tiny base policy\n\n"
        "Made by `rl-pretrain` of this repository from a synthetic corpus (training-split demonstrations of\n"
        "the environments, recall, copying and arithmetic drills). Held-out evaluation tasks are not in it.\n"
        "Run the command again to make it again.\n\n"
        f"| what | value |\n|---|---|\n{rows}\n\n"
        "Share of validation documents (same generators, not trained on) whose every assistant token is the\n"
        "greedy choice under teacher forcing. Demonstrations hold random decisions, so 1.0 is not to be had there:\n\n"
        f"| source | exact |\n|---|---|\n{exact}\n"
    )

"""Cold start (recipe 4.2): supervised training on the environments' own demonstrations.

As in DeepSeek-V3.2 the patterns it teaches are "not robust but occasionally right": the novice demonstrator has the
right formats and doubtful decisions (guesses without the tool, wrong tool, no check). RL finds the good ones.
The DSA indexer is trained beside by its KL loss; attention is sparse, as in rollouts.

    rl-coldstart out=runs/start                 from the shipped base
    rl-coldstart out=runs/start coldstart.novice_share=0      perfect demonstrations
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .flops import active_parameters
from .pretrain import Report, examples

if TYPE_CHECKING:
    from configs.schema import ColdStartConfig, SupervisedConfig
    from envs.taskset import Taskset

    from .chat.renderer import Renderer
    from .corpus import Document
    from .demos import Demo
    from .rollout.config import RolloutConfig


FIGURES = "coldstart.json"


def coldstart(
    base_dir: Path,
    config: ColdStartConfig,
    taskset: Taskset,
    seed: int,
    out: Path,
    report: Report,
    renderer: Renderer,
    rollout: RolloutConfig,
) -> dict[str, Any]:
    """Train the policy of ``base_dir`` on demonstrations; policy, tokenizer and demonstrations go into ``out``.

    ``rollout``: whether the policy thinks, and with ``config.as_rollouts`` all that the demonstrations are played
    under. Returns figures: outcome of the demonstrations per family, steps, tokens, seconds, last loss.
    """
    started = time.perf_counter()

    def tick(done: int) -> None:
        if done % 32 == 0 or done == config.demos:
            report("demonstrations", done, config.demos, {})

    if config.as_rollouts:
        from .distill import documents as documents_of
        from .distill import save_data
        from .rehearse import rehearse
        from .tracking.summary import OUTCOME, event_counts

        played = rehearse(taskset, range(config.demos), config.novice_share, seed, renderer, rollout, tick)
        outcomes = [(t.family, t.reward_parts[OUTCOME]) for t in played]
        documents = documents_of(played)
        save_data(out / "demos", played)
        more = {"counts": dict(event_counts(played)[0])}
    else:
        from .corpus import encode
        from .demos import demonstrations

        demos: list[Demo] = []
        for demo in demonstrations(taskset, range(config.demos), config.novice_share, seed):
            demos.append(demo)
            tick(len(demos))
        outcomes = [(d.family, d.outcome) for d in demos]
        documents = encode(renderer, [(d.family, rollout.thinking, d.messages) for d in demos])
        save_demos(out / "demos", demos, documents)
        more = {}
    trained = supervised(base_dir, config, documents, seed, out, report)
    figures = {
        "demos": len(outcomes),
        "demo_outcome": demo_outcomes(outcomes),
        **more,
        **trained,
        "wall_s": round(time.perf_counter() - started, 1),
    }
    (out / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def supervised(
    base_dir: Path, config: SupervisedConfig, documents: Sequence[Document], seed: int, out: Path, report: Report
) -> dict[str, Any]:
    """Train the policy of ``base_dir`` on ``documents`` with sparse attention; policy and tokenizer go into ``out``.

    Returns figures: documents, corpus_tokens, steps, trained_tokens, flops (6 N per token), final_loss.
    """
    import torch

    from .chat.tokenizer import copy_tokenizer
    from .corpus import batches
    from .learner.config import SFTConfig
    from .learner.sft import SFTTrainer
    from .policy.api import load_policy

    if config.threads:
        torch.set_num_threads(config.threads)
    policy = load_policy(base_dir)
    tokens = sum(len(d) for d in documents)
    steps = max(1, math.ceil(config.epochs * tokens / config.tokens_per_step))
    trainer = SFTTrainer(
        policy,
        SFTConfig(
            lr=config.lr,
            schedule="linear",
            warmup_steps=min(10, steps // 4),
            total_steps=steps,
            final_lr_share=0.0,
            indexer_kl_coef=config.indexer_kl_coef,
            indexer_kl_every=config.indexer_kl_every,
            router_bias_gamma=config.router_bias_gamma,
        ),
    )
    torch.manual_seed(seed)
    stream = batches(documents, config.tokens_per_step, seed)
    metrics: dict[str, float] = {}
    for step in range(steps):
        metrics = trainer.step(examples(next(stream)))
        report("supervised", step + 1, steps, metrics)
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


def demo_outcomes(outcomes: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Mean outcome of the demonstrations (family, outcome) per family: how imperfect they are."""
    families = sorted({family for family, _ in outcomes})
    means = {}
    for family in families:
        scores = [outcome for name, outcome in outcomes if name == family]
        means[family] = round(sum(scores) / len(scores), 3)
    return means


def save_demos(path: Path, demos: Sequence[Demo], documents: Sequence[Document]) -> None:
    """The demonstrations as a ``datasets`` directory: readable messages, token truth and outcome of each."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()  # the run shows its own
    Dataset.from_list(
        [
            {
                "task_id": demo.task_id,
                "family": demo.family,
                "outcome": demo.outcome,
                "messages": json.dumps([m.to_json() for m in demo.messages], ensure_ascii=False),
                "tokens": document.tokens,
                "loss_mask": document.loss_mask,
            }
            for demo, document in zip(demos, documents, strict=True)
        ]
    ).save_to_disk(str(path))


def main() -> None:
    """Console entry point."""
    from .cli import hydra_main

    hydra_main("coldstart", _run)


def _run(cfg: Any) -> None:
    from .assemble import open_renderer, open_taskset
    from .cli import line_reporter

    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    taskset = open_taskset(cfg.env, "train", cfg.seed)
    base = cfg.policy.path or cfg.base.source
    renderer = open_renderer(cfg.policy.renderer, base, cfg.rollout.retention)
    figures = coldstart(Path(base), cfg.coldstart, taskset, cfg.seed, out, line_reporter(), renderer, cfg.rollout)
    print(f"saved {out}: demonstrations' outcome {figures['demo_outcome']}, loss {figures['final_loss']}")


if __name__ == "__main__":
    main()

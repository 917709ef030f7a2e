"""A dense-attention checkpoint becomes a sparse one (DSA's continued training, V3.2 sec. 2.1.1).

    stage 1, indexer warm-up:  dense attention, only the indexer learns    L_I = sum_t KL(p[t,:]   || softmax(I[t,:]))
    stage 2, sparse training:  top-k attention, everything learns          L_I = sum_t KL(p[t,S_t] || softmax(I[t,S_t]))

p is the head-summed attention, L1-normalised. In stage 2 the indexer's input is detached: the indexer learns from L_I
alone, everything else from the language-modelling loss alone. Afterwards the same held-out sequences are measured
with four policies: dense, sparse with the untrained indexer, after stage 1, after stage 2.

A finished stage is kept under ``cache/`` and reused; a stage that was stopped starts again, nothing of it is kept.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rl.run.paths import output_directory, policy_directory

if TYPE_CHECKING:
    from configs.schema import AdaptConfig, AdaptStageConfig
    from rl.data.needles import Sample
    from rl.data.sequences import SampleSource
    from rl.learner.trainer import Trainer
    from rl.policy.attention_context import AttentionMode
    from rl.policy.dsa import DSAPolicy
    from rl.run.stage_cache import StageResult
    from rl.tracking.progress import Progress, Stage
    from rl.tracking.rundir import RunDir

DENSE, WARMUP, SPARSE, MEASURE = STAGES = ("dense policy", "indexer warm-up", "sparse training", "measurement")
STATES = ("dense", "untrained indexer", "after stage 1", "after stage 2")


def adapt(cfg: AdaptConfig) -> dict[str, Any]:
    """The whole job; returns what is also in ``runs/<name>/policy/adapt.json``.

    Raises ValueError when the configuration and the checkpoint do not fit (no indexer, sequences too short or long).
    """
    import torch

    from rl.data.sequences import open_source
    from rl.learner.trainer import Means
    from rl.recipes.sparse_checks import check
    from rl.recipes.sparse_recall import table
    from rl.run.assemble import cluster
    from rl.run.preflight import configuration
    from rl.run.room import check_trainer_room
    from rl.tracking.progress import Progress

    if cfg.threads:  # of the measurement, here; trainers are given theirs
        torch.set_num_threads(cfg.threads)
    with configuration():  # before a run folder exists
        check(cfg)
        check_trainer_room(cfg.learner, cfg.ray)
        output_directory("runs_dir", cfg.runs_dir)
        output_directory("cache_dir", cfg.cache_dir)
        source = open_source(
            cfg.data, cfg.policy.path and policy_directory("policy.path", cfg.policy.path), cfg.cache_dir
        )
    rundir = new_rundir(cfg)
    with cluster(cfg.ray, Means.of(cfg).actors), Progress(STAGES) as progress:
        dense = dense_stage(cfg, source, rundir, progress)
        warmed = adaptation_stage(WARMUP, cfg, dense, source, rundir, progress)
        adapted = adaptation_stage(SPARSE, cfg, warmed.path, source, rundir, progress)
        states = measure_states(cfg, [dense, dense, warmed.path, adapted.path], source, rundir, progress)
        result = {
            "states": states,
            "index_topk": open_policy(cfg, adapted.path, "sparse").module.config.index_topk,
            "length": cfg.data.length,
            "held_out": len(source.held_out),
            "split": cfg.data.split,
            "seed": cfg.seed,
            "training": {
                name: json.loads((stage.path / "training.json").read_text())
                for name, stage in ((WARMUP, warmed), (SPARSE, adapted))
            },
            "wall_s": progress.wall_s(),
        }
        publish(adapted.path, rundir.path / "policy", result)
    print(table(result))
    print(f"saved {rundir.path / 'policy'}")
    return result


def new_rundir(cfg: AdaptConfig) -> RunDir:
    """A new run's directory with the resolved configuration in it."""
    from omegaconf import OmegaConf

    from rl.tracking.rundir import RunDir

    rundir = RunDir.new(cfg.runs_dir, cfg.name)
    rundir.write_config(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    return rundir


def dense_stage(cfg: AdaptConfig, source: SampleSource, rundir: RunDir, progress: Progress) -> Path:
    """Directory of the dense policy: the given checkpoint, or one trained now on needle documents."""
    if cfg.policy.path is not None:
        progress.reused(DENSE, cfg.policy.path)
        return policy_directory("policy.path", cfg.policy.path)
    from envs.closure import code_hash
    from rl.learner.config import SFTConfig
    from rl.learner.trainer import Means, open_trainer
    from rl.recipes.policy_stages import ranks_of
    from rl.run.stage_cache import cached_stage

    inputs = {
        "policy": asdict(cfg.policy),
        "needles": asdict(cfg.data.needles),
        "dense": asdict(cfg.dense),
        "code": code_hash(train, type(source)),
    } | ranks_of(cfg)
    lengths = [n for n, steps in zip(cfg.dense.lengths, cfg.dense.steps, strict=True) for _ in range(steps)]

    def produce(out: Path, stage: Stage) -> None:
        described = {
            "preset": cfg.policy.preset,
            "vocab_size": cfg.data.needles.vocab_size,
            "overrides": dict(cfg.policy.overrides),
            "seed": cfg.dense.seed,
            "mode": "dense",
        }
        settings = SFTConfig(
            lr=cfg.dense.lr,
            schedule="linear",
            warmup_steps=cfg.dense.warmup_steps,
            total_steps=len(lengths),
            weight_decay=cfg.dense.weight_decay,
            indexer_kl_coef=0.0,
            max_tokens_per_microbatch=cfg.learner.tokens_for(max(cfg.dense.lengths)),
        )
        report = reporter(stage, "dense", rundir)
        with open_trainer(described, settings, Means.of(cfg), cfg.threads) as trainer:
            training = train(trainer, source, lengths, cfg.dense.tokens_per_step, 0, report)
            trainer.save(out)
        cfg.data.needles.save_tokenizer(out)
        (out / "training.json").write_text(json.dumps(training, indent=1))

    return cached_stage(DENSE, "adapt-dense", inputs, cfg.cache_dir, progress, produce, len(lengths)).path


def adaptation_stage(
    title: str, cfg: AdaptConfig, start: Path, source: SampleSource, rundir: RunDir, progress: Progress
) -> StageResult:
    """Stage 1 (``title`` WARMUP) or stage 2 (SPARSE) from the policy in ``start``."""
    from envs.closure import code_hash
    from rl.chat.tokenizer import copy_tokenizer
    from rl.learner.config import SFTConfig
    from rl.learner.trainer import Means, open_trainer
    from rl.recipes.policy_stages import ranks_of
    from rl.run.stage_cache import cached_stage, tree_hash

    warmup = title == WARMUP
    settings: AdaptStageConfig = cfg.warmup if warmup else cfg.sparse
    lengths = settings.length_of_steps(cfg.data.length)
    inputs = {
        "start": tree_hash(start),
        "data": {name: value for name, value in asdict(cfg.data).items() if name != "split"},  # nothing trains on it
        "stage": asdict(settings),
        "index_topk": cfg.index_topk,
        "reset_indexer": cfg.reset_indexer,
        "indexer_kl_coef": cfg.indexer_kl_coef,
        "seed": cfg.seed,
        "code": code_hash(train, type(source)),
    } | ranks_of(cfg)

    def produce(out: Path, stage: Stage) -> None:
        sft = SFTConfig(
            lr=settings.lr,
            schedule=settings.schedule,
            warmup_steps=settings.warmup_steps,
            total_steps=settings.steps,
            weight_decay=settings.weight_decay,
            indexer_kl_coef=cfg.indexer_kl_coef,
            indexer_only=warmup,
            max_tokens_per_microbatch=cfg.learner.tokens_for(max(lengths)),
        )
        # Every stage and seed starts elsewhere in the endless stream of training sequences.
        first = (1 + 2 * cfg.seed + (not warmup)) * 1_000_000
        report = reporter(stage, "warmup" if warmup else "sparse", rundir)
        described = described_policy(cfg, start, "dense" if warmup else "sparse", reset=warmup)
        with open_trainer(described, sft, Means.of(cfg), cfg.threads) as trainer:
            training = train(trainer, source, lengths, settings.tokens_per_step, first, report)
            trainer.save(out)
        copy_tokenizer(start, out)
        (out / "training.json").write_text(json.dumps(training, indent=1))

    name = "adapt-warmup" if warmup else "adapt-sparse"
    return cached_stage(title, name, inputs, cfg.cache_dir, progress, produce, settings.steps)


def train(
    trainer: Trainer,
    source: SampleSource,
    lengths: list[int],
    tokens_per_step: int,
    first: int,
    report: Callable[[int, dict[str, float]], None],
) -> dict[str, Any]:
    """One optimiser step per entry of ``lengths``, on sequences of that length; figures of the training."""
    from rl.recipes.supervised import train as train_steps

    started = time.perf_counter()
    kl: list[float] = []

    def batches() -> Iterator[list[Sample]]:
        index = first
        for length in lengths:
            count = max(1, tokens_per_step // length)
            yield [source.training(index + i, length) for i in range(count)]
            index += count

    def on_step(step: int, metrics: dict[str, float]) -> None:
        if "sft/indexer_kl" in metrics:
            kl.append(metrics["sft/indexer_kl"])
        report(step + 1, metrics)

    metrics = train_steps(trainer, batches(), range(len(lengths)), on_step)
    figures = trainer.figures()
    return {
        "steps": figures["steps"],
        "skipped": figures["skipped_steps"],
        "tokens": figures["trained_tokens"],
        "wall_s": round(time.perf_counter() - started, 1),
        "last_loss": metrics.get("sft/loss"),
        "first_indexer_kl": kl[0] if kl else None,
        "last_indexer_kl": kl[-1] if kl else None,
    }


def described_policy(cfg: AdaptConfig, directory: Path, mode: AttentionMode, reset: bool = False) -> dict[str, Any]:
    """For ``rl.policy.loading.build_policy``: the policy in ``directory`` with the configured index_topk. ``reset``:
    and the fresh indexer that a dense checkpoint needs, if it is wanted."""
    seed = cfg.seed if reset and cfg.reset_indexer else None
    return {"path": str(directory), "mode": mode, "index_topk": cfg.index_topk, "reset_indexer": seed}


def open_policy(cfg: AdaptConfig, directory: Path, mode: AttentionMode, reset: bool = False) -> DSAPolicy:
    """``described_policy``, in this process."""
    from rl.policy.dsa import DSAPolicy
    from rl.policy.loading import build_policy

    return cast(DSAPolicy, build_policy(described_policy(cfg, directory, mode, reset)))


def measure_states(
    cfg: AdaptConfig, directories: list[Path], source: SampleSource, rundir: RunDir, progress: Progress
) -> dict[str, Any]:
    """``measure`` of the policies in the order of ``STATES``, on the same held-out sequences."""
    from rl.recipes.sparse_recall import measure

    states: dict[str, Any] = {}
    held_out = source.held_out
    with progress.stage(MEASURE, total=len(STATES) * len(held_out)) as stage:
        for i, (state, directory) in enumerate(zip(STATES, directories, strict=True)):
            policy = open_policy(cfg, directory, "dense" if state == "dense" else "sparse", reset=i < 2)
            before = i * len(held_out)
            measured = measure(policy, held_out, partial(_measured, stage, state, before))
            states[state] = measured
            rundir.log_metrics(
                state,
                i,
                {
                    "adapt/accuracy": measured["accuracy"],
                    "adapt/mass_targets": measured["mass"]["indexer"]["targets"],
                    "adapt/mass_all": measured["mass"]["indexer"]["all"],
                    "adapt/oracle_targets": measured["mass"]["oracle"]["targets"],
                    "adapt/oracle_all": measured["mass"]["oracle"]["all"],
                },
            )
    return states


def _measured(stage: Stage, state: str, before: int, done: int) -> None:
    stage.update(before + done, note=state)


def reporter(stage: Stage, name: str, rundir: RunDir) -> Callable[[int, dict[str, float]], None]:
    """Shows a step's numbers and appends them to metrics.jsonl."""

    def report(step: int, metrics: dict[str, float]) -> None:
        shown = f"loss {metrics['sft/loss']:.3f} · accuracy {metrics['sft/accuracy']:.3f}"
        if "sft/indexer_kl" in metrics:
            shown += f" · indexer KL {metrics['sft/indexer_kl']:.3f}"
        stage.update(step, tokens_per_s=metrics["sft/tokens_per_s"], note=shown)
        rundir.log_metrics(name, step, metrics)

    return report


def publish(policy: Path, out: Path, result: dict[str, Any]) -> None:
    """Policy, tokenizer, card and ``adapt.json`` in ``out``, which appears only when it is complete."""
    from rl.recipes.sparse_recall import table
    from rl.run.stage_cache import INPUTS, MANIFEST

    scratch = out.with_name(f".{out.name}.tmp")
    shutil.copytree(policy, scratch, ignore=shutil.ignore_patterns(INPUTS, MANIFEST, "training.json"))
    (scratch / "adapt.json").write_text(json.dumps(result, indent=1) + "\n")
    (scratch / "README.md").write_text(
        "# A policy adapted to DeepSeek Sparse Attention\n\n"
        f"Made by `rl-adapt`: attention to {result['index_topk']} rows, sequences of {result['length']:,} tokens.\n"
        f"Indexer warm-up {result['training'][WARMUP]['tokens']:,} tokens, sparse training "
        f"{result['training'][SPARSE]['tokens']:,} tokens.\n\n{table(result)}\n"
    )
    scratch.rename(out)

"""`rl-pretrain` in small: tokenizer, corpus, dense and sparse stage, card; the same again from the same seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.schema import BaseConfig, CorpusConfig, PolicyConfig
from envs.interpreter.taskset import InterpreterTaskset
from rl.chat.tokenizer import ChatTokenizer
from rl.policy.flops import active_parameters
from rl.policy.loading import load_policy
from rl.recipes.pretrain import pretrain, split_validation

CONFIG = BaseConfig(
    corpus=CorpusConfig(demos=12, drills=60, max_facts=2),
    vocab_size=640,
    dense_steps=3,
    sparse_steps=2,
    tokens_per_step=256,
    indexer_kl_every=1,
    threads=1,
)
POLICY = PolicyConfig(overrides={"num_hidden_layers": 2})


@pytest.fixture(autouse=True, scope="module")
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reports() -> list[tuple[str, int, int, dict[str, float]]]:
    return []


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, reports: list) -> Path:
    out = tmp_path_factory.mktemp("base")
    pretrain(POLICY, CONFIG, InterpreterTaskset("train", 0), out, lambda *given: reports.append(given))
    return out


def test_the_card_says_what_was_done(base: Path) -> None:
    card = json.loads((base / "card.json").read_text())
    policy, tokenizer = load_policy(base), ChatTokenizer.load(base)
    config: Any = policy.module.config
    assert card["parameters"] == sum(p.numel() for _, p in policy.named_parameters())
    assert card["vocab_size"] == tokenizer.vocab_size == config.vocab_size <= 640
    assert (card["dense_steps"], card["sparse_steps"], card["documents"], card["seed"]) == (3, 2, 72, 0)
    assert 0 < card["trained_tokens"] <= 5 * 256
    assert card["flops"] == 6 * active_parameters(policy.module) * card["trained_tokens"]
    assert set(card["validation_exact"]) <= {"interpreter", "recall", "copy", "arithmetic"}
    text = (base / "README.md").read_text()
    assert f"| trained_tokens | {card['trained_tokens']} |" in text


def test_a_lookup_and_idle_experts_do_no_work(base: Path) -> None:
    policy = load_policy(base)
    config: Any = policy.module.config
    sizes = {name: p.numel() for name, p in policy.named_parameters()}
    experts = sum(n for name, n in sizes.items() if ".mlp.experts." in name)
    embedding = sum(n for name, n in sizes.items() if "embed_tokens" in name)
    idle = experts * (1 - config.num_experts_per_tok / config.n_routed_experts)
    assert active_parameters(policy.module) == pytest.approx(sum(sizes.values()) - embedding - idle, abs=len(sizes))


def test_progress_has_both_stages_and_the_indexer_learns(base: Path, reports: list) -> None:
    steps = [(what, done, total) for what, done, total, _ in reports if what != "corpus"]
    dense = [("dense stage", n, 5) for n in (1, 2, 3)]
    assert steps == [*dense, ("sparse stage", 4, 5), ("sparse stage", 5, 5)]
    metrics = [m for what, _, _, m in reports if what != "corpus"]
    assert all(m["sft/indexer_kl"] > 0 for m in metrics)
    assert metrics[-1]["sft/loss"] < metrics[0]["sft/loss"]


def test_the_same_seed_makes_the_same_base(base: Path, tmp_path: Path) -> None:
    pretrain(POLICY, CONFIG, InterpreterTaskset("train", 0), tmp_path / "again", lambda *given: None)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (base / name).read_bytes(), name
    pretrain(POLICY, replace(CONFIG, seed=1), InterpreterTaskset("train", 1), tmp_path / "other", lambda *given: None)
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (base / "model.safetensors").read_bytes()


def test_validation_documents_are_not_trained_on() -> None:
    documents: list[Any] = list(range(120))
    train, validation = split_validation(documents)
    assert validation == [0, 53, 106]
    both: list[Any] = [*train, *validation]
    assert sorted(both) == documents

"""FLOPs per token against numbers worked out by hand, and against what is published of the real model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import DeepseekV3Config, GlmMoeDsaConfig, LlamaConfig

from rl.policy.flops import CostModel, Work
from rl.policy.presets import deepseek_v32, tiny_dsa
from rl.run.paths import resolve

BASE = resolve("pkg://rl.bases/tiny_dsa_base")
SMALL = CostModel(parameters=1000, attention=10, indexer=3, topk=4)


def test_the_tiny_policy_by_hand() -> None:
    cost = CostModel.of(tiny_dsa(vocab_size=100))
    attention = (
        128 * 64 + 64 * 4 * 48 + 128 * (48 + 16) + 48 * 4 * (32 + 32) + 4 * 32 * 128  # q_a, q_b, kv_a, kv_b, o
        + 64 + 48  # norms
    )  # fmt: skip
    indexer = 64 * 4 * 32 + 128 * 32 + 128 * 4 + 2 * 32  # wq_b, wk, weights_proj, k_norm
    dense, expert = 3 * 128 * 256, 3 * 128 * 64
    moe = 128 * 8 + (2 + 1) * expert  # router; 2 of 8 routed and 1 shared expert
    expected = 4 * (attention + indexer + 2 * 128) + dense + 3 * moe + 128 + 128 * 100
    assert cost.parameters == expected
    assert cost.attention == 4 * 4 * (48 + 16 + 48)  # layers x heads x (scores over C + R, values over C)
    assert cost.indexer == 4 * 4 * (32 + 1)
    assert cost.topk == 64


def test_the_released_model_has_37b_active_parameters_and_the_published_pair_costs() -> None:
    cost = CostModel.of(deepseek_v32())  # on the meta device: no weight is allocated
    assert cost.parameters == pytest.approx(37e9, rel=0.03)  # "671B in total, 37B active"
    assert cost.attention == 61 * 139_264  # V3.2 sec. 2.3: 128 (576 + 512) multiply-adds in MQA mode
    assert cost.indexer == 61 * 64 * 129  # V3.2 sec. 2.3: 64 x 128 for the dots, and the weighted sum over heads


def test_released_mixtures_have_the_published_active_parameters() -> None:
    v3, glm5 = CostModel.of(DeepseekV3Config()), CostModel.of(GlmMoeDsaConfig())
    assert v3.parameters == pytest.approx(37e9, rel=0.03)  # "671B in total, 37B active"
    assert v3.attention == 61 * 128 * (128 + 64 + 128)  # expanded: keys of 192, values of 128
    assert glm5.parameters == pytest.approx(40e9, rel=0.03)  # "744B-A40B"
    assert glm5.indexer == 78 * 32 * (128 + 1)
    shared = CostModel.of(GlmMoeDsaConfig(num_hidden_layers=6, index_topk_freq=4))
    assert shared.indexer == 3 * 32 * (128 + 1)  # layers 0, 1 and 5 have an indexer


def test_a_dense_model() -> None:
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    cost = CostModel.of(config)
    layer = 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 32 + 2 * 16
    assert cost == CostModel(2 * layer + 16 + 16 * 50, 2 * 4 * 2 * 4)
    config.tie_word_embeddings = True  # the embedding is the output layer then: it works
    assert CostModel.of(config).parameters == cost.parameters


def test_a_sequence_by_hand() -> None:
    work = SMALL.sequence(6)
    assert work == Work(6, 1 + 2 + 3 + 4 + 4 + 4, 21)
    assert SMALL.forward(work) == 2 * (1000 * 6 + 10 * 18 + 3 * 21)
    assert SMALL.training(work) == 6 * (1000 * 6 + 10 * 18 + 3 * 21)
    assert SMALL.sequence(6, dense=True) == Work(6, 21, 21)
    assert CostModel(1000, 10).sequence(6) == Work(6, 21, 21)
    assert work.scaled(3) == Work(3, 9, 10.5)
    assert Work().scaled(0) == Work()


@given(st.integers(1, 40), st.integers(0, 40))
def test_a_sequence_is_its_two_parts(first: int, second: int) -> None:
    parts = SMALL.sequence(first) + SMALL.at(np.arange(first + 1, first + second + 1))
    assert parts == SMALL.sequence(first + second)


def test_a_supervised_stage_adds_the_attention_to_its_figures() -> None:
    # 100 tokens in documents of 6: 6 N each from the card; pairs per token 18/6 sparse, 21/6 dense, scored 21/6.
    figures = {"trained_tokens": 100, "corpus_tokens": 12, "documents": 2, "flops": 6 * 1000 * 100, "steps": 7}
    assert SMALL.supervised(figures) == pytest.approx(600_000 + 6 * (10 * 300 + 3 * 350))
    figures |= {"dense_steps": 3, "sparse_steps": 1}
    assert SMALL.supervised(figures) == pytest.approx(600_000 + 6 * (10 * (0.75 * 350 + 0.25 * 300) + 3 * 350))


def test_the_shipped_base() -> None:
    card = json.loads((BASE / "card.json").read_text())
    cost = CostModel.load(BASE)
    assert card["flops"] == 6 * cost.parameters * card["trained_tokens"]
    assert 1.0 < cost.supervised(card) / card["flops"] < 1.3

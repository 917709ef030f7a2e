"""Dense models with sliding windows, in some layers or in all: the engine computes what the learner does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig

from rl.learner.config import LearnerConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.loading import load_policy
from rl.policy.packed_weights import pack, unpack
from rl.rollout.config import EngineConfig
from rl.rollout.engine import Engine
from rl.rollout.engine_api import GenerateRequest, Generation
from rl.rollout.weights import probe_mismatch

pytestmark = pytest.mark.engine
SHAPE = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512, "initializer_range": 0.1,
    "tie_word_embeddings": False, "sliding_window": 32,
}  # fmt: skip
KINDS = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
def test_engine_and_learner_agree(kind: str, tmp_path: Path) -> None:
    """Prompts of three windows with a shared prefix in the cache, and a probe of five."""
    torch.manual_seed(0)
    gemma = kind == "gemma3_text"
    config = Gemma3TextConfig(**SHAPE, query_pre_attn_scalar=32, layer_types=KINDS) if gemma else MistralConfig(**SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    learner = Learner(load_policy(tmp_path), LearnerConfig(threads=1), ObjectiveConfig(), tmp_path)
    settings = EngineConfig(max_context=256, max_concurrency=4, max_num_batched_tokens=64, kv_cache_gib=0.05)
    engine = Engine(tmp_path, settings)
    try:
        engine.update_weights(unpack(pack(learner.weights())), 0)
        tokens = np.random.default_rng(9).integers(0, 64, 160).tolist()
        logprobs, replay = engine.score(tokens)
        expected = learner.probe(tokens, replay)
        assert probe_mismatch("engine", 0, logprobs, expected.logprobs, expected.tolerance) < 1e-4
        for i in range(6):
            engine.add(GenerateRequest(str(i), [*tokens[:100], i], 40))
        done: dict[str, Generation] = {}
        while engine.has_unfinished():
            done |= dict(engine.step())
        assert engine.stats().cached_prompt_tokens > 0
        for i in range(6):
            g = done[str(i)]
            again = learner.probe([*tokens[:100], i, *g.tokens], None).logprobs[100:]
            assert np.abs(np.array(g.logprobs) - again).max() < 1e-4
    finally:
        engine.close()

"""An engine whose cache holds the indexer's keys as 8-bit integers, against the learner that rounds alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rl.policy.attention_context import PackedContext
from rl.policy.loading import build_policy, load_policy
from rl.policy.replay import Record
from rl.rollout.config import EngineConfig
from rl.rollout.engine import Engine
from rl.rollout.engine_api import GenerateRequest

pytestmark = pytest.mark.engine
VOCAB, TOPK = 256, 48


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = dict(num_hidden_layers=3, index_topk=TOPK, initializer_range=0.1, index_precision="int8")
    target = tmp_path_factory.mktemp("int8")
    build_policy({"preset": "tiny_dsa", "vocab_size": VOCAB, "overrides": shape}).save(target)
    return target


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[Engine]:
    config = EngineConfig(max_context=320, max_concurrency=8, max_num_batched_tokens=128, kv_cache_gib=0.05)
    engine = Engine(model_dir, config, record_indexer=True)
    yield engine
    engine.close()


def learned(model_dir: Path, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs [T-1] and rows [T, indexers, k] of the learner, whose choices are its own."""
    record = Record(want_indexer=True)
    with torch.no_grad():
        module = load_policy(model_dir).module
        logits = module(torch.tensor(ids), PackedContext([0, len(ids)]), record=record)
    logprobs = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return logprobs.numpy(), record.indexer.numpy()


def test_prompts_and_sampled_tokens_choose_as_the_learner(engine: Engine, model_dir: Path) -> None:
    row = engine._model.layers[0].row
    assert row == 48 + 16 + 9  # latent, rope key, and 32 codes with their scale in the place of 9 floats
    rng = np.random.default_rng(0)
    scored = rng.integers(8, VOCAB, 300).tolist()  # prefill in buckets
    found, replay = engine.score(scored)
    own, rows = learned(model_dir, scored)
    assert np.abs(found - own).max() < 1e-4
    assert replay is not None
    assert replay.indexer is not None
    assert np.array_equal(replay.indexer[:-1], rows[:-1])
    prompts = [rng.integers(8, VOCAB, n).tolist() for n in (60, 130)]
    for i, prompt in enumerate(prompts):  # token by token
        engine.add(GenerateRequest(str(i), prompt, max_tokens=40, temperature=1.0))
    done = {}
    while engine.has_unfinished():
        done.update(engine.step())
    for i, prompt in enumerate(prompts):
        ids, replay = prompt + done[str(i)].tokens, done[str(i)].replay
        own, rows = learned(model_dir, ids)
        assert np.abs(own[len(prompt) - 1 :] - np.array(done[str(i)].logprobs)).max() < 1e-4
        assert replay is not None
        assert replay.indexer is not None
        assert np.array_equal(replay.indexer[:-1], rows[:-1])

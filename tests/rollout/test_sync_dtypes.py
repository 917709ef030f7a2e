"""Engine and learner in one dtype: the probe passes with equal weights and finds a tensor that did not arrive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from streaming import Streamer
from transformers import Qwen3Config, Qwen3ForCausalLM

from rl.learner.config import LearnerConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.loading import build_policy, load_policy
from rl.policy.packed_weights import pack, unpack
from rl.rollout.config import EngineConfig
from rl.rollout.engine import Engine
from rl.rollout.weights import WeightSyncError, probe_mismatch

pytestmark = pytest.mark.engine
TOKENS = np.random.default_rng(0).integers(0, 256, 150).tolist()


def write_dsa(folder: Path) -> None:
    build_policy({"preset": "tiny_dsa", "vocab_size": 256, "overrides": {"num_hidden_layers": 2}}).save(folder)


def write_qwen3(folder: Path) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, initializer_range=0.1, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)  # stored as hubs store it


@pytest.fixture(scope="module", params=[(w, d) for w in (write_dsa, write_qwen3) for d in ("float32", "bfloat16")])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Learner, Engine]]:
    write, dtype = request.param
    folder = tmp_path_factory.mktemp("policy")
    write(folder)
    settings = LearnerConfig(compute_dtype=dtype, threads=1)
    learner = Learner(load_policy(folder), settings, ObjectiveConfig(), folder)
    with torch.no_grad():  # other weights than the file's: as after some steps
        for _, parameter in learner.policy.named_parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    learner.compute.refresh()
    engine = Engine(folder, EngineConfig(dtype=dtype, max_context=256, max_concurrency=4, kv_cache_gib=0.05))
    yield learner, engine
    engine.close()


def test_probe_after_a_sync(pair: tuple[Learner, Engine]) -> None:
    learner, engine = pair
    dtype = learner.config.compute_dtype
    weights = learner.weights()
    engine.update_weights(unpack(pack(weights)), 1)
    logprobs, replay = engine.score(TOKENS)
    expected = learner.probe(TOKENS, replay, dtype)
    worst = probe_mismatch("engine", 1, logprobs, expected.logprobs, expected.tolerance)
    assert worst < expected.tolerance / 2, "there is room for other machines"
    # A layer that kept the file's weights is found, and so is a row of the embedding that did not arrive.
    layer = next(n for n in weights if n.endswith("layers.1.self_attn.o_proj.weight"))
    stale = {**weights, layer: torch.as_tensor(weights[layer]) * 0}
    engine.update_weights(unpack(pack(stale)), 2)
    wrong, replay = engine.score(TOKENS)
    expected = learner.probe(TOKENS, replay, dtype)
    with pytest.raises(WeightSyncError, match="does not hold the learner's weights"):
        probe_mismatch("engine", 2, wrong, expected.logprobs, expected.tolerance)


def test_a_stream_brings_what_a_copy_brings(pair: tuple[Learner, Engine]) -> None:
    """To the bit, with a head that is tied; and the probe holds."""
    learner, engine = pair
    weights = learner.compute.weights()
    engine.update_weights(weights, 1)
    copied = engine.score(TOKENS)[0]
    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    stream = Streamer(ranks=1)
    stream(engine.receive_weights, zeros, 2)
    assert not np.array_equal(engine.score(TOKENS)[0], copied)
    (receipt,) = stream(engine.receive_weights, learner.compute.weights(), 3)
    assert receipt.version == engine.version == 3
    streamed, replay = engine.score(TOKENS)
    assert np.array_equal(streamed, copied)
    expected = learner.probe(TOKENS, replay, learner.config.compute_dtype)
    assert probe_mismatch("engine", 3, streamed, expected.logprobs, expected.tolerance) < expected.tolerance / 2
    del zeros["model.norm.weight"]
    with pytest.raises(ValueError, match=r"missing \['model.norm.weight'\]"):
        stream(engine.receive_weights, zeros, 4)
    assert not engine.awaits, "nothing has changed"
    assert np.array_equal(engine.score(TOKENS)[0], copied)


def test_engine_keeps_float32_what_the_learner_keeps(pair: tuple[Learner, Engine]) -> None:
    learner, engine = pair
    if not engine.has_experts:
        pytest.skip("our own model only")
    for name, value in engine._model.dsa.state_dict().items():
        assert value.dtype == learner.compute.policy.module.state_dict()[name].dtype, name
    assert engine._model.dsa.model.rotary.inv_freq.dtype == torch.float32


def test_log_probs_of_sampling_are_the_learner_s(pair: tuple[Learner, Engine]) -> None:
    """What GRPO's ratios are made of: sampled in the engine's dtype, scored in the learner's."""
    from rl.rollout.engine_api import GenerateRequest

    learner, engine = pair
    engine.update_weights(unpack(pack(learner.weights())), 3)
    engine.add(GenerateRequest("a", TOKENS[:20], 60))
    done = {}
    while engine.has_unfinished():
        done |= dict(engine.step())
    generation = done["a"]
    scores = learner.probe([*TOKENS[:20], *generation.tokens], generation.replay, learner.config.compute_dtype)
    difference = np.abs(scores.logprobs[19:] - np.array(generation.logprobs))
    assert difference.max() < scores.tolerance
    if learner.config.compute_dtype == "bfloat16":
        assert difference.mean() < 0.05

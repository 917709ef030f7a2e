"""The real vLLM engine, stepped and served, against the learner's model: log-probs, experts, supports, versions,
updates.

Served at two ranks: test_served_engine.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rl.policy.attention_context import PackedContext
from rl.policy.loading import load_policy
from rl.policy.model import DSAForCausalLM
from rl.policy.presets import tiny_dsa
from rl.policy.replay import Replay
from rl.rollout.config import EngineConfig, RolloutConfig
from rl.rollout.engine import Engine
from rl.rollout.engine_api import GenerateRequest, Generation, RolloutEngine
from rl.rollout.served_engine import ServedEngine
from rl.types import ReplayRecord

pytestmark = pytest.mark.engine
VOCAB, STOP = 256, 7


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import DeepseekV32ForCausalLM

    torch.manual_seed(0)
    config = tiny_dsa(VOCAB, num_hidden_layers=3, index_topk=48, initializer_range=0.1)
    target = tmp_path_factory.mktemp("dsa")
    DeepseekV32ForCausalLM(config).save_pretrained(target)
    return target


@pytest.fixture(scope="module", params=["stepped", "served"])
def engine(request: pytest.FixtureRequest, model_dir: Path) -> Iterator[RolloutEngine]:
    config = RolloutConfig(
        max_context=320, max_concurrency=16, max_num_batched_tokens=128, kv_cache_gib=0.05, engine=request.param
    )
    kind = Engine if request.param == "stepped" else ServedEngine
    engine = kind(model_dir, config, block_size=16, record_indexer=True)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def serves(engine: RolloutEngine, model_dir: Path) -> DSAForCausalLM:
    """A model with the weights that the engine has now; a test that updates the engine updates it too."""
    model = load_policy(model_dir).module
    assert isinstance(model, DSAForCausalLM)
    return model.requires_grad_(False)


@pytest.fixture
def learner(serves: DSAForCausalLM) -> DSAForCausalLM:
    """The learner's own copy of what the engine serves."""
    return copy.deepcopy(serves)


def tokens(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(8, VOCAB, n).tolist()


def run(engine: RolloutEngine) -> dict[str, Generation]:
    done: dict[str, Generation] = {}
    while engine.has_unfinished():
        done.update(engine.step())
    return done


def run_until(engine: RolloutEngine, name: str) -> dict[str, Generation]:
    """What has finished when ``name`` has."""
    done: dict[str, Generation] = {}
    while name not in done:
        done.update(engine.step())
    return done


def all_logprobs(model: DSAForCausalLM, ids: list[int], replay: ReplayRecord | None) -> torch.Tensor:
    """[T-1, V] log-probs of the positions that predict ids[1:], with the engine's choices forced."""
    forced = None
    if replay is not None:
        indexer = None if replay.indexer is None else torch.from_numpy(replay.indexer).long()
        forced = Replay(torch.from_numpy(replay.experts).long(), torch.from_numpy(replay.valid), indexer)
    return model(torch.tensor(ids), PackedContext([0, len(ids)]), forced).log_softmax(-1)[:-1]


def chosen(logprobs: torch.Tensor, ids: list[int]) -> np.ndarray:
    return logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


def test_score_equals_learner_over_chunked_prefill(engine: RolloutEngine, learner: DSAForCausalLM) -> None:
    ids = tokens(300, 1)  # 300 tokens in steps of at most 128, index_topk 48
    logprobs, replay = engine.score(ids)
    assert replay is not None
    assert replay.valid.all()
    assert replay.indexer is not None
    assert replay.indexer.shape == (300, 3, 48)
    assert np.abs(chosen(all_logprobs(learner, ids, replay), ids) - logprobs).max() < 1e-4
    # positions are real positions: ascending, visible, as many as the query can see
    assert replay.indexer[10, 0, :12].tolist() == [*range(11), -1]
    assert all((row[row >= 0] <= t).all() for t, row in enumerate(replay.indexer[:, 1]))


def test_sampled_logprobs_experts_and_prefix_hits(engine: RolloutEngine, learner: DSAForCausalLM) -> None:
    before = engine.stats()
    prompts = {f"p{i}": tokens(100, 20 + i % 2) for i in range(8)}  # two prompts, four samples of each
    for name, prompt in prompts.items():
        engine.add(GenerateRequest(name, prompt, max_tokens=30, stop_token_ids=(STOP,)))
    first = run(engine)
    assert set(first) == set(prompts)
    hits = [g.cached_tokens for g in first.values()]
    assert engine.stats().cached_prompt_tokens - before.cached_prompt_tokens == sum(hits) >= 6 * 96
    assert sorted(hits)[:2] == [0, 0]  # the first of each prompt has nothing to find
    assert all(hit in (0, 96) for hit in hits)
    for name, g in first.items():
        ids = prompts[name] + g.tokens
        assert g.finish_reason == ("stop" if g.tokens[-1] == STOP else "length")
        assert g.version == engine.version
        assert g.replay is not None
        assert g.replay.valid.tolist() == [True] * (len(ids) - 1) + [False]
        expected = chosen(all_logprobs(learner, ids, g.replay), ids)[len(prompts[name]) - 1 :]
        assert np.abs(expected - g.logprobs).max() < 1e-4
    assert first["p0"].tokens != first["p2"].tokens

    # second turn: the first turn's rows come back out of the prefix cache with the same experts
    turn = {n: prompts[n] + g.tokens + tokens(9, 99) for n, g in first.items()}
    for name, prompt in turn.items():
        engine.add(GenerateRequest(name, prompt, max_tokens=5))
    for name, g in run(engine).items():
        old, ids = first[name].replay, turn[name] + g.tokens
        assert old is not None
        assert g.replay is not None
        cached = (len(prompts[name]) + len(first[name].tokens) - 1) // 16 * 16
        assert np.array_equal(g.replay.experts[:cached], old.experts[:cached])
        assert np.array_equal(g.replay.indexer[:cached], old.indexer[:cached])
        assert g.cached_tokens == cached
        expected = chosen(all_logprobs(learner, ids, g.replay), ids)[len(turn[name]) - 1 :]
        assert np.abs(expected - g.logprobs).max() < 1e-4


def test_truncated_support_renormalises(engine: RolloutEngine, learner: DSAForCausalLM) -> None:
    prompt = tokens(60, 3)
    knobs = {
        "k": {"top_k": 5},
        "p": {"top_p": 0.7},
        "m": {"min_p": 0.2},
        "kp": {"top_k": 9, "top_p": 0.9},
        "all": {},
    }
    for name, knob in knobs.items():
        engine.add(GenerateRequest(name, prompt, 12, temperature=0.8, **knob))  # type: ignore[arg-type]
    done = run(engine)
    assert done["all"].replay is not None
    assert done["all"].replay.support is None
    for name in ("k", "p", "m", "kp"):
        g = done[name]
        assert g.replay is not None
        assert g.replay.support is not None
        assert g.replay.support[: len(prompt)] == [None] * len(prompt)
        support = g.replay.support[len(prompt) :]
        assert len(support) == len(g.tokens)
        ids = prompt + g.tokens
        full = (all_logprobs(learner, ids, g.replay)[len(prompt) - 1 :] / 0.8).log_softmax(-1)
        for row, kept, token, logprob in zip(full, support, g.tokens, g.logprobs, strict=True):
            assert token in kept
            normaliser = row[torch.from_numpy(kept).long()].logsumexp(0)
            assert abs(float(row[token] - normaliser) - logprob) < 1e-4
            if name == "k":
                assert len(kept) == 5
            if name == "m":
                assert torch.equal((row.exp() >= 0.2 * row.exp().max()).nonzero()[:, 0], torch.from_numpy(kept).long())


def test_greedy_is_argmax(engine: RolloutEngine, learner: DSAForCausalLM) -> None:
    prompt = tokens(40, 4)
    engine.add(GenerateRequest("g", prompt, max_tokens=6, temperature=0.0))
    g = run(engine)["g"]
    best = all_logprobs(learner, prompt + g.tokens, g.replay)[len(prompt) - 1 :].argmax(-1)
    assert best.tolist() == g.tokens


def test_weight_update_in_flight(engine: RolloutEngine, serves: DSAForCausalLM, learner: DSAForCausalLM) -> None:
    ids, old_version = tokens(120, 5), engine.version
    old, _ = engine.score(ids)
    seen = tokens(100, 25)
    engine.add(GenerateRequest("flight", ids, max_tokens=190))
    engine.add(GenerateRequest("first", seen, max_tokens=8))
    assert list(run_until(engine, "first")) == ["first"]
    generator = torch.Generator().manual_seed(1)
    for parameter in learner.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    learner.moe_layers[0].gate.e_score_correction_bias.fill_(0.5)
    assert engine.update_weights(learner.state_dict(), old_version + 1) > 0
    new, replay = engine.score(ids)  # nothing of the old weights' cache may be met here
    assert np.abs(new - old).max() > 1e-2
    assert np.abs(chosen(all_logprobs(learner, ids, replay), ids) - new).max() < 1e-4
    g = run(engine)["flight"]
    assert sorted(set(g.version_per_token)) == [old_version, old_version + 1]
    assert g.version_per_token == sorted(g.version_per_token)
    assert g.version == old_version + 1
    assert len(g.version_per_token) == len(g.tokens) == len(g.logprobs) == 190
    # the last token of the old version is the old weights', the next one is not
    before, out = g.version_per_token.count(old_version), ids + g.tokens
    expected = chosen(all_logprobs(serves, out, g.replay), out)[len(ids) - 1 :]
    difference = np.abs(expected - g.logprobs)
    assert difference[:before].max() < 1e-4
    assert difference[before:].max() > 1e-2
    serves.load_state_dict(learner.state_dict())
    # a new request meets no row of the older weights, which are still in the cache
    engine.add(GenerateRequest("new", seen, max_tokens=8))
    g = run(engine)["new"]
    assert g.cached_tokens == 0
    expected = chosen(all_logprobs(learner, seen + g.tokens, g.replay), seen + g.tokens)[len(seen) - 1 :]
    assert np.abs(expected - g.logprobs).max() < 1e-4


def test_update_errors_change_nothing(engine: RolloutEngine, learner: DSAForCausalLM) -> None:
    ids = tokens(30, 6)
    before, _ = engine.score(ids)
    state = {k: v * 2 for k, v in learner.state_dict().items()}
    wrong = dict(state)
    wrong["model.norm.scale"] = wrong.pop("model.norm.weight")
    with pytest.raises(ValueError, match=r"missing \['model.norm.weight'\].*unknown \['model.norm.scale'\]"):
        engine.update_weights(wrong, 99)
    state["lm_head.weight"] = state["lm_head.weight"][:-1]
    with pytest.raises(ValueError, match=r"lm_head.weight: shape \(255, 128\), the engine has \(256, 128\)"):
        engine.update_weights(state, 99)
    assert engine.version != 99
    assert np.array_equal(engine.score(ids)[0], before)


def test_abort_returns_what_there_is(engine: RolloutEngine) -> None:
    engine.add(GenerateRequest("a", tokens(50, 8), max_tokens=250))
    engine.add(GenerateRequest("b", tokens(50, 9), max_tokens=3))
    engine.add(GenerateRequest("c", tokens(50, 9), max_tokens=200))
    assert list(run_until(engine, "b")) == ["b"]
    g = engine.abort("a")
    assert g.finish_reason == "abort"
    assert 1 <= len(g.tokens) == len(g.logprobs) == len(g.version_per_token) < 250
    assert g.replay is not None
    assert g.replay.valid.tolist() == [True] * (49 + len(g.tokens)) + [False]
    assert list(run(engine)) == ["c"]
    with pytest.raises(KeyError):
        engine.abort("a")


def test_other_configurations_keep_their_names(engine: RolloutEngine) -> None:
    """vLLM reads deepseek_v32 with DeepSeek-V3's class and renames it; a V3 then saved would be a V3.2."""
    from transformers import DeepseekV3Config

    assert engine.has_indexer, "a deepseek_v32 model is loaded"
    assert DeepseekV3Config.model_type == "deepseek_v3"
    assert DeepseekV3Config().to_dict()["model_type"] == "deepseek_v3"


def test_context_end_is_length(engine: RolloutEngine) -> None:
    engine.add(GenerateRequest("edge", tokens(310, 10), max_tokens=50))
    g = run(engine)["edge"]
    assert g.finish_reason == "length"
    assert len(g.tokens) == 10


def test_bad_requests_say_what_is_wrong(engine: RolloutEngine) -> None:
    for prompt, message in (
        ([], "0 tokens"),
        (tokens(320, 0), "320 tokens"),
        ([1, VOCAB], "vocabulary is 0..255"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.add(GenerateRequest("x", prompt, max_tokens=1))
    with pytest.raises(ValueError, match="max_tokens=0"):
        engine.add(GenerateRequest("x", [1], max_tokens=0))
    engine.add(GenerateRequest("x", [1, 2], max_tokens=2))
    with pytest.raises(ValueError, match="already running"):
        engine.add(GenerateRequest("x", [1, 2], max_tokens=2))
    run(engine)
    with pytest.raises(ValueError, match=r"no config\.json"):
        type(engine)("/nonexistent", RolloutConfig())  # type: ignore[call-arg]


def test_dense_model_update_by_logprobs(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.1,
        tie_word_embeddings=True,  # embedding and head share a weight that vLLM would pack separately
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.save_pretrained(tmp_path)
    engine = Engine(tmp_path, EngineConfig(max_context=128, max_concurrency=4, kv_cache_gib=0.05))
    ids = tokens(100, 11)

    def mismatch() -> float:
        reference = model(torch.tensor([ids])).logits[0].log_softmax(-1)[:-1]
        return float(np.abs(chosen(reference, ids) - engine.score(ids)[0]).max())

    assert mismatch() < 1e-4
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    assert mismatch() > 1e-2
    engine.update_weights(dict(model.named_parameters()), 1)
    assert mismatch() < 1e-4
    assert engine.score(ids)[1] is None
    partial = {k: v for k, v in model.named_parameters() if "layers.1.mlp.up_proj" not in k}
    with pytest.raises(ValueError, match=r"missing \['model.layers.1.mlp.up_proj.weight'\]"):
        engine.update_weights(partial, 2)
    engine.close()

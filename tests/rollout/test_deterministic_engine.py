"""A deterministic engine: a request's bits do not depend on what runs beside it, before it, or on how it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rl.policy.presets import tiny_dsa
from rl.rollout.config import EngineConfig
from rl.rollout.engine import Engine
from rl.rollout.engine_api import GenerateRequest, Generation
from rl.rollout.engine_check import check_invariance

pytestmark = pytest.mark.engine
VOCAB, TOPK = 256, 48
LENGTHS = (10, 100, 300, 1100)  # below and above index_topk; the last needs the selection of long contexts


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import DeepseekV32ForCausalLM

    torch.manual_seed(0)
    target = tmp_path_factory.mktemp("dsa")
    config = tiny_dsa(VOCAB, num_hidden_layers=3, index_topk=TOPK, initializer_range=0.1)
    DeepseekV32ForCausalLM(config).save_pretrained(target)
    return target


def opened(model_dir: Path, budget: int, deterministic: bool = True, cache_gib: float = 0.05) -> Engine:
    config = EngineConfig(max_context=1200, max_concurrency=16, max_num_batched_tokens=budget, kv_cache_gib=cache_gib)
    return Engine(model_dir, config, record_indexer=True, deterministic=deterministic)


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[Engine]:
    engine = opened(model_dir, budget=512)
    yield engine
    engine.close()


def tokens(n: int, seed: int) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(8, VOCAB, n).tolist()
    return drawn


def wanted(prompt: list[int], sampled: int = 30) -> GenerateRequest:
    return GenerateRequest("wanted", prompt, sampled, seed=5)


def company(sampled: int = 40) -> list[GenerateRequest]:
    return [GenerateRequest(f"other-{i}", tokens(60 + 13 * i, 50 + i), sampled, seed=i) for i in range(7)]


def play(
    engine: Engine, requests: list[GenerateRequest], stagger: int = 0, keep_cache: bool = False
) -> dict[str, Generation]:
    if not keep_cache:
        engine._core.reset_prefix_cache()
    done: dict[str, Generation] = {}
    for request in requests:
        engine.add(request)
        for _ in range(stagger):
            done.update(engine.step())
    while engine.has_unfinished():
        done.update(engine.step())
    return done


def crowd() -> list[GenerateRequest]:
    return [GenerateRequest(f"crowd-{i}", tokens(100, i), 400, seed=i) for i in range(8)]


@pytest.fixture(scope="module")
def alone(engine: Engine) -> dict[str, Generation]:
    """What requests get from an engine with room for all."""
    ones = {f"{length}": play(engine, [wanted(tokens(length, 1))])["wanted"] for length in LENGTHS}
    return ones | play(engine, crowd())


def assert_same_bits(a: Generation, b: Generation) -> None:
    assert a.tokens == b.tokens
    assert np.array_equal(np.asarray(a.logprobs).view(np.int64), np.asarray(b.logprobs).view(np.int64))
    assert a.replay is not None
    assert b.replay is not None
    for one, other in ((a.replay.experts, b.replay.experts), (a.replay.indexer, b.replay.indexer)):
        assert one is not None
        assert other is not None
        assert np.array_equal(one, other)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_request_has_the_same_bits_in_any_company(engine: Engine, length: int) -> None:
    request = wanted(tokens(length, 1))
    alone = play(engine, [request])["wanted"]
    assert_same_bits(alone, play(engine, [request])["wanted"])
    assert_same_bits(alone, play(engine, [request], keep_cache=True)["wanted"])
    others = company()
    assert_same_bits(alone, play(engine, [request, *others])["wanted"])
    assert_same_bits(alone, play(engine, [*others, request])["wanted"])
    assert_same_bits(alone, play(engine, [*others, request], stagger=3)["wanted"])
    twin = GenerateRequest("twin", request.prompt_tokens, 30, seed=5)
    both = play(engine, [twin, request])
    assert_same_bits(both["twin"], both["wanted"])


def test_rows_of_sampled_tokens_equal_rows_of_prompt_tokens(engine: Engine) -> None:
    """The second turn finds in the cache what decoding wrote, or computes it as a prompt: the same bits."""
    first = wanted(tokens(100, 1), sampled=60)
    said = play(engine, [first])["wanted"].tokens
    second = GenerateRequest("second", first.prompt_tokens + said + tokens(9, 3), 20, seed=6)
    found = play(engine, [second], keep_cache=True)["second"]
    assert_same_bits(play(engine, [second])["second"], found)


def test_noise_is_that_of_seed_and_position(engine: Engine) -> None:
    prompt = tokens(40, 2)
    done = play(engine, [GenerateRequest(f"s{i}", prompt, 12, seed=i) for i in range(8)])
    assert len({tuple(g.tokens[:6]) for g in done.values()}) == 8
    # 512 draws of one distribution: the observed mean log-prob is minus its entropy
    engine._core.reset_prefix_cache()
    drawn = []
    for start in range(0, 512, 16):
        batch = play(engine, [GenerateRequest(f"n{i}", prompt, 1, seed=i) for i in range(start, start + 16)])
        drawn += [(g.tokens[0], g.logprobs[0]) for g in batch.values()]
    logprob = dict(drawn)
    share = {token: sum(t == token for t, _ in drawn) / 512 for token in logprob}
    for token, value in sorted(share.items(), key=lambda item: -item[1])[:5]:
        p = np.exp(logprob[token])
        assert abs(value - p) < 4.5 * np.sqrt(p * (1 - p) / 512)


def test_cached_tokens_are_those_of_ones_own(engine: Engine) -> None:
    prompt = tokens(100, 4)
    request = GenerateRequest("own", prompt, 2, known_tokens=70)
    for keep_cache in (False, True):  # whatever the cache really had
        assert play(engine, [request], keep_cache=keep_cache)["own"].cached_tokens == 64
    whole = GenerateRequest("own", prompt[:96], 2, known_tokens=96)  # the last token is always computed
    assert play(engine, [whole])["own"].cached_tokens == 88


# vLLM's process groups end with the first engine that is closed: what follows asks nothing of `engine` itself.


def test_a_prompt_cut_by_the_token_budget_among_others_has_the_same_bits(
    alone: dict[str, Generation], model_dir: Path
) -> None:
    small = opened(model_dir, budget=64)
    try:
        for length in LENGTHS:
            request = wanted(tokens(length, 1))
            assert_same_bits(alone[f"{length}"], play(small, [request])["wanted"])
            assert_same_bits(alone[f"{length}"], play(small, [*company(), request])["wanted"])
    finally:
        small.close()


def test_requests_that_lose_their_cache_keep_their_bits(alone: dict[str, Generation], model_dir: Path) -> None:
    """A cache too small for all: vLLM takes requests out of the batch and computes them again."""
    tight = opened(model_dir, budget=512, cache_gib=0.0032)
    try:
        rows = tight._core.vllm_config.cache_config.num_gpu_blocks * tight._core.vllm_config.cache_config.block_size
        assert 1200 <= rows < 8 * 480, "the cache holds all of them: nothing is tried here"
        for name, generation in play(tight, crowd()).items():
            assert_same_bits(alone[name], generation)
    finally:
        tight.close()


def test_an_engine_that_does_not_keep_the_promise_is_refused(model_dir: Path) -> None:
    plain = opened(model_dir, budget=512, deterministic=False)
    try:
        with pytest.raises(RuntimeError, match="its kernels are not batch-invariant; set deterministic=false"):
            check_invariance(plain)
    finally:
        plain.close()


def test_what_cannot_be_deterministic_is_refused(model_dir: Path) -> None:
    config = EngineConfig(max_context=320, max_concurrency=16, kv_cache_gib=0.05, threads=2)
    with pytest.raises(ValueError, match=r"a deterministic engine needs rollout\.threads=1"):
        Engine(model_dir, config, deterministic=True)

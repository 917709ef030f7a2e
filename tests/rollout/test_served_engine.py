"""An engine over two ranks, Qwen3-MoE at tiny size: log-probs and experts are the learner's, before and after updates
that come in the middle of generations; a cache that was not emptied is found; death is told.

The protocol that it shares with the stepped engine: test_engine.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from moe_families import VOCAB, write
from streaming import HOST, Streamer

from rl.policy.api import Policy
from rl.policy.checksum import Running
from rl.policy.loading import load_policy
from rl.policy.meeting import open_meeting
from rl.policy.rendezvous import Rendezvous, StreamWrong
from rl.policy.replay import Record, Replay
from rl.policy.weight_plan import Entry, Piece, Plan
from rl.policy.weight_source import WeightSource
from rl.policy.weight_stream import Link, Links
from rl.rollout.config import RolloutConfig
from rl.rollout.engine_api import GenerateRequest, Generation, rank_meeting
from rl.rollout.engine_thread import EngineDied
from rl.rollout.served_engine import ServedEngine
from rl.rollout.taking import receive
from rl.rollout.weights import WeightSyncError, probe_mismatch
from rl.types import ReplayRecord

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("qwen3_moe", tmp_path_factory.mktemp("moe"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[ServedEngine]:
    config = RolloutConfig(
        engine="served", tensor_parallel=2, max_context=256, max_concurrency=8, max_num_batched_tokens=64,
        kv_cache_gib=0.05,
    )  # fmt: skip
    engine = ServedEngine(folder, config)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def serves(folder: Path) -> Policy:
    """What the engine holds now."""
    return load_policy(folder)


def tokens(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, n).tolist()


def run(engine: ServedEngine, until: str | None = None) -> dict[str, Generation]:
    done: dict[str, Generation] = {}
    while engine.has_unfinished() and until not in done:
        done.update(engine.step())
    return done


def logprobs(policy: Policy, ids: list[int], replay: ReplayRecord | None) -> np.ndarray:
    """The learner's log-probs of ids[1:], with the recorded experts."""
    assert replay is not None
    assert replay.experts is not None
    forced = Replay(torch.from_numpy(replay.experts.copy()).long(), torch.from_numpy(replay.valid.copy()))
    with torch.no_grad():
        logits = policy.packed_logits(torch.tensor(ids), [0, len(ids)], forced)
    return logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


def other(policy: Policy, seed: int) -> Policy:
    changed = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in changed.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.03)
    return changed


def mismatch(policy: Policy, prompt: list[int], g: Generation) -> np.ndarray:
    return np.abs(logprobs(policy, prompt + g.tokens, g.replay)[len(prompt) - 1 :] - g.logprobs)


def test_samples_and_experts_are_the_learner_s(engine: ServedEngine, serves: Policy) -> None:
    prompts = {f"{i}": tokens(90 - 7 * (i // 2), i // 2) for i in range(10)}  # in pieces; two of each; not all at once
    for name, prompt in prompts.items():
        engine.add(GenerateRequest(name, prompt, max_tokens=24, top_p=0.8 if name == "9" else 1.0))
    done = run(engine)
    assert any(g.cached_tokens for g in done.values())
    for name, prompt in prompts.items():
        g, ids = done[name], torch.tensor(prompts[name] + done[name].tokens)
        record = Record()
        with torch.no_grad():
            serves.packed_logits(ids, [0, len(ids)], None, record)
        assert g.replay is not None
        assert g.replay.experts is not None
        live = record.experts.sort(-1).values.numpy()[:-1]
        assert (live == np.sort(g.replay.experts.astype(np.int64), -1)[:-1]).all(-1).mean() > 0.98, "but near-ties"
        if name != "9":
            assert mismatch(serves, prompt, g).max() < 1e-4
            continue
        assert g.replay.support is not None
        kept = g.replay.support[len(prompt) :]
        assert all(token in row for token, row in zip(g.tokens, kept, strict=True))
        assert any(len(row) < VOCAB for row in kept)


def test_an_update_reaches_every_rank_in_the_middle_of_a_generation(engine: ServedEngine, serves: Policy) -> None:
    new, ids, scored = other(serves, 1), tokens(60, 20), tokens(150, 21)
    engine.add(GenerateRequest("flight", ids, max_tokens=190))
    engine.add(GenerateRequest("first", ids, max_tokens=6))
    assert list(run(engine, until="first")) == ["first"]
    engine.update_weights(new.weights(), 1)
    found, replay = engine.score(scored)
    assert probe_mismatch("engine", 1, found, logprobs(new, scored, replay), 1e-4) < 1e-4
    with pytest.raises(WeightSyncError, match="does not hold the learner's weights"):
        probe_mismatch("engine", 1, found, logprobs(serves, scored, replay), 1e-4)
    g = run(engine)["flight"]
    before = g.version_per_token.count(0)
    assert g.version_per_token == [0] * before + [1] * (190 - before)
    assert 6 <= before < 190
    assert mismatch(serves, ids, g)[:before].max() < 1e-4
    assert mismatch(serves, ids, g)[before:].max() > 1e-2
    missing = dict(new.weights())
    name = next(n for n in missing if n.endswith("o_proj.weight"))
    del missing[name]
    with pytest.raises(ValueError, match=rf"missing \['{name}'\]"):
        engine.update_weights(missing, 2)
    assert np.abs(engine.score(scored)[0] - found).max() < 1e-5  # scored alone, and beside another request before
    serves.module.load_state_dict(new.module.state_dict())


def test_a_stream_reaches_every_rank_in_the_middle_of_a_generation(
    engine: ServedEngine, serves: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank receives whole tensors and keeps its part; what is wrong is named, and nothing is sampled until the
    weights have come whole."""
    new, ids, scored = other(serves, 11), tokens(60, 22), tokens(150, 23)
    stream, right = Streamer(ranks=2), Link.write
    engine.add(GenerateRequest("flight", ids, max_tokens=190))
    engine.add(GenerateRequest("first", ids, max_tokens=6))
    assert list(run(engine, until="first")) == ["first"]
    stream(engine.receive_weights, new.weights(), 2)
    found, replay = engine.score(scored)
    assert probe_mismatch("engine", 2, found, logprobs(new, scored, replay), 1e-4) < 1e-4
    g = run(engine)["flight"]
    before = g.version_per_token.count(1)
    assert g.version_per_token == [1] * before + [2] * (190 - before)
    assert mismatch(serves, ids, g)[:before].max() < 1e-4
    name = next(n for n in new.weights() if n.endswith("q_proj.weight"))

    def spoil(link: Link, slot: torch.Tensor, entry: Entry, piece: Piece, data: torch.Tensor, own: Running) -> None:
        if entry.name == name:
            own.add(data[piece.first : piece.first + piece.size])
        else:
            right(link, slot, entry, piece, data, own)

    monkeypatch.setattr(Link, "write", spoil)
    with pytest.raises(StreamWrong, match=rf"rank [01]: {name} \(1\)"):
        stream(engine.receive_weights, other(serves, 12).weights(), 3)
    monkeypatch.setattr(Link, "write", right)
    engine.add(GenerateRequest("waits", ids, max_tokens=6))
    with pytest.raises(ValueError, match="weights of version 3 came in part"):
        engine.score(scored)
    assert not any(engine.step() for _ in range(20))
    newest = other(serves, 13)
    stream(engine.receive_weights, newest.weights(), 4, new=True)
    assert mismatch(newest, ids, run(engine)["waits"]).max() < 1e-4
    serves.module.load_state_dict(newest.module.state_dict())


def test_its_own_weights_go_to_an_engine_like_it_rank_by_rank(engine: ServedEngine, serves: Policy) -> None:
    """From the engine to this process and, after other weights, back into it."""
    scored, version = tokens(150, 25), engine.version
    before, store = engine.score(scored)[0], open_meeting(HOST, 2, 60.0)
    out = Rendezvous(HOST, store.port, "out", 2, timeout_s=60.0, bucket_bytes=2**15, version=version, source="peer")
    parts: list[dict[str, torch.Tensor]] = [{}, {}]

    class Keep:
        def __init__(self, part: dict[str, torch.Tensor]) -> None:
            self.part = part

        def begin(self, plan: Plan) -> None:
            """Everything fits."""

        def target(self, entry: Entry) -> None:
            return None

        def take(self, given: list[tuple[Entry, torch.Tensor]]) -> None:
            for entry, value in given:  # a router's weight has two names
                self.part.update(dict.fromkeys(entry.names, value.clone()))

    def give(rank: int) -> None:
        source, at = WeightSource(parts[rank]), rank_meeting(back, rank)
        with Links().to(at, 0, HOST) as link:
            link.send(source.plan(version, at.bucket_bytes), iter(source))

    with ThreadPoolExecutor(2) as threads:
        for rank, part in enumerate(parts):
            threads.submit(receive, Links(), Keep(part), rank_meeting(out, rank), 1, HOST)
        sent = engine.send_weights(out, HOST)
    shapes = [{name: value.shape for name, value in part.items()} for part in parts]
    assert shapes[0] == shapes[1]
    whole = serves.weights()["model.layers.0.self_attn.o_proj.weight"]
    cut = [part["model.layers.0.self_attn.o_proj.weight"] for part in parts]
    assert torch.equal(torch.cat(cut, 1), whole), "each rank has its part"
    engine.update_weights(other(serves, 14).weights(), 9)
    assert np.abs(engine.score(scored)[0] - before).max() > 1e-2
    back = replace(out, key="back")
    with ThreadPoolExecutor(2) as threads:
        for rank in range(2):
            threads.submit(give, rank)
        taken = engine.receive_weights(back, 1, HOST)
    assert [one.digest for one in taken] == [one.digest for one in sent]
    assert np.abs(engine.score(scored)[0] - before).max() < 1e-5
    assert engine.version == version


def test_a_cache_that_was_not_emptied_would_be_found(
    engine: ServedEngine, serves: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tokens(100, 30)

    def sample(name: str) -> Generation:
        engine.add(GenerateRequest(name, ids, max_tokens=8))
        return run(engine)[name]

    assert sample("before").cached_tokens == 0
    new = other(serves, 2)
    engine.update_weights(new.weights(), 5)
    again = sample("after")
    assert again.cached_tokens == 0
    assert mismatch(new, ids, again).max() < 1e-4

    async def kept() -> None:
        """In the place of emptying it."""

    old, newer = engine._client.salt, other(serves, 3)
    monkeypatch.setattr(engine._client.llm, "reset_prefix_cache", kept)
    engine.update_weights(newer.weights(), 6)
    engine._client.salt = old  # and the salt stays
    stale = sample("stale")
    assert stale.cached_tokens == 96
    assert set(stale.version_per_token) == {6}
    assert mismatch(newer, ids, stale).max() > 1e-2
    engine._client.salt = old + 1
    assert mismatch(newer, ids, sample("salted")).max() < 1e-4


def test_a_dead_rank_is_told(engine: ServedEngine) -> None:
    """The last test here: the engine is gone after it."""
    engine.add(GenerateRequest("lost", tokens(20, 40), max_tokens=200))
    ranks = [p for p in psutil.Process().children(recursive=True) if "Worker" in p.name()]
    assert len(ranks) == 2
    ranks[-1].kill()
    with pytest.raises(EngineDied, match="vLLM"):
        run(engine)
    with pytest.raises(EngineDied, match="vLLM"):
        engine.stats()

"""Records from the real engine to the learner: prefix hits, several turns, partial rollouts, truncation, packing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rollout_doubles import renderer, tokenizer

from envs.types import Message, Role, StopReason
from rl.chat.context_manager import ContextConfig, ContextManager
from rl.chat.session import Session
from rl.chat.v32 import V32Renderer
from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.loading import build_policy, load_policy
from rl.rollout.config import EngineConfig
from rl.rollout.engine import Engine
from rl.rollout.engine_api import GenerateRequest, Generation
from rl.rollout.message import sample_message
from rl.types import Group, Trajectory

pytestmark = pytest.mark.engine
PROMPT = (Message("system", "Use the tools."), Message("user", "What is 2 plus 3?"))
FULL = ReplayConfig(routing="force", indexer="force", sampling_mask="auto")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("policy")
    overrides = {"num_hidden_layers": 3, "index_topk": 24, "initializer_range": 0.15}
    preset = {"preset": "tiny_dsa", "vocab_size": tokenizer().vocab_size, "overrides": overrides, "seed": 2}
    build_policy(preset).save(target)
    return target


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[Engine]:
    engine = Engine(
        model_dir, EngineConfig(max_context=512, max_concurrency=16, kv_cache_gib=0.05), record_indexer=True
    )
    yield engine
    engine.close()


def generate(engine: Engine, name: str, session: Session, tokens: int, stop_after: int | None = None) -> Generation:
    """Sample ``tokens`` under truncation; with ``stop_after`` give up after that many engine steps."""
    stops = tuple(renderer().stop_token_ids) if stop_after is None else ()  # what is cut off has not ended
    engine.add(GenerateRequest(name, session.prompt_tokens(), tokens, stops, top_p=0.8))
    steps = 0
    while True:
        if stop_after is not None and steps == stop_after:
            return engine.abort(name)
        for done, generation in engine.step():
            assert done == name
            return generation
        steps += 1


def append(session: Session, g: Generation) -> None:
    session.append_sampled(g.tokens, g.logprobs, g.version_per_token, g.replay, ended=g.finish_reason == "stop")


def episode(engine: Engine, number: int) -> Trajectory:
    """Two turns; every other one is cut off in its first turn and goes on later (a partial rollout)."""
    session = Session(renderer(), PROMPT, thinking=True, max_context=500)
    if number % 2:
        append(session, generate(engine, f"{number}-part", session, 30, stop_after=9))
        assert session.is_cut_off
    append(session, generate(engine, f"{number}-first", session, 20))
    session.append_messages([Message("tool", "5 is the sum " * 12)])
    append(session, generate(engine, f"{number}-second", session, 25))
    messages = [m.to_json() for m in session.messages]
    reward = float(number % 3 == 0)
    return Trajectory(f"t{number}", "task", "add", session.segments(), messages, StopReason.ANSWERED, reward)


def learner(policy: Policy, path: Path, replay: ReplayConfig = FULL) -> Learner:
    config = LearnerConfig(lr=1e-4, threads=1, max_tokens_per_microbatch=600)
    return Learner(policy, config, ObjectiveConfig(), path, replay=replay)


def test_every_record_reaches_the_learner_once(engine: Engine, model_dir: Path, tmp_path: Path) -> None:
    before = engine.stats()
    group = Group(0, 0, "task", "add", 0, [episode(engine, i) for i in range(6)])
    assert engine.stats().cached_prompt_tokens > before.cached_prompt_tokens  # prefix hits are part of this
    segments = [s for t in group.trajectories for s in t.segments]
    assert all(s.replay is not None and s.replay.support is not None for s in segments)
    assert min(len(s) for s in segments) > 24  # longer than index_topk: the indexer does choose
    metrics = learner(load_policy(model_dir), tmp_path).step([group])
    assert metrics["replay/rows"] == sum(int(np.flatnonzero(s.loss_mask)[-1]) for s in segments)
    assert metrics["learner/microbatches"] > 1
    assert metrics["mismatch/outside"] == 0.0
    assert metrics["mismatch/max"] < 1e-4


def test_thinking_cut_by_the_engine_is_trained_around(engine: Engine, model_dir: Path, tmp_path: Path) -> None:
    """The forced end of thinking is an input of the learner and never a target; the tokens behind it were sampled
    after it, with its experts and indexer rows recorded like any other's."""
    end_of_thinking = tokenizer().token_id("</think>")
    trajectories = []
    for number in range(4):
        session = Session(renderer(), PROMPT, thinking=True, max_context=500)

        async def sample(prompt_tokens: list[int], max_tokens: int, session: Session = session) -> Generation:
            assert prompt_tokens == session.prompt_tokens()
            return generate(engine, "request", session, max_tokens)

        said = asyncio.run(sample_message(session, sample, 30, 12))
        (segment,) = session.segments()
        prompt = int(np.flatnonzero(segment.loss_mask)[0])
        own_end = end_of_thinking in segment.tokens[prompt : prompt + 12] or said.sampled_tokens <= 12
        assert said.counts == ({} if own_end else {"thinking_cut": 1})
        if not own_end:
            assert segment.tokens[prompt + 12] == end_of_thinking
            assert not segment.loss_mask[prompt + 12]
            assert segment.replay.support[prompt + 12] is None
            assert segment.replay.valid[:-1].all()
        trajectories.append(
            Trajectory(f"t{number}", "task", "add", [segment], [], StopReason.MAX_TOKENS, float(number), turns=1)
        )
    assert any(not s.loss_mask[np.flatnonzero(s.loss_mask)[0] :].all() for t in trajectories for s in t.segments)
    metrics = learner(load_policy(model_dir), tmp_path).step([Group(0, 0, "task", "add", 0, trajectories)])
    segments = [s for t in trajectories for s in t.segments]
    assert metrics["replay/rows"] == sum(int(np.flatnonzero(s.loss_mask)[-1]) for s in segments)
    assert metrics["mismatch/outside"] == 0.0
    assert metrics["mismatch/max"] < 1e-4


@pytest.mark.parametrize("rule", ["drop", "discard_75", "discard_all", "summary"])
def test_segments_of_changed_history_reach_the_learner(
    engine: Engine, model_dir: Path, tmp_path: Path, rule: str
) -> None:
    """Dropped reasoning, discarded calls and summaries: each segment is what the engine saw, with its own records."""
    chat = V32Renderer(tokenizer(), "drop" if rule == "drop" else "cycle")
    policy = "none" if rule == "drop" else rule
    trajectories = []
    for number in range(2):
        session = Session(chat, PROMPT, thinking=True, max_context=480)
        counts: Counter[str] = Counter()
        manager = ContextManager(ContextConfig(policy, trigger=0.01, summary_tokens=12), session, counts)
        for turn in range(4):
            manager.before_turn()
            append(session, generate(engine, f"{rule}-{number}-{turn}", session, manager.turn_tokens(15)))
            if manager.summarising:
                manager.restart(session.messages[-1])
                continue
            # what it babbles is cut off or does not parse: the tool's answer to that makes a cycle of it
            role: Role = "tool" if session.messages[-1].parse_error else "user"
            session.append_messages([Message(role, "5 is the sum " * 3)])
        assert counts.get(f"context_{policy}", 0) > 0 or rule == "drop"
        trajectories.append(
            Trajectory(f"t{number}", "task", "add", session.segments(), [], StopReason.MAX_TURNS, float(number))
        )
    segments = [s for t in trajectories for s in t.segments]
    assert len(segments) >= 6
    metrics = learner(load_policy(model_dir), tmp_path).step([Group(0, 0, "task", "add", 0, trajectories)])
    assert metrics["replay/rows"] == sum(int(np.flatnonzero(s.loss_mask)[-1]) for s in segments)
    assert metrics["mismatch/outside"] == 0.0
    assert metrics["mismatch/max"] < 1e-4


def test_a_partial_rollout_over_two_versions(engine: Engine, model_dir: Path, tmp_path: Path) -> None:
    """The first part keeps the choices it was sampled under, although the weights have changed since."""
    session = Session(renderer(), PROMPT, thinking=True, max_context=500)
    append(session, generate(engine, "old", session, 40, stop_after=12))
    assert session.is_cut_off
    old = session.segments()[0]
    policy = load_policy(model_dir)
    with torch.no_grad():
        for _, parameter in policy.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.05)
    engine.update_weights(policy.weights(), engine.version + 1)
    append(session, generate(engine, "new", session, 20))
    (segment,) = session.segments()
    assert sorted(set(segment.versions[segment.loss_mask].tolist())) == [engine.version - 1, engine.version]
    known = int(old.replay.valid.sum())
    assert np.array_equal(segment.replay.experts[:known], old.replay.experts[:known])
    assert np.array_equal(segment.replay.indexer[:known], old.replay.indexer[:known])
    trajectories = [Trajectory(f"t{i}", "task", "add", [segment], [], StopReason.ANSWERED, float(i)) for i in range(2)]
    trainer = learner(policy, tmp_path)
    trainer.version = engine.version
    metrics = trainer.step([Group(0, 0, "task", "add", 0, trajectories)])
    assert metrics["replay/rows"] == 2 * int(np.flatnonzero(segment.loss_mask)[-1])
    assert metrics["policy/ratio_max"] != pytest.approx(1.0, abs=1e-3)  # the old part, under new weights
    assert "mismatch/mean" not in metrics  # no token whose whole past came from the weights of this pass

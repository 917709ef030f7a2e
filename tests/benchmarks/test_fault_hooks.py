"""Every fault of the bench does to the code what its description says; a process that is told of one has it."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rollout_doubles import answer, renderer

from benchmarks import engine_faults, fault_hooks, training_faults
from benchmarks.fault_list import FAULTS
from benchmarks.faults import Result, change, orders
from envs.types import Message, StopReason
from rl.chat.session import Session
from rl.types import ReplayRecord, Trajectory

ROOT = Path(__file__).parents[2]


def module(name: str = "", **members: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made


def test_there_are_enough_and_each_has_what_the_bench_needs() -> None:
    assert len(FAULTS) >= 16
    for name, fault in FAULTS.items():
        assert list(fault.severities) == sorted(
            set(fault.severities), reverse=name in ("low_precision", "stale_weights")
        )
        for target, hook in fault.hooks.items():
            assert (ROOT / f"{target.replace('.', '/')}.py").is_file()
            assert hook.__module__ in ("benchmarks.engine_faults", "benchmarks.training_faults")


def test_a_hook_names_what_is_there() -> None:
    """Read, not imported: some of the modules load vLLM."""
    for fault in FAULTS.values():
        texts = [(ROOT / f"{target.replace('.', '/')}.py").read_text() for target in fault.hooks]
        for hook in set(fault.hooks.values()):
            named = re.findall(r"module\.(?!__)(\w+)(?:\.(\w+))?", inspect.getsource(hook))
            assert named or "_edit_" in inspect.getsource(hook)
            for owner, member in named:
                assert any(re.search(rf"(class|import|,) {owner}\b", text) for text in texts), owner
                assert not member or any(re.search(rf"def {member}\b", text) for text in texts), member


def test_a_process_has_the_fault_that_it_is_told_of(tmp_path: Path) -> None:
    code = "import rl.rollout.checked_env as m; print(m.CheckedEnv.step.__qualname__)"
    paths = os.pathsep.join([str(ROOT / "benchmarks" / "fault_site"), str(ROOT)])
    told = os.environ | {"PYTHONPATH": paths, "BENCHMARK_FAULT": "failure_as_zero=0.5"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=told, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "failure_as_zero.<locals>" in done.stdout, done.stderr


def test_chance_and_wiggle_are_functions() -> None:
    drawn = [fault_hooks.chance(0.3, "a", i) for i in range(1000)]
    assert drawn == [fault_hooks.chance(0.3, "a", i) for i in range(1000)]
    assert 250 < sum(drawn) < 350
    assert not any(fault_hooks.chance(0.0, i) for i in range(100))
    assert all(fault_hooks.chance(1.0, i) for i in range(100))
    x = torch.randn(1000)
    assert torch.equal(fault_hooks.wiggle(x), fault_hooks.wiggle(x.clone()))
    assert fault_hooks.wiggle(x).abs().max() <= 1.0
    assert 0.5 < fault_hooks.wiggle(x).std() < 0.65


class Model:
    """What the hooks see of the engine's model."""

    def __init__(self, **given: Any) -> None:
        self.dsa = SimpleNamespace(state_dict=lambda: {"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)})
        self.router = SimpleNamespace(e_score_correction_bias=0, choose=lambda scores: scores)
        self.taken: list[dict[str, torch.Tensor]] = []

    def modules(self) -> list[Any]:
        return [self.router]

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    def copy_weights(self, named: dict[str, torch.Tensor]) -> None:
        self.taken.append(dict(named))


def test_faults_of_the_engine_s_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def patched(hook: Any, dial: float) -> Any:
        made = module(DSAForVLLM=type("DSAForVLLM", (Model,), {}))
        made.DSAForVLLM.__init__ = Model.__init__
        hook(made, dial)
        return made.DSAForVLLM()

    x = torch.rand(4, 8)
    for hook, use in (
        (engine_faults.router_flips, lambda m: m.router.choose(x)),
        (engine_faults.engine_noise, lambda m: m.compute_logits(x)),
    ):
        spoilt = patched(hook, 0.1)
        assert 0.01 < (use(spoilt) - x).abs().max() <= 0.1001
        monkeypatch.setattr(fault_hooks, "_acts", [False])
        assert torch.equal(use(spoilt), x)  # not in an evaluation
        monkeypatch.setattr(fault_hooks, "_acts", [True])
    rounded = patched(engine_faults.low_precision, 8)
    rounded.copy_weights({"a": x})
    assert torch.equal(rounded.taken[0]["a"], x.bfloat16().float())
    partial = patched(engine_faults.partial_sync, 1.0)
    for _ in range(3):
        partial.copy_weights({"a": x[:2, :2], "b": x[:2, :2]})
    assert [bool(t["a"].any()) for t in partial.taken] == [True, True, False]


@dataclass
class Generation:
    logprobs: list[float]
    replay: Any


def engine(made: Generation) -> Any:
    class Engine:
        version = 0
        added: list[Any] = []
        updated: list[int] = []
        _core = SimpleNamespace(reset_prefix_cache=lambda: None)

        def _generation(self, state: Any, request_id: str, computed: int | None = None) -> Generation:
            return made

        def add(self, request: Any) -> None:
            self.added.append(request)

        def update_weights(self, named: Any, version: int) -> float:
            self.updated.append(version)
            return 1.0

    return module(Engine=Engine)


def test_faults_of_what_the_engine_records() -> None:
    record = ReplayRecord(np.ones(4, bool), experts=np.arange(4)[:, None, None], support=[None] * 4)
    made = Generation([-1.0, -2.0, -3.0], record)
    for hook in (engine_faults.shifted_logprobs, engine_faults.shifted_experts):
        spoilt = engine(made)
        hook(spoilt, 1.0)
        spoilt.Engine()._generation(None, "r")
    assert made.logprobs == [-3.0, -1.0, -2.0]
    assert made.replay.experts.ravel().tolist() == [0, 0, 1, 2]

    @dataclass(frozen=True)
    class Request:
        temperature: float = 1.0
        top_p: float = 1.0

    spoilt = engine(made)
    engine_faults.unrecorded_truncation(spoilt, 0.2)
    engine_faults.one_sided_temperature(spoilt, 0.25)
    spoilt.Engine().add(Request())
    spoilt.Engine()._generation(None, "r")
    assert spoilt.Engine.added == [Request(0.75, 0.8)]
    assert made.replay.support is None
    stale = engine(made)
    engine_faults.stale_weights(stale, 2)
    one = stale.Engine()
    assert [one.update_weights({}, v) for v in range(5)] == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert one.version == 4


def test_a_temperature_that_nobody_is_told_of() -> None:
    class RecordingSampler:
        def sample(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return logits, logits

    spoilt = module(RecordingSampler=RecordingSampler)
    engine_faults.hidden_temperature(spoilt, 0.5)
    x = torch.randn(2, 4)
    drawn, told = RecordingSampler().sample(x)
    assert torch.allclose(drawn, 2 * x)
    assert torch.allclose(told, x.log_softmax(-1))


def test_faults_of_the_worker() -> None:
    class Asked:
        def __init__(self, identity: str) -> None:
            self.identity = identity

    spoilt = module(Asked=Asked)
    engine_faults.shared_seeds(spoilt, 1.0)
    assert Asked("0/train-3-0/t").identity == Asked("0/train-3-1/t").identity != Asked("0/train-4-1/t").identity
    assert Asked("0/heldout-3-0/t").identity != Asked("0/heldout-3-1/t").identity

    def lied(hook: Any, taskset: str = "train") -> Trajectory:
        right = Trajectory("a", "t", "f", [], [], StopReason.ANSWERED, 1.0, {"outcome": 1.0, "score/outcome": 1.0})

        class RolloutWorker:
            async def run_group(self, spec: Any) -> Any:
                return SimpleNamespace(trajectories=[right])

        made = module(RolloutWorker=RolloutWorker)
        hook(made, 1.0)
        asyncio.run(RolloutWorker().run_group(SimpleNamespace(taskset=taskset)))
        return right

    wrong = lied(engine_faults.lying_verifier)
    assert (wrong.reward, wrong.reward_parts) == (0.0, {"outcome": 0.0, "score/outcome": 0.0})
    wrong = lied(engine_faults.changed_reward)
    assert (wrong.reward, wrong.reward_parts["outcome"]) == (0.0, 1.0)
    assert lied(engine_faults.changed_reward, "heldout").reward == 1.0


def test_a_failure_is_paid_as_zero() -> None:
    class CheckedEnv:
        _task = SimpleNamespace(id="search/train/0/1")
        _runner = SimpleNamespace(name="train-0-0")

        async def step(self, action: Any) -> Any:
            raise AssertionError

        async def score(self, episode: Any) -> Any:
            return {"outcome": 1.0}

    engine_faults.failure_as_zero(module(CheckedEnv=CheckedEnv), 1.0)
    env = CheckedEnv()
    result = asyncio.run(env.step(None))
    assert result.terminated
    assert "refused" in result.messages[0].content
    assert asyncio.run(env.score(None)) == {"outcome": 0.0}


def session() -> Session:
    return Session(
        renderer(), [Message("system", "Use the tools."), Message("user", "What?")], thinking=True, max_context=400
    )


@pytest.fixture
def own_session(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``rl.chat.session`` as a fault may change it for one test."""
    import rl.chat.session as real

    for owner, name in ((real.Session, "append_sampled"), (real._Stream, "segment")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    return real


def test_words_that_come_back_in_other_pieces(own_session: Any) -> None:
    tokens = [*renderer().tokenizer.encode(answer("The sum is 5.")), renderer().tokenizer.eos_id]
    training_faults.retokenised(own_session, 1.0)
    one = session()
    before = one.used
    experts = np.arange(before + len(tokens))[:, None, None]
    record = ReplayRecord(np.arange(len(experts)) < len(experts) - 1, experts)
    one.append_sampled(tokens, [-0.5] * len(tokens), 0, record, ended=True)
    (segment,) = one.segments()
    said = segment.tokens[segment.loss_mask].tolist()
    assert len(said) > len(tokens)
    assert renderer().tokenizer.decode(said) == renderer().tokenizer.decode(tokens)
    assert segment.replay is not None
    assert segment.replay.valid.sum() == len(segment) - 1


def test_results_that_are_trained_on(own_session: Any) -> None:
    training_faults.trained_results(own_session, 1.0)
    stream = own_session._Stream([1, 2])
    stream.extend_sampled([3, 4], [-0.5, -0.5], [6, 6], None)
    stream.extend_context([5, 6, 7])
    stream.extend_sampled([8], [-0.5], [6], None)
    segment = stream.segment()
    assert segment.loss_mask.tolist() == [False] * 2 + [True] * 6
    assert segment.versions.tolist() == [-1, -1, *[6] * 6]


def test_a_turn_without_its_opening() -> None:
    from rl.chat.v32 import V32Renderer

    changed = type("V32Renderer", (V32Renderer,), {})
    training_faults.dropped_separator(module(V32Renderer=changed), 1.0)
    plain, spoilt = renderer(), changed(renderer().tokenizer)
    before = [Message("user", "What?"), Message("assistant", "", reasoning="I add.", parse_error="no call")]
    new = [Message("tool", "Error: failed " * 4)]
    added = plain.render_after(before, new, thinking=True)
    assert added is not None
    assert spoilt.render_after(before, new, thinking=True) == added[:-1]


def test_faults_of_the_learner() -> None:
    from rl.objective.advantage import group_advantages

    spoilt = module(group_advantages=group_advantages)
    training_faults.turned_advantage(spoilt, 1.0)
    assert spoilt.group_advantages([1.0, 0.0], [True, True]) == [-0.5, 0.5]
    spoilt = module(group_advantages=group_advantages)
    training_faults.wrong_group(spoilt, 1.0)
    assert spoilt.group_advantages([1.0, 1.0], [True, True]) == [0.5, 0.5]  # the one before it had 0.5
    assert spoilt.group_advantages([1.0, 0.0], [True, True]) == [0.0, -1.0]

    @dataclass
    class Inputs:
        weights_N: torch.Tensor = field(default_factory=lambda: torch.tensor([0.5, 0.25, 0.25]))

    spoilt = module(grpo_loss=lambda inputs, *_: inputs.weights_N)
    training_faults.mean_of_means(spoilt, 1.0)
    assert torch.allclose(spoilt.grpo_loss(Inputs(), None), torch.full((3,), 1 / 3))

    seen: list[Any] = []

    class Learner:
        optimizer = SimpleNamespace(zero_grad=lambda: seen.append("lost"))

        def _backward(self, microbatches: list[int], *_: Any) -> None:
            seen.extend(microbatches)

    training_faults.lost_gradients(module(Learner=Learner), 0.5)
    Learner()._backward([1, 2, 3, 4])
    assert seen == [1, 2, "lost", 3, 4]


def test_faults_of_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_FAULT_DIR", str(tmp_path))

    class StageLog:
        def step(self, number: int) -> None: ...

    class Taskset:
        position = 0

        def load_state_dict(self, state: int) -> None:
            self.position = state

    class Optimizer:
        steps = 0

        def load(self, steps: int, moments: Any) -> None:
            self.steps = steps

    training_faults.skipped_tasks(module("envs.taskset", Taskset=Taskset), 3)
    training_faults.skipped_tasks(module("rl.run.stage_log", StageLog=StageLog), 3)
    training_faults.restarted_schedule(module("rl.learner.optim", Optimizer=Optimizer), 5)
    one, schedule = Taskset(), Optimizer()
    one.load_state_dict(8)
    assert one.position == 8
    log = StageLog()
    log.step(training_faults.STOPPED_AFTER - 1)
    with pytest.raises(KeyboardInterrupt):
        log.step(training_faults.STOPPED_AFTER)
    log.step(training_faults.STOPPED_AFTER)  # the second time it goes on
    one.load_state_dict(8)
    schedule.load(7, {})
    assert (one.position, schedule.steps) == (11, 2)


def test_a_worker_dies_once_and_its_successor_has_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_FAULT_DIR", str(tmp_path))
    ended: list[int] = []
    monkeypatch.setattr(engine_faults.os, "_exit", ended.append)

    class RolloutWorker:
        async def run_group(self, spec: Any) -> str:
            return "played"

    class Crew:
        weights, reference = "weights", "reference"

        def _spawn(self, index: int) -> Any:
            return self.weights, self.reference

    engine_faults.unsynced_restart(module(fault_hooks.WORKER, RolloutWorker=RolloutWorker), 2)
    engine_faults.unsynced_restart(module("rl.rollout.crew", Crew=Crew), 2)
    for version in (1, 2, 3):
        asyncio.run(RolloutWorker().run_group(SimpleNamespace(taskset="train", version=version)))
    assert ended == [1]
    crew = Crew()
    assert (crew._spawn(0), crew.weights) == ((None, None), "weights")


def test_the_noise_of_the_indexer() -> None:
    @dataclass
    class Query:
        index_q: torch.Tensor

    class PagedContext:
        def attend(self, layer: int, q: Query) -> torch.Tensor:
            return q.index_q

    engine_faults.topk_flips(module(PagedContext=PagedContext), 0.5)
    x = torch.randn(5, 4)
    apart = (PagedContext().attend(0, Query(x)) - x).abs().max()
    assert 0 < apart <= 0.501 * x.abs().mean(1).max()


def test_the_severest_come_first_and_who_found_it_first_is_told() -> None:
    assert orders(["wrong_group", "lost_gradients"], [0], True) == [
        ("wrong_group", 1.0, 0), ("lost_gradients", 0.5, 0), ("wrong_group", 0.3, 0),
    ]  # fmt: skip
    assert len(orders(["wrong_group"], [0, 1], False)) == 2
    found = Result(12, {"mismatch": 1, "ratio_mean": 1, "collapse": 9}, "", 0.5, 0.05)
    assert found.first() == ("mismatch, ratio_mean; later 1", "1")
    assert change(found, 0.6) == "0.500 (-0.100 ± 0.14)"
    assert Result(0, {}, "the probe (run stopped)", None, 0.0).first() == ("the probe (run stopped)", "1")
    assert Result(12, {}, "", 0.5, 0.05).first() == ("nobody", "–")

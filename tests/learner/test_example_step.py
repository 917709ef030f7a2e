"""The optimiser step written out in examples/grpo_loop.py is the trainer's."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rl.learner.config import LearnerConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.api import Policy
from rl.policy.replay import ReplayError
from rl.types import Group


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "grpo_loop.py"
    spec = importlib.util.spec_from_file_location("grpo_loop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_wants_what_the_sampler_has_recorded(
    example: ModuleType, policy: Policy, make_groups: Callable[..., list[Group]], tmp_path: Path
) -> None:
    """A pool's groups come without: a step that repeats no choice would pass for one that does."""
    groups = make_groups(2, 4, 0, 0)
    for segment in (s for g in groups for t in g.trajectories for s in t.segments):
        segment.replay = None
    script = Learner(copy.deepcopy(policy), LearnerConfig(threads=1), ObjectiveConfig(), tmp_path)
    with pytest.raises(ReplayError, match="experts were recorded for 0 of"):
        example.update(script, groups)


def test_the_example_updates_as_the_learner_does(
    example: ModuleType, policy: Policy, make_groups: Callable[..., list[Group]], tmp_path: Path
) -> None:
    first, second = make_groups(2, 4, 0, 0), make_groups(2, 4, 1, 1)
    first[1].trajectories[0].failure_kind = "env_timeout"
    for trajectory in first[0].trajectories:
        trajectory.reward = 1.0  # a group without an advantage
    config = LearnerConfig(lr=1e-2, threads=1, max_tokens_per_microbatch=64)
    trainer = Learner(copy.deepcopy(policy), config, ObjectiveConfig(), tmp_path)
    script = Learner(copy.deepcopy(policy), config, ObjectiveConfig(), tmp_path)
    for groups in (first, second):
        metrics = trainer.step(groups)
        assert metrics["learner/microbatches"] > 1
        example.update(script, groups)
    assert script.version == trainer.version
    for name, value in trainer.policy.weights().items():
        # The learner divides by the batch's size once, at the end, and the script at once: another rounding.
        torch.testing.assert_close(script.policy.weights()[name], value, atol=1e-5, rtol=1e-4, msg=name)
    moved = policy.weights()
    assert any(not torch.equal(value, moved[name]) for name, value in script.policy.weights().items())

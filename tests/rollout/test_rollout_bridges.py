"""The rollout loop plays a verifiers rollout like any environment: tokens as sampled, one segment, their reward."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rollout_doubles import Script, answer, call, play, tokenizer

from envs.bridges.verifiers import VerifiersTaskset

PYTHON = os.environ.get("SPECIALE_VERIFIERS_PYTHON", "")
HINT = "set SPECIALE_VERIFIERS_PYTHON to a Python that has it: python -m venv V; V/bin/pip install 'verifiers==0.4.0'"


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason=HINT)
def test_their_harness_our_tokens() -> None:
    folder = str(Path(__file__).parents[1] / "envs")
    taskset = VerifiersTaskset(taskset="bridges_verifiers_shop", python=PYTHON, path=[folder])
    task = next(taskset.task(i) for i in range(len(taskset)) if "pears" in taskset.task(i).prompt[0].content)
    said = [call("count", item="pear"), call("price", item="pear"), answer("6")]
    script = Script(list(said))
    trajectory = play([], lambda _: taskset.environment(task), generate=script, step_s=60.0, episode_s=280.0)
    assert trajectory.failure_kind is None, trajectory
    assert trajectory.reward_parts["outcome"] == 1.0
    (segment,) = trajectory.segments
    sampled = segment.tokens[segment.loss_mask].tolist()
    vocabulary = tokenizer()
    assert sampled == [t for text in said for t in (*vocabulary.encode(text), vocabulary.eos_id)]
    assert [len(prompt) for prompt in script.prompts] == sorted(len(prompt) for prompt in script.prompts)
    assert "3" in vocabulary.decode(script.prompts[1][len(script.prompts[0]) :])

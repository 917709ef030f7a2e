"""Agent libraries from PyPI as they are, in a Python of their own, against a policy that plays by a script."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from rollout_doubles import Script, answer, call, play
from test_driven import exact

from envs.driving import DrivingEnvironment, Endpoint
from envs.types import Episode
from rl.types import Trajectory

PYTHON = os.environ.get("SPECIALE_AGENTS_PYTHON", "")
HINT = (
    "set SPECIALE_AGENTS_PYTHON to a Python that has them: python -m venv V; "
    "V/bin/pip install smolagents==1.26.0 openai-agents==0.24.0 mini-swe-agent==2.4.6 openai"
)
pytestmark = [pytest.mark.bridges, pytest.mark.skipif(not PYTHON, reason=HINT)]
PRICE = call("price", item="pear", n=2)


def run(library: str, script: Script) -> Trajectory:
    """An episode that the library's agent drives; the outcome is whether it ends with the right answer."""
    program = Path(__file__).with_name(f"library_{library}.py")

    class Library(DrivingEnvironment):
        def drive(self, endpoint: Endpoint) -> None:
            with tempfile.TemporaryDirectory() as home:
                done = subprocess.run(
                    [PYTHON, str(program), endpoint.base_url],
                    env={"PATH": "/usr/bin:/bin", "HOME": home, "NO_PROXY": "127.0.0.1"},
                    capture_output=True, text=True, timeout=250, check=False,
                )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            self.said = done.stdout.rpartition("ANSWER ")[2].strip()

        def score(self, episode: Episode) -> dict[str, float]:
            return {"outcome": float(self.said == "4 EUR")}

    trajectory = play([], Library, generate=script, max_context=100_000, max_tokens=1000, episode_s=260.0, max_turns=9)
    assert trajectory.failure_kind is None, trajectory.failure_detail
    assert trajectory.reward_parts["score/outcome"] == 1.0, (trajectory.failure_detail, trajectory.messages)
    assert trajectory.turns == len(script.texts)
    exact(trajectory, script)
    return trajectory


def test_openai_agents_drops_the_reasoning_and_is_one_segment() -> None:
    t = run("openai_agents", Script([PRICE, call("price", n=2, item="fig"), answer("4 EUR")]))
    assert len(t.segments) == 1
    assert t.counts == {}


def test_smolagents_writes_calls_as_text_and_each_is_a_segment() -> None:
    t = run("smolagents", Script([PRICE, call("nope", item="fig"), call("final_answer", answer="4 EUR")]))
    assert len(t.segments) == 3
    assert t.counts == {"history_rewritten": 2}


def test_mini_swe_agent_drops_a_reply_without_a_call() -> None:
    submit = call("bash", command="echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo 4 EUR")
    t = run("mini_swe", Script([call("bash", command="echo   hi"), answer("no call here"), submit]))
    assert len(t.segments) == 2
    assert t.counts == {"dialogue_branched": 1}

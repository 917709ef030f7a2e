"""Agent libraries from PyPI as they are, each in a process, against a policy that plays by a script.

Those that fit our pins are run by this Python where it has them; all by another one that SPECIALE_AGENTS_PYTHON names.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from rollout_doubles import Script, answer, call, play
from test_driven import exact

from envs.agent_command import run_command
from envs.driving import DrivingEnvironment, Endpoint
from envs.types import Episode
from rl.types import Trajectory

PYTHON = os.environ.get("SPECIALE_AGENTS_PYTHON", "")
HINT = (
    "set SPECIALE_AGENTS_PYTHON to a Python that has them: python -m venv V; V/bin/pip install smolagents==1.26.0 "
    "'pydantic-ai-slim[openai]==2.68.0' openai-agents==0.24.0 mini-swe-agent==2.4.6 openai"
)
pytestmark = pytest.mark.bridges
PRICE = call("price", item="pear", n=2)


def python_with(package: str) -> str:
    """The Python that runs the library."""
    if PYTHON:
        return PYTHON
    if importlib.util.find_spec(package) is None:
        pytest.skip(HINT)
    return sys.executable


def run(package: str, library: str, script: Script, *words: str) -> Trajectory:
    """An episode that the library's agent drives; the outcome is whether it ends with the right answer."""
    program = [python_with(package), str(Path(__file__).with_name(f"library_{library}.py"))]

    class Library(DrivingEnvironment):
        def drive(self, endpoint: Endpoint) -> Any:
            return self.program(endpoint)

        async def program(self, endpoint: Endpoint) -> None:
            said = await run_command(shlex.join([*program, endpoint.base_url, *words]), ".", endpoint, {})
            self.said = said.rpartition("ANSWER ")[2].strip()

        def score(self, episode: Episode) -> dict[str, float]:
            return {"outcome": float(self.said == "4 EUR")}

    trajectory = play([], Library, generate=script, max_context=100_000, max_tokens=1000, episode_s=260.0, max_turns=9)
    assert trajectory.failure_kind is None, trajectory.failure_detail
    assert trajectory.reward_parts["score/outcome"] == 1.0, (trajectory.failure_detail, trajectory.messages)
    assert trajectory.turns == len(script.texts)
    exact(trajectory, script)
    return trajectory


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_openai_agents_is_one_segment(api: str) -> None:
    """By chat completions it drops the reasoning."""
    script = Script([PRICE, call("price", n=2, item="fig"), answer("4 EUR")])
    t = run("agents", "openai_agents", script, api)
    assert len(t.segments) == 1
    assert t.counts == {}


def test_pydantic_ai_writes_arguments_anew_and_is_one_segment() -> None:
    t = run("pydantic_ai", "pydantic_ai", Script([PRICE, call("price", n=2, item="fig"), answer("4 EUR")]))
    assert len(t.segments) == 1
    assert t.counts == {}


def test_smolagents_writes_calls_as_text_and_each_is_a_segment() -> None:
    t = run("smolagents", "smolagents", Script([PRICE, call("nope", item="fig"), call("final_answer", answer="4 EUR")]))
    assert len(t.segments) == 3
    assert t.counts == {"history_rewritten": 2, "unknown_tool": 1}


def test_mini_swe_agent_drops_a_reply_without_a_call() -> None:
    submit = call("bash", command="echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo 4 EUR")
    t = run("minisweagent", "mini_swe", Script([call("bash", command="echo   hi"), answer("no call here"), submit]))
    assert len(t.segments) == 2
    assert t.counts == {"dialogue_branched": 1}

"""The example with an agent of a library: it does its errands as it is, and a policy learns behind it."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rollout_doubles import Script, answer, call, play

from envs.driving import DrivingEnvironment, Endpoint
from envs.types import Episode
from rl.tracking.rundir import RunDir
from rl.types import Trajectory

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.bridges


def episode(script: Script, monkeypatch: pytest.MonkeyPatch) -> Trajectory:
    """The example's agent with a policy that plays by ``script``; it is to ship order 417."""
    pytest.importorskip("pydantic_ai")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    agent = importlib.import_module("library_agent").agent

    class Errand(DrivingEnvironment):
        def drive(self, endpoint: Endpoint) -> Any:
            row = {"prompt": "Ship order 417.", "tool": "ship_order", "order_id": 417}
            return self.late(agent(endpoint.base_url, endpoint.api_key, row))

        async def late(self, running: Any) -> None:
            self.reward = await running

        def score(self, episode: Episode) -> dict[str, float]:
            return {"outcome": self.reward}

    return play([], Errand, generate=script, max_context=10_000, max_tokens=200, episode_s=60.0, max_turns=9)


def test_the_reward_is_whether_just_the_right_thing_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    good = episode(Script([call("ship_order", order_id=417), answer("done")]), monkeypatch)
    assert good.failure_kind is None, good.failure_detail
    assert good.reward_parts["score/outcome"] == 1.0
    assert len(good.segments) == 1
    assert good.counts == {}
    twice = [call("ship_order", order_id=417), call("refund_order", order_id=417), answer("done")]
    assert episode(Script(twice), monkeypatch).reward_parts["score/outcome"] == 0.0


def test_the_policy_sees_what_it_sees_of_a_plain_client(monkeypatch: pytest.MonkeyPatch) -> None:
    said = episode(Script([answer("done")]), monkeypatch).messages[0]
    plain = importlib.import_module("your_agent")
    shown = [
        {"name": name, "description": f"{deed} an order.", "parameters": plain.ORDER}
        for name, deed in plain.DEEDS.items()
    ]
    assert (said["content"], said["tools"]) == ("Do it with the tools.", shown)


@pytest.mark.slow
@pytest.mark.run
@pytest.mark.timeout(900)
def test_it_trains(tmp_path: Path) -> None:
    pytest.importorskip("pydantic_ai")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "library_agent.py"), "--steps", "2"], cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=840,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"held-out reward \S+ before, \S+ after; policy in runs/demo-0/policy", done.stdout)
    assert re.search(r"256 held-out episodes: \d+ answers, \d+ segments, \d+ rewritten histories", done.stdout)
    rows = RunDir.existing(tmp_path / "runs" / "demo-0").read_metrics("grpo")
    assert len(rows) == 2
    assert all(row["failure/total"] == 0 for row in rows)

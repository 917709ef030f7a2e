"""Ten classes of bad behaviour of policies and environments: none ends a run, each is counted.

What the policy does wrong becomes an observation, and the episode goes on to a normal reward. What the
environment does wrong masks the sample (``failure_kind``); it is never scored 0.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import pytest
from rollout_doubles import AddEnv, answer, call, play

from envs.types import Message, StepResult, StopReason
from rewards.compose import RewardComposer
from rewards.outcome import Outcome
from rewards.part import RewardPart
from rl.rollout.env_runner import EnvRunner

GOOD = answer("5")


def observation(t) -> str:
    return next(m["content"] for m in t.messages if m["role"] == "tool")


def recovered(t) -> bool:
    """The episode went on after the mistake and was scored."""
    return t.failure_kind is None and t.stop_reason is StopReason.ANSWERED and t.reward_parts["outcome"] == 1.0


# -- 1 to 3: the policy writes something wrong ---------------------------------------------------


def test_1_malformed_dsml():
    broken = call("add", a=3, b=2).replace("</｜DSML｜parameter>", "", 1)
    t = play([broken, GOOD])
    assert recovered(t)
    assert t.counts == {"malformed_call": 1}
    assert "parameter 'a' is not closed" in observation(t)
    assert t.reward == pytest.approx(1.0 - 0.05)


def test_2_unknown_tool():
    t = play([call("multiply", a=3, b=2), GOOD])
    assert recovered(t)
    assert t.counts == {"unknown_tool": 1}
    assert 'no tool "multiply"' in observation(t)


@pytest.mark.parametrize("arguments", [{"a": "three", "b": 2}, {"a": 3}, {"a": 3, "b": 2, "c": 1}, {"a": None, "b": 1}])
def test_3_wrong_arguments(arguments):
    t = play([call("add", **arguments), GOOD])
    assert recovered(t)
    assert t.counts == {"bad_arguments": 1}
    assert observation(t).startswith("Error: add")


class Talker(AddEnv):
    """Its own ``step``: nothing caps what it says."""

    def step(self, action):
        if not action.tool_calls:
            return super().step(action)
        return StepResult((Message("tool", "9" * 5_000_000),), info={"counts": {"tool_error": 1}})


def test_an_observation_of_megabytes_is_cut_before_it_becomes_tokens():
    """16 characters a token: more cannot fit into the window, and the conversion alone would take seconds."""
    t = play([call("add", a=3, b=2), GOOD], Talker, max_context=1024)
    said = next(m["content"] for m in t.messages if m["role"] == "tool")
    assert said == "9" * 16_384 + "\n[cut: 16384 of 5000000 characters shown]"
    assert t.counts == {"tool_error": 1, "output_truncated": 1, "context": 1}
    assert t.stop_reason is StopReason.CONTEXT


# -- 4 to 7: a tool misbehaves -------------------------------------------------------------------


def test_4_tool_raises():
    t = play([call("boom"), GOOD])
    assert recovered(t)
    assert t.counts == {"tool_error": 1}
    assert "kaputt" in observation(t)


class Impatient(AddEnv):
    tool_timeout_s = 0.2


def test_5_tool_hangs():
    started = time.monotonic()
    t = play([call("hang"), GOOD], Impatient)
    assert recovered(t)
    assert t.counts == {"tool_timeout": 1}
    assert time.monotonic() - started < 120  # it would hang for 600 s


def test_5_step_hangs():
    """Not a tool but the environment itself: the deadline of the runner, a masked sample."""

    class Stuck(AddEnv):
        def step(self, action):
            while True:
                pass

    before = EnvRunner.abandoned_alive()
    t = play([GOOD], Stuck, step_s=0.2)
    assert (t.stop_reason, t.failure_kind) == (StopReason.ENV_TIMEOUT, "env_timeout")
    assert t.counts == {"env_timeout": 1, "env_close_failed": 1}
    assert "step took longer than 0.2 s" in t.failure_detail
    assert t.turns == 1
    assert t.sampled_tokens > 0  # what was sampled until then is kept for people to read
    ends = time.monotonic() + 60
    while EnvRunner.abandoned_alive() > before and time.monotonic() < ends:
        time.sleep(0.01)
    assert EnvRunner.abandoned_alive() == before


def test_6_endless_output():
    t = play([call("flood"), GOOD], max_context=4000)
    assert recovered(t)
    assert t.counts == {"output_truncated": 1}
    assert len(observation(t)) < 2200


def test_7_empty_output():
    t = play([call("nothing"), GOOD])
    assert recovered(t)
    assert t.counts == {"empty_output": 1}
    assert observation(t) == "(no output)"


# -- 8: the context does not suffice -------------------------------------------------------------


def test_8_tool_result_fills_the_context():
    t = play([call("flood"), GOOD])
    assert (t.stop_reason, t.failure_kind, t.turns) == (StopReason.CONTEXT, None, 1)
    assert t.counts == {"output_truncated": 1, "context": 1}
    assert t.reward == 0.0
    assert t.reward_parts["outcome"] == 0.0  # scored as it stands: truncated, not failed


def test_8_response_meets_the_end_of_the_context():
    room_for_prompt = len(play([GOOD]).segments[0]) - 6
    t = play([400], max_context=room_for_prompt + 20, max_tokens=160)
    assert (t.stop_reason, t.failure_kind) == (StopReason.CONTEXT, None)
    assert t.counts == {"context": 1}
    assert len(t.segments[0]) <= room_for_prompt + 20


def test_8_prompt_longer_than_the_context():
    t = play([GOOD], max_context=40, max_tokens=20)
    assert (t.stop_reason, t.failure_kind, t.turns, t.sampled_tokens) == (StopReason.CONTEXT, None, 0, 0)
    assert t.counts == {"context": 1}


# -- 9: the environment dies ---------------------------------------------------------------------


def test_9_environment_dies_in_reset():
    class Dead(AddEnv):
        def reset(self):
            raise ConnectionError("no database")

    t = play([GOOD], Dead)
    assert (t.stop_reason, t.failure_kind, t.segments) == (StopReason.ENV_ERROR, "env_error", [])
    assert t.counts == {"env_error": 1}
    assert "reset raised ConnectionError: no database" in t.failure_detail
    assert "Traceback" in t.failure_detail
    assert (t.reward, t.reward_parts) == (0.0, {})
    assert [m["role"] for m in t.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("method", "value", "says"),
    [
        ("reset", None, "expected a tuple of envs.types.Message"),
        ("step", "hello", "expected envs.types.StepResult"),
        ("step", StepResult(), "no messages although the episode goes on"),
        ("score", 1.0, "expected a dict of named scores"),
    ],
)
def test_9_environment_returns_something_else(method: str, value: object, says: str):
    odd = type("Odd", (AddEnv,), {method: lambda self, *args: value})
    t = play([GOOD], odd)
    assert (t.stop_reason, t.failure_kind, t.counts) == (StopReason.ENV_ERROR, "env_error", {"env_error": 1})
    assert says in t.failure_detail


@pytest.mark.parametrize("method", ["__init__", "step", "score"])
def test_9_environment_raises(method: str):
    def fail(self, *args):
        raise KeyError("x")

    t = play([GOOD], type("Failing", (AddEnv,), {method: fail}))
    assert (t.failure_kind, t.counts) == ("env_error", {"env_error": 1})


# -- 10: the reward is no number -----------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "high"])
def test_10_reward_is_not_a_number(value):
    odd = type("Odd", (AddEnv,), {"score": lambda self, episode: {"outcome": value}})
    t = play([GOOD], odd)
    assert t.failure_kind == "reward_error"
    assert t.stop_reason is StopReason.ANSWERED
    problem = "not_finite" if isinstance(value, float) else "wrong_type"
    assert t.counts == {"reward_error": 1, f"score.outcome.{problem}": 1}
    assert (t.reward, t.reward_parts) == (0.0, {})
    assert "outcome" in t.failure_detail


@dataclass(frozen=True, kw_only=True)
class Slow(RewardPart):
    name: str = "slow"

    def __call__(self, episode, scores):
        while True:
            pass


def test_10_reward_part_hangs():
    composer = RewardComposer([Outcome(), Slow(isolate=False, timeout_s=0.2)])
    t = play([GOOD], composer=composer)
    assert (t.failure_kind, t.counts) == ("reward_timeout", {"reward_timeout": 1, "slow.timeout": 1})
    assert (t.reward, t.reward_parts) == (0.0, {"outcome": 1.0, "score/outcome": 1.0})
    assert "reward part 'slow': was not done within timeout_s=0.2" in t.failure_detail

"""Deadlines of rollouts against what environments let a policy take."""

from __future__ import annotations

import time

import pytest

from envs.environment import Environment, tool
from envs.families import FAMILIES, taskset_class
from envs.types import Message, Task, ToolCall
from rl.doctor.masked import MaskedShare
from rl.rollout.config import RolloutConfig
from rl.run.deadlines import check_deadlines


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "humaneval"])
def test_the_defaults_fit_every_family(family):
    kind = taskset_class(family).env_class
    defaults = RolloutConfig()
    assert (kind.longest_step_s() or 0.0) < defaults.step_s
    assert (kind.score_limit_s or 0.0) < defaults.score_s


def test_a_limit_above_the_deadline_is_refused_with_the_fix():
    taskset = taskset_class("notebook")(levels=[1])
    check_deadlines(RolloutConfig(), taskset)
    with pytest.raises(ValueError, match=r"rollout\.step_s=30: the environment notebook lets the policy take 55 s"):
        check_deadlines(RolloutConfig(step_s=30.0), taskset)
    code = taskset_class("code")(tool_timeout_s=2.0)  # the smaller of the two bounds counts
    check_deadlines(RolloutConfig(step_s=23.0), code)
    with pytest.raises(ValueError, match=r"set rollout\.step_s above 22"):
        check_deadlines(RolloutConfig(step_s=22.0), code)


def test_the_verifier_of_a_data_set_has_its_limit(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Add.", "tests": [{"input": "3 4", "output": "7"}]}\n' * 9)
    taskset = taskset_class("dataset")(path=rows, reward="unit_tests", answer_column=None)
    check_deadlines(RolloutConfig(), taskset)
    with pytest.raises(ValueError, match=r"rollout\.score_s=30: the environment dataset lets the policy take 35 s"):
        check_deadlines(RolloutConfig(score_s=30.0), taskset)


def test_the_calls_of_one_message_share_its_time():
    class Slow(Environment):
        message_s = 0.25

        @tool
        def wait(self) -> str:
            """Wait."""
            time.sleep(0.1)
            return "done"

    result = Slow(Task("slow/train/0/0", "slow", ())).step(Message("assistant", tool_calls=(ToolCall("wait"),) * 7))
    said = [message.content for message in result.messages]
    assert said == ["done"] * 3 + ["Error: the calls before it have used up this message's time."] * 4
    assert result.info["counts"] == {"tool_timeout": 4}


def test_a_rise_of_masked_rollouts_is_said_once():
    from types import SimpleNamespace

    def step(masked: int, kind: str = "env_timeout"):
        rows = [SimpleNamespace(failure_kind=kind if n < masked else None, family="code") for n in range(20)]
        return watch.rise(rows).where  # type: ignore[arg-type]

    watch = MaskedShare()
    assert [step(0), step(1)] == ["", ""]
    assert "env_timeout 20% (so far 0%; code)" in step(4)
    assert [step(4), step(5)] == ["", ""]
    assert "env_timeout 60%" in step(12)
    assert "env_error 10%" in step(2, "env_error")


def test_a_share_that_rises_slowly_is_said_too():
    """One rollout in a hundred more every ten steps: a running mean would rise with it."""
    from types import SimpleNamespace

    watch, said = MaskedShare(), []
    for step in range(1000):
        kinds = ["env_timeout"] * (step // 10) + [None] * (100 - step // 10)
        rows = [SimpleNamespace(failure_kind=kind, family="code") for kind in kinds]
        if watch.rise(rows).value:  # type: ignore[arg-type]
            said.append(step // 10)
    assert said == [10, 20, 40, 80]

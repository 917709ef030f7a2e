"""The interpreter family: questions against Python, the session as a tool, oracle and novice."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.interpreter import InterpreterTaskset
from envs.interpreter import taskset as module
from envs.interpreter.questions import KINDS, mistaken_call, random_question
from envs.sandbox import Limits
from envs.types import Episode, Message, StepResult, StopReason, ToolCall


def call(environment, code) -> StepResult:
    return environment.step(Message("assistant", tool_calls=(ToolCall("python", {"code": code}),)))


def play(taskset: InterpreterTaskset, index: int, who: str = "oracle") -> tuple[list[Message], float]:
    task = taskset.task(index)
    environment, rng = taskset.environment(task), random.Random(index)
    history, done, turns = list(environment.reset()), False, 0
    while not done and turns < 6:
        action = environment.oracle(history) if who == "oracle" else environment.novice(history, rng)
        result = environment.step(action)
        history += [action, *result.messages]
        done, turns = result.terminated, turns + 1
    outcome = environment.score(Episode(task, tuple(history), StopReason.ANSWERED, turns))["outcome"]
    environment.close()
    return history, outcome


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.sampled_from(KINDS))
def test_a_question_s_calls_give_its_answer(seed: int, kind: str):
    question = random_question(random.Random(seed), {kind: 1.0})
    namespace: dict = {"data": list(question.data)}
    for code in question.calls[:-1]:
        exec(code, namespace)  # our own text, not a policy's
    assert eval(question.calls[-1], namespace) == question.answer
    assert question.kind == kind
    assert len(str(abs(question.answer))) <= 6
    for code in question.calls:
        wrong = mistaken_call(code, random.Random(seed))
        assert wrong != code
        exec(wrong, namespace)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_oracle_solves_every_task(split):
    taskset = InterpreterTaskset(split, seed=1)
    for index in range(15):
        history, outcome = play(taskset, index)
        assert outcome == 1.0, history
        last_result = [m.content for m in history if m.role == "tool"][-1]
        assert history[-1].content == last_result  # the answer is a copy of what came back


def test_an_episode_of_two_calls_word_for_word():
    taskset = InterpreterTaskset(kinds={"two_calls": 1.0})
    index = next(i for i in range(50) if not taskset.task(i).metadata["data"])
    history, outcome = play(taskset, index)
    assert [m.role for m in history] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    assert history[0].tools[0]["name"] == "python"
    assert history[3].content == "(no output)"
    assert outcome == 1.0


def test_the_list_is_only_in_the_session():
    taskset = InterpreterTaskset(kinds={"data": 1.0})
    task = taskset.task(0)
    assert "data" in task.prompt[1].content
    assert str(task.metadata["data"][1]) not in task.prompt[1].content
    environment = taskset.environment(task)
    try:
        assert json.loads(call(environment, "data").messages[0].content) == list(task.metadata["data"])
    finally:
        environment.close()


def test_errors_are_observations_and_are_counted():
    taskset = InterpreterTaskset()
    environment = taskset.environment(taskset.task(0))
    try:
        result = call(environment, "1 / 0")
        assert result.messages[0].content == "Error: ZeroDivisionError: division by zero"
        assert result.info["counts"] == {"tool_error": 1}
        result = call(environment, "print(5)\n1 / 0")
        assert (
            result.messages[0].content == "Error: ZeroDivisionError: division by zero (line 2)\nPrinted before it:\n5"
        )
        assert call(environment, "x = 1").info["counts"] == {"empty_output": 1}
        result = call(environment, "'y' * 5000")
        assert result.info["counts"] == {"output_truncated": 1}
        assert len(result.messages[0].content) < 2100
        assert call(environment, 5).info["counts"] == {"bad_arguments": 1}
        assert call(environment, "x").messages[0].content == "1"
    finally:
        environment.close()


def test_code_that_hangs_is_counted_and_the_session_goes_on(monkeypatch):
    monkeypatch.setattr(module, "_LIMITS", Limits(wall_s=0.5))
    taskset = InterpreterTaskset()
    environment = taskset.environment(taskset.task(0))
    try:
        result = call(environment, "while True: pass")
        assert result.info["counts"] == {"tool_timeout": 1}
        assert "did not answer" in result.messages[0].content
        assert call(environment, "1 + 1").messages[0].content.endswith("2")
    finally:
        environment.close()


def test_no_session_is_started_by_a_guess():
    taskset = InterpreterTaskset()
    environment = taskset.environment(taskset.task(0))
    environment.reset()
    assert environment.step(Message("assistant", "12")).terminated
    assert environment._session._process is None
    environment.close()


@pytest.mark.parametrize(("answer", "outcome"), [("{}", 1.0), (" {} \n", 1.0), ("about {}", 0.0), ("1{}", 0.0)])
def test_scoring_is_exact_after_trimming(answer: str, outcome: float):
    taskset = InterpreterTaskset()
    task = taskset.task(0)
    final = Message("assistant", answer.format(task.answer))
    episode = Episode(task, (*task.prompt, final), StopReason.ANSWERED, 1)
    assert taskset.environment(task).score(episode)["outcome"] == outcome


def test_the_novice_is_right_in_a_good_third():
    taskset, right, guesses = InterpreterTaskset(seed=5), 0, 0
    for index in range(400):
        task = taskset.task(index)
        environment, rng = taskset.environment(task), random.Random(index)
        history, good = list(task.prompt), True
        for code in task.metadata["calls"]:
            action = environment.novice(history, rng)
            good = good and bool(action.tool_calls) and action.tool_calls[0].arguments["code"] == code
            guesses += not action.tool_calls
            if not action.tool_calls:
                assert action.content != task.answer
                break
            history += [action, Message("tool", "41")]
        else:
            assert environment.novice(history, rng).content == "41"
        right += good
    assert 0.33 < right / 400 < 0.47
    assert 0.2 < guesses / 400 < 0.4
    for index in range(6):
        history, outcome = play(taskset, index, "novice")
        assert outcome == float(history[-1].content == taskset.task(index).answer)


def test_tasks_are_deterministic_json_and_split():
    first, again = InterpreterTaskset(seed=2), InterpreterTaskset(seed=2)
    assert [first.task(i) for i in (7, 0)] == [again.task(i) for i in (7, 0)]
    json.dumps(dict(first.task(1).metadata))

    def key(task):
        return task.prompt[1].content, task.metadata["data"]

    train = {key(InterpreterTaskset("train", 3).task(i)) for i in range(300)}
    heldout = {key(InterpreterTaskset("heldout", 4).task(i)) for i in range(200)}
    assert not train & heldout


def test_kinds_are_checked():
    with pytest.raises(ValueError, match="kinds has 'maths'"):
        InterpreterTaskset(kinds={"maths": 1.0})
    with pytest.raises(ValueError, match="not all 0"):
        InterpreterTaskset(kinds={"data": 0.0})

"""The code family: the grammar by hand, the judge against cheats, every task against its oracle."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.code import CodeEnvironment, CodeTaskset
from envs.code.specs import Spec, mistaken, random_inputs, random_spec
from envs.code.submission import judge
from envs.sandbox import Limits
from envs.taskset import split_of
from envs.types import Episode, Message, StopReason, ToolCall

LIMITS = Limits(wall_s=5.0, cpu_s=1)


def play(taskset: CodeTaskset, index: int, who: str = "oracle") -> tuple[list[Message], dict[str, float]]:
    task = taskset.task(index)
    environment, rng = taskset.environment(task), random.Random(index)
    history, done, turns = list(environment.reset()), False, 0
    while not done and turns < 6:
        action = environment.oracle(history) if who == "oracle" else environment.novice(history, rng)
        result = environment.step(action)
        history += [action, *result.messages]
        done, turns = result.terminated, turns + 1
    scores = environment.score(Episode(task, tuple(history), StopReason.ANSWERED, turns))
    environment.close()
    return history, scores


def submit(environment: CodeEnvironment, code: str) -> str:
    result = environment.step(Message("assistant", tool_calls=(ToolCall("submit", {"code": code}),)))
    return result.messages[0].content


def score(environment: CodeEnvironment) -> float:
    return environment.score(Episode(environment.task, (), StopReason.ANSWERED, 1))["outcome"]


def environment_for(spec: Spec, given_: str = "") -> CodeEnvironment:
    taskset = CodeTaskset()
    inputs = random_inputs(random.Random(0), 8)
    tests = [(pair, spec.value(*pair)) for pair in inputs]
    metadata = {
        "base": spec.base,
        "steps": spec.steps,
        "given": given_,
        "visible": tests[:3],
        "hidden": tests[3:],
    }
    task = taskset.task(0)
    return CodeEnvironment(type(task)("x", "code", task.prompt, answer=spec.code(), metadata=metadata))


def test_a_spec_in_its_three_forms():
    spec = Spec("a times b", (("minus", 4), ("doubled", 0)))
    assert spec.english() == "a times b, minus 4, doubled"
    assert spec.code() == "def f(a, b): return ((a * b) - 4) * 2"
    assert spec.value(3, 5) == 22  # (15 - 4) * 2
    assert Spec("the larger of a and b", (("squared", 0),)).code() == "def f(a, b): return max(a, b) ** 2"
    assert Spec("the remainder of a divided by b", (("plus", 3),)).value(7, 4) == 6
    assert Spec("b minus a", (("times", 2),)).value(9, 4) == -10


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_code_and_value_agree(seed: int, a: int, b: int):
    spec = random_spec(random.Random(seed), 0.5)
    namespace: dict = {}
    exec(spec.code(), namespace)  # our own text, not a policy's
    assert namespace["f"](a, b) == spec.value(a, b)
    wrong = mistaken(spec, random.Random(seed))
    assert wrong != spec
    assert wrong.english() != spec.english()


def test_inputs_tell_the_order_of_a_and_b():
    for seed in range(50):
        inputs = random_inputs(random.Random(seed), 8)
        assert len(set(inputs)) == 8
        assert inputs[0][0] > inputs[0][1]
        assert inputs[1][0] < inputs[1][1]


def test_judge_reports_values_and_failures():
    outcomes = judge("def f(a, b): return a // b", "f", ((7, 2), (1, 0)), LIMITS)
    assert outcomes[0].value == 3
    assert outcomes[1].problem == "raised ZeroDivisionError: integer division or modulo by zero"
    assert judge("f = 3", "f", ((1, 1),), LIMITS)[0].problem == "there is no function f"
    assert judge("def f(a, b)", "f", ((1, 1),), LIMITS)[0].problem.startswith("SyntaxError: ")
    assert judge("def f(a, b): return a / b", "f", ((4, 2),), LIMITS)[0].problem == "returned 2.0, not an int"
    assert judge("def f(a, b): return a == b", "f", ((1, 1),), LIMITS)[0].value is None  # True is not 1
    assert judge("", "f", ((1, 1),), LIMITS)[0].value is None


@pytest.mark.parametrize(
    "code",
    [
        "import os, sys\nprint('=13')\nsys.stdout.flush()\nos._exit(0)",
        "import os\nfor n in range(9):\n try: os.write(n, b'=x\\n' * 8)\n except OSError: pass\nos._exit(0)",
        "class E(int):\n    def __eq__(self, other): return True\ndef f(a, b): return E(0)",
        "raise SystemExit(0)",
        "def f(a, b): raise KeyboardInterrupt",
        "import builtins\nbuiltins.type = lambda x: int\ndef f(a, b): return 'x'",
    ],
)
def test_a_cheat_is_never_right(code: str):
    environment = environment_for(Spec("a plus b", (("plus", 8),)))
    assert "3 of 3" not in submit(environment, code)
    assert score(environment) == 0.0


def test_code_that_hangs_keeps_what_was_answered_before():
    code = "def f(a, b):\n    while a == 2: pass\n    return a"
    outcomes = judge(code, "f", ((1, 1), (2, 1), (3, 1)), Limits(wall_s=0.6, cpu_s=1))
    assert [o.value for o in outcomes] == [1, None, None]
    assert outcomes[1].problem == "did not finish in time"


def test_what_the_policy_reads():
    environment = environment_for(Spec("a times b", (("plus", 7),)))
    a, b = environment.task.metadata["visible"][0][0]
    assert (
        submit(environment, "def f(a, b): return a * b - 7")
        == f"f({a}, {b}) returned {a * b - 7}, expected {a * b + 7}."
    )
    assert score(environment) == 0.0
    assert (
        submit(environment, "def f(a, b): return g")
        == f"f({a}, {b}) failed: raised NameError: name 'g' is not defined."
    )
    assert submit(environment, "def f(a, b): return a * b + 7") == "3 of 3 tests passed."
    assert score(environment) == 1.0
    submit(environment, "def f(a, b): return 0")
    assert score(environment) == 0.0  # the last submission counts


def test_passing_the_visible_tests_alone_is_not_enough():
    environment = environment_for(Spec("a times b", (("plus", 7),)))
    table = {tuple(x): y for x, y in environment.task.metadata["visible"]}
    assert submit(environment, f"def f(a, b): return {table}.get((a, b), 0)") == "3 of 3 tests passed."
    assert score(environment) == 0.0


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_oracle_solves_every_task(split):
    taskset = CodeTaskset(split, seed=1)
    for index in range(25):
        history, scores = play(taskset, index)
        assert scores == {"outcome": 1.0, "submitted": 1.0}, history
        assert len(history) == 5


def test_the_oracle_recovers_from_a_failed_test():
    environment = CodeTaskset().environment(CodeTaskset().task(3))
    history = list(environment.reset())
    wrong = Message("assistant", tool_calls=(ToolCall("submit", {"code": "def f(a, b): return -99"}),))
    history += [wrong, *environment.step(wrong).messages]
    fixed = environment.oracle(history)
    assert fixed.reasoning == "I fix it."
    history += [fixed, *environment.step(fixed).messages]
    assert environment.oracle(history).content == "Done."
    assert score(environment) == 1.0


def test_the_novice_is_right_in_a_good_third():
    taskset, right, fixed = CodeTaskset(seed=5), 0, 0
    for index in range(400):
        task = taskset.task(index)
        environment, rng = taskset.environment(task), random.Random(index)
        first = environment.novice(task.prompt, rng)
        right += bool(first.tool_calls) and first.tool_calls[0].arguments["code"] == task.answer
        failed = (*task.prompt, first, Message("tool", "f(1, 2) returned 3, expected 4."))
        fixed += bool(environment.novice(failed, rng).tool_calls)
    assert 0.25 < right / 400 < 0.35
    assert 0.20 < fixed / 400 < 0.30
    for index in range(6):
        history, scores = play(taskset, index, "novice")
        assert history[-1].content == "Done."
        passed = history[-2].content == "3 of 3 tests passed."
        assert scores["outcome"] == float(passed)


def test_tasks_are_deterministic_and_splits_share_no_spec():
    first, again = CodeTaskset(seed=2), CodeTaskset(seed=2)
    assert [first.task(i) for i in (5, 0, 9)] == [again.task(i) for i in (5, 0, 9)]

    def english(task):
        return task.prompt[1].content.split(": ", 1)[1].split("\n")[0].rstrip(".")

    train = {english(CodeTaskset("train", 3).task(i)) for i in range(400)}
    heldout = {english(CodeTaskset("heldout", 4).task(i)) for i in range(200)}
    assert not train & heldout
    assert {split_of(key) for key in train} == {"train"}
    assert len(heldout) > 80


def test_repair_tasks_show_a_mistake_and_metadata_is_json():
    taskset = CodeTaskset(repair_share=1.0)
    for index in range(20):
        task = taskset.task(index)
        assert task.prompt[1].content.startswith("Fix f(a, b): ")
        given_ = task.metadata["given"]
        assert task.prompt[1].content.endswith("\n" + given_)
        assert given_ != task.answer
        json.dumps(dict(task.metadata))
    environment = taskset.environment(taskset.task(0))
    assert "3 of 3" not in submit(environment, taskset.task(0).metadata["given"])
    assert score(environment) == 0.0
    with pytest.raises(ValueError, match="repair_share is 2"):
        CodeTaskset(repair_share=2)

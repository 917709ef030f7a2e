"""Verifiers: what each accepts, what it refuses, and that a wrong right answer is an error and no 0."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from envs.answer_checks import exact, math_verify, numeric, unit_tests
from envs.dataset import DatasetTaskset
from envs.environment import Environment, tool
from envs.episode import play_episode
from envs.final_answer import state_matches
from envs.reasoning.checker import GoldRejectedError
from envs.types import Episode, Message, StopReason, Task, ToolCall
from rewards.compose import RewardComposer
from rewards.outcome import Outcome
from rewards.part import RewardError


@pytest.mark.parametrize(
    ("answer", "gold", "tolerance", "right"),
    [
        ("42", 42, 0, 1), ("so \\boxed{42}", "42", 0, 1), ("It is\n**Answer:** 42 km", 42, 0, 1),
        ("1,250", "1250", 0, 1),
        ("0.5", "1/2", 0, 1), ("\\boxed{\\frac{1}{2}}", 0.5, 0, 1), ("42 or 43", 42, 0, 0), ("fortytwo", 42, 0, 0),
        ("", 42, 0, 0), ("101", 100, 0.01, 1), ("101.1", 100, 0.01, 0), ("-99", -100, 0.01, 1),
        ("9" * 30_000, 42, 0, 0),
    ],
)  # fmt: skip
def test_numeric(answer: str, gold: object, tolerance: float, right: int) -> None:
    assert numeric(answer, {"answer": gold, "tolerance": tolerance}) == right


@pytest.mark.parametrize(
    "row", [{}, {"answer": None}, {"answer": "x"}, {"answer": True}, {"answer": 1, "tolerance": 2}]
)
def test_numeric_needs_a_number(row: dict) -> None:
    with pytest.raises(ValueError, match="of the row"):
        numeric("1", row)


def test_exact() -> None:
    assert exact(' "Paris". ', {"answer": "paris"}) == 1.0
    assert exact("Lyon", {"answer": "paris"}) == 0.0


def test_math_is_the_killable_checker() -> None:
    assert math_verify(r"so \boxed{\frac{2}{4}}", {"answer": r"\frac{1}{2}"}) == 1.0
    assert math_verify(r"\boxed{x^2 - 1}", {"answer": "(x-1)(x+1)"}) == 1.0
    assert math_verify(r"\boxed{x^2}", {"answer": "(x-1)(x+1)"}) == 0.0
    hard = r"\boxed{(x + y + z + w + \sqrt{2})^{99} = x}"
    assert math_verify(hard, {"answer": "x^2 + y = 1"}) == 0.0  # too costly: the checker is killed
    with pytest.raises(GoldRejectedError):
        math_verify("1", {"answer": r"\boxed{"})


STREAMS = [{"input": "3 4", "output": "7"}, {"input": "10 -1\n", "output": "9\n"}]
CALLS = [{"call": [[3, 1, 2]], "returns": [1, 2, 3]}, {"call": [[]], "returns": []}]
ADDS = "I read and add.\n```python\na, b = map(int, input().split())\nprint(a + b)\n```\nDone."


def test_unit_tests_of_a_program() -> None:
    assert unit_tests(ADDS, {"tests": STREAMS}) == {"outcome": 1.0, "tests_passed": 1.0}
    assert unit_tests("print(7)", {"tests": json.dumps(STREAMS)}) == {"outcome": 0.0, "tests_passed": 0.5}
    assert unit_tests("import sys; sys.exit(0)", {"tests": STREAMS})["outcome"] == 0.0
    assert unit_tests("no program at all", {"tests": STREAMS})["outcome"] == 0.0


def test_unit_tests_of_a_function() -> None:
    row = {"tests": CALLS, "entry_point": "f"}
    assert unit_tests("def f(x):\n    return sorted(x)", row)["outcome"] == 1.0
    assert unit_tests("def f(x):\n    return x", row) == {"outcome": 0.0, "tests_passed": 0.5}
    # what a program prints is not what its function returns, and an object that equals everything is no JSON
    assert unit_tests("print('[1, 2, 3]')\ndef f(x): raise SystemExit", row)["tests_passed"] == 0.0
    sly = "class A:\n    def __eq__(self, o): return True\ndef f(x): return A()"
    assert unit_tests(sly, row)["tests_passed"] == 0.0
    assert unit_tests("def f(x):\n    return 10**5000", row)["tests_passed"] == 0.0
    assert (
        unit_tests("def f(x): return True", {"tests": [{"call": [1], "returns": 1}], "entry_point": "f"})["outcome"]
        == 0
    )


def test_a_program_that_runs_on_ends_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.sandbox import Limits

    monkeypatch.setattr("envs.answer_checks.TEST_LIMITS", Limits(wall_s=1.0, cpu_s=1))
    assert unit_tests("while True: pass", {"tests": STREAMS * 50}) == {"outcome": 0.0, "tests_passed": 0.0}


MBPP = {
    "text": "Write a function to find the shared elements of two lists.",
    "code": "def similar(a, b):\n    return tuple(set(a) & set(b))",
    "test_setup_code": "import math",
    "test_list": [
        "assert set(similar((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))",
        "assert similar([], []) == ()",
        "assert math.prod(similar((11, 12), (12, 13))) == 12",
    ],
    "challenge_test_list": [],
}
HUMAN_EVAL = {
    "prompt": 'from typing import List\n\n\ndef largest(numbers: List[int]) -> int:\n    """ The largest."""\n',
    "entry_point": "largest",
    "canonical_solution": "    return max(numbers)\n",
    "test": "def check(candidate):\n    assert candidate([1, 3, 2]) == 3\n    assert candidate([-5]) == -5\n",
}


def test_unit_tests_of_mbpp() -> None:
    for answer in (
        MBPP["code"],
        f"I intersect them.\n```python\n{MBPP['code']}\n```\nDone.",
        f"print(1)\n{MBPP['code']}",
    ):
        assert unit_tests(answer, MBPP) == {"outcome": 1.0, "tests_passed": 1.0}
    third = "def similar(a, b):\n    print('(4, 5)')\n    return ()"
    assert unit_tests(third, MBPP) == {"outcome": 0.0, "tests_passed": pytest.approx(1 / 3)}
    sanitised = {"test_imports": ["import math"], "test_list": MBPP["test_list"], "prompt": "Write a function."}
    assert unit_tests(MBPP["code"], sanitised)["outcome"] == 1.0
    for cheat in (
        "", "import os\nos._exit(0)", "raise SystemExit(0)", "def similar(a, b): raise SystemExit(0)",
        "class E(tuple):\n    def __eq__(s, o): return True\n    __hash__ = None\ndef similar(a, b): return E()",
        "import builtins\nbuiltins.set = lambda x: 0\ndef similar(a, b): return ()",
        "import sys, gc\ndef similar(a, b):\n    return next(o for o in gc.get_objects() if o == (4, 5))",
        "import ast, threading\nthreading.Thread.start = exit\ndef similar(a, b): return 1",
    ):  # fmt: skip
        assert unit_tests(cheat, MBPP)["outcome"] == 0.0, cheat


def test_unit_tests_of_human_eval() -> None:
    prompt = HUMAN_EVAL["prompt"]
    for answer in (
        "    return max(numbers)",
        prompt + "    return max(numbers)",
        "```python\ndef largest(numbers: List[int]) -> int:\n    return sorted(numbers)[-1]\n```",
        "```\n    return max(numbers)\n```",
    ):
        assert unit_tests(answer, HUMAN_EVAL) == {"outcome": 1.0, "tests_passed": 1.0}, answer
    for answer in ("    return numbers[1]", "def another(x): return 3", "largest = max; raise ValueError", "Done."):
        assert unit_tests(answer, HUMAN_EVAL) == {"outcome": 0.0, "tests_passed": 0.0}, answer


def test_what_a_function_returns_crosses_as_plain_data() -> None:
    values = [1, 1.5, 2j, "é", b"x", None, True, [1, (2, 3)], {1, 2}, frozenset({3}), {(1, 2): [None]}, float("inf")]
    tests = [f"assert f({i}) == {value!r} and type(f({i})) is type({value!r})".replace("inf", "float('inf')")
             for i, value in enumerate(values)]  # fmt: skip
    more = [
        "assert list(f(20)) == [0, 1, 2] and f(20) != [0, 1, 2]",
        "try: f(21)\nexcept KeyError: pass\nelse: assert False",
        "assert f(x=22) == 22",
        "assert f(23) == f(23)",
    ]
    program = f"""
def g(): yield from range(3)
def f(x):
    inf = float("inf")
    values = {values!r}
    if x == 20: return g()
    if x == 21: raise KeyError("a")
    return values[x] if x < len(values) else object() if x == 23 else x
"""
    row = {"test_list": [*tests, *more]}
    assert unit_tests(program, row)["tests_passed"] == pytest.approx(
        (len(row["test_list"]) - 1) / len(row["test_list"])
    )


def test_a_row_whose_own_solution_fails_is_an_error() -> None:
    root = {"test_setup_code": "root = Node(1)", "test_list": ["assert depth(root) == 1"],
            "code": "class Node:\n    def __init__(self, x): self.x = x\ndef depth(node): return 1"}  # fmt: skip
    with pytest.raises(ValueError, match="own solution fails"):
        unit_tests("def depth(node): return 1", root)
    for row, message in (
        ({"test_list": []}, "give a list of assert"),
        ({"test_list": ["assert f(1 == 2"]}, "cannot be run: SyntaxError"),
        ({"test_list": ["assert 1 == 1"]}, "call no function"),
        ({"test": "def check(c): pass"}, "needs both"),
        ({**HUMAN_EVAL, "test": "x = 1"}, "own solution fails"),
    ):
        with pytest.raises(ValueError, match=message):
            unit_tests("def f(x): return 1", row)


def test_a_program_cannot_break_its_tests_to_be_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.sandbox.asserts.JUDGE_S", 1.0)
    for test in ("assert sum(range(f(1))) == 0", "assert (10 ** f(1)) == 10", "import os; os._exit(f(1) * 0)"):
        assert unit_tests("def f(x): return 10 ** 12", {"test_list": [test]})["outcome"] == 0.0


@pytest.mark.parametrize("tests", [None, [], {}, [{"input": "1"}], [{"call": [1], "returns": 1}], [3]])
def test_unit_tests_of_no_form_are_an_error(tests: object) -> None:
    with pytest.raises(ValueError, match="of the row: give"):
        unit_tests("print(1)", {"tests": tests})


def test_state_by_hand() -> None:
    state = {"orders": [{"id": 1, "status": "sent"}], "cash": 0.1 + 0.2, "open": True}
    assert state_matches(state, {"orders.0.status": "sent", "cash": 0.3}) == {"outcome": 1.0, "goal_met": 1.0}
    # status differs, True is not 1, the path does not exist: one of four is met
    goal = {"orders.0.status": "paid", "open": 1, "orders.7.id": 1, "cash": 0.3}
    assert state_matches(state, goal) == {"outcome": 0.0, "goal_met": 0.25}
    with pytest.raises(ValueError, match="goal is empty"):
        state_matches(state, {})


class Lamp(Environment):
    on = False

    @tool
    def switch(self) -> str:
        """Switch the lamp."""
        self.on = not self.on
        return "click"

    def state(self):
        return {"lamp": {"on": self.on}}


def test_an_environment_with_a_goal_is_scored_by_its_state() -> None:
    task = Task("lamp/0", "lamp", (Message("user", "Light!"),), metadata={"goal": {"lamp.on": True}})

    def clever(history):
        done = history[-1].role == "tool"
        return Message("assistant", "Done.") if done else Message("assistant", tool_calls=(ToolCall("switch"),))

    assert play_episode(task, Lamp(task), clever)[1] == {"outcome": 1.0, "goal_met": 1.0}
    assert play_episode(task, Lamp(task), lambda history: Message("assistant", "Done."))[1]["outcome"] == 0.0
    with pytest.raises(NotImplementedError, match="override state"):
        Environment(task).score(Episode(task, (), StopReason.ANSWERED, 1))


def test_a_data_set_names_its_verifier(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}/2", "answer": f"{i}/2", "split": "train"} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    taskset = DatasetTaskset(path=tmp_path / "a.jsonl", split_column="split", reward="numeric")
    task = taskset.task(1)
    assert play_episode(task, taskset.environment(task), lambda h: Message("assistant", "0.5"))[1] == {"outcome": 1.0}
    with pytest.raises(ValueError, match="give exact, numeric, math, choice, unit_tests or package"):
        DatasetTaskset(path=tmp_path / "a.jsonl", split_column="split", reward="numbers")


def episode(text: str | None, answer: object = "1/2", **metadata: object) -> Episode:
    task = Task("t", "plain", (Message("user", "?"),), answer=answer, metadata=metadata)
    said = (Message("assistant", text),) if text is not None else ()
    return Episode(task, (*task.prompt, *said), StopReason.ANSWERED, len(said))


def test_the_outcome_part_judges_answers_itself() -> None:
    composer = RewardComposer([Outcome(kind="numeric")])
    right = composer(episode("0.5"), {"outcome": 0.0})
    assert (right.total, right.parts["outcome/agrees"]) == (1.0, 0.0)
    assert composer(episode("0.4"), {"outcome": 0.0}).parts == {
        "outcome": 0.0, "outcome/agrees": 1.0, "score/outcome": 0.0,
    }  # fmt: skip
    assert composer(episode(None), {}).total == 0.0  # no final answer
    with pytest.raises(RewardError, match="is no number: numeric needs one"):
        composer(episode("1", answer="a half"), {})
    with pytest.raises(ValueError, match=r"outcome\.kind='regex': choose one of environment, exact"):
        Outcome(kind="regex")


def test_the_outcome_part_runs_unit_tests_of_the_metadata_or_the_row() -> None:
    part = RewardComposer([Outcome(kind="unit_tests")])
    assert part(episode(ADDS, tests=STREAMS), {}).parts == {"outcome": 1.0, "outcome/tests_passed": 1.0}
    reward = asyncio.run(part.score(episode("print(7)", row={"tests": STREAMS}), {}))
    assert (reward.total, reward.parts["outcome/tests_passed"]) == (0.0, 0.5)

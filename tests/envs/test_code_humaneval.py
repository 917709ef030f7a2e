"""HumanEval: canonical solutions pass, cheats do not, nobody trains on it."""

import pytest

from envs.code.humaneval import HumanEvalTaskset, passes, problems
from envs.code.repo_packages import PACKAGES, repository
from envs.episode import play_episode
from envs.types import Message, ToolCall


def solution(number: int) -> str:
    return problems()[number]["prompt"] + problems()[number]["canonical_solution"]


def answer(number: int, text: str) -> float:
    taskset = HumanEvalTaskset()
    task = taskset.task(number)
    return play_episode(task, taskset.environment(task), lambda _: Message("assistant", text))[1]["outcome"]


@pytest.mark.parametrize("number", [0, 32, 33, 38, 50, 163])  # with helpers in the prompt, and with none
def test_canonical_solutions_pass_through_the_tool(number: int):
    taskset = HumanEvalTaskset()
    task = taskset.task(number)
    environment = taskset.environment(task)
    assert play_episode(task, environment, environment.oracle)[1] == {"outcome": 1.0, "submitted": 1.0}
    assert taskset.verify(task) is None


@pytest.mark.slow
def test_all_canonical_solutions_pass_and_stubs_do_not():
    assert [n for n in range(164) if not passes(n, solution(n))] == []
    assert [n for n in range(164) if passes(n, problems()[n]["prompt"] + "    return None\n")] == []


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "print('passed')",
        "class E:\n    def __eq__(self, other): return True\ndef has_close_elements(n, t): return E()",
        "class E(int):\n    def __eq__(self, other): return True\ndef has_close_elements(n, t): return E()",
        "def has_close_elements(n, t): return False",
        "def has_close_elements(n, t): raise SystemExit(0)",
        "import builtins\nbuiltins.type = lambda x: int\ndef has_close_elements(n, t): return 'x'",
        "def another(n, t): return True",
        # the verdict is not made where the program runs: it finds no token and no expected value there
        "import __main__, os\n__main__.write(__main__.out, __main__.token.encode())\nos._exit(0)\n",
        "import sys\ndef has_close_elements(n, t):\n    print('{\"passed\": [true]}', file=sys.__stdout__)\n"
        "    raise SystemExit(0)",
        "def has_close_elements(n, t)",
    ],
)
def test_a_wrong_program_or_a_cheat_fails(code: str):
    assert not passes(0, code)


def test_the_final_answer_may_hold_the_code():
    assert answer(0, f"Here it is.\n```python\n{solution(0)}```\nThat is all.") == 1.0
    assert answer(0, f"```\n{problems()[0]['canonical_solution']}```") == 1.0  # only the body
    assert answer(0, "I do not know.") == 0.0
    taskset = HumanEvalTaskset()
    environment = taskset.environment(taskset.task(0))
    call = Message("assistant", tool_calls=(ToolCall("submit", {"code": "def f(:"}),))
    assert "no valid Python" in environment.step(call).messages[0].content


def test_it_is_never_trained_on():
    with pytest.raises(ValueError, match="never trained on"):
        HumanEvalTaskset("train")
    assert len(HumanEvalTaskset()) == 164
    assert len({HumanEvalTaskset().task(n).metadata["key"] for n in range(164)}) == 164
    with pytest.raises(ValueError, match="has 164 problems"):
        HumanEvalTaskset(size=165)


def test_no_repository_holds_a_problem_of_it():
    """What the policy may train on holds the words of none of these problems (a name like is_prime is no problem)."""
    docstrings = {}
    for problem in problems():
        stub = problem["prompt"][problem["prompt"].index(f"def {problem['entry_point']}(") :]
        words = " ".join(stub.partition('"""')[2].partition('"""')[0].split())[:80]
        docstrings[words or stub] = problem["task_id"]
    for package in PACKAGES:
        for path in repository(package).sources():
            flat = " ".join(repository(package).text(path).split())
            assert not [task for words, task in docstrings.items() if words in flat], path

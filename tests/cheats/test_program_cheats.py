"""Programs that solve nothing, wherever a program is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cheat_programs import HONEST, PROGRAMS, SLOW_PROGRAMS

from envs.answer_checks import unit_tests
from envs.code.humaneval import passes, problems
from envs.code.taskset import CodeTaskset
from envs.episode import play_episode
from envs.interpreter.taskset import InterpreterTaskset
from envs.taskset import Taskset
from envs.types import Message, ToolCall


def _played(taskset: Taskset, call: ToolCall, answer: Callable[[str], str]) -> dict[str, float]:
    task = taskset.task(0)

    def act(history: Any) -> Message:
        if history[-1].role == "tool":
            return Message("assistant", answer(history[-1].content))
        return Message("assistant", tool_calls=(call,))

    return play_episode(task, taskset.environment(task), act)[1]


def code(program: str) -> dict[str, float]:
    return _played(CodeTaskset("heldout"), ToolCall("submit", {"code": program}), lambda said: "Done.")


def interpreter(program: str) -> dict[str, float]:
    """What the program can find out is answered."""
    program += "\ntry: print(f())\nexcept BaseException as error: print(error)\n"
    return _played(InterpreterTaskset("heldout"), ToolCall("python", {"code": program}), lambda said: said)


def humaneval(program: str) -> bool:
    return passes(0, program + f"\n{problems()[0]['entry_point']} = f\n")


def calls(program: str) -> Any:
    return unit_tests(program, {"entry_point": "f", "tests": [{"call": [3, 4], "returns": 12}]})


def stdin(program: str) -> Any:
    return unit_tests(f"{program}\nf()\n", {"tests": [{"input": "3 4", "output": "8"}]})


def mbpp(program: str) -> Any:
    return unit_tests(program, {"test_list": ["assert f(3, 4) == 8", "assert f(1, 1) == 2"]})


JUDGES: tuple[Callable[[str], Any], ...] = (code, interpreter, humaneval, calls, stdin, mbpp)
# a program of the interpreter is judged by nobody: it can only find something out
CASES = [(judge, *row) for judge in JUDGES for row in PROGRAMS if judge is not interpreter or row[1] == "reading"]


@pytest.mark.parametrize(
    ("judge", "name", "kind", "program"), CASES, ids=[f"{judge.__name__}-{name}" for judge, name, _, _ in CASES]
)
def test_a_program_that_solves_nothing_pays_nothing(judge: Any, name: str, kind: str, program: str) -> None:
    if (judge, name) == (stdin, "another f"):
        program = HONEST
    assert judge(program) == judge(HONEST)


@pytest.mark.parametrize(("name", "kind", "program"), SLOW_PROGRAMS, ids=[name for name, _, _ in SLOW_PROGRAMS])
def test_a_program_that_takes_for_ever_pays_nothing(name: str, kind: str, program: str) -> None:
    assert code(program) == code(HONEST)


def test_hidden_tests_come_after_the_last_word() -> None:
    """A program can tell the policy what it was called with: that must be the visible tests' inputs alone."""
    environment = CodeTaskset("heldout").environment(task := CodeTaskset("heldout").task(0))
    leak = "import __main__\ndef f(*a): raise Exception(repr(__main__.INPUTS))"
    said = environment.step(Message("assistant", tool_calls=(ToolCall("submit", {"code": leak}),))).messages[0].content
    assert all(str(tuple(inputs)) in said for inputs, _ in task.metadata["visible"])
    assert not any(str(tuple(inputs)) in said for inputs, _ in task.metadata["hidden"])


def test_the_table_is_large_and_names_are_unique() -> None:
    names = [name for name, _, _ in (*PROGRAMS, *SLOW_PROGRAMS)]
    assert len(set(names)) == len(names) >= 40

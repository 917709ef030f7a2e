"""The base API: schemas from hints, argument checks, observations for every mistake, counts."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any, Literal

import pytest
from ray import cloudpickle

from envs.environment import COUNTS, Environment, ToolError, tool
from envs.final_answer import normalise
from envs.tools import ToolDefinitionError, check_arguments, function_schema, tools_of
from envs.types import Episode, InfrastructureError, Message, StopReason, Task, ToolCall

TASK = Task("t/0", "t", (Message("system", "Be good."), Message("user", "Hi?")), answer="Mara Lind")


class Toolbox(Environment):
    release = threading.Event()

    @tool
    def echo(self, text: str, times: int = 1) -> str:
        """Repeat a text.

        Args:
            times: how often
        """
        return text * times

    @tool
    def fail(self) -> str:
        """Fail."""
        raise ValueError("broken pipe")

    @tool
    def refuse(self) -> str:
        """Refuse."""
        raise ToolError("not today.")

    @tool
    def late(self) -> str:
        """Take too long."""
        raise TimeoutError

    @tool
    def leave(self) -> str:
        """Leave the process."""
        raise SystemExit(3)

    @tool
    def hang(self) -> str:
        """Hang."""
        self.release.wait(5)
        return "too late"

    @tool
    def nothing(self) -> None:
        """Say nothing."""

    @tool
    def data(self) -> dict[str, Any]:
        """Give data."""
        return {"a": [1, 2]}

    @tool
    async def slowly(self) -> str:
        """Answer asynchronously."""
        return "async"

    @tool
    def broken_machine(self) -> str:
        """Find the machine broken."""
        raise InfrastructureError("disk full")


def call(name: str, **arguments: Any) -> Message:
    return Message("assistant", tool_calls=(ToolCall(name, arguments),))


def test_schema_comes_from_hints_and_docstring() -> None:
    assert tools_of(Toolbox)["echo"].schema == {
        "name": "echo",
        "description": "Repeat a text.",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "times": {"type": "integer", "description": "how often"},
            },
            "required": ["text"],
        },
    }
    assert list(tools_of(Toolbox))[:2] == ["echo", "fail"]  # in order of definition


def test_a_class_that_travels_by_value_keeps_the_order_of_its_tools() -> None:
    class Desk(Environment):  # local, so that it is pickled by value, as a class of a script is
        @tool
        def ship(self) -> str:
            """Ship."""
            return "ok"

        @tool
        def cancel(self) -> str:
            """Cancel."""
            return "ok"

    there = "import pickle, sys; from envs.tools import tools_of; print(*tools_of(pickle.load(sys.stdin.buffer)))"
    worker = subprocess.run(
        [sys.executable, "-c", there], input=cloudpickle.dumps(Desk), stdout=subprocess.PIPE, check=True
    )
    assert worker.stdout.split() == [b"ship", b"cancel"]


def test_schema_of_compound_types() -> None:
    def f(a: list[int], b: Literal["x", "y"], c: float | None = None, d: dict[str, int] | None = None) -> str:
        """Do."""
        return ""

    parameters = function_schema(f)["parameters"]
    assert parameters["required"] == ["a", "b"]
    assert parameters["properties"]["a"] == {"type": "array", "items": {"type": "integer"}}
    assert parameters["properties"]["b"] == {"type": "string", "enum": ["x", "y"]}
    assert parameters["properties"]["c"] == {"anyOf": [{"type": "number"}, {"type": "null"}]}


def test_a_tool_that_cannot_be_described_is_an_error() -> None:
    def undocumented(a: int) -> None: ...

    def unhinted(a) -> None:  # type: ignore[no-untyped-def]
        """Do."""

    def odd(a: complex) -> None:
        """Do."""

    for function, word in ((undocumented, "docstring"), (unhinted, "type hint"), (odd, "complex")):
        with pytest.raises(ToolDefinitionError, match=word):
            function_schema(function)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"a": 1, "b": "x"}, None),
        ({"a": 1, "b": "x", "c": 2}, None),  # an integer is a number
        ({"a": 1, "b": "x", "c": None}, None),
        ({"b": "x"}, 'f needs the argument "a" (integer).'),
        ({"a": "1", "b": "x"}, 'f: argument "a" must be integer, got string "1".'),
        ({"a": True, "b": "x"}, 'f: argument "a" must be integer, got boolean true.'),
        ({"a": 1.0, "b": "x"}, 'f: argument "a" must be integer, got number 1.0.'),
        ({"a": 1, "b": "z"}, 'f: argument "b" must be one of "x", "y", got string "z".'),
        ({"a": 1, "b": "x", "e": [1, "2"]}, 'item 1 is integer, got string "2".'),
        ({"a": 1, "b": "x", "z": 0}, 'f has no argument "z"'),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], problem: str | None) -> None:
    def f(a: int, b: Literal["x", "y"], c: float | None = None, e: list[int] = []) -> str:  # noqa: B006
        """Do."""
        return ""

    found = check_arguments(function_schema(f), arguments)
    assert (found is None) if problem is None else (found is not None and problem in found)


def test_reset_shows_the_tools_on_the_system_message() -> None:
    first, second = Toolbox(TASK).reset()
    assert [s["name"] for s in first.tools] == list(Toolbox(TASK).tools)
    assert first.content == "Be good."
    assert second == TASK.prompt[1]
    bare = Task("t/1", "t", (Message("user", "Hi?"),))
    assert [m.role for m in Toolbox(bare).reset()] == ["system", "user"]
    assert Environment(bare).reset() == bare.prompt


@pytest.mark.parametrize(
    ("action", "text", "counts"),
    [
        (call("echo", text="ab", times=2), "abab", {}),
        (call("data"), '{"a": [1, 2]}', {}),
        (call("slowly"), "async", {}),
        (call("fail"), "Error: fail failed: ValueError: broken pipe", {"tool_error": 1}),
        (call("refuse"), "Error: not today.", {"tool_error": 1}),
        (call("leave"), "Error: leave failed: SystemExit: 3", {"tool_error": 1}),
        (call("late"), "Error: late did not answer in time.", {"tool_timeout": 1}),
        (call("nothing"), "(no output)", {"empty_output": 1}),
        (
            call("echo", text=1),
            'Error: echo: argument "text" must be string, got integer 1.',
            {"bad_arguments": 1},
        ),
        (Message("assistant", parse_error="not closed."), "Error: not closed.", {"malformed_call": 1}),
    ],
)
def test_every_outcome_of_a_call_is_an_observation(action: Message, text: str, counts: dict[str, int]) -> None:
    result = Toolbox(TASK).step(action)
    assert [(m.role, m.content) for m in result.messages] == [("tool", text)]
    assert result.info["counts"] == counts
    assert set(counts) <= set(COUNTS)
    assert not result.terminated


def test_unknown_tool_names_the_known_ones() -> None:
    result = Toolbox(TASK).step(call("shout"))
    assert result.messages[0].content.startswith('Error: there is no tool "shout". Tools: echo, fail,')
    assert result.info["counts"] == {"unknown_tool": 1}


def test_several_calls_give_several_messages_in_order() -> None:
    action = Message("assistant", tool_calls=(ToolCall("echo", {"text": "a"}), ToolCall("nope"), ToolCall("fail")))
    result = Toolbox(TASK).step(action)
    assert result.messages[0].content == "a"
    assert len(result.messages) == 3
    assert result.info["counts"] == {"unknown_tool": 1, "tool_error": 1}


def test_output_is_capped_and_says_so() -> None:
    result = Toolbox(TASK, max_output_chars=10).step(call("echo", text="x", times=1000))
    assert result.messages[0].content == "x" * 10 + "\n[cut: 10 of 1000 characters shown]"
    assert result.info["counts"] == {"output_truncated": 1}


def test_a_hanging_tool_is_left_behind() -> None:
    env = Toolbox(TASK, tool_timeout_s=0.05)
    assert env.step(call("echo", text="a")).messages[0].content == "a"
    result = env.step(call("hang"))
    assert result.messages[0].content == "Error: hang did not answer in 0.05 seconds."
    assert result.info["counts"] == {"tool_timeout": 1}
    assert env.step(call("echo", text="a")).messages[0].content == "Error: an earlier call is still running."
    env.release.set()
    assert env._left_behind is not None
    env._left_behind.join(5)
    assert env.step(call("echo", text="a")).messages[0].content == "a"


def test_a_broken_machine_is_not_told_to_the_policy() -> None:
    with pytest.raises(InfrastructureError, match="disk full"):
        Toolbox(TASK).step(call("broken_machine"))


def test_final_answer_ends_and_is_compared() -> None:
    env = Environment(TASK)
    answer = Message("assistant", ' "mara  lind". ')
    assert env.step(answer).terminated
    for message, outcome in ((answer, 1.0), (Message("assistant", "Mara"), 0.0), (call("echo"), 0.0)):
        episode = Episode(TASK, (*TASK.prompt, message), StopReason.ANSWERED, 1)
        assert env.score(episode) == {"outcome": outcome}


def test_unknown_setting_is_an_error() -> None:
    with pytest.raises(TypeError, match="no setting 'tool_timeout'"):
        Environment(TASK, tool_timeout=3)


def test_normalise() -> None:
    assert normalise(' "The  Cat". ') == "the cat"
    assert normalise("-5") == "-5"
    assert normalise("3.5") == "3.5"
    assert normalise("“Oslo”!") == "oslo"

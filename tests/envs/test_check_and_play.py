"""envs-check finds broken promises, envs-play lets a person act, and the documented example works."""

from __future__ import annotations

import importlib
import json
import random
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import faulty_tasksets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs import behaviour, check, play
from envs.check import check_taskset, parse_settings
from envs.environment import Environment, tool
from envs.taskset import Taskset
from envs.tools import tools_of
from envs.types import Episode, Message, Task, ToolCall

DOC = Path(__file__).parents[2] / "docs" / "environments.md"


class Numbers(Environment):
    @tool
    def secret(self) -> str:
        """Tell the number."""
        return str(self.task.answer)

    def oracle(self, history: Sequence[Message]) -> Message:
        if history[-1].role == "tool":
            return Message("assistant", history[-1].content)
        return Message("assistant", tool_calls=(ToolCall("secret"),))


class NumbersTaskset(Taskset):
    family, env_class = "numbers", Numbers

    def task(self, index: int) -> Task:
        key, number = self.draw(index, lambda rng: (f"No. {rng.randint(0, 10**6)}", rng.randint(0, 9**9)))
        return Task(self.task_id(index), self.family, (Message("user", f"{key}?"),), str(number), {"key": key})


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for the certificates


def failed(cls: type[Taskset], **settings: Any) -> dict[str, str]:
    findings = check_taskset(lambda split: cls(split=split), tasks=5)
    assert len({f.check for f in findings}) == len(findings) == 16
    return {f.check: f.detail for f in findings if f.status == "FAILED"}


def broken(environment: type[Environment] = Numbers, **members: Any) -> type[Taskset]:
    return type("Broken", (NumbersTaskset,), {"env_class": environment, **members})


def test_a_good_taskset_passes() -> None:
    assert failed(NumbersTaskset) == {}


def test_broken_promises_are_found() -> None:
    class NoOutcome(Numbers):
        def score(self, episode: Episode) -> dict[str, float]:
            return {"right": 1.0}

    class NotANumber(Numbers):
        def score(self, episode: Episode) -> dict[str, float]:
            return {"outcome": float("nan")}

    class Generous(Numbers):
        def score(self, episode: Episode) -> dict[str, float]:
            return {"outcome": 1.0}

    class WrongOracle(Numbers):
        def oracle(self, history: Sequence[Message]) -> Message:
            return Message("assistant", "42")

    class RandomTool(Numbers):
        @tool
        def secret(self) -> str:
            """Tell the number, or not."""
            return str(random.random())

    assert '"outcome" is required' in failed(broken(NoOutcome))["oracle"]
    assert "must be a finite number" in failed(broken(NotANumber))["oracle"]
    assert "then giving up" in failed(broken(Generous))["bad behaviour"]
    assert "outcome 0.0" in failed(broken(WrongOracle))["oracle"]
    assert "outcome 0.0" in failed(broken(RandomTool))["oracle"]

    def leaking(self: Taskset, index: int) -> Task:
        return Task(f"{self.split}/{index}", "numbers", (Message("user", f"Is it {index}?"),), "1")

    assert "stand in both splits" in failed(broken(task=leaking))["splits"]

    def random_task(self: Taskset, index: int) -> Task:
        return Task(f"{index}", "numbers", (Message("user", f"{random.random()}?"),), "1")

    assert "differs" in failed(broken(task=random_task))["determinism"]

    def one_id(self: Taskset, index: int) -> Task:
        return Task("same", "numbers", (Message("user", f"{self.split} {index}?"),), "1")

    assert "is used 5 times" in failed(broken(task=one_id))["tasks"]


@pytest.mark.parametrize(
    ("name", "finding", "text"),
    [
        ("HashOrder", "other process", "differs in a process with another hash seed"),
        ("SharedGroup", "splits", "3 groups stand in both splits"),
        ("Levers", "chance", "random tools scores 1.00 on 6 tasks, allowed are 0.1"),
        ("NeedsIntegerKeys", "from disk", "as JSON and back it plays otherwise"),
        ("VerifiesNothing", "verify", "rejects every one of 5 tasks: too_dull 5"),
    ],
)
def test_each_broken_promise_is_the_only_finding(name: str, finding: str, text: str) -> None:
    cls = getattr(faulty_tasksets, name)
    findings = check_taskset(cls, 6, 10.0, (f"faulty_tasksets.{name}", {}))
    wrong = {f.check: f.detail for f in findings if f.status == "FAILED"}
    assert set(wrong) == {finding}
    assert text in wrong[finding]


def test_every_method_may_be_async(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["faulty_tasksets.AsyncTaskset", "tasks=5"]) == 0, capsys.readouterr().out
    assert play.main(["faulty_tasksets.AsyncTaskset"], typed(":oracle", ":oracle")) == 0
    assert "outcome 1" in capsys.readouterr().out


def test_slow_and_hanging_environments_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Numbers):
        def score(self, episode: Episode) -> dict[str, float]:
            time.sleep(0.1)
            return super().score(episode)

    def findings() -> dict[str, str]:
        cls = broken(Slow)
        found = check_taskset(lambda split: cls(split=split), tasks=1, step_s=0.01)
        return {f.check: f.detail for f in found if f.status == "FAILED"}

    monkeypatch.setattr(behaviour, "HANGS_AFTER", 1000.0)
    assert list(findings()) == ["pickle", "time"]  # the class was made in this function: it cannot pickle
    monkeypatch.setattr(behaviour, "HANGS_AFTER", 2.0)
    assert "it hangs" in findings()["oracle"]


@pytest.mark.parametrize("name", ["search", "agent"])
def test_families_pass_the_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([name, "tasks=20"]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_command_says_what_is_wrong_with_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["serch"]) == 2
    assert "give one of search" in capsys.readouterr().err
    assert check.main(["search", "two_hop"]) == 2
    assert "not key=value" in capsys.readouterr().err
    assert check.main(["search", "two_hop=3"]) == 2
    assert "two_hop is 3" in capsys.readouterr().err
    assert parse_settings(["a=1", 'b={"c": 2}', "d=text", "e=x=y"]) == {
        "a": 1,
        "b": {"c": 2},
        "d": "text",
        "e": "x=y",
    }
    assert parse_settings(["a=[attrs, b-c,3]", "b=[]", "c=[one]", 'd=["x, y"]', "e=[a, {b: 1}]"]) == {
        "a": ["attrs", "b-c", 3],
        "b": [],
        "c": ["one"],
        "d": ["x, y"],
        "e": "[a, {b: 1}]",
    }


def typed(*lines: str) -> Any:
    waiting: Iterator[str] = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    return read


def test_a_person_solves_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    lines = typed(":tools", "", 'search {"query": "x"', "", "search {}", "shout {}", ":oracle", ":oracle", ":oracle")
    assert play.main(["search", "two_hop=0", "index=3"], lines) == 0
    out = capsys.readouterr().out
    assert "search(query: string)" in out
    assert "the arguments are not JSON" in out
    assert 'needs the argument "query"' in out
    assert 'there is no tool "shout"' in out
    assert "outcome 1" in out
    assert "malformed_call 1" in out


class Every(Environment):
    """Tools with every kind of argument."""

    @tool
    def run(self, code: str, n: int = 1) -> str:
        """Run it."""
        return code

    @tool
    def edit(self, path: str, text: str, mode: Literal["new", "add"] = "new", lines: list[int] | None = None) -> str:
        """Edit a file."""
        return path

    @tool
    def search(self, query: str) -> str:
        """Search."""
        return query

    @tool
    def switch(self, on: bool, level: float, more: dict, limit: int | None = None) -> str:
        """Switch it."""
        return ""


TOOLS = tools_of(Every)


def test_signatures_show_types_choices_and_what_is_optional() -> None:
    assert [play.signature(tool) for tool in TOOLS.values()] == [
        "run(code: string, n?: integer)",
        'edit(path: string, text: string, mode?: "new" | "add", lines?: [integer, …] | null)',
        "search(query: string)",
        "switch(on: boolean, level: number, more: object, limit?: integer | null)",
    ]


@pytest.mark.parametrize(
    ("line", "name", "arguments"),
    [
        ("run x 3", "run", {"code": "x", "n": 3}),
        ("run n=3 'print(1)'", "run", {"code": "print(1)", "n": 3}),
        ("run x many", "run", {"code": "x", "n": "many"}),  # the tool's own check says what is wrong
        ("run a=1", "run", {"code": "a=1"}),
        ("search author of Silver Harbor", "search", {"query": "author of Silver Harbor"}),
        ("search what's new", "search", {"query": "what's new"}),
        ('search "Silver Harbor"', "search", {"query": "Silver Harbor"}),
        ('search query="Silver Harbor"', "search", {"query": "Silver Harbor"}),
        ("edit a.py 'b c' add 1,2", "edit", {"path": "a.py", "text": "b c", "mode": "add", "lines": [1, 2]}),
        ("edit a.py b lines=[3]", "edit", {"path": "a.py", "text": "b", "lines": [3]}),
        ("edit a.py b lines=null", "edit", {"path": "a.py", "text": "b", "lines": None}),
        ("switch yes 2 '{\"a\": 1}' null", "switch", {"on": True, "level": 2, "more": {"a": 1}, "limit": None}),
        ("switch false 0.5", "switch", {"on": False, "level": 0.5}),
    ],
)
def test_arguments_may_be_typed_without_json(line: str, name: str, arguments: dict[str, Any]) -> None:
    message = play.parse_line(line, TOOLS)
    assert message.parse_error is None
    assert message.tool_calls == (ToolCall(name, arguments),)


@pytest.mark.parametrize(
    ("line", "said"),
    [("run a b 3", "'3' is one argument too many"), ("run 'a", "cannot be read: No closing quotation"),
     ("run {oops}", "not JSON"), ("run [1] {", None)],
)  # fmt: skip
def test_arguments_that_cannot_be_read_say_why(line: str, said: str | None) -> None:
    error = play.parse_line(line, TOOLS).parse_error
    assert (error is None) if said is None else (error is not None and said in error)


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1)


@given(WORDS.filter(lambda word: "=" not in word), st.integers(), st.booleans(), st.floats(-9, 9))
def test_what_is_quoted_comes_as_it_is(text: str, number: int, on: bool, level: float) -> None:
    message = play.parse_line(f"run {shlex.quote(text)} {number}", TOOLS)
    assert message.tool_calls == (ToolCall("run", {"code": text, "n": number}),)
    (call,) = play.parse_line(f"switch {json.dumps(on)} {level}", TOOLS).tool_calls
    assert call.arguments == {"on": on, "level": level}


def test_a_mistake_gives_the_reason_and_the_signature(capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main(["agent"], typed("find_order seven", "find_order 1 2", "nothing {}", "Done.")) == 0
    out = capsys.readouterr().out
    assert 'find_order: argument "customer_id" must be integer, got string "seven"' in out
    assert "'2' is one argument too many" in out
    assert 'there is no tool "nothing"' in out
    # with the tools at the start, then with each of the three mistakes
    assert out.count("find_order(customer_id: integer)") == 4
    assert out.count("find_customer(name: string)") == 2


@pytest.mark.parametrize(
    ("lines", "name", "arguments"),
    [
        (['run {"code": "a = 1', 'print(a)"}'], "run", {"code": "a = 1\nprint(a)"}),
        (["run {", '  "code": "x",', '  "n": 2', "}"], "run", {"code": "x", "n": 2}),
        (["run code<<", 'print("{")', "", "  b", "<<"], "run", {"code": 'print("{")\n\n  b'}),
        (['edit {"path": "a.py"} text<<', "new", "<<"], "edit", {"path": "a.py", "text": "new"}),
        (["run"], "run", {}),
        (['other {"a": [1, {"b": 2}]}'], "other", {"a": [1, {"b": 2}]}),
    ],
)
def test_calls_of_several_lines(lines: list[str], name: str, arguments: dict[str, Any]) -> None:
    read = typed(*lines)
    message = play.parse_line(play.read_entry(read, TOOLS), TOOLS)
    assert message.parse_error is None
    assert message.tool_calls == (ToolCall(name, arguments),)
    with pytest.raises(EOFError):
        read("")


def test_long_answers_and_calls_that_never_close() -> None:
    assert play.parse_line(play.read_entry(typed("<<", "one", "two", "<<"), []), {}).content == "one\ntwo"
    read = typed('run {"code": ', "", "next")
    assert "not JSON" in str(play.parse_line(play.read_entry(read, TOOLS), TOOLS).parse_error)
    assert read("") == "next"
    # a mistake that more lines cannot mend is told at once
    assert play.read_entry(typed("run {oops}"), ["run"]) == "run {oops}"


def test_long_output_is_shown_in_part_and_then_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    lines = typed("python code<<", "for i in range(200):", "    print(f'line {i} [x]')", "<<", ":all", "7")
    assert play.main(["interpreter"], lines) == 0
    out = capsys.readouterr().out
    assert out.count("line 30 [x]") == 2
    assert out.count("line 120 [x]") == 1
    assert re.search(r"\[\d+ more lines, :all shows them\]", out)


def test_a_person_answers_wrongly_or_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main(["agent"], typed("Done.")) == 0
    assert "outcome 0" in capsys.readouterr().out
    assert play.main(["agent"], typed()) == 1
    assert play.main(["agent"], typed(":quit")) == 1
    assert play.main(["nothing"], typed()) == 2


def test_the_documented_environment_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snippet = re.search(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert snippet is not None
    lines = [line for line in snippet.group(1).splitlines() if line.strip()]
    assert len(lines) <= 20
    (tmp_path / "my_documented_module.py").write_text(snippet.group(1))
    monkeypatch.syspath_prepend(tmp_path)
    assert check.main(["my_documented_module.MyTaskset"]) == 0, capsys.readouterr().out
    assert play.main(["my_documented_module.MyTaskset"], typed(":oracle", ":oracle")) == 0
    assert "outcome 1" in capsys.readouterr().out
    module = importlib.import_module("my_documented_module")
    mix = {"search": 1, "my_documented_module.MyTaskset": 1}
    assert module.MyTaskset("train").task(0) == module.MyTaskset("train").task(0)
    assert check.main(["mix", f"families={mix}".replace("'", '"'), "tasks=10"]) == 0

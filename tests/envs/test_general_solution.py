"""Solutions may call tools and think: everything else is refused before it runs."""

from __future__ import annotations

from typing import Any

import pytest

from envs.agent.general.case import Step
from envs.agent.general.solution import SolutionError, ToolProxy, check_source, run_trusted

GOOD = """
LIMIT = 3

def helper(items, fits):
    return [item for item in items if fits(item)]

def solution(tools):
    try:
        names = tools.list_names(kind="cat")
    except Exception as error:
        names = []
    best = max(helper(names, lambda name: len(name) > LIMIT), key=len)
    tools.submit(result={"name": best})
"""


def test_a_good_solution_runs_through_the_channel_alone() -> None:
    check_source(GOOD, ["list_names", "submit"])
    calls: list[Any] = []

    def call(name: str, arguments: dict[str, Any]) -> Any:
        calls.append((name, arguments))
        return ["Tom", "Felix"]

    run_trusted(GOOD, ToolProxy(call, {"list_names": ["kind"], "submit": ["result"]}))
    assert calls == [("list_names", {"kind": "cat"}), ("submit", {"result": {"name": "Felix"}})]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os", "imports"),
        ("from os import path", "imports"),
        ("open('/etc/passwd')", "open"),
        ("eval('1')", "eval"),
        ("exec('1')", "exec"),
        ("getattr(tools, 'x')", "getattr"),
        ("__import__('os')", "__import__"),
        ("tools.__class__", "__class__"),
        ("tools.missing()", "no tool missing"),
        ("tools._call", "_call"),
        ("'{0.a}'.format(tools)", "format"),
        ("(x for x in []).gi_frame", "gi_frame"),
        ("(lambda: 0).func_globals", "func_globals"),
        ("global LIMIT", "global"),
        ("yield 1", "yield"),
        ("with tools: pass", "with"),
        ("open = 3", "may not be redefined"),
        ("class A: pass", "class"),
        ("type(tools)", "type"),
        ("database", "database"),
    ],
)
def test_what_a_solution_may_not_do(body: str, message: str) -> None:
    with pytest.raises(SolutionError, match=message):
        check_source(f"def solution(tools):\n    {body}\n", ["known"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def other(tools): pass", "no function solution"),
        ("def solution(tools: pass", "not Python"),
        ("print(1)\ndef solution(tools): pass", "only functions and constants"),
        ("X = [n for n in range(3)]\ndef solution(tools): pass", "literal"),
        ("@staticmethod\ndef solution(tools): pass", "decorator"),
    ],
)
def test_the_form_of_a_solution(source: str, message: str) -> None:
    with pytest.raises(SolutionError, match=message):
        check_source(source, [])


def test_positional_arguments_take_the_names_of_the_schema() -> None:
    seen: list[Step] = []
    proxy = ToolProxy(lambda name, arguments: seen.append(Step(name, arguments, None)), {"add": ["left", "right"]})
    proxy.add(1, right=2)
    assert seen == [Step("add", {"left": 1, "right": 2}, None)]
    with pytest.raises(SolutionError, match="no tool sub"):
        proxy.sub(1)

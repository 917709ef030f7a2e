"""MCP bridge: real servers as child processes; what they say, how they fail, and that they end."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from envs.bridges.mcp import McpEnvironment, McpTaskset
from envs.bridges.mcp_session import McpSession
from envs.bridges.schemas import function_schema
from envs.check import check_taskset
from envs.episode import play_episode
from envs.families import taskset_class
from envs.types import Episode, InfrastructureError, Message, ToolCall

pytest.importorskip("mcp", reason="pip install 'mcp==2.3.0'")

SERVER = str(Path(__file__).with_name("bridges_mcp_server.py"))
ROWS = [
    {
        "prompt": f"How many {fruit}s are in stock?",
        "answer": answer,
        "split": split,
        "solution": [{"name": "count", "arguments": {"item": fruit}}],
    }
    for fruit, answer, split in (("pear", "3", "train"), ("apple", "11", "heldout"))
]
SETTINGS: dict[str, Any] = {"command": sys.executable, "args": [SERVER], "data": ROWS}


def test_what_it_reads_is_named(tmp_path: Path) -> None:
    """Rows and server: another content is another key of a cached stage, and no resumption."""
    data, server = tmp_path / "rows.jsonl", tmp_path / "server.py"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    server.write_text("x = 1\n")
    settings = {"command": sys.executable, "args": [str(server), "--fast"], "data": str(data)}
    first = McpTaskset("train", **settings)
    assert sorted(first.inputs()) == [str(data), str(server)]
    keys = {first.fingerprint()}
    server.write_text("x = 2\n")
    changed = McpTaskset("train", **settings)
    with pytest.raises(ValueError, match=r"server\.py has changed since the checkpoint"):
        changed.load_state_dict(first.state_dict())
    keys.add(changed.fingerprint())
    data.write_text(data.read_text() + "\n")
    keys.add(McpTaskset("train", **settings).fingerprint())
    assert len(keys) == 3
    assert McpTaskset("train", **{**settings, "args": [], "data": ROWS}).fingerprint() == ""


def call(tool_name: str, /, **arguments: Any) -> Message:
    return Message("assistant", tool_calls=(ToolCall(tool_name, arguments),))


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    processes, descriptors = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert children() <= processes
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert not [t for t in threading.enumerate() if t.name.startswith("mcp ")]


def stock_of_pears(episode: Episode, environment: McpEnvironment) -> float:
    """A judge that looks at the server's state, not at what the policy says."""
    return float(environment.call("count", {"item": "pear"}) == "5")


def outcome_of_two(episode: Episode, environment: McpEnvironment) -> float:
    return 2.0


@pytest.mark.usefixtures("nothing_left")
def test_an_episode_with_every_kind_of_mistake() -> None:
    taskset = McpTaskset(**SETTINGS)
    task = taskset.task(0)
    environment = taskset.environment(task)

    def said_by_the_policy() -> Iterator[Message]:
        yield call("count", item="pear")
        yield call("count", item="plum")
        yield call("count", item=7)
        yield call("count")
        yield call("count", item="pear", colour="red")
        yield call("peel", item="pear")
        yield call("put", item="pear", title="new", number=2)
        environment._call_s = 0.5  # the deadline is for the last one alone: the others may take their time
        yield call("sleep", seconds=600.0)
        yield Message("assistant", "3")

    script = said_by_the_policy()
    episode, scores = play_episode(task, environment, lambda _: next(script))
    assert scores == {"outcome": 1.0}
    assert dict(episode.counts) == {"tool_error": 1, "bad_arguments": 3, "unknown_tool": 1, "tool_timeout": 1}
    system, user, *_ = episode.messages
    assert [schema["name"] for schema in system.tools] == ["count", "put", "sleep", "die"]
    assert system.tools[0] == {
        "name": "count",
        "description": "How many of an item there are.",
        "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
    }
    assert user.content == "How many pears are in stock?"
    said = [m.content for m in episode.messages if m.role == "tool"]
    assert said[0] == "3"
    assert said[1] == "Error: Error executing tool count: there is no plum"
    assert said[2] == "Error: count: argument \"item\": 7 is not of type 'string'."
    assert said[3] == "Error: count: 'item' is a required property."
    assert said[4] == 'Error: count has no argument "colour"; its arguments are: item.'
    assert said[6] == "pear new"
    assert said[7].startswith("Error: sleep did not answer")


@pytest.mark.usefixtures("nothing_left")
def test_a_dead_server_is_no_fault_of_the_policy() -> None:
    taskset = McpTaskset(**SETTINGS)
    environment = taskset.environment(taskset.task(0))
    try:
        environment.reset()
        with pytest.raises(InfrastructureError, match=r"is gone.*the roof fell in"):
            environment.step(call("die"))
        with pytest.raises(InfrastructureError, match=r"is gone|not running"):
            environment.step(call("count", item="pear"))
    finally:
        environment.close()
    environment.close()  # twice is harmless


@pytest.mark.usefixtures("nothing_left")
def test_a_judge_sees_the_state_of_the_server() -> None:
    rows = [{"prompt": "Put two pears into the stock.", "split": "train"}]
    settings = {**SETTINGS, "data": rows, "score": f"{__name__}:stock_of_pears"}
    taskset = McpTaskset(**settings)
    task = taskset.task(0)
    actions = iter([call("put", item="pear", number=2), Message("assistant", "I did it.")])
    assert play_episode(task, taskset.environment(task), lambda _: next(actions))[1] == {"outcome": 1.0}
    environment = McpTaskset(**{**settings, "score": f"{__name__}:outcome_of_two"}).environment(task)
    with pytest.raises(InfrastructureError, match=r"score gave 2\.0"):
        environment.score(Episode(task, (), "answered", 1))  # type: ignore[arg-type]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys; sys.exit('no licence')", r"did not start: .*no licence"),
        ("import sys; sys.stdin.read()", r"did not start: no answer in 0\.7 s"),
    ],
)
def test_a_server_that_does_not_start(code: str, why: str) -> None:
    with pytest.raises(InfrastructureError, match=why):
        McpSession(sys.executable, ["-S", "-c", code], start_s=120 if "licence" in why else 0.7)


@pytest.mark.usefixtures("nothing_left")
def test_a_command_that_does_not_exist() -> None:
    with pytest.raises(InfrastructureError, match="No such file"):
        McpSession("no-such-command-anywhere")


def test_generated_titles_go_and_properties_called_title_stay() -> None:
    parameters = {
        "$schema": "x",
        "title": "putArguments",
        "type": "object",
        "properties": {"title": {"title": "Title", "anyOf": [{"type": "string", "title": "S"}, {"type": "null"}]}},
        "$defs": {"title": {"title": "T", "enum": ["title"]}},
    }
    assert function_schema("put", None, parameters) == {
        "name": "put",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {"title": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
            "required": [],
            "$defs": {"title": {"enum": ["title"]}},
        },
    }


def test_rows(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    settings = {**SETTINGS, "data": str(path)}
    train, heldout = McpTaskset(**settings), McpTaskset("heldout", **settings)
    assert [len(train), len(heldout)] == [1, 1]
    assert train.task(0).prompt[0].content == "How many pears are in stock?"
    assert heldout.task(0).answer == "11"
    assert train.task(5).metadata == train.task(0).metadata
    assert train.task(0).metadata["key"] == "How many pears are in stock?"
    assert taskset_class("envs.bridges.mcp.McpTaskset") is McpTaskset


def test_rows_from_hydra_become_json() -> None:
    instantiate = pytest.importorskip("hydra.utils").instantiate
    taskset = instantiate({"_target_": "envs.bridges.mcp.McpTaskset", **SETTINGS})
    assert json.loads(json.dumps(dict(taskset.task(0).metadata)))["solution"] == ROWS[0]["solution"]
    assert type(taskset.config["args"]) is list


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"answer": "3"}], "row 0 has prompt=None"),
        ([{"prompt": "a", "answer": "1"}] * 2, "row 1 has the key 'a' of an earlier row"),
        ([{"prompt": "a", "answer": "1", "split": "test"}], "split='test'"),
        ([{"prompt": "a", "answer": "1", "split": "heldout"}], "none of 1 rows is in split 'train'"),
        ([{"prompt": "a", "split": "train"}], "row 'a' has no answer"),
    ],
)
def test_rows_that_do_not_do(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        McpTaskset(**{**SETTINGS, "data": rows})


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_envs_check_finds_nothing() -> None:
    path = "envs.bridges.mcp.McpTaskset"
    settings = {"families": {path: 1}, "settings": {path: SETTINGS}}
    cls = taskset_class("mix")
    findings = check_taskset(lambda split: cls(split=split, **settings), tasks=1, step_s=30)
    assert not [finding for finding in findings if finding.status == "FAILED"]
    assert {f.check for f in findings if f.status == "skipped"} == {"novice"}

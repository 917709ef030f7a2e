"""verifiers bridge: real rollouts of verifiers 0.4 in its own Python, turned into episodes of ours."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from envs.bridges.child import JsonChild
from envs.bridges.packages import MissingPackage
from envs.bridges.schemas import encodable
from envs.bridges.verifiers import VerifiersEnvironment, VerifiersTaskset
from envs.episode import play_episode
from envs.mixture import MixTaskset
from envs.types import InfrastructureError, Message, Task, ToolCall

PYTHON = os.environ.get("SPECIALE_VERIFIERS_PYTHON", "")
HINT = "set SPECIALE_VERIFIERS_PYTHON to a Python that has it: python -m venv V; V/bin/pip install 'verifiers==0.4.0'"
HERE = str(Path(__file__).parent)
real = [pytest.mark.bridges, pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason=HINT)]
pytestmark: list[Any] = []


def needs_verifiers(test: Any) -> Any:
    for mark in real:
        test = mark(test)
    return test


def call(tool_name: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(tool_name, arguments)


def their_processes() -> set[int]:
    return {p.pid for p in psutil.process_iter() if PYTHON and PYTHON in " ".join(_command_line(p))}


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def files_left() -> set[Path]:
    """Our folders, and the files in which verifiers' tool servers tell their ports."""
    return {*Path(tempfile.gettempdir()).glob("bridge-*"), *Path("/tmp").glob("vf-port-*")}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    processes, descriptors = their_processes(), len(os.listdir("/proc/self/fd"))
    files = files_left()
    yield
    until = time.monotonic() + 60
    while their_processes() - processes and time.monotonic() < until:
        time.sleep(0.1)
    assert not their_processes() - processes
    assert files_left() <= files
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.fixture(scope="module")
def sums() -> VerifiersTaskset:
    return VerifiersTaskset(taskset="bridges_verifiers_sums", python=PYTHON, path=[HERE])


def right_sum(history: Sequence[Message]) -> Message:
    a, b = re.findall(r"\d", history[-1].content)
    return Message("assistant", str(int(a) + int(b)), reasoning="I add them.")


def play(taskset: VerifiersTaskset, task: Task, script: Sequence[Message]) -> Any:
    rest = iter(script)
    return play_episode(task, taskset.environment(task), lambda _: next(rest))


@needs_verifiers
@pytest.mark.usefixtures("nothing_left")
def test_one_turn_with_their_reward(sums: VerifiersTaskset) -> None:
    task = sums.task(0)
    episode, scores = play_episode(task, sums.environment(task), right_sum)
    assert scores == {"outcome": 1.0}
    assert [m.role for m in episode.messages] == ["system", "user", "assistant"]
    assert episode.messages[0].content == "Add."
    assert episode.messages[1].content == task.prompt[0].content
    assert episode.stop_reason == "answered"


@needs_verifiers
@pytest.mark.usefixtures("nothing_left")
def test_half_a_reward_a_failed_judge_and_several_rollouts_at_once(sums: VerifiersTaskset) -> None:
    tasks = [sums.task(i) for i in range(2)]
    unjudged = next(sums.task(i) for i in range(len(sums)) if "is 4" in sums.task(i).prompt[0].content)

    def long_answer(history: Sequence[Message]) -> Message:
        return Message("assistant", "I think that it is " + right_sum(history).content)

    def one(job: tuple[Task, Any]) -> Any:
        try:
            return play_episode(job[0], sums.environment(job[0]), job[1])[1]
        except InfrastructureError as error:
            return str(error)

    jobs = [(tasks[0], long_answer), (tasks[1], lambda _: Message("assistant", "no")), (unjudged, right_sum)]
    with ThreadPoolExecutor(3) as pool:
        half, wrong, failed = pool.map(one, jobs)
    assert half == {"outcome": 0.5}
    assert wrong == {"outcome": 0.5}  # it is short
    assert "nobody can judge a four" in failed


@needs_verifiers
@pytest.mark.usefixtures("nothing_left")
def test_tools_over_several_turns() -> None:
    taskset = VerifiersTaskset(taskset="bridges_verifiers_shop", python=PYTHON, path=[HERE], bounds=[0, 2])
    index = next(i for i in range(len(taskset)) if "apples" in taskset.task(i).prompt[0].content)
    script = [
        Message("assistant", "I look.", "both at once", (call("count", item="apple"), call("price", item="apple"))),
        Message("assistant", parse_error="the call is not closed."),
        Message("assistant", tool_calls=(call("steal", item="apple"),)),
        Message("assistant", tool_calls=(call("count", number=1),)),
        Message("assistant", "11"),
    ]
    episode, scores = play(taskset, taskset.task(index), script)
    assert scores == {"outcome": 0.5}  # a reward of 1 of at most 2
    assert dict(episode.counts) == {"malformed_call": 1, "unknown_tool": 1, "bad_arguments": 1}
    (system,) = [m for m in episode.messages if m.role == "system"]
    schemas = {schema["name"]: schema for schema in system.tools}
    assert set(schemas) == {"count", "price"}
    assert schemas["count"]["parameters"]["properties"]["item"]["type"] == "string"
    said = [m.content for m in episode.messages if m.role == "tool"]  # as the harness has them
    assert said[:2] == ["11", "1"]  # in the order of the calls
    assert "unknown tool" in said[2]
    assert len(said) == 4


@needs_verifiers
@pytest.mark.usefixtures("nothing_left")
def test_a_bash_harness_wants_walls_or_trust() -> None:
    settings: dict[str, Any] = {"taskset": "bridges_verifiers_sums", "python": PYTHON, "path": [HERE]}
    bash = {"id": "bash", "edit": False, "compaction": None}
    with pytest.raises(ValueError, match="harness=bash: runs the policy's commands on this machine"):
        VerifiersTaskset(**settings, harness=bash)
    taskset = VerifiersTaskset(**settings, harness=bash, host_commands=True)
    task = taskset.task(0)
    a, b = re.findall(r"\d", task.prompt[0].content)
    script = [
        Message("assistant", tool_calls=(call("bash", command=f"echo $(({a} + {b})); which uv pip; pwd"),)),
        Message("assistant", str(int(a) + int(b))),
    ]
    episode, scores = play(taskset, task, script)
    assert scores == {"outcome": 1.0}
    (result,) = [m.content for m in episode.messages if m.role == "tool"]
    assert result.split()[0] == str(int(a) + int(b))
    assert "bridge-" in result.split()[-1]  # it ran in the folder that goes with the episode


@needs_verifiers
@pytest.mark.usefixtures("nothing_left")
def test_leaving_early_ends_everything(sums: VerifiersTaskset) -> None:
    task = sums.task(0)

    def gives_up(history: Sequence[Message]) -> Message:
        raise KeyError("no idea")

    with pytest.raises(KeyError, match="no idea"):
        play_episode(task, sums.environment(task), gives_up)
    other = Task(task.id, task.family, task.prompt, None, {**task.metadata, "key": "x"}, 0)
    with pytest.raises(InfrastructureError, match="another one than when the tasks were listed"):
        play_episode(other, sums.environment(other), right_sum)


@needs_verifiers
@pytest.mark.usefixtures("nothing_left")
def test_a_limit_ends_a_rollout_with_0() -> None:
    taskset = VerifiersTaskset(taskset="bridges_verifiers_shop", python=PYTHON, path=[HERE])
    task = taskset.task(0)
    again = Message("assistant", tool_calls=(call("count", item="apple"),))
    episode, scores = play_episode(task, taskset.environment(task), lambda _: again, max_turns=2)
    assert (scores, episode.stop_reason, episode.turns) == ({"outcome": 0.0}, "max_turns", 2)


@needs_verifiers
def test_splits_and_a_mixture(sums: VerifiersTaskset) -> None:
    path = "envs.bridges.verifiers.VerifiersTaskset"
    settings = {"taskset": "bridges_verifiers_sums", "python": PYTHON, "path": [HERE]}
    heldout = MixTaskset("heldout", families={path: 1}, settings={path: settings})
    train_keys = {sums.task(i).metadata["key"] for i in range(len(sums))}
    heldout_keys = {heldout.task(i).metadata["key"] for i in range(50)}
    assert len(train_keys | heldout_keys) == 25
    assert not train_keys & heldout_keys


# -- without verifiers ----------------------------------------------------------------------


def test_half_a_surrogate_pair_is_sent_as_a_question_mark() -> None:
    said = Message("assistant", "a\ud83d", "b\udc00", (call("act", action=["\ud83d", "ä😀"]),))
    sent = Message("assistant", "a?", "b?", (call("act", action=["?", "ä😀"]),))
    assert encodable(said.to_json()) == encodable(sent.to_json()) == sent.to_json()


def test_without_its_python_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECIALE_VERIFIERS_PYTHON", raising=False)
    with pytest.raises(MissingPackage, match=r"pip install 'verifiers==0\.4\.0'"):
        VerifiersTaskset(taskset="x")
    with pytest.raises(InfrastructureError, match="No module named 'verifiers'"):
        VerifiersTaskset(taskset="x", python=sys.executable)


def test_rewards_outside_the_bounds() -> None:
    task = Task("t", "verifiers", (Message("user", "?"),), metadata={"key": "k", "level": 1, "index": 0})
    for reward, bounds, outcome in ((0.25, None, 0.25), (-1.0, [-2, 2], 0.25), (7.0, [-2, 2], 1.0), (-7.0, [-2, 2], 0)):
        environment = VerifiersEnvironment(task, "python", {}, bounds=bounds)
        environment._reward = reward
        assert environment.score(None) == {"outcome": outcome}  # type: ignore[arg-type]
    environment = VerifiersEnvironment(task, "python", {})
    environment._reward = 1.5
    with pytest.raises(InfrastructureError, match=r"the reward is 1\.5, outside \[0, 1\]: give bounds"):
        environment.score(None)  # type: ignore[arg-type]


def test_a_child_that_ignores_the_end_is_killed_with_all_it_started() -> None:
    # the grandchild is in a session of its own, as verifiers' programs are
    code = (
        "import json, subprocess, sys, time; p = subprocess.Popen(['sleep', '600'], start_new_session=True);"
        "print(json.dumps({'pid': p.pid}), flush=True); time.sleep(600)"
    )
    child = JsonChild([sys.executable, "-S", "-c", code], dict(os.environ), close_s=0.2)
    line = child.receive(60)
    assert line is not None
    assert psutil.pid_exists(line["pid"])
    with pytest.raises(TimeoutError, match=r"no line in 0\.05 s"):
        child.receive(0.05)
    child.close()
    until = time.monotonic() + 60
    while psutil.pid_exists(line["pid"]) and psutil.Process(line["pid"]).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not child.folder.exists()

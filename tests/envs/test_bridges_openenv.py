"""OpenEnv bridge: sessions with a real openenv-core server in a process of its own."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from envs.bridges.openenv import OpenEnvTaskset, observation_text
from envs.check import check_taskset
from envs.episode import play_episode
from envs.mixture import MixTaskset
from envs.types import InfrastructureError, Message, ToolCall

PYTHON = os.environ.get("SPECIALE_OPENENV_PYTHON", "")
HINT = (
    "set SPECIALE_OPENENV_PYTHON to a Python that has OpenEnv: python -m venv V; V/bin/pip install --no-deps "
    "openenv-core==0.3.0; V/bin/pip install fastmcp==4.1.2 fastapi==0.165.0 uvicorn websockets requests"
)
pytestmark = pytest.mark.bridges


class Solved(OpenEnvTaskset.env_class):  # type: ignore[misc]
    def oracle(self, history: Sequence[Message]) -> Message:
        return guess(self.task.seed % 10)


class SolvedTaskset(OpenEnvTaskset):
    env_class = Solved


def guess(number: Any, **more: Any) -> Message:
    return Message("assistant", tool_calls=(ToolCall("act", {"number": number, **more}),))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not PYTHON:
        pytest.skip(HINT)
    log = tmp_path_factory.mktemp("openenv") / "log"
    script = str(Path(__file__).with_name("bridges_openenv_server.py"))
    with log.open("w") as errors:
        server = subprocess.Popen([PYTHON, script], stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert port, log.read_text()
        base = f"http://127.0.0.1:{port}"
        for _ in range(1200):
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{base}/health", timeout=5).close()
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        yield base
    finally:
        server.terminate()
        server.wait(20)
        server.stdout.close()  # type: ignore[union-attr]


@pytest.fixture
def nothing_left() -> Iterator[None]:
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    until = time.monotonic() + 60  # a connection's own thread ends shortly after it was closed
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.usefixtures("nothing_left")
def test_an_episode_with_mistakes(url: str) -> None:
    taskset = OpenEnvTaskset(base_url=url, rules="Guess the number.", bounds=[-1, 1], reset={"top": 9})
    task = taskset.task(0)
    target = task.seed % 10
    wrong = (target + 1) % 10
    script = [
        guess(wrong),
        guess("x"),
        Message("assistant", tool_calls=(ToolCall("act", {}),)),
        guess(target, note="n"),
    ]
    rest = iter(script)
    episode, scores = play_episode(task, taskset.environment(task), lambda _: next(rest))
    assert scores == {"outcome": pytest.approx((1.0 - 0.1 + 1) / 2)}
    assert dict(episode.counts) == {"bad_arguments": 2}
    system, user, *_ = episode.messages
    assert user.content == "Guess the number.\n\nI think of a number from 0 to 9."
    assert list(system.tools[0]["parameters"]["properties"]) == ["number", "note"]
    assert system.tools[0]["parameters"]["properties"]["number"] == {"type": "integer"}
    said = [m.content for m in episode.messages if m.role == "tool"]
    assert said == [
        "higher" if target > wrong else "lower",
        "Error: act: argument \"number\": 'x' is not of type 'integer'.",
        "Error: act: 'number' is a required property.",
        "yes",
    ]


@pytest.mark.usefixtures("nothing_left")
def test_giving_up_is_worth_nothing(url: str) -> None:
    for need_done, expected in ((True, 0.0), (False, 0.45)):
        taskset = OpenEnvTaskset(base_url=url, bounds=[-1, 1], need_done=need_done)
        task = taskset.task(0)
        actions = iter([guess((task.seed + 1) % 10), Message("assistant", "I give up.")])
        scores = play_episode(task, taskset.environment(task), lambda _, a=actions: next(a))[1]  # type: ignore[misc]
        assert scores == {"outcome": pytest.approx(expected)}


@pytest.mark.usefixtures("nothing_left")
def test_text_as_the_action_is_checked_by_the_server(url: str) -> None:
    taskset = OpenEnvTaskset(base_url=url, text_field="number")
    task = taskset.task(1)
    actions = iter([Message("assistant", "seven"), Message("assistant", str(task.seed % 10))])
    episode, scores = play_episode(task, taskset.environment(task), lambda _: next(actions))
    assert scores == {"outcome": 1.0}
    assert dict(episode.counts) == {"bad_arguments": 1}
    assert "valid integer" in episode.messages[2].content
    assert episode.messages[2].role == "user"
    assert episode.messages[-1].content == "yes"


@pytest.mark.usefixtures("nothing_left")
def test_what_breaks_in_the_server_is_its_fault(url: str) -> None:
    cases = ((13, 60.0, "EXECUTION_ERROR: thirteen is a bad number"), (99, 0.5, r"no answer to step in 0\.5 s"))
    for number, step_s, why in cases:
        taskset = OpenEnvTaskset(base_url=url, step_s=step_s)
        environment = taskset.environment(taskset.task(0))
        environment.reset()
        with pytest.raises(InfrastructureError, match=why):
            environment.step(guess(number))
        environment.close()
        with pytest.raises(InfrastructureError, match=r"call reset\(\) first"):
            environment.step(guess(1))


@pytest.mark.usefixtures("nothing_left")
def test_sessions_side_by_side_and_one_too_many(url: str) -> None:
    taskset = SolvedTaskset(base_url=url)

    def play(index: int) -> float:
        task = taskset.task(index)
        environment = taskset.environment(task)
        return play_episode(task, environment, environment.oracle)[1]["outcome"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(play, range(40))) == [1.0] * 40
    environments = [taskset.environment(taskset.task(i)) for i in range(5)]
    try:
        for environment in environments[:4]:
            environment.reset()
        with pytest.raises(InfrastructureError, match="CAPACITY_REACHED"):
            environments[4].reset()
    finally:
        for environment in environments:
            environment.close()


def test_envs_check_finds_nothing_also_in_a_mixture(url: str) -> None:
    path = f"{__name__}.SolvedTaskset"
    settings = {path: {"base_url": url, "rules": "Guess the number."}}
    findings = check_taskset(lambda split: MixTaskset(split, families={path: 1}, settings=settings), tasks=10)
    assert not [finding for finding in findings if finding.status == "FAILED"]
    assert {f.check for f in findings if f.status == "skipped"} == {"novice"}


def test_no_server_is_told() -> None:
    for settings in ({}, {"text_field": "number"}):
        environment = OpenEnvTaskset(base_url="http://127.0.0.1:9", **settings).environment(  # port 9: discard
            OpenEnvTaskset(base_url="http://127.0.0.1:9").task(0)
        )
        with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1:9"):
            environment.reset()
        environment.close()


def test_settings_that_do_not_do() -> None:
    with pytest.raises(ValueError, match="base_url='ws://x'"):
        OpenEnvTaskset(base_url="ws://x")
    with pytest.raises(ValueError, match="reward='mean'"):
        OpenEnvTaskset(base_url="http://x", reward="mean")
    with pytest.raises(ValueError, match="first must be below"):
        OpenEnvTaskset(base_url="http://x", bounds=[1, 1])


def test_observations_in_words() -> None:
    assert observation_text({"text": "yes", "metadata": {"a": 1}}) == "yes"
    assert observation_text({"board": [1], "turn": "x"}) == '{"board": [1], "turn": "x"}'
    assert observation_text({}) == "{}"

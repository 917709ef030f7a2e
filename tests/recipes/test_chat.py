"""rl-chat: episodes and a dialogue on the shipped base, one engine in this process."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from in_process import command
from omegaconf import OmegaConf
from rich.console import Console
from train_runs import train_config

from envs.search.taskset import SearchTaskset
from rewards.compose import default_composer
from rl.recipes.chat import Voice, _kept_back, talk, watch
from rl.rollout.config import RolloutConfig
from rl.run.assemble import open_renderer
from rl.run.paths import resolve

pytestmark = pytest.mark.engine
BASE = resolve("pkg://rl.bases/tiny_dsa_base")


@pytest.fixture(scope="module")
def voice() -> Iterator[Voice]:
    config = RolloutConfig(kv_cache_gib=0.1, max_concurrency=4, max_context=512, max_tokens=48)
    with Voice(BASE, open_renderer("v32", str(BASE)), config) as voice:
        yield voice


def typed(*lines: str) -> Callable[[str], str]:
    waiting = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    return read


def console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=200, soft_wrap=True, highlight=False), out


def test_a_number_of_episodes_asks_nothing(voice: Voice) -> None:
    def read(prompt: str) -> str:
        raise AssertionError(f"asked: {prompt}")

    shown, out = console()
    taskset = SearchTaskset("heldout", seed=1234)
    watch(voice, taskset, default_composer(), 7, 3, read, shown)
    text = out.getvalue()
    assert [taskset.task(i).id in text for i in (7, 8, 9, 10)] == [True, True, True, False]
    assert text.count("outcome ") >= 3
    assert text.count(" turns, ") == 3
    assert "     tool" in text or "assistant" in text
    assert taskset.task(8).prompt[-1].content in text


def test_the_person_chooses_what_to_see(voice: Voice) -> None:
    shown, out = console()
    taskset = SearchTaskset("heldout", seed=1234, size=12)
    watch(voice, taskset, default_composer(), 11, None, typed("n", "99", "4", "q", "n"), shown)
    heads = [line.split()[1] for line in out.getvalue().splitlines() if line.startswith("task ")]
    assert heads == ["11", "0", "4"]
    assert "'99': the tasks are 0 to 11" in out.getvalue()
    shown, out = console()
    watch(voice, taskset, default_composer(), 0, None, typed(), shown)  # the input has ended: one episode
    assert out.getvalue().count(" turns, ") == 1


def test_a_dialogue(voice: Voice) -> None:
    shown, out = console()
    talk(voice, "Be short.", typed("Hello.", "", "And then?", ":new", "What is 2 + 3?", ":quit", "no more"), shown)
    text = out.getvalue()
    assert text.count("assistant") == 3
    assert text.count("a new dialogue") == 1
    long = " ".join(["word"] * 600)
    shown, out = console()
    talk(voice, None, typed(long, "Hello."), shown)
    assert "the context window is full" in out.getvalue()
    assert out.getvalue().count("assistant") == 1


def test_the_command_takes_the_settings_of_the_run(
    voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "a"
    shutil.copytree(BASE, run / "policy")
    cfg = train_config("env=agent", "name=a", "rollout.max_turns=3", "reward.length=null")
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    made: list[RolloutConfig] = []

    def opened(directory: Path, renderer: object, config: RolloutConfig) -> contextlib.nullcontext[Voice]:
        made.append(config)
        return contextlib.nullcontext(voice)  # the engine of this file, not another one

    monkeypatch.setattr("rl.recipes.chat.Voice", opened)
    done = command("rl-chat", "run=a", "tasks=2", "rollout.temperature=0.5", cwd=tmp_path)
    assert done.returncode == 0, done.output
    assert [f"task {i}  agent/heldout/1234/{i}" in done.output for i in range(3)] == [True, True, False]
    assert ", length " not in done.output
    assert (made[0].max_turns, made[0].temperature) == (3, 0.5)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello.\n"))
    done = command("rl-chat", "run=a", "talk=true", cwd=tmp_path)
    assert done.returncode == 0, done.output
    assert done.output.count("assistant") == 1


def test_an_interrupted_command_ends_without_a_traceback(
    voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*anything: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("rl.recipes.chat.Voice", lambda *settings: contextlib.nullcontext(voice))
    monkeypatch.setattr(voice, "play", interrupted)
    done = command("rl-chat", f"path={BASE}", "env=search", cwd=tmp_path)
    assert (done.returncode, done.output.splitlines()[-1]) == (130, "left.")


def test_what_libraries_write_is_shown_when_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with _kept_back():
        os.write(2, b"a warning")
    assert capfd.readouterr().err == ""

    def fails() -> None:
        with _kept_back():
            os.write(2, b"the reason")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert capfd.readouterr().err == "the reason"

"""rl-chat: episodes and a dialogue on the shipped base, one engine in this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from envs.search.taskset import SearchTaskset
from rewards.compose import default_composer
from rl.recipes.chat import Voice, talk, watch
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

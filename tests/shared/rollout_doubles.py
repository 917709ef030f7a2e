"""What the rollout tests share: a small tokenizer, an environment with tools, a scripted policy."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from envs.environment import Environment, tool
from envs.taskset import Taskset
from envs.types import Episode, Message, Task, ToolCall
from rewards.compose import default_composer
from rl.chat.session import Session
from rl.chat.tokenizer import ChatTokenizer, train_tokenizer
from rl.chat.v32 import V32Renderer, render_text
from rl.rollout.config import RolloutConfig
from rl.rollout.engine_api import Generation
from rl.rollout.gateway import Gateway
from rl.rollout.rollout import rollout
from rl.types import Trajectory

TEXT = 'What is 2 plus 3? I add. The sum is 5. Add two numbers. "a" "b" Error: failed (no output)'


class AddEnv(Environment):
    """Adds, and offers tools that misbehave."""

    @tool
    def add(self, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @tool
    def boom(self) -> str:
        """Raise."""
        raise RuntimeError("kaputt")

    @tool
    def hang(self) -> str:
        """Never answer."""
        time.sleep(600)
        return "late"

    @tool
    def flood(self) -> str:
        """Write without end."""
        return "x" * 1_000_000

    @tool
    def nothing(self) -> str:
        """Write nothing."""
        return ""


class AddTaskset(Taskset):
    family = "add"
    env_class = AddEnv

    def task(self, index: int) -> Task:
        a, b = index % 7, index // 7 % 7
        prompt = (Message("system", "Use the tools."), Message("user", f"What is {a} plus {b}?"))
        return Task(self.task_id(index), self.family, prompt, answer=str(a + b), seed=index)


@functools.cache
def tokenizer() -> ChatTokenizer:
    return train_tokenizer([TEXT] * 4, 640)


def renderer() -> V32Renderer:
    return V32Renderer(tokenizer())


def answer(text: str) -> str:
    """What a policy writes to end the episode."""
    return f"I know.</think>{text}"


def call(name: str, **arguments: Any) -> str:
    """What a policy writes to call a tool."""
    action = Message("assistant", "", reasoning="I call.", tool_calls=(ToolCall(name, arguments),))
    prompt = (Message("user", "x"),)
    return render_text([*prompt, action], thinking=True)[
        len(render_text(prompt, thinking=True)) : -len(tokenizer().eos)
    ]


@dataclass
class Script:
    """A policy that says the next text of a list; a number stands for that many tokens of babble."""

    texts: list[str | int]
    prompts: list[list[int]] = field(default_factory=list)
    version: int = 3

    async def __call__(self, prompt_tokens: list[int], max_tokens: int) -> Generation:
        self.prompts.append(prompt_tokens)
        text = self.texts[len(self.prompts) - 1]
        vocabulary = tokenizer()
        if isinstance(text, int):
            tokens = vocabulary.encode(" sum" * text)
        else:
            tokens = [*vocabulary.encode(text), vocabulary.eos_id]
        reason = "stop" if len(tokens) <= max_tokens and not isinstance(text, int) else "length"
        tokens = tokens[:max_tokens]
        return Generation(tokens, [-0.5] * len(tokens), reason, self.version, [self.version] * len(tokens))


def play(
    texts: Sequence[str | int],
    open_env: Callable[[Task], Environment] = AddEnv,
    *,
    composer: Any = None,
    generate: Any = None,
    observe: Callable[[Message], None] = lambda message: None,
    **settings: Any,
) -> Trajectory:
    """One rollout of task 17 (3 plus 2) by a scripted policy."""
    config = RolloutConfig(**settings)
    task = AddTaskset().task(17)

    def open_session(prompt: Sequence[Message]) -> Session:
        return Session(renderer(), prompt, thinking=True, max_context=config.max_context)

    async def run() -> Trajectory:
        with ExitStack() as opened:

            def open_gateway() -> Gateway:
                return opened.enter_context(closing(Gateway()))

            return await rollout(
                task,
                open_env,
                open_session,
                generate or Script(list(texts)),
                composer or default_composer(),
                config,
                "t-0-0",
                observe=observe,
                open_gateway=open_gateway,
            )

    return asyncio.run(run())


def spy(seen: list[Episode]) -> Callable[[Task], Environment]:
    """AddEnv that keeps the episodes it scores."""

    class Spy(AddEnv):
        def score(self, episode: Episode) -> dict[str, float]:
            seen.append(episode)
            return super().score(episode)

    return Spy

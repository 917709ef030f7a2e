"""A policy at the terminal: it is watched in held-out tasks, or talked to.

An engine in this process, without Ray; sessions, sampling and the episode are those of the rollouts
(``rl.rollout.rollout``), so what is shown is what the policy is trained on.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from envs.play import show
from envs.types import Message
from rl.chat.renderer import RenderError
from rl.rollout.engine_thread import EngineThread
from rl.rollout.engines import open_engine
from rl.rollout.gateway import Gateway
from rl.rollout.message import sample_message
from rl.rollout.rollout import Scored, rollout

if TYPE_CHECKING:
    from rich.console import Console

    from envs.taskset import Taskset
    from envs.types import Task
    from rewards.compose import RewardComposer
    from rl.chat.renderer import Renderer
    from rl.chat.session import Session
    from rl.rollout.config import RolloutConfig
    from rl.rollout.engine_api import Generation, RolloutEngine
    from rl.types import Trajectory

T = TypeVar("T")
HELP = "n: the next task   a number: that task   q: leave"
TALK_HELP = "type and press Enter   :new begins again   :quit leaves"


class Voice:
    """A policy that can speak: an engine of its own, and the chat format and sampling of its rollouts.

    Between its calls nothing runs in the caller's thread, so a person can be asked there, and Ctrl-C ends what goes on.
    """

    def __init__(self, directory: Path, renderer: Renderer, config: RolloutConfig) -> None:
        self._directory, self._renderer, self._config = directory, renderer, config
        self._serial = itertools.count()
        self._runner = asyncio.Runner()
        self._thread: EngineThread
        self._gateway: Gateway | None = None

    def __enter__(self) -> Voice:
        """The engine is up. Raises EngineDied when it cannot start."""
        with _kept_back():
            self._runner.run(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._gateway is not None:
            self._gateway.close()
        self._thread.close()
        self._runner.close()

    def play(
        self,
        task: Task,
        taskset: Taskset,
        composer: RewardComposer,
        observe: Callable[[Message], None],
        scored: Callable[[Scored], None] = lambda what: None,
    ) -> Trajectory:
        """One episode of ``task``; ``observe`` is called with every message, as it comes."""
        name = f"chat-{next(self._serial)}"
        return self.run(
            rollout(
                task, taskset.environment, self.session, self.generate, composer, self._config, name,
                scored=scored, observe=observe, open_gateway=self._open_gateway,
            )
        )  # fmt: skip

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """``work``, in the event loop where the engine answers."""
        return self._runner.run(work)

    def _open_gateway(self) -> Gateway:
        if self._gateway is None:
            self._gateway = Gateway()
        return self._gateway

    def session(self, prompt: Sequence[Message]) -> Session:
        """A dialogue that begins with ``prompt``."""
        from rl.chat.session import Session

        config = self._config
        return Session(self._renderer, prompt, thinking=config.thinking, max_context=config.max_context)

    def answer(self, session: Session) -> Message:
        """The policy's next message in ``session``, which must have room for a token."""
        config = self._config
        budget = min(config.max_tokens, session.room())
        return self.run(sample_message(session, self.generate, budget, config.max_thinking)).message

    async def _start(self) -> None:
        self._thread = EngineThread(self._open_engine)
        await self._thread.call(lambda engine: engine.stats())

    def _open_engine(self) -> RolloutEngine:
        return open_engine(self._directory, self._config)

    async def generate(self, prompt_tokens: list[int], max_tokens: int) -> Generation:
        """The engine's continuation of ``prompt_tokens``. To be awaited inside ``run``."""
        from rl.rollout.engine_api import GenerateRequest

        config = self._config
        return await self._thread.generate(
            GenerateRequest(
                request_id=str(next(self._serial)),
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                stop_token_ids=tuple(self._renderer.stop_token_ids),
                temperature=config.temperature,
                top_p=config.top_p,
                top_k=config.top_k,
                min_p=config.min_p,
            )
        )


@contextmanager
def _kept_back() -> Iterator[None]:
    """What libraries, their C++ parts too, write to stderr in the block is shown only when it fails."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(shown, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)


def watch(
    voice: Voice,
    taskset: Taskset,
    composer: RewardComposer,
    first: int,
    number: int | None,
    read: Callable[[str], str],
    console: Console,
) -> None:
    """Show episodes of ``taskset``: ``number`` of them from task ``first`` on; None: as long as the person wants."""
    index: int | None = first
    done = 0
    while index is not None:
        episode(voice, taskset, composer, index % len(taskset), console)
        done += 1
        if number is not None:
            index = index + 1 if done < number else None
        else:
            index = _next(index, len(taskset), read, console)


def episode(voice: Voice, taskset: Taskset, composer: RewardComposer, index: int, console: Console) -> None:
    """One episode: each message as it comes, then how it ended and what it scored."""
    task = taskset.task(index)
    console.print(f"[bold]task {index}[/]  {task.id}", soft_wrap=True)
    scores: list[Scored] = []
    played = voice.play(task, taskset, composer, lambda message: show(message, console), scores.append)
    for one in scores:
        shown = ", ".join(f"{name} {value:g}" for name, value in one.scores.items())
        terms = ", ".join(f"{name} {value + 0.0:+.3g}" for name, value in one.reward.parts.items() if "/" not in name)
        console.print(f"[bold]{shown}[/]   reward {played.reward:.3g} ({terms})")
    if played.failure_kind is not None:
        console.print(f"{played.failure_kind}: {played.failure_detail.splitlines()[0]}", style="red", markup=False)
    counts = "".join(f", {name} {n}" for name, n in played.counts.items())
    console.print(f"{played.stop_reason}, {played.turns} turns, {played.sampled_tokens} tokens{counts}\n", style="dim")


def talk(voice: Voice, system: str | None, read: Callable[[str], str], console: Console) -> None:
    """A free dialogue until the input ends: no environment, no tools, nothing is scored."""
    console.print(TALK_HELP, style="dim")
    head = () if system is None else (Message("system", system),)
    session: Session | None = None
    while (said := _line(read, "you> ")) is not None and said != ":quit":
        if said == ":new":
            session = None
            console.print("a new dialogue", style="dim")
        elif said:
            asked = Message("user", said)
            try:
                if session is None:
                    session = voice.session((*head, asked))
                else:
                    session.append_messages((asked,))
            except RenderError as error:  # this model's chat template takes no system message, for example
                console.print(f"the chat format cannot express this: {error}", style="red", markup=False)
                session = None
            else:
                if session.room() < 1:
                    console.print("the context window is full; the next line begins a new dialogue", style="red")
                    session = None
                else:
                    show(voice.answer(session), console)


def _next(index: int, size: int, read: Callable[[str], str], console: Console) -> int | None:
    """Which task the person wants to see after ``index``; None: no other."""
    while True:
        match _line(read, f"{HELP} > "):
            case None | "q" | ":quit":
                return None
            case "" | "n":
                return (index + 1) % size
            case said if said.isdecimal() and int(said) < size:
                return int(said)
            case said:
                console.print(f"{said!r}: the tasks are 0 to {size - 1}", style="red", markup=False)


def _line(read: Callable[[str], str], prompt: str) -> str | None:
    try:
        return read(prompt).strip()
    except EOFError:
        return None

"""An episode in which a program drives, without a model: what anything that makes assistant messages says is answered.

As ``rl.rollout.driven`` does with a policy: a message that does not parse never reaches the program, a limit refuses a
request in words, and what the program raises after the first answer scores 0.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from envs.bridges.openai_exchange import ChatRefusal, ChatReply, ChatRequest
from envs.bridges.openai_server import ChatServer
from envs.driving import DrivingEnvironment, Endpoint, mistakes, sendable
from envs.scores import posted_scores
from envs.types import Episode, InfrastructureError, Message, StopReason, Task


class _Answering:
    """What the program asks, answered by ``act`` one request at a time."""

    def __init__(
        self, act: Callable[[Sequence[Message]], Message], most: int, observe: Callable[[Message], None]
    ) -> None:
        self._act, self._most, self._observe = act, most, observe
        self._lock = threading.Lock()
        self._heard: list[Any] = []  # the dialogue as the program had it last
        self.counts: Counter[str] = Counter()
        self.history: tuple[Message, ...] = ()  # of the dialogue that was answered last
        self.said: list[Message] = []
        self.refused = False
        self.error: BaseException | None = None  # of ``act``

    def __call__(self, request: ChatRequest) -> ChatReply:
        with self._lock:
            known = [_essence(message) for message in request.messages[: len(self._heard)]] == self._heard
            for message in request.messages[len(self._heard) if known else 0 :]:
                self._observe(message)
            self.history = request.messages
            while True:
                if self.refused or len(self.said) >= self._most:
                    self.refused = True
                    raise ChatRefusal(403, f"the episode is over: it had {self._most} answers", "max_turns")
                try:
                    said = self._act(self.history)
                except BaseException as error:
                    self.error, self.refused = error, True
                    raise ChatRefusal(403, f"nobody answers: {type(error).__name__}: {error}") from error
                self.said.append(said)
                self._observe(said)
                if said.parse_error is None:
                    self.counts.update(mistakes(self.history, said))
                    shown = sendable(said)
                    self.history = (*self.history, shown)
                    self._heard = [_essence(message) for message in (*request.messages, shown)]
                    return ChatReply(shown)
                self.counts["malformed_call"] += 1
                wrong = Message("tool", f"Error: {said.parse_error}")
                self._observe(wrong)
                self.history = (*self.history, said, wrong)


def _essence(message: Message) -> Any:
    """What a program sends back of a message, whatever it drops."""
    return message.role, message.content.strip(), message.tool_calls


def play_driven(
    task: Task,
    environment: DrivingEnvironment,
    act: Callable[[Sequence[Message]], Message],
    max_turns: int,
    observe: Callable[[Message], None],
    resolve: Callable[[Any], Any],
) -> tuple[Episode, dict[str, float]]:
    """Let the environment's program run to its end. ``resolve`` waits for what is a coroutine. The episode's messages
    are those of the dialogue that was answered last.

    Raises what ``act`` raises, InfrastructureError, and what the program raises before its first answer.
    """
    answering = _Answering(act, max_turns, observe)
    outcome: float | None = None
    resolve(environment.reset())
    posted: list[dict[str, float]] = []
    with ChatServer() as server:
        key = server.open_session(answering, lambda body: posted.append(posted_scores(body)))
        try:
            resolve(environment.drive(Endpoint(server.url_of(key), key, posted)))
        except InfrastructureError:
            if answering.error is None:
                raise
        except Exception:
            outcome = 0.0
            if answering.error is None and not answering.refused:
                if not answering.said:
                    raise
                answering.counts["agent_raised"] += 1
    if answering.error is not None:
        raise answering.error
    stop = StopReason.MAX_TURNS if answering.refused else StopReason.ANSWERED
    said = tuple(replace(message, parse_error=None) for message in answering.said)
    episode = Episode(task, answering.history, stop, len(said), counts=dict(answering.counts), said=said)
    return episode, {"outcome": outcome} if outcome is not None else dict(resolve(environment.score(episode)))

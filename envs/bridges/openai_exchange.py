"""What passes between an endpoint (``openai_server``) and whoever answers there, in our types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from envs.bridges.openai_request import ChatOptions
from envs.types import Message


@dataclass(frozen=True)
class ChatRequest:
    """One request: the dialogue so far, with the function schemas on its system message.

    ``repeats``: how often the client has sent it before, as far as it says so. ``is_gone``: whether it has hung up.
    """

    messages: tuple[Message, ...]
    model: str
    options: ChatOptions = field(default_factory=ChatOptions)
    repeats: int = 0
    is_gone: Callable[[], bool] = lambda: False

    @property
    def calls(self) -> int:
        """Tool calls in the dialogue so far: ids of further ones are counted on from here."""
        return sum(len(message.tool_calls) for message in self.messages)


@dataclass(frozen=True)
class Spent:
    """Tokens of one answer: of its prompt, of them found in the prefix cache; sampled, of them reasoning."""

    prompt: int = 0
    cached: int = 0
    output: int = 0
    thinking: int = 0


@dataclass(frozen=True)
class ChatReply:
    """The policy's message; ``cut``: it has hit its token limit."""

    message: Message
    cut: bool = False
    spent: Spent = field(default_factory=Spent)


class ChatRefusal(Exception):
    """Raised by an ``Answer``: the program gets an HTTP error with these words. Clients repeat 408, 409, 429, 5xx."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


Answer = Callable[[ChatRequest], ChatReply]


class Office(Protocol):
    """Opens and closes sessions for programs that hold the server's own key. All may raise ChatRefusal.

    Called in the threads of requests, several at once.
    """

    def open(self, order: Mapping[str, Any]) -> tuple[str, str]:
        """A new session by what was posted: (its name, its key)."""
        ...

    def named(self, name: str) -> str:
        """The key of the session ``name``, which is opened where there is none yet."""
        ...

    def close(self, key: str) -> Mapping[str, Any]:
        """End the session; what is told to the program that asked for it."""
        ...

    def shown(self) -> Mapping[str, Any]:
        """How things stand."""
        ...

"""What a judge is: a language model that reward parts may ask.

``EndpointJudge`` asks any OpenAI-compatible server; ``rl.rollout.judge_actor.WorkerJudge`` asks an engine of this run.
Both answer with completions and raise ``JudgeError`` when there is none, which masks the sample: no answer is never a
score.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from typing import Any, Protocol

from envs.llm import ChatEndpoint, EndpointError
from envs.types import Message

# What chat templates of common models use as control tokens. A server turns them into tokens wherever they occur.
_CONTROL = re.compile(r"<[|｜][^<>\n]{1,60}[|｜]>|</?think>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")

STRUCTURED = ("json_schema", "json_object", "none")


class JudgeError(RuntimeError):
    """The judge gave no completion: unreachable, out of time, or the request cannot be served. Says what to do."""


@dataclass(frozen=True)
class Completion:
    """One answer of a judge. ``text`` without the reasoning; counts in tokens (0 where a server sends none)."""

    text: str
    reasoning: str | None
    finish_reason: str  # "stop", or "length" when it was cut off
    prompt_tokens: int
    completion_tokens: int


class Judge(Protocol):
    """Answers messages. Several hundred calls may wait at once; implementations must pickle and connect lazily."""

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Completion]:
        """``n`` independent answers to ``messages``.

        Args:
            max_tokens, temperature: None takes the judge's own. Temperature 0 is greedy.
            schema: JSON schema of the answer's text. Whoever reads the text still checks it: an answer can be cut off,
                and not every server enforces schemas.
        Raises:
            JudgeError: no answer.
        """
        ...


def without_control(text: str, tokens: Sequence[str] = ()) -> str:
    """``text`` in which control tokens (``tokens``, or those of common chat templates) are only text.

    A judged answer that holds ``<|im_end|>`` or the like would otherwise end the message it is quoted in. A zero-width
    space behind the first character keeps it readable and makes it another token.
    """
    pattern = re.compile("|".join(map(re.escape, tokens))) if tokens else _CONTROL
    return pattern.sub(lambda found: f"{found[0][0]}\u200b{found[0][1:]}", text)


@dataclass(frozen=True, kw_only=True)
class EndpointJudge:
    """Any server with an OpenAI-compatible ``/chat/completions``.

    The n answers are n requests: many servers ignore ``n``, and only so every answer has its own token counts.
    """

    base_url: str  # up to and with /v1
    model: str  # the name under which the server serves it
    api_key_env: str = ""  # environment variable that holds the key; the key itself stays out of config.yaml
    temperature: float = 0.0  # 0 is greedy; with several votes use more
    max_tokens: int = 2048  # of one answer, reasoning included
    timeout_s: float = 120.0  # of one answer, retries included
    retries: int = 3  # how often, when the server is busy, fails (5xx) or cannot be reached
    backoff_s: float = 0.5  # pause before the first retry; doubles with each
    concurrency: int = 32  # requests at once, per process
    structured: str = "json_schema"  # how a schema is enforced: json_schema | json_object (valid JSON) | none

    def __post_init__(self) -> None:
        if self.structured not in STRUCTURED:
            raise ValueError(f"judge.client.structured={self.structured!r}: choose one of {', '.join(STRUCTURED)}")
        for name in ("concurrency", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"judge.client.{name}={getattr(self, name)}: must be at least 1")
        if not self.temperature >= 0:
            raise ValueError(f"judge.client.temperature={self.temperature}: must be 0 (greedy) or more")
        ChatEndpoint(self.base_url, self.model, timeout_s=self.timeout_s, retries=self.retries)  # checks these

    def __reduce__(self) -> Any:
        """By its fields: threads do not pickle, and the process that gets it has its own."""
        return partial(type(self), **{f.name: getattr(self, f.name) for f in fields(self)}), ()

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Completion]:
        """See ``Judge``. Tool messages cannot be asked: quote them in a user message."""
        body: dict[str, Any] = {
            "max_tokens": self.max_tokens if max_tokens is None else max_tokens,
            "temperature": self.temperature if temperature is None else temperature,
        }
        if schema is not None and self.structured == "json_schema":
            described = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": described}
        elif schema is not None and self.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        plain = [{"role": m.role, "content": without_control(m.content)} for m in messages]
        ask = partial(self._endpoint.chat, plain, **body)
        loop = asyncio.get_running_loop()
        try:
            answers = await asyncio.gather(*(loop.run_in_executor(self._threads, ask) for _ in range(n)))
        except EndpointError as error:
            raise JudgeError(f"{error}{self._advice(error, schema)}") from error
        return [Completion(**asdict(answer)) for answer in answers]

    def _advice(self, error: EndpointError, schema: dict[str, Any] | None) -> str:
        if error.status in (400, 422) and schema is not None and self.structured != "none":
            return (
                f"; if it takes no response_format {self.structured}, set judge.client.structured=json_object or none"
            )
        if error.status in (401, 403):
            return f"; judge.client.api_key_env={self.api_key_env!r} must name the variable that holds a valid key"
        return ""

    @cached_property
    def _endpoint(self) -> ChatEndpoint:
        key = ""
        if self.api_key_env:
            key = os.environ.get(self.api_key_env, "")
            if not key:
                raise JudgeError(
                    f"judge.client.api_key_env={self.api_key_env}: this variable is not set in process {os.getpid()}; "
                    "export it before the run starts (on a cluster: on every node)"
                )
        return ChatEndpoint(
            self.base_url, self.model, key, timeout_s=self.timeout_s, retries=self.retries, backoff_s=self.backoff_s
        )

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge")

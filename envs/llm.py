"""ChatEndpoint: the chat completions of any OpenAI-compatible server, vLLM's own among them. Standard library only.

ChatEndpoint("http://localhost:8000/v1", "my-model").complete([{"role": "user", "content": "Hello"}])
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 16 * 2**20  # of one answer; a server that sends more is not answering the question
_AGAIN = (408, 409, 425, 429)  # HTTP status codes worth a retry, in addition to 500 and above


class EndpointError(Exception):
    """The server cannot be reached, or its answer is no chat completion. ``status``: HTTP status, 0 without one."""

    def __init__(self, message: str, status: int = 0, again: bool = False) -> None:
        super().__init__(message)
        self.status, self.again = status, again  # again: another try may succeed


@dataclass(frozen=True)
class Choice:
    """One completion. Token counts are the server's own, 0 where it sends none."""

    text: str
    reasoning: str | None  # where the server takes it out of the text
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class ChatEndpoint:
    base_url: str  # up to and with /v1
    model: str
    api_key: str = ""  # sent as a bearer token when given
    temperature: float = 0.7
    max_tokens: int = 8192  # of one completion
    timeout_s: float = 300.0  # of one completion, retries included
    retries: int = 0  # how often, when the server is busy, fails (5xx) or cannot be reached
    backoff_s: float = 0.5  # pause before the first retry; doubles with each

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url is {self.base_url!r}, must begin with http:// or https:// and end with /v1")
        if not self.model:
            raise ValueError("model is empty: give the name under which the server serves it")
        if self.timeout_s <= 0 or self.retries < 0 or self.backoff_s < 0:
            raise ValueError(
                f"timeout_s={self.timeout_s}, retries={self.retries}, backoff_s={self.backoff_s}: "
                "the first must be above 0, the others 0 or more"
            )

    def complete(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of one completion. Raises EndpointError."""
        return self.chat(messages).text

    def chat(self, messages: Sequence[Mapping[str, str]], **body: Any) -> Choice:
        """One completion; ``body`` adds to the request or replaces what it has. Blocks. Raises EndpointError."""
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        request = {"model": self.model, "messages": list(messages), "temperature": self.temperature}
        data = json.dumps({**request, "max_tokens": self.max_tokens, **body}).encode()
        ends = time.monotonic() + self.timeout_s
        for tried in range(self.retries + 1):
            try:
                return _choice(url, self._post(url, data, ends))
            except EndpointError as error:
                pause = self.backoff_s * 2**tried
                if not error.again or tried == self.retries or time.monotonic() + pause >= ends:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _post(self, url: str, data: bytes, ends: float) -> bytes:
        import http.client  # here: every `--help` reads this module, and few ask an endpoint
        import urllib.error
        import urllib.request

        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        try:
            request = urllib.request.Request(url, data, headers)
            with urllib.request.urlopen(request, timeout=max(ends - time.monotonic(), 0.01)) as response:
                return self._read(url, response, ends)
        except urllib.error.HTTPError as error:
            said = error.read(500).decode("utf-8", "replace")
            again = error.code in _AGAIN or error.code >= 500
            raise EndpointError(f"{url} answered {error.code}: {said}", error.code, again) from None
        except (OSError, ValueError, http.client.HTTPException) as error:  # the last: no HTTP, or cut short
            raise EndpointError(
                f"{url} cannot be reached: {error}; is the server up, and base_url right?", again=True
            ) from None

    def _read(self, url: str, response: Any, ends: float) -> bytes:
        """The whole body; urllib's own time-out begins anew with every byte."""
        parts: list[bytes] = []
        while part := response.read1(65536):
            parts.append(part)
            if sum(map(len, parts)) > MAX_BYTES:
                raise EndpointError(f"{url} sent more than {MAX_BYTES} bytes for one completion")
            if time.monotonic() > ends:
                raise EndpointError(f"{url}: the answer was not complete after timeout_s={self.timeout_s:g}")
        return b"".join(parts)


def _choice(url: str, raw: bytes) -> Choice:
    try:
        answer: Any = json.loads(raw)
        choice = answer["choices"][0]
        message = choice["message"]
        text = message["content"]
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if text is None and isinstance(reasoning, str):
            text = ""  # all of it was reasoning: the budget ended before the answer
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        text = reasoning = None
    if not isinstance(text, str):
        raise EndpointError(f"{url} sent no chat completion but {raw[:200].decode('utf-8', 'replace')!r}")
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [n if isinstance(n := usage.get(k), int) else 0 for k in ("prompt_tokens", "completion_tokens")]
    finish = str(choice.get("finish_reason") or "stop")
    return Choice(text, reasoning if isinstance(reasoning, str) else None, finish, *counts)

"""ChatEndpoint: the chat completions of any OpenAI-compatible server, vLLM's own among them. Standard library only.

ChatEndpoint("http://localhost:8000/v1", "my-model").complete([{"role": "user", "content": "Hello"}])
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class EndpointError(Exception):
    """The server cannot be reached, or its answer is no chat completion."""


@dataclass(frozen=True)
class ChatEndpoint:
    base_url: str  # up to and with /v1
    model: str
    api_key: str = ""  # sent as a bearer token when given
    temperature: float = 0.7
    max_tokens: int = 8192  # of one completion
    timeout_s: float = 300.0  # of one completion

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url is {self.base_url!r}, must begin with http:// or https:// and end with /v1")
        if not self.model:
            raise ValueError("model is empty: give the name under which the server serves it")

    def complete(self, messages: Sequence[dict[str, str]]) -> str:
        """The text of one completion. Raises EndpointError."""
        url = f"{self.base_url.rstrip('/')}/chat/completions"
        body = {"model": self.model, "messages": list(messages), "temperature": self.temperature}
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = json.dumps({**body, "max_tokens": self.max_tokens}).encode()
        try:
            request = urllib.request.Request(url, data, headers)
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                raw = response.read()
        except urllib.error.HTTPError as error:
            raise EndpointError(
                f"{url} answered {error.code}: {error.read()[:500].decode('utf-8', 'replace')}"
            ) from None
        except (OSError, ValueError) as error:
            raise EndpointError(f"{url} cannot be reached: {error}; is the server up, and base_url right?") from None
        return _content(url, raw)


def _content(url: str, raw: bytes) -> str:
    try:
        found: Any = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        found = None
    if not isinstance(found, str):
        raise EndpointError(f"{url} sent no chat completion but {raw[:200].decode('utf-8', 'replace')!r}")
    return found

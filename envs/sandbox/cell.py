"""What one cell of a Jupyter kernel has shown, gathered from the kernel's messages as text.

Messages come from a process that runs untrusted code: any field may be missing or of another type.
"""

from __future__ import annotations

import re
import time
from typing import Any

from envs.sandbox.python_session import ExecResult

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class CellOutput:
    """What one cell has shown so far, as text."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.shown = bytearray()
        self.truncated = self.idle = False
        self.replied = 0.0  # when
        self.error = ""

    def take(self, channel: str, message: dict[str, Any]) -> None:
        kind, content = message.get("msg_type"), message["content"]
        if channel == "iopub":
            if kind == "stream":
                self._show(_text(content.get("text")))
            elif kind in ("execute_result", "display_data", "update_display_data"):
                self._show_rich(content.get("data"))
            elif kind == "status" and content.get("execution_state") == "idle":
                self.idle = True
        elif channel == "shell" and kind == "execute_reply":
            self.replied = time.monotonic()
            payload = content.get("payload")
            for page in payload if isinstance(payload, list) else ():
                if isinstance(page, dict):
                    self._show_rich(page.get("data"))  # what `name?` shows
            if content.get("status") != "ok":
                self.error = self._traceback(content)

    def result(self, error: str, timed_out: bool = False, restarted: bool = False) -> ExecResult:
        output = self.shown.decode("utf-8", "ignore")
        if self.truncated:
            output += f"\n[cut: the output is longer than {self.limit} bytes]\n"
        return ExecResult(output, error, timed_out, self.truncated, restarted)

    def _show(self, text: str) -> None:
        self.shown += _ANSI.sub("", text).encode("utf-8", "replace")
        if len(self.shown) > self.limit:
            del self.shown[self.limit :]
            self.truncated = True

    def _show_rich(self, data: object) -> None:
        plain = _text(data.get("text/plain")) if isinstance(data, dict) else ""
        if plain:
            self._show(plain + "\n")

    def _traceback(self, content: dict[str, Any]) -> str:
        lines = content.get("traceback")
        text = "\n".join(map(_text, lines)) if isinstance(lines, list) else ""
        text = _ANSI.sub("", text).strip() or f"{_text(content.get('ename'))}: {_text(content.get('evalue'))}"
        told = text.encode("utf-8", "replace")
        if len(told) > self.limit:  # the end says what happened
            text = "[cut]" + told[-self.limit :].decode("utf-8", "ignore")
        return text


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

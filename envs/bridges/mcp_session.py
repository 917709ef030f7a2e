"""A Model Context Protocol server as a child process, driven over stdio from ordinary, synchronous code.

    session = McpSession("python", ["server.py"])
    session.tools                                  -> [{"name": "count", "description": …, "parameters": {…}}]
    session.call("count", {"item": "pear"}, 30)    -> "3"
    session.close()                                ends the process

The official SDK is asynchronous, and its connection must be opened and closed by the same task. So each session has
one thread with one event loop, which opens the connection, waits, and closes it; calls are handed to that loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from envs.bridges.packages import need
from envs.bridges.schemas import function_schema
from envs.environment import ToolError
from envs.types import InfrastructureError

CLOSE_S = 9.0  # the SDK's own escalation (close stdin, SIGTERM, SIGKILL) takes 7 seconds at most
_SLACK_S = 5.0  # a call's deadline is the SDK's; this much later we stop waiting for the SDK itself
_SHOWN_LOG_BYTES = 600


class McpSession:
    """One server process. Raises InfrastructureError when it does not start, or is gone."""

    def __init__(
        self,
        command: str,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        start_s: float = 30.0,
    ) -> None:
        need("mcp")
        self.tools: list[dict[str, Any]] = []
        self._name = " ".join((command, *args))
        self._spec: dict[str, Any] = {"command": command, "args": list(args), "env": dict(env or {}), "cwd": cwd}
        self._session: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - the server's stderr
        self._thread = threading.Thread(target=self._run, name=f"mcp {command}", daemon=True)
        self._thread.start()
        started = self._ready.wait(start_s)
        if not started or self._failure is not None:
            why = f"{_root(self._failure)}" if started else f"no answer in {start_s:g} s"
            log = self._last_log()
            self.close()
            raise InfrastructureError(f"MCP server {self._name!r} did not start: {why}{log}")

    def call(self, name: str, arguments: Mapping[str, Any], seconds: float) -> str:
        """The text of a tool's result.

        Raises ToolError when the tool says that it failed, TimeoutError after ``seconds``, InfrastructureError when
        the server is gone.
        """
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        if self._loop is None or not self._thread.is_alive():
            raise InfrastructureError(f"MCP server {self._name!r} is not running{self._last_log()}")
        asked = self._session.call_tool(name, dict(arguments), read_timeout_seconds=seconds)
        try:
            future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        except RuntimeError as error:  # the loop ended since we looked
            asked.close()
            raise InfrastructureError(f"MCP server {self._name!r} is gone{self._last_log()}") from error
        try:
            result = future.result(seconds + _SLACK_S)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise InfrastructureError(f"MCP server {self._name!r} is gone{self._last_log()}") from error
            if error.code == REQUEST_TIMEOUT:
                raise TimeoutError(f"{name} took longer than {seconds:g} s") from error
            raise ToolError(error.message) from error
        except (TimeoutError, concurrent.futures.CancelledError):
            future.cancel()
            raise InfrastructureError(f"MCP server {self._name!r}: the connection hangs{self._last_log()}") from None
        text = _text_of(result)
        if result.is_error:
            raise ToolError(text)
        return text

    def close(self) -> None:
        """End the server and the thread. Raises InfrastructureError when they do not end."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            raise InfrastructureError(f"MCP server {self._name!r} did not end in {CLOSE_S:g} s")
        self._log.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        from mcp import ClientSession, StdioServerParameters, stdio_client

        self._stop, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with (
            stdio_client(StdioServerParameters(**self._spec), errlog=self._log) as (reader, writer),
            ClientSession(reader, writer) as session,
        ):
            self._session = session
            opening = asyncio.create_task(self._open(session))
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                self._failure = opening.exception()
            else:
                opening.cancel()  # closed before it was open: it was too slow
            self._ready.set()
            if self._failure is None:
                await stopping
            stopping.cancel()

    async def _open(self, session: Any) -> None:
        from mcp_types import PaginatedRequestParams

        await session.initialize()
        page = await session.list_tools()
        found = list(page.tools)
        while page.next_cursor:
            page = await session.list_tools(params=PaginatedRequestParams(cursor=page.next_cursor))
            found.extend(page.tools)
        self.tools = [function_schema(t.name, t.description, t.input_schema) for t in found]

    def _last_log(self) -> str:
        """What the server wrote to stderr last, for an error message."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        # pread: the server writes through the same file offset
        text = os.pread(self._log.fileno(), _SHOWN_LOG_BYTES, max(0, size - _SHOWN_LOG_BYTES)).decode(errors="replace")
        text = text.strip()
        return f"; its last output: {text}" if text else ""


def _text_of(result: Any) -> str:
    """The text blocks of a tool's result, other blocks by their kind; without blocks the structured content."""
    parts = [block.text if block.type == "text" else f"[{block.type}, not shown]" for block in result.content]
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)


def _root(error: BaseException | None) -> str:
    """The first real error in a group of errors, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"

"""MCP bridge: the tools of any Model Context Protocol server, started over stdio for each episode.

    taskset = McpTaskset(command="python", args=["server.py"], data="tasks.jsonl")

    user       How many pears are in stock?
    assistant  count(item="pear")          -> tools/call of the server, which answers "3"
    assistant  3                           -> the answer of the row: outcome 1

The tools' schemas are the server's (``tools/list``). A tool that fails is an observation; a server that does not
start or dies is an infrastructure failure. Tasks are rows (``envs.bridges.task_rows``). Their answers are compared as
everywhere; ``score="my_module:judge"`` calls ``judge(episode, environment)`` instead, which gives the outcome in
[0, 1] and may ask the server for the state it is in: ``environment.call("count", {"item": "pear"})``.

The server runs with your rights, as you would start it by hand. One that executes what a policy writes must bring
its own sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from envs.bridges.mcp_session import McpSession
from envs.bridges.packages import need
from envs.bridges.schemas import check_call, encodable
from envs.bridges.settings import load_object, plain
from envs.bridges.task_rows import rows_of
from envs.environment import Environment
from envs.taskset import Split, Taskset, file_input
from envs.tools import Tool
from envs.types import Episode, InfrastructureError, Message, Task, ToolCall


class McpEnvironment(Environment):
    """One episode with one server process of its own: state that the policy makes there ends with it.

    ``command``, ``args``, ``env`` (added to the few variables that a server inherits) and ``cwd`` start the server;
    ``start_s`` and ``call_s`` are the deadlines of the start and of one call, in seconds.
    """

    def __init__(
        self,
        task: Task,
        command: str,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        start_s: float = 30.0,
        call_s: float = 30.0,
        score: str | None = None,
        **config: Any,
    ) -> None:
        super().__init__(task, **config)
        self._open = partial(McpSession, command, tuple(args), env, cwd, start_s)
        self._call_s = float(call_s)
        self._judge = load_object(score, "score") if score else None
        self._session: McpSession | None = None

    def reset(self) -> tuple[Message, ...]:
        self._session = self._open()
        for schema in self._session.tools:
            method = f"_mcp_{schema['name']}"
            setattr(self, method, partial(self._forward, schema["name"]))
            self.tools[schema["name"]] = Tool(schema["name"], method, schema)
        return super().reset()

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The text that a tool of the server answers; for scoring functions."""
        if self._session is None:
            raise InfrastructureError("the MCP server is not running: call reset() first")
        return self._session.call(name, encodable(dict(arguments)), self._call_s)

    def score(self, episode: Episode) -> dict[str, float]:
        if self._judge is None:
            return super().score(episode)
        outcome = float(self._judge(episode, self))
        if not 0.0 <= outcome <= 1.0:
            raise InfrastructureError(f"score gave {outcome} for {self.task.id}, wanted a number in [0, 1]")
        return {"outcome": outcome}

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def oracle(self, history: Sequence[Message]) -> Message:
        """The calls of the row's ``solution``, one a turn, then its answer."""
        solution = self.task.metadata.get("solution", ())
        done = sum(len(message.tool_calls) for message in history)
        if done < len(solution):
            call = ToolCall(solution[done]["name"], solution[done].get("arguments", {}))
            return Message("assistant", tool_calls=(call,))
        return Message("assistant", "Done." if self.task.answer is None else str(self.task.answer))

    # the first two are positional only: a tool may have arguments of any name
    def _forward(self, tool_name: str, /, **arguments: Any) -> str:
        return self.call(tool_name, arguments)

    def _check(self, known: Tool, call: ToolCall) -> str | None:
        return check_call(known.schema, call.arguments)


class McpTaskset(Taskset):
    """Rows as tasks, a server's tools to solve them with. ``data``: a list of rows or a ``.jsonl`` file.

    Index i is row i modulo the rows of the split. ``system`` is a system message for all tasks. Keywords of
    ``McpEnvironment`` go there.
    """

    family = "mcp"
    env_class = McpEnvironment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        *,
        command: str,
        data: str | Sequence[Mapping[str, Any]],
        system: str = "",
        **config: Any,
    ) -> None:
        need("mcp")
        self._rows = rows_of(plain(data), split)
        if not config.get("score") and (lacking := [row["key"] for row in self._rows if row.get("answer") is None]):
            raise ValueError(f"data: row {lacking[0]!r} has no answer; give one, or score=package.module:function")
        super().__init__(split, seed, len(self._rows) if size is None else size, command=command, **plain(config))
        self._system = system
        self._inputs = {str(file): file_input(file) for file in _files(data, config.get("args") or ())}

    def inputs(self) -> dict[str, dict[str, Any]]:
        """The file of the rows, and those that the server's command names: its script."""
        return self._inputs

    def task(self, index: int) -> Task:
        row = self._rows[index % len(self._rows)]
        prompt: tuple[Message, ...] = (Message("user", row["prompt"]),)
        if self._system:
            prompt = (Message("system", self._system), *prompt)
        metadata = {key: value for key, value in row.items() if key not in ("prompt", "answer", "split")}
        return Task(self.task_id(index), self.family, prompt, row.get("answer"), metadata, self.seed)


def _files(data: str | Sequence[Mapping[str, Any]], args: Sequence[str]) -> list[str]:
    named = [*([data] if isinstance(data, str) else []), *map(str, args)]
    return [word for word in named if Path(word).is_file()]

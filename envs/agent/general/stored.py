"""StoredCase: an environment whose tools, solution and verifier a language model wrote. All of it runs in the sandbox.

    sources = {
      "spec": WorldSpec as JSON, "answer": {"type": "array", "text": "the names"} or None,
      "tools": [{"name": "list_pets", "description": "...", "parameters": {"kind": "string"}, "changes": False,
                 "source": "def list_pets(db, kind): ..."}],
      "solution": "def solution(tools): ...", "verifier": "def verify(start, end, answer): ..."}

Three sandboxes keep them apart: the tools with the database, the solution, which has no more than a channel to the
tools, and the verifier, which sees the rows before and after and what was submitted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs.agent.general.case import SUBMIT, Call, Case, World, submit_tool
from envs.agent.general.solution import SAFE_BUILTINS, SolutionError
from envs.agent.general.world import WorldSpec
from envs.environment import ToolError
from envs.sandbox import ExecResult, Limits, PythonSession
from envs.tools import Tool
from envs.types import InfrastructureError

LIMITS = Limits(wall_s=5.0, cpu_s=3, memory_mb=512, output_bytes=4_000_000, file_mb=8)
_WORLD = Path(__file__).with_name("guest_world.py").read_text(encoding="utf-8")
_SOLUTION = Path(__file__).with_name("guest_solution.py").read_text(encoding="utf-8")
ALLOWED = list(SAFE_BUILTINS)


class StoredWorld(World):
    """Tools and database in a sandbox of their own."""

    def __init__(self, case: StoredCase) -> None:
        self._case = case
        sources = {tool["name"]: tool["source"] for tool in case.sources["tools"]}
        opening = f"_open(json.loads({json.dumps(case.sources['spec'])!r}))"
        self._session = PythonSession(LIMITS, f"{_WORLD}\n{opening}\n_define({sources!r}, {ALLOWED!r})")
        self._done: list[str] = []  # calls that may have changed something: a lost sandbox is brought back to here

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name == SUBMIT:
            self.submitted = arguments["result"]
            return "submitted"
        cell = f"_call({name!r}, json.loads({json.dumps(dict(arguments))!r}))"
        result = self._run(cell)
        if result.timed_out:
            raise TimeoutError(f"{name} took more than {LIMITS.wall_s:g} seconds")
        event = _event(result)
        if "refused" in event:
            raise ToolError(event["refused"])
        if "value" not in event:
            raise ToolError(f"{name} failed: {event.get('failed') or event.get('error')}")
        if name in self._case.changing:
            self._done.append(cell)
        return event["value"]

    def state(self) -> WorldSpec:
        if not self._done:  # nothing but a changing tool can write: see guest_world.py
            return self._case.start
        result = self._run("_state()")
        if result.error:
            raise InfrastructureError(f"the stored environment does not give its rows: {result.error}")
        return replace(self._case.start, rows=json.loads(result.output))

    def _run(self, cell: str) -> ExecResult:
        try:
            result = self._session.run(cell)
            if result.restarted:
                for earlier in self._done:
                    self._session.run(earlier)
            return result
        except ValueError as error:  # the setup of a new session failed
            raise SolutionError(f"the tools cannot be loaded: {error}") from None

    def close(self) -> None:
        self._session.close()


class StoredCase(Case):
    """Made from the sources in a task's metadata; nothing runs before ``open``, ``execute`` or ``judge``."""

    def __init__(self, sources: Mapping[str, Any]) -> None:
        self.sources = sources
        self.start = WorldSpec.from_json(sources["spec"])
        self.solution = sources["solution"]
        self.tools = {tool["name"]: _tool(tool) for tool in sources["tools"]}
        self.changing = frozenset({tool["name"] for tool in sources["tools"] if tool["changes"]} | {SUBMIT})
        self.answer_wanted = sources["answer"] is not None
        if self.answer_wanted:
            self.tools[SUBMIT] = submit_tool(sources["answer"]["type"], "Submit the result and finish.")

    def open(self) -> StoredWorld:
        return StoredWorld(self)

    def execute(self, call: Call) -> None:
        parameters = {name: list(tool.schema["parameters"]["properties"]) for name, tool in self.tools.items()}
        with PythonSession(LIMITS, _SOLUTION) as session:
            event = _event(session.run(f"_begin({self.solution!r}, {parameters!r}, {ALLOWED!r})"))
            while "call" in event:
                name, arguments = event["call"]
                try:
                    value = call(name, arguments)
                except TimeoutError as error:
                    raise SolutionError(str(error)) from None
                event = _event(session.run(f"_go_on(json.loads({json.dumps(value)!r}))"))
            if "error" in event:
                raise SolutionError(event["error"])

    def judge(self, end: WorldSpec, submitted: Any) -> str | None:
        if self.answer_wanted and submitted is None:
            return "nothing was submitted"
        values = [json.dumps(dict(self.start.rows)), json.dumps(dict(end.rows)), json.dumps(submitted)]
        loaded = ", ".join(f"json.loads({value!r})" for value in values)
        with PythonSession(LIMITS, _SOLUTION) as session:
            event = _event(session.run(f"_judge({self.sources['verifier']!r}, {loaded}, {ALLOWED!r})"))
        if "error" in event:
            return f"the verifier failed: {event['error']}"
        verdict = event["verdict"]
        if isinstance(verdict, str):
            return verdict or None
        return None if verdict else "the verifier says no"


def _tool(tool: Mapping[str, Any]) -> Tool:
    properties = {name: {"type": kind} for name, kind in tool["parameters"].items()}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return Tool(tool["name"], "", {"name": tool["name"], "description": tool["description"], "parameters": parameters})


def _event(result: ExecResult) -> dict[str, Any]:
    """The last line that a guest printed; what is not one is the fault of the code that ran there."""
    if result.error:
        return {"error": result.error}
    lines = result.output.strip().splitlines()
    try:
        event = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"error": "its output cannot be read"}
    return event if isinstance(event, dict) else {"error": "its output cannot be read"}

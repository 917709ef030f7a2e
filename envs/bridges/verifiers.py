"""verifiers bridge (0.4, the v1 API): its tasksets, harnesses and rewards, with our policy as the model.

    taskset = VerifiersTaskset(taskset="my_taskset", python="venv/bin/python", harness="null")

In verifiers the harness drives: it asks an OpenAI-compatible endpoint for completions until it is done. Here the
policy drives. So each episode runs one rollout in a process of its own, where the harness asks a loopback endpoint of
ours, and the flow is inverted:

    their first request                      -> the messages of reset()
    step(message)                            -> the answer to the request that waits
    what their next request has added        -> the messages of the StepResult: tool results, user turns
    their rollout is over, with a reward     -> the episode is terminated; score() gives the reward

The rollout worker samples, counts and masks tokens as for any environment. A harness that rewrites the dialogue
(compaction, several agents with dialogues of their own) has no form as one episode: InfrastructureError says where.

verifiers and the tasksets live in a Python of their own (``python``, or SPECIALE_VERIFIERS_PYTHON), since its pins
clash with ours; ``path`` are folders where tasksets are found. Nothing is installed during a rollout.

Harnesses that execute what the policy writes ("bash", "codex", …) are refused in verifiers' subprocess runtime, which
is no sandbox: name a container, ``runtime={"type": "docker"}``. ``host_commands=True`` lets them run on this machine,
for policies that you wrote yourself.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.bridges.child import JsonChild
from envs.bridges.openai_chat import HistoryRewrittenError, appended
from envs.bridges.packages import MissingPackage
from envs.bridges.schemas import check_call, encodable, function_schema
from envs.bridges.settings import plain
from envs.environment import Environment
from envs.message_forms import message_of
from envs.taskset import Split, Taskset, file_input, split_of
from envs.types import Episode, InfrastructureError, Message, StepResult, Task

PIN = "verifiers==0.4.0"
PYTHON_VARIABLE = "SPECIALE_VERIFIERS_PYTHON"
_RUNNER = Path(__file__).with_name("verifiers_runner.py")


class VerifiersEnvironment(Environment):
    """One rollout. ``start_s`` is for the process and the first request, ``step_s`` for each further one: below the
    worker's own deadlines (``rollout.reset_s``, ``step_s``), so that the error says what was waited for.

    The reward must be in [0, 1] unless ``bounds=[low, high]`` say what is mapped to it (and clipped).
    A rollout that does not reach its end has outcome 0.
    """

    def __init__(
        self,
        task: Task,
        python: str,
        env: Mapping[str, Any],
        path: Sequence[str] = (),
        bounds: Sequence[float] | None = None,
        start_s: float = 50.0,
        step_s: float = 50.0,
        **config: Any,
    ) -> None:
        super().__init__(task, **config)
        self._python, self._env, self._path = python, env, path
        self._bounds, self._start_s, self._step_s = bounds, start_s, step_s
        self._child: JsonChild | None = None
        self._said: tuple[Message, ...] = ()  # their dialogue up to and with the last answer
        self._schemas: dict[str, dict[str, Any]] = {}
        self._reward: float | None = None

    def reset(self) -> tuple[Message, ...]:
        self._child = open_runner(self._python, self._path)
        m = self.task.metadata
        self._child.send({"mode": "play", "env": self._env, "index": m["index"], "key": m["key"]})
        request = self._next(self._start_s)
        if request is None:
            raise InfrastructureError(f"{self.task.id}: the rollout ended before it asked the model anything")
        self._said = request
        first = _with_slim_schemas(request)
        self._schemas = {schema["name"]: schema for message in first for schema in message.tools}
        return first

    def step(self, action: Message) -> StepResult:
        if action.parse_error is not None:  # it cannot be sent; the harness never hears of it
            return super().step(action)
        if self._child is None or self._reward is not None:
            raise InfrastructureError(f"{self.task.id}: no rollout is waiting for an answer")
        counts = self._mistakes(action)
        answer = Message("assistant", action.content, action.reasoning, action.tool_calls)
        answer = message_of(encodable(answer.to_json()))
        try:
            self._child.send({"answer": answer.to_json()})
        except BrokenPipeError:
            raise InfrastructureError(f"the verifiers process is gone{self._child.last_log()}") from None
        self._said = (*self._said, answer)
        request = self._next(self._step_s)
        if request is None:
            return StepResult(terminated=True, info={"counts": counts})
        try:
            added = appended(self._said, request)
        except HistoryRewrittenError as error:
            raise InfrastructureError(f"{self.task.id}: the harness rewrote the dialogue: {error}") from error
        self._said = request
        return StepResult(added, info={"counts": counts})

    def score(self, episode: Episode) -> dict[str, float]:
        if self._reward is None:
            return {"outcome": 0.0}
        if self._bounds is None:
            if not 0.0 <= self._reward <= 1.0:
                raise InfrastructureError(
                    f"{self.task.id}: the reward is {self._reward}, outside [0, 1]: give bounds=[low, high]"
                )
            return {"outcome": self._reward}
        low, high = self._bounds
        return {"outcome": min(1.0, max(0.0, (self._reward - low) / (high - low)))}

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _mistakes(self, action: Message) -> dict[str, int]:
        """Counted here, answered by the harness in its own words."""
        counts: Counter[str] = Counter()
        for call in action.tool_calls:
            schema = self._schemas.get(call.name)
            if schema is None:
                counts["unknown_tool"] += 1
            elif check_call(schema, call.arguments):
                counts["bad_arguments"] += 1
        return dict(counts)

    def _next(self, seconds: float) -> tuple[Message, ...] | None:
        """The dialogue of their next request, or None at the end of the rollout, whose reward is then known."""
        assert self._child is not None
        line = receive(self._child, seconds)
        if "request" in line:
            return tuple(message_of(message) for message in line["request"])
        end = line["end"]
        if end["errors"] or end["reward"] is None:
            raise InfrastructureError(f"{self.task.id}: the rollout failed: {'; '.join(end['errors']) or 'no reward'}")
        self._reward = float(end["reward"])
        return None


class VerifiersTaskset(Taskset):
    """The tasks of a verifiers taskset, split by their content keys.

    ``taskset`` is its id (the module's name), or its whole configuration; ``harness`` and ``runtime`` likewise;
    ``env`` are further settings of verifiers' environment. The first ``limit`` tasks are listed once, in a process.
    """

    family = "verifiers"
    env_class = VerifiersEnvironment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        *,
        taskset: str | Mapping[str, Any],
        python: str | None = None,
        harness: str | Mapping[str, Any] = "null",
        runtime: str | Mapping[str, Any] = "subprocess",
        env: Mapping[str, Any] | None = None,
        path: Sequence[str] = (),
        limit: int = 1000,
        host_commands: bool = False,
        list_s: float = 300.0,
        **config: Any,
    ) -> None:
        python = os.path.abspath(python or os.environ.get(PYTHON_VARIABLE) or "")
        if not os.access(python, os.X_OK) or os.path.isdir(python):
            raise MissingPackage(
                f"python={python!r} is no Python that has verifiers. Make one: python -m venv V; "
                f"V/bin/pip install '{PIN}'; then python=V/bin/python, or {PYTHON_VARIABLE}"
            )
        whole = {
            **plain(env or {}),
            "taskset": {"id": taskset} if isinstance(taskset, str) else plain(taskset),
            "agent": {
                "harness": {"id": harness} if isinstance(harness, str) else plain(harness),
                "runtime": {"type": runtime} if isinstance(runtime, str) else plain(runtime),
            },
        }
        path = [os.path.abspath(folder) for folder in path]
        child = open_runner(python, path)
        try:
            child.send({"mode": "list", "env": whole, "limit": limit})
            listed = receive(child, list_s)
        finally:
            child.close()
        if listed["unsafe"] and not host_commands:
            raise ValueError(
                f"harness={', '.join(listed['unsafe'])}: runs the policy's commands on this machine without walls; "
                "give runtime={'type': 'docker'}, or host_commands=True for a policy that you trust"
            )
        self._rows = [
            (index, row["key"], row["prompt"])
            for index, row in enumerate(listed["tasks"])
            if split_of(row["key"]) == split
        ]
        if not self._rows:
            raise ValueError(f"taskset={taskset!r}: none of its {len(listed['tasks'])} tasks is in split {split!r}")
        size = len(self._rows) if size is None else size
        super().__init__(split, seed, size, python=python, env=whole, path=path, **plain(config))
        name = str(whole["taskset"].get("id", "")).replace(".", "/")
        found = [file for folder in path for file in _sources(Path(folder), name)]
        self._inputs = {str(file): file_input(file) for file in found}

    def inputs(self) -> dict[str, dict[str, Any]]:
        """The sources of the taskset, where ``path`` leads to them."""
        return self._inputs

    def task(self, index: int) -> Task:
        position, key, prompt = self._rows[index % len(self._rows)]
        metadata = {"key": key, "level": 1, "index": position}
        return Task(self.task_id(index), self.family, (Message("user", prompt),), None, metadata, self.seed)


def _sources(folder: Path, name: str) -> list[Path]:
    """A module's file, or those of a package."""
    return [file for file in (folder / f"{name}.py", *sorted((folder / name).rglob("*.py"))) if name and file.is_file()]


def open_runner(python: str, path: Sequence[str]) -> JsonChild:
    """The runner under another Python. -P: the runner's folder has modules named like the packages they bridge to."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    cache = os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface"))
    environment |= {
        "PYTHONPATH": os.pathsep.join(path),
        "HF_HOME": cache,  # HOME is a folder that goes with the process
        "PIP_NO_INDEX": "1",  # nothing is installed on the way
        "UV_OFFLINE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    return JsonChild([python, "-P", str(_RUNNER)], environment)


def receive(child: JsonChild, seconds: float) -> dict[str, Any]:
    """The runner's next line. Raises InfrastructureError when it is late, gone, or says that it failed."""
    try:
        line = child.receive(seconds)
    except TimeoutError:
        raise InfrastructureError(f"verifiers: no sign of life in {seconds:g} s{child.last_log()}") from None
    if line is None:
        raise InfrastructureError(f"the verifiers process ended; has its Python {PIN}?{child.last_log()}")
    if "failed" in line:
        raise InfrastructureError(f"verifiers: {line['failed']}{child.last_log()}")
    return line


def _with_slim_schemas(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(
        Message(
            m.role,
            m.content,
            m.reasoning,
            m.tool_calls,
            tuple(function_schema(t["name"], t.get("description"), t.get("parameters") or {}) for t in m.tools),
        )
        for m in messages
    )

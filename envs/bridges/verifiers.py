"""verifiers bridge (0.4, the v1 API): its tasksets, harnesses and rewards, with our policy as the model.

    taskset = VerifiersTaskset(taskset="my_taskset", python="venv/bin/python", harness="null")

In verifiers the harness drives, as in ``envs.driving``: each episode runs one rollout in a process of its own, whose
model client asks the endpoint of the episode, and whose reward is the outcome. What the harness does to the dialogue
(compaction, several agents with dialogues of their own) is found again in what was sampled, as for any agent.

verifiers and the tasksets live in a Python of their own (``python``, or SPECIALE_VERIFIERS_PYTHON), since its pins
clash with ours; ``path`` are folders where tasksets are found. Nothing is installed during a rollout.

Harnesses that execute what the policy writes ("bash", "codex", …) are refused in verifiers' subprocess runtime, which
is no sandbox: name a container, ``runtime={"type": "docker"}``. ``host_commands=True`` lets them run on this machine,
for policies that you wrote yourself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envs.bridges.child import JsonChild
from envs.bridges.packages import MissingPackage
from envs.bridges.settings import plain
from envs.driving import DrivingEnvironment, Endpoint
from envs.taskset import Split, Taskset, file_input, split_of
from envs.types import Episode, InfrastructureError, Message, Task

PIN = "verifiers==0.4.0"
PYTHON_VARIABLE = "SPECIALE_VERIFIERS_PYTHON"
_RUNNER = Path(__file__).with_name("verifiers_runner.py")


class VerifiersEnvironment(DrivingEnvironment):
    """One rollout. The reward must be in [0, 1] unless ``bounds=[low, high]`` say what is mapped to it (and clipped).

    A rollout that a limit of ours cuts off has outcome 0; one that fails by itself is InfrastructureError.
    """

    def __init__(
        self,
        task: Task,
        python: str,
        env: Mapping[str, Any],
        path: Sequence[str] = (),
        bounds: Sequence[float] | None = None,
        **config: Any,
    ) -> None:
        super().__init__(task, **config)
        self._python, self._env, self._path = python, env, path
        self._bounds = bounds
        self._child: JsonChild | None = None
        self._reward: float | None = None

    def drive(self, endpoint: Endpoint) -> None:
        self._child = open_runner(self._python, self._path)
        m = self.task.metadata
        where = {"base_url": endpoint.base_url, "api_key": endpoint.api_key}
        self._child.send({"mode": "play", "env": self._env, "index": m["index"], "key": m["key"], **where})
        end = receive(self._child, math.inf)["end"]  # the rollout's own deadline bounds it
        if not end["errors"] and end["reward"] is not None:
            self._reward = float(end["reward"])
            return
        why = f"{self.task.id}: the rollout failed: {'; '.join(e['said'] for e in end['errors']) or 'no reward'}"
        if any(map(_is_refusal, end["errors"])):
            raise RuntimeError(why)
        raise InfrastructureError(why)

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


def _is_refusal(error: Mapping[str, Any]) -> bool:
    """Whether it says that a limit of the episode has ended it, which the policy may have caused."""
    full = error["status"] == 400 and "context window" in error["said"]
    return error["type"] == "ProviderError" and (error["status"] == 403 or full)


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

"""Runs one verifiers rollout (or lists tasks) in a process and a Python of its own; ``verifiers.py`` is the other end.

The first line of stdin is the order, the answer is a line of stdout:

    -> {"mode": "list", "env": {…}, "limit": 1000}      <- {"tasks": [{"key", "prompt"}, …], "unsafe": […]}
    -> {"mode": "play", "env": {…}, "index": 3, "key": …, "base_url": …, "api_key": …}
    <- {"end": {"reward", "rewards", "errors", "stop"}}

End of stdin means: stop, take down what was started, exit. So nothing is left when the parent dies.

verifiers' chat programs are uv scripts that it would silently install packages for (``pip install uv``, ``uv sync``).
Here they run under this very Python, which has what they import, because verifiers itself needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = "policy"
KEY_VARIABLE = "SPECIALE_POLICY_API_KEY"  # verifiers keeps names with API_KEY from the programs that it starts


class Pipe:
    """Lines to the parent. ``stopped`` is called when the parent is gone."""

    def __init__(self, stopped: Callable[[], object]) -> None:
        # a copy of stdout is ours alone: what others print goes to stderr
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._stopped = stopped
        threading.Thread(target=self._wait, daemon=True).start()

    def send(self, **line: Any) -> None:
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def _wait(self) -> None:
        sys.stdin.read()
        with contextlib.suppress(RuntimeError):  # the loop is closed: the rollout is over already
            self._stopped()


def use_this_python() -> None:
    """Let verifiers' uv scripts run under this Python, without installing anything."""
    from verifiers.v1.runtimes.subprocess import SubprocessRuntime

    async def prepare(self: Any, script: str | bytes, env: Any = None, *, activate: bool = True) -> list[str]:
        data = script.encode() if isinstance(script, str) else script
        path = Path(self.scripts_dir) / f"{hashlib.sha256(data).hexdigest()}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return [sys.executable, str(path)]

    SubprocessRuntime.prepare_uv_script = prepare


def leave_no_port_files() -> None:
    """verifiers' tool servers tell their port in a file in /tmp that nobody removes."""
    from verifiers.v1.mcp import launch

    read_back = launch._read_back_port

    async def read_and_remove(runtime: Any, port_file: str) -> int:
        try:
            return int(await read_back(runtime, port_file))
        finally:
            if runtime.type == "subprocess":  # elsewhere /tmp is the container's
                Path(port_file).unlink(missing_ok=True)

    launch._read_back_port = read_and_remove


def load(order: dict[str, Any]) -> Any:
    from verifiers.v1.utils.loaders import load_environment, resolve_env_config

    return load_environment(resolve_env_config(order["env"]))


def unsafe_harnesses(env: Any) -> list[str]:
    """Harnesses that would run the policy's commands on this machine, without any isolation."""
    from verifiers.v1.runtimes import SubprocessConfig

    return [
        harness.config.id
        for name, harness in env._harnesses.items()
        if harness.EXECUTES_CODE and isinstance(env._agent_specs[name].runtime, SubprocessConfig)
    ]


def tasks_of(order: dict[str, Any]) -> dict[str, Any]:
    env = load(order)
    found = [
        {"key": task.key, "prompt": task.data.prompt_text or task.data.name or ""}
        for task in itertools.islice(iter(env.taskset), order["limit"])
    ]
    return {"tasks": found, "unsafe": unsafe_harnesses(env)}


async def play(order: dict[str, Any]) -> dict[str, Any]:
    import verifiers.v1 as vf

    env = load(order)
    task = next(itertools.islice(iter(env.taskset), order["index"], None), None)
    if task is None or task.key != order["key"]:
        raise LookupError(f"task {order['index']} is another one than when the tasks were listed")
    os.environ[KEY_VARIABLE] = order["api_key"]
    client = vf.EvalClientConfig(base_url=order["base_url"], api_key_var=KEY_VARIABLE)
    async with env.serving():
        episode = await env.run_episode(task, vf.ModelContext(model=MODEL, client=client))
    errors = [error for holder in (episode, *episode.traces) for error in holder.errors]
    return {
        "reward": sum(trace.reward for trace in episode.traces) if episode.ok else None,
        "rewards": {name: r.value if r is not None else None for t in episode.traces for name, r in t.rewards.items()},
        "errors": [
            {"type": error.type, "status": error.status_code, "said": f"{error.type}: {error.message}"}
            for error in errors
        ],
        "stop": [trace.stop_condition for trace in episode.traces],
    }


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    pipe = Pipe(lambda: loop.call_soon_threadsafe(task.cancel))
    use_this_python()
    leave_no_port_files()
    try:
        if order["mode"] == "list":
            pipe.send(**tasks_of(order))
        else:
            pipe.send(end=await play(order))
    except Exception as error:
        pipe.send(failed=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        sys.exit(3)
    finally:
        sys.stderr.flush()
    os._exit(0)  # a request that nobody answered any more must not hold the process

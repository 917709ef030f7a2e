"""Runs one verifiers rollout (or lists tasks) in a process and a Python of its own; ``verifiers.py`` is the other end.

The first line of stdin is the order, JSON lines follow both ways:

    -> {"mode": "list", "env": {…}, "limit": 1000}      <- {"tasks": [{"key", "prompt"}, …]}
    -> {"mode": "play", "env": {…}, "index": 3, "key": …, …}
    <- {"request": [messages]}                          the harness asks for a completion …
    -> {"answer": message}                              … and the policy gives it
    <- {"end": {"reward", "rewards", "errors", "stop"}}

End of stdin means: stop, take down what was started, exit. So nothing is left when the parent dies.

verifiers' chat programs are uv scripts that it would silently install packages for (``pip install uv``, ``uv sync``).
Here they run under this very Python, which has what they import, because verifiers itself needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = "policy"
KEY_VARIABLE = "SPECIALE_POLICY_API_KEY"  # verifiers keeps names with API_KEY from the programs that it starts


class Pipe:
    """Lines to the parent and back. One question is open at a time; ``stopped`` is called when the parent is gone."""

    def __init__(self, stopped: Callable[[], object]) -> None:
        # a copy of stdout is ours alone: what others print goes to stderr
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._stopped = stopped
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._asking = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, **line: Any) -> None:
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()

    def ask(self, **line: Any) -> dict[str, Any]:
        with self._asking:
            self.send(**line)
            answer = self._answers.get()
        if answer is None:
            raise ConnectionError("the rollout was stopped")
        return answer

    def _read(self) -> None:
        for line in sys.stdin:
            self._answers.put(json.loads(line))
        self._answers.put(None)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the rollout is over already
            self._stopped()


def use_our_package() -> None:
    """Make ``envs`` importable, and nothing that lies next to it: where the toolkit is installed that is another
    Python's site-packages, and verifiers must not get its own packages from there."""
    folder = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "envs", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["envs"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


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


async def play(order: dict[str, Any], pipe: Pipe) -> dict[str, Any]:
    import verifiers.v1 as vf

    from envs.bridges.openai_exchange import ChatReply, ChatRequest
    from envs.bridges.openai_server import ChatServer
    from envs.message_forms import message_of

    def answer(request: ChatRequest) -> ChatReply:
        return ChatReply(message_of(pipe.ask(request=[m.to_json() for m in request.messages])["answer"]))

    env = load(order)
    task = next(itertools.islice(iter(env.taskset), order["index"], None), None)
    if task is None or task.key != order["key"]:
        raise LookupError(f"task {order['index']} is another one than when the tasks were listed")
    with ChatServer() as server:
        os.environ[KEY_VARIABLE] = server.open_session(answer)
        client = vf.EvalClientConfig(base_url=server.base_url, api_key_var=KEY_VARIABLE)
        async with env.serving():
            episode = await env.run_episode(task, vf.ModelContext(model=MODEL, client=client))
    errors = [error for holder in (episode, *episode.traces) for error in holder.errors]
    return {
        "reward": sum(trace.reward for trace in episode.traces) if episode.ok else None,
        "rewards": {name: r.value if r is not None else None for t in episode.traces for name, r in t.rewards.items()},
        "errors": [f"{error.type}: {error.message}" for error in errors],
        "stop": [trace.stop_condition for trace in episode.traces],
    }


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    pipe = Pipe(lambda: loop.call_soon_threadsafe(task.cancel))
    use_our_package()
    use_this_python()
    leave_no_port_files()
    try:
        if order["mode"] == "list":
            pipe.send(**tasks_of(order))
        else:
            pipe.send(end=await play(order, pipe))
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

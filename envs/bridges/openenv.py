"""OpenEnv bridge: a client of an OpenEnv server, one WebSocket session an episode.

    taskset = OpenEnvTaskset(base_url="http://127.0.0.1:8000", rules="Guess the number.")

    user       Guess the number. … I think of a number from 0 to 9.    -> {"type": "reset", "data": {"seed": …}}
    assistant  act(number=4)                                           -> {"type": "step", "data": {"number": 4}}
    tool       {"text": "higher"}                                      <- observation, reward, done
    …                                                                  done ends the episode

The tool ``act`` has the server's action schema (``GET /schema``). Where the action is a text, ``text_field="message"``
leaves the tool out and sends what the policy writes in that field. The protocol is spoken directly: ``openenv-core``
is needed where the server runs, and its pins do not touch ours.

The outcome is the sum of the rewards (``reward="last"``: the last one), mapped from ``bounds`` to [0, 1] and clipped.
An episode that does not reach ``done`` has outcome 0; ``need_done=False`` is for servers that never say it.
A server allows one session at a time unless it is told otherwise (``max_concurrent_envs``).
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlsplit

from envs.bridges.packages import need
from envs.bridges.schemas import check_call, function_schema
from envs.bridges.settings import load_object, plain
from envs.environment import Environment, ToolError
from envs.taskset import Split, Taskset
from envs.tools import Tool
from envs.types import Episode, InfrastructureError, Message, StepResult, Task, ToolCall

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CLOSE_S = 3.0
_MAX_BYTES = 2**27  # of one message: observations may hold pictures


class OpenEnvEnvironment(Environment):
    """One session with the server. ``connect_s`` and ``step_s`` are deadlines in seconds."""

    def __init__(
        self,
        task: Task,
        base_url: str,
        text_field: str | None = None,
        observe: str | None = None,
        reward: Literal["sum", "last"] = "sum",
        bounds: Sequence[float] = (0.0, 1.0),
        need_done: bool = True,
        connect_s: float = 10.0,
        step_s: float = 50.0,
        **config: Any,
    ) -> None:
        super().__init__(task, **config)
        self._url = base_url.rstrip("/")
        self._text_field = text_field
        self._observe = load_object(observe, "observe") if observe else observation_text
        self._take_last, self._bounds, self._need_done = reward == "last", bounds, need_done
        self._connect_s, self._step_s = connect_s, step_s
        self._open = ExitStack()
        self._socket: Any = None
        self._rewards: list[float] = []
        self._done = False

    def act(self, /, **action: Any) -> str:
        """One step with an action of the server's schema; the observation in words."""
        if self._done:
            raise ToolError("the episode is over.")
        return self._take(self._ask("step", action))

    def reset(self) -> tuple[Message, ...]:
        from websockets.sync.client import connect

        parts = urlsplit(self._url)
        if self._text_field is None:
            self.tools["act"] = Tool("act", "act", self._action_schema())
        address = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}{parts.path}/ws"
        # a proxy from the environment variables must not stand between us and our own machine
        proxy: Any = None if parts.hostname in _LOOPBACK else True
        try:
            connection = connect(address, open_timeout=self._connect_s, max_size=_MAX_BYTES, proxy=proxy)
            self._socket = self._open.enter_context(connection)
        except (OSError, TimeoutError) as error:
            raise InfrastructureError(f"no OpenEnv server at {self._url}: {error}") from error
        first = self._take(self._ask("reset", {"seed": self.task.seed, **self.task.metadata["reset"]}))
        *before, last = super().reset()
        return (*before, replace(last, content=f"{last.content}\n\n{first}".strip()))

    def step(self, action: Message) -> StepResult:
        if self._text_field is None or action.parse_error is not None or action.tool_calls:
            result = super().step(action)
            return StepResult(result.messages, result.terminated or self._done, result.info)
        try:
            text, counts = self.act(**{self._text_field: action.content}), {}
        except ToolError as error:
            text, counts = f"Error: {error}", {"bad_arguments": 1}
        return StepResult((Message("user", text or "(no output)"),), self._done, {"counts": counts})

    def score(self, episode: Episode) -> dict[str, float]:
        if not self._rewards or (self._need_done and not self._done):
            return {"outcome": 0.0}
        value = self._rewards[-1] if self._take_last else sum(self._rewards)
        low, high = self._bounds
        return {"outcome": min(1.0, max(0.0, (value - low) / (high - low)))}

    def close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is None:
            return
        # the server destroys the session and closes; hanging up on it would make it log an error
        with suppress(Exception):
            socket.send(json.dumps({"type": "close"}))
            socket.recv(timeout=_CLOSE_S)
        self._open.close()

    def _check(self, known: Tool, call: ToolCall) -> str | None:
        return check_call(known.schema, call.arguments)

    def _take(self, data: Mapping[str, Any]) -> str:
        if data.get("reward") is not None:
            self._rewards.append(float(data["reward"]))
        self._done = bool(data.get("done"))
        return str(self._observe(data.get("observation", {})))

    def _ask(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """The data of the answer to a message. Raises ToolError for an action that the server does not accept."""
        from websockets.exceptions import ConnectionClosed

        if self._socket is None:
            raise InfrastructureError("there is no session with the OpenEnv server: call reset() first")
        try:
            with suppress(ConnectionClosed):  # a server that refuses us has said why, and that is still to be read
                self._socket.send(json.dumps({"type": kind, "data": data}))
            answer = json.loads(self._socket.recv(timeout=self._step_s))
        except TimeoutError as error:
            raise InfrastructureError(
                f"OpenEnv server {self._url}: no answer to {kind} in {self._step_s:g} s"
            ) from error
        except (ConnectionClosed, OSError) as error:
            raise InfrastructureError(f"OpenEnv server {self._url} hung up at {kind}: {error}") from error
        if answer.get("type") != "error":
            return dict(answer["data"])
        problem = answer.get("data", {})
        if kind == "step" and problem.get("code") == "VALIDATION_ERROR":
            raise ToolError("; ".join(f"{_where(e)}{e.get('msg')}" for e in problem.get("errors", ())) or str(problem))
        raise InfrastructureError(
            f"OpenEnv server {self._url}: {kind} failed: {problem.get('code')}: {problem.get('message')}"
        )

    def _action_schema(self) -> dict[str, Any]:
        opener = urllib.request.build_opener(
            *([urllib.request.ProxyHandler({})] if urlsplit(self._url).hostname in _LOOPBACK else [])
        )
        try:
            with opener.open(f"{self._url}/schema", timeout=self._connect_s) as answer:
                parameters = json.load(answer)["action"]
        except (OSError, ValueError, KeyError) as error:
            raise InfrastructureError(f"no action schema at {self._url}/schema: {error}") from error
        own = {name: value for name, value in parameters.get("properties", {}).items() if name != "metadata"}
        return function_schema("act", "Do one action.", {**parameters, "properties": own})


class OpenEnvTaskset(Taskset):
    """Episodes of one server, a seed each. ``rules`` opens the prompt; ``reset`` are further keywords of reset().

    The seed is the key: train and heldout never reset the server with the same one.
    """

    family = "openenv"
    env_class = OpenEnvEnvironment

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        *,
        base_url: str,
        rules: str = "",
        reset: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> None:
        need("websockets")
        if urlsplit(base_url).scheme not in ("http", "https"):
            raise ValueError(f"base_url={base_url!r}: must start with http:// or https://")
        if config.get("reward", "sum") not in ("sum", "last"):
            raise ValueError(f"reward={config['reward']!r}: must be 'sum' or 'last'")
        if (bounds := config.get("bounds", (0.0, 1.0))) and not bounds[0] < bounds[1]:
            raise ValueError(f"bounds={bounds}: the first must be below the second")
        super().__init__(split, seed, size, base_url=base_url, **plain(config))
        self._rules, self._reset = rules, plain(reset or {})

    def task(self, index: int) -> Task:
        def propose(rng: Any) -> tuple[str, int]:
            seed = rng.randrange(2**31)
            return str(seed), seed

        key, seed = self.draw(index, propose)
        metadata = {"key": key, "level": 1, "reset": self._reset}
        return Task(self.task_id(index), self.family, (Message("user", self._rules),), None, metadata, seed)


def observation_text(observation: Mapping[str, Any]) -> str:
    """An observation in words: its one text if it has nothing else, JSON otherwise."""
    told = {key: value for key, value in observation.items() if key not in ("metadata", "done", "reward")}
    if len(told) == 1 and isinstance(only := next(iter(told.values())), str):
        return only
    return json.dumps(told, ensure_ascii=False)


def _where(error: Mapping[str, Any]) -> str:
    return f"{'.'.join(str(part) for part in error['loc'])}: " if error.get("loc") else ""

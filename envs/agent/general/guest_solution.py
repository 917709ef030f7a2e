"""Runs inside the sandbox: a solution, or a verifier, of a stored task. Given as text, never imported.

The solution has a thread of its own, which stops at every tool call until the host has run it elsewhere:

    _begin(source, tools)     prints the first event: {"call": [name, arguments]}, {"done": true} or {"error": "why"}
    _go_on(value)             gives the solution what its call returned; prints the next event
    _judge(source, ...)       runs a verifier; prints {"verdict": ...} or {"error": "why"}
"""

import builtins
import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence

# As in guest_world.py: types without the time that importing typing takes, and no annotations from __future__.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_events: "queue.Queue[dict[str, object]]" = queue.Queue()
_replies: "queue.Queue[object]" = queue.Queue()


class _Tools:
    def __init__(self, parameters: Mapping[str, Sequence[str]]) -> None:
        self._parameters = parameters

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name not in self._parameters:
            raise AttributeError("there is no tool " + name)

        def tool(*values: object, **arguments: object) -> object:
            _events.put({"call": [name, {**dict(zip(self._parameters[name], values, strict=False)), **arguments}]})
            return _replies.get()

        return tool


def _namespace(source: str, allowed: Sequence[str]) -> "dict[str, Any]":
    namespace: dict[str, Any] = {"__builtins__": {n: getattr(builtins, n) for n in allowed}}
    exec(compile(source, "<source>", "exec"), namespace)
    return namespace


def _solve(source: str, parameters: Mapping[str, Sequence[str]], allowed: Sequence[str]) -> None:
    try:
        _namespace(source, allowed)["solution"](_Tools(parameters))
        _events.put({"done": True})
    except BaseException as error:
        _events.put({"error": type(error).__name__ + ": " + str(error)})


def _begin(source: str, parameters: Mapping[str, Sequence[str]], allowed: Sequence[str]) -> None:
    threading.Thread(target=_solve, args=(source, parameters, allowed), daemon=True).start()
    _event()


def _go_on(value: object) -> None:
    _replies.put(value)
    _event()


def _event() -> None:
    event = _events.get()
    try:
        text = json.dumps(event)
    except (TypeError, ValueError) as error:
        text = json.dumps({"error": "arguments are not JSON: " + str(error)})
    print("\n" + text)


def _judge(source: str, start: object, end: object, answer: object, allowed: Sequence[str]) -> None:
    try:
        verdict = _namespace(source, allowed)["verify"](start, end, answer)
        event = {"verdict": verdict if isinstance(verdict, (bool, str)) else bool(verdict)}
    except BaseException as error:
        event = {"error": type(error).__name__ + ": " + str(error)}
    print("\n" + json.dumps(event))

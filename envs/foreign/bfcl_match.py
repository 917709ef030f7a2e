"""Whether calls are those that a row of BFCL wants: the leaderboard's rules for Python, on parsed calls.

    wanted(functions, [("play", {"artist": "Muse"})], [{"play": {"artist": ["Muse", "muse"], "loud": [True, ""]}}])

An answer gives each parameter a list of right values; "" among them means that it may be left out. Texts are compared
without spaces, case and the signs ``, . / - _ * ^``; an integer will do for a float; lists item by item; objects key
by key, where each key has its list of right values. Several calls may come in any order.
(Patil et al., The Berkeley Function Calling Leaderboard, ICML 2025.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from envs.foreign.examined import RefusedError

Call = tuple[str, Mapping[str, Any]]

_KINDS: dict[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict,
    "any": str,
}  # fmt: skip
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array"}
_KNOWN = {"string", "integer", "number", "boolean", "array", "object", "null"}
_KEPT = ("description", "enum", "default", "items", "properties", "required", "minimum", "maximum", "format")
_NOISE = re.compile(r"[ ,./\-_*^]")


def wanted(functions: Sequence[Mapping[str, Any]], calls: Sequence[Call], answers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the calls are the answers, each once, in any order."""
    known = {str(function["name"]): function for function in functions}
    left = list(calls)
    for answer in answers:
        ((name, allowed),) = answer.items()
        found = next((n for n, c in enumerate(left) if c[0] == name and fits(known[name], c[1], allowed)), None)
        if found is None:
            return False
        del left[found]
    return not left


def fits(function: Mapping[str, Any], arguments: Mapping[str, Any], allowed: Mapping[str, Sequence[Any]]) -> bool:
    """Whether the arguments of one call are right."""
    parameters = function["parameters"]["properties"]
    if any(name not in arguments for name in function["parameters"].get("required", ())):
        return False
    if any(name not in parameters or name not in allowed for name in arguments):
        return False
    if any("" not in values for name, values in allowed.items() if name not in arguments):
        return False
    return all(_right(parameters[name], value, allowed[name]) for name, value in arguments.items())


def call_of(answer: Mapping[str, Any]) -> Call:
    """The call that an answer means, with the first right value of each parameter."""
    ((name, allowed),) = answer.items()
    return name, {key: _first(values) for key, values in allowed.items() if values and values[0] != ""}


def tool_schema(function: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The function as JSON Schema. Raises RefusedError for a type that has no such form."""
    parameters = _schema(function["parameters"], f"{function['name']}: parameters")
    complete = {"type": "object", "properties": {}, "required": [], **parameters}
    return {"name": name, "description": str(function.get("description", "")), "parameters": complete}


def _first(values: Sequence[Any]) -> Any:
    return _plain(next(value for value in values if value != ""))


def _plain(value: Any) -> Any:
    """A right value as an argument: an object lists the right values of each key."""
    if isinstance(value, dict):
        listed = {key: right if isinstance(right, list) and right else [right] for key, right in value.items()}
        return {key: _first(right) for key, right in listed.items() if right[0] != ""}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _right(schema: Mapping[str, Any], value: Any, allowed: Sequence[Any]) -> bool:
    kind = _KINDS.get(str(schema.get("type")))
    if kind is None:
        return False
    inner = _KINDS.get(str(schema.get("items", {}).get("type"))) if kind is list else None
    if schema["type"] == "float" and type(value) is int:
        value = float(value)
    told = next((type(right) for right in allowed if right != ""), None)
    is_variable = told is not None and told is not kind  # a name instead of a value, say
    if type(value) is kind:
        if (
            inner is not None
            and isinstance(value, list)
            and not any(
                isinstance(right, list) and all(_of_kind(item, inner, right) for item in value) for right in allowed
            )
        ):
            return False
    elif told is not None and type(value) is told:
        is_variable = True
    else:
        return False
    if is_variable:
        return value in allowed
    if kind is dict:
        return any(_same_object(value, right) for right in allowed if right != "")
    if kind is list and inner is dict:
        return any(
            isinstance(right, list) and len(value) == len(right) and all(map(_same_object, value, right))
            for right in allowed
        )
    if kind is str:
        return _bare(value) in [_bare(right) for right in allowed if isinstance(right, str)]
    if kind is list:
        return [_bare(item) for item in value] in [
            [_bare(item) for item in right] for right in allowed if isinstance(right, list)
        ]
    return value in allowed


def _of_kind(item: Any, kind: type, right: Sequence[Any]) -> bool:
    told = next((type(one) for one in right if one != ""), None)
    return type(item) is kind or (told is not None and type(item) is told)


def _same_object(value: Any, right: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(right, dict):
        return False
    for key, item in value.items():
        if key not in right or _bare(item) not in [_bare(one) for one in right[key]]:
            return False
    return all("" in values for key, values in right.items() if key not in value)


def _bare(value: Any) -> Any:
    return _NOISE.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _schema(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RefusedError(f"{where}: is no schema")
    made: dict[str, Any] = {key: value[key] for key in _KEPT if key in value}
    told = value.get("type", "any")
    if told != "any":
        made["type"] = _JSON_TYPES.get(told, told)
        if made["type"] not in _KNOWN:
            raise RefusedError(f"{where}: the type {told!r} has no JSON form")
    if isinstance(made.get("properties"), Mapping):
        made["properties"] = {name: _schema(inner, f"{where}.{name}") for name, inner in made["properties"].items()}
    else:
        made.pop("properties", None)
    if "items" in made:
        made["items"] = _schema(made["items"], f"{where}.items")
    return made

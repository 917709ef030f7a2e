"""Tools: a typed Python method becomes a JSON schema, and a call becomes a checked method call.

``@tool`` marks a method of an Environment. Its name, type hints and docstring give the function
schema that the chat template shows to the policy::

    @tool
    def find_order(self, customer_id: int) -> str:
        "Find the order of a customer."

    {"name": "find_order", "description": "Find the order of a customer.",
     "parameters": {"type": "object", "properties": {"customer_id": {"type": "integer"}},
                    "required": ["customer_id"]}}

A line ``customer_id: the number of the customer`` under ``Args:`` of the docstring becomes that
parameter's description. Every token of a schema is paid for in each prompt, so nothing is added
that the hints do not say. Arguments are checked against the schema before the method runs; what is
wrong is said in words meant for the policy.
"""

from __future__ import annotations

import inspect
import itertools
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_MARK = "__tool_number__"
_numbers = itertools.count(1)


class ToolDefinitionError(TypeError):
    """A @tool method cannot be described as a JSON schema. The message names method and parameter."""


@dataclass(frozen=True)
class Tool:
    """``method`` is the attribute that runs, ``schema`` what the policy sees."""

    name: str
    method: str
    schema: dict[str, Any]


def tool(method: F) -> F:
    """Mark a method as a tool. Needs a docstring and a type hint on every parameter."""
    # A number, not just a mark: a class of a script reaches a worker by value, its members sorted by name, and the same
    # task would have other prompts there.
    setattr(method, _MARK, next(_numbers))
    return method


def tools_of(cls: type) -> dict[str, Tool]:
    """The tools of a class by name, base classes first, then in order of definition."""
    found: dict[str, Tool] = {}
    for base in reversed(cls.__mro__):
        for name, member in sorted(vars(base).items(), key=lambda item: getattr(item[1], _MARK, 0)):
            if getattr(member, _MARK, 0):
                found[name] = Tool(name=name, method=name, schema=function_schema(member))
            elif name in found:
                del found[name]  # overridden without @tool: hidden on purpose
    return found


def function_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The OpenAI ``function`` dict of a method: name, description, parameters.

    Raises ToolDefinitionError when the docstring or a type hint is missing, or a type has no JSON form.
    """
    name = function.__name__
    doc = inspect.getdoc(function)
    if not doc:
        raise ToolDefinitionError(f"tool {name!r} has no docstring: its first line is what the policy reads")
    hints = typing.get_type_hints(function)
    described = _argument_descriptions(doc)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ToolDefinitionError(f"tool {name!r} takes *{parameter.name}: name every parameter instead")
        if parameter.name not in hints:
            raise ToolDefinitionError(f"tool {name!r}: parameter {parameter.name!r} needs a type hint")
        try:
            schema = _schema_of(hints[parameter.name])
        except ToolDefinitionError as error:
            raise ToolDefinitionError(f"tool {name!r}: parameter {parameter.name!r}: {error}") from None
        if parameter.name in described:
            schema["description"] = described[parameter.name]
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        properties[parameter.name] = schema
    return {
        "name": name,
        "description": doc.split("\n\n")[0].replace("\n", " ").strip(),
        "parameters": {"type": "object", "properties": properties, "required": required},
    }


def check_arguments(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    """None when ``arguments`` fit the function schema, else what is wrong, in words for the policy."""
    name, parameters = schema["name"], schema["parameters"]
    properties: Mapping[str, Any] = parameters["properties"]
    unknown = [key for key in arguments if key not in properties]
    if unknown:
        allowed = ", ".join(properties) or "none"
        return f'{name} has no argument "{unknown[0]}"; its arguments are: {allowed}.'
    for key in parameters["required"]:
        if key not in arguments:
            return f'{name} needs the argument "{key}" ({_describe(properties[key])}).'
    for key, value in arguments.items():
        problem = _mismatch(properties[key], value)
        if problem:
            return f'{name}: argument "{key}" must be {problem}.'
    return None


def render_output(value: Any) -> str:
    """A tool's return value as text: strings as they are, None as nothing, the rest as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _schema_of(hint: Any) -> dict[str, Any]:
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        kinds = {type(value) for value in args}
        if len(kinds) != 1 or next(iter(kinds)) not in _SCALARS:
            raise ToolDefinitionError(f"Literal values must all be of one scalar type, got {args}")
        return {"type": _SCALARS[next(iter(kinds))], "enum": list(args)}
    if origin in (typing.Union, types.UnionType):
        options = [arg for arg in args if arg is not type(None)]
        if len(options) == 1 and len(options) < len(args):
            return {"anyOf": [_schema_of(options[0]), {"type": "null"}]}
        return {"anyOf": [_schema_of(arg) if arg is not type(None) else {"type": "null"} for arg in args]}
    if hint is list or origin in (list, Sequence):
        return {"type": "array", "items": _schema_of(args[0])} if args else {"type": "array"}
    if hint is dict or origin in (dict, Mapping):
        return {"type": "object"}
    raise ToolDefinitionError(
        f"type {hint!r} has no JSON form; use str, int, float, bool, list[...], dict, Literal or X | None"
    )


def _describe(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(v, ensure_ascii=False) for v in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_describe(option) for option in schema["anyOf"])
    return str(schema["type"])


def _mismatch(schema: Mapping[str, Any], value: Any) -> str | None:
    """None when ``value`` fits, else "<what was wanted>, got <what came>"."""
    wrong = f"{_describe(schema)}, got {_kind(value)} {json.dumps(value, ensure_ascii=False, default=str)[:80]}"
    if "anyOf" in schema:
        return None if any(_mismatch(option, value) is None for option in schema["anyOf"]) else wrong
    if "enum" in schema:
        # type as well as value: in Python True == 1 and 1.0 == 1
        return None if any(type(v) is type(value) and v == value for v in schema["enum"]) else wrong
    kind = _kind(value)
    wanted = schema["type"]
    if kind != wanted and not (wanted == "number" and kind == "integer"):
        return wrong
    if wanted == "array" and "items" in schema:
        for position, item in enumerate(value):
            problem = _mismatch(schema["items"], item)
            if problem:
                return f"an array whose item {position} is {problem}"
    return None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):  # before int: bool is a subclass of int
        return "boolean"
    if isinstance(value, list | tuple):
        return "array"
    if isinstance(value, Mapping):
        return "object"
    return _SCALARS.get(type(value), type(value).__name__)


def _argument_descriptions(doc: str) -> dict[str, str]:
    found: dict[str, str] = {}
    inside = False
    for line in doc.splitlines():
        text = line.strip()
        if text in ("Args:", "Arguments:"):
            inside = True
        elif inside and (not text or text in ("Returns:", "Raises:")):
            inside = False
        elif inside and ":" in text:
            key, _, rest = text.partition(":")
            found[key.strip()] = rest.strip()
    return found

"""JSON schemas that come from elsewhere: made fit for a prompt, and used to check a call.

Our own ``@tool`` schemas use a small part of JSON Schema (``envs.tools``). A server's may use all of it, so calls are
checked by the ``jsonschema`` library; what is wrong is said in words meant for the policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def function_schema(name: str, description: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The function schema that a policy sees: the server's own, without generated titles, which cost tokens."""
    slim = _slim(parameters)
    complete = {"type": "object", "properties": slim.get("properties", {}), "required": slim.get("required", [])}
    return {"name": name, "description": (description or "").strip(), "parameters": {**slim, **complete}}


def check_call(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    """None when ``arguments`` fit the function schema, else what is wrong.

    Unknown arguments are wrong unless the schema allows them explicitly: nobody means them. What Python cannot check
    is left to whoever runs the call: a pattern in JavaScript's form, a reference elsewhere (nothing is fetched).
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import UnknownType, best_match
    from jsonschema_specifications import REGISTRY  # of itself the library asks the network, and waits for it
    from referencing.exceptions import Unresolvable

    name, parameters = schema["name"], schema["parameters"]
    unknown = [key for key in arguments if key not in parameters["properties"]]
    if unknown and not parameters.get("additionalProperties") and "patternProperties" not in parameters:
        allowed = ", ".join(parameters["properties"]) or "none"
        return f'{name} has no argument "{unknown[0]}"; its arguments are: {allowed}.'
    try:
        error = best_match(Draft202012Validator(parameters, registry=REGISTRY).iter_errors(dict(arguments)))
    except (Unresolvable, UnknownType, re.error, RecursionError, ArithmeticError):
        return None
    if error is None:
        return None
    where = f'argument "{".".join(str(p) for p in error.absolute_path)}": ' if error.absolute_path else ""
    return f"{name}: {where}{error.message}."


def _slim(schema: Any) -> Any:
    """A JSON schema without the annotations ``title`` and ``$schema``; properties of that name stay."""
    if isinstance(schema, list):
        return [_slim(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {key: value for key, value in schema.items() if key not in ("title", "$schema")}
    for key, value in kept.items():
        if key in ("properties", "$defs", "definitions", "patternProperties"):
            kept[key] = {name: _slim(inner) for name, inner in value.items()}
        elif key not in ("enum", "const", "default", "examples", "required"):
            kept[key] = _slim(value)
    return kept


def encodable(value: Any) -> Any:
    """A JSON value with ``?`` for half a surrogate pair, which JSON can spell and UTF-8 cannot: a library that encodes
    it ends with an error, and a policy that writes one would have its episode masked."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))

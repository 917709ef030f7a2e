"""The configuration of `rl-train` as a JSON schema: editors complete and check overlays and stored configurations.

``python -m configs.json_schema configs/train.schema.json`` writes it anew. Types, bounds and defaults come from the
dataclasses that are the schema, descriptions from their comments (configs.fields). An overlay names it in a line::

    # yaml-language-server: $schema=<path to>/train.schema.json

Where a number or a switch is wanted an interpolation (``${rollout.temperature}``) is as good.
"""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval

from configs.fields import default, meaning
from configs.schema import TrainConfig
from rl.bounds import Matches, OneOf, field_types, marks

DIALECT = "http://json-schema.org/draft-07/schema#"  # what yaml-language-server reads
INTERPOLATION = r"^\$\{.*\}$"
SCALARS = {int: "integer", float: "number", bool: "boolean", str: "string"}


def train_schema() -> dict[str, Any]:
    """The JSON schema of rl-train's configuration."""
    found = {"$schema": DIALECT, "title": "rl-train", **object_of(TrainConfig)}
    # Keys of Hydra that an overlay may have.
    found["properties"] |= {
        "defaults": {"type": "array", "description": "group files that this overlay composes, and overrides of them"},
        "hydra": {"type": "object", "description": "settings of Hydra itself"},
    }
    return found


def object_of(cls: type, member: Any = None) -> dict[str, Any]:
    """The schema of a config class. ``member``: the instance that is its group's default."""
    properties = {}
    for item in fields(cls):
        value = default(item) if member is None else getattr(member, item.name)
        properties[item.name] = described(field_types(cls)[item.name], value, meaning(cls, item.name))
    return {"type": "object", "properties": properties, "additionalProperties": False}


def described(hint: Any, value: Any, text: str) -> dict[str, Any]:
    """The schema of a field of type ``hint`` with its default ``value``."""
    if is_dataclass(value) and not isinstance(value, type):
        about = (type(value).__doc__ or "").split("\n\n")[0]
        return {"description": " ".join(about.split()), **object_of(type(value), value)}
    found = schema_of_type(hint)
    if text:
        found["description"] = text
    if value is not MISSING:
        found["default"] = list(value) if isinstance(value, tuple) else value
    return found


def schema_of_type(hint: Any) -> dict[str, Any]:
    """A type with its bounds. Raises TypeError for one that the configuration does not use yet."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = schema_of_type(inner[0])
        for mark in marks(hint):
            found |= bound(mark)
        return found
    if origin in (Union, UnionType):
        (some,) = (one for one in inner if one is not NoneType)
        found = schema_of_type(some)
        if "enum" in found:
            found["enum"] = [*found["enum"], None]
        found["type"] = [*([found["type"]] if isinstance(found["type"], str) else found["type"]), "null"]
        return found
    if hint is Any:
        return {}
    if origin is list:
        return {"type": "array", "items": schema_of_type(inner[0])}
    if origin is dict or hint is dict:
        values = schema_of_type(inner[1]) if inner and inner[1] is not Any else {}
        return {"type": "object", "additionalProperties": values or True}
    if is_dataclass(hint) and isinstance(hint, type):
        return object_of(hint)
    if hint in SCALARS:
        return {"type": "string"} if hint is str else {"type": [SCALARS[hint], "string"], "pattern": INTERPOLATION}
    raise TypeError(f"type {hint!r} has no JSON schema: add it to configs.json_schema")


def bound(mark: Any) -> dict[str, Any]:
    """What a mark of ``rl.bounds`` asks for, in the words of JSON schema."""
    match mark:
        case Ge(ge=least):
            return {"minimum": least}
        case Gt(gt=least):
            return {"exclusiveMinimum": least}
        case Interval():
            words = {"minimum": mark.ge, "exclusiveMinimum": mark.gt, "maximum": mark.le, "exclusiveMaximum": mark.lt}
            return {word: value for word, value in words.items() if value is not None}
        case OneOf(words=words):
            return {"enum": list(words)}
        case Matches(pattern=pattern):
            return {"pattern": f"^(?:{pattern})$"}
    raise TypeError(f"{mark!r} has no JSON schema: add it to configs.json_schema")


def text() -> str:
    """What the shipped file holds."""
    return json.dumps(train_schema(), indent=1, ensure_ascii=False, default=asdict) + "\n"


def main() -> None:
    """Write the file named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m configs.json_schema configs/train.schema.json")
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()

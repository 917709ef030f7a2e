"""What the fields of the schema say about themselves: name, default, type in words, and the comment in their source.

The page docs/configuration.md, the JSON schema, `--help` and error messages are made from it.
"""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from importlib.resources import files
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from omegaconf import OmegaConf

from configs.schema import (
    AdaptConfig,
    AgreementConfig,
    ChatConfig,
    ColdStartRunConfig,
    CompareConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    GatewayConfig,
    PretrainConfig,
    TrainConfig,
    ViewConfig,
)
from rl.bounds import OneOf, marks, wanted

# (heading, the class)
COMMANDS: tuple[tuple[str, type], ...] = (
    ("`rl-train`", TrainConfig),
    ("`rl-eval`", EvaluateConfig),
    ("`rl-chat`", ChatConfig),
    ("`rl-gateway`", GatewayConfig),
    ("`rl-compare`", CompareConfig),
    ("`rl-judge`", AgreementConfig),
    ("`rl-doctor`", DoctorConfig),
    ("`rl-view`", ViewConfig),
    ("`rl-coldstart`", ColdStartRunConfig),
    ("`rl-pretrain`", PretrainConfig),
    ("`rl-adapt`", AdaptConfig),
    ("`rl-export`", ExportConfig),
)
OVERLAY = "demo"  # the overlay that rl-train composes unless told otherwise


@cache
def comments(cls: type) -> dict[str, str]:
    """Meaning of every field that ``cls`` itself defines, from its source.

    A comment on the field's own lines counts; else the comment lines right above it, which then also hold for the
    uncommented fields that follow without a blank line (``# AdamW.`` above five settings).
    """
    source = textwrap.dedent(inspect.getsource(cls))
    by_line: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            by_line[token.start[0]] = token.string.lstrip("# ").rstrip()
    lines = source.splitlines()
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    shared, expected = "", 0  # the last comment from above, and the line on which it still holds
    for node in body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        last = node.end_lineno or node.lineno
        own = " ".join(by_line[n] for n in range(node.lineno, last + 1) if n in by_line)
        first = node.lineno
        while first > 1 and lines[first - 2].lstrip().startswith("#"):
            first -= 1
        above = " ".join(by_line[n] for n in range(first, node.lineno))
        if not own:
            if above:
                shared = above
            elif node.lineno != expected:
                shared = ""
            expected = last + 1
        found[node.target.id] = own or shared
    return found


def meaning(cls: type, name: str) -> str:
    """The comment of the most derived class that has one for the field ``name``."""
    for owner in cls.__mro__:
        if is_dataclass(owner) and name in inspect.get_annotations(owner):
            text = comments(owner).get(name, "")
            if text:
                return text
    return ""


def default(item: Field[Any]) -> Any:
    """The field's default value; ``MISSING`` when it must be given."""
    return item.default_factory() if item.default_factory is not MISSING else item.default


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is MISSING:
        return "required"
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`[{','.join(map(str, value))}]`"
    if isinstance(value, Mapping) and value:
        return "`{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}`"
    return f"`{value}`" if value != "" else '`""`'


def overlay() -> dict[str, Any]:
    """Values that the default experiment overlay sets, by dotted name."""
    text = files("configs").joinpath("experiment", f"{OVERLAY}.yaml").read_text()
    return dict(_flat(OmegaConf.to_container(OmegaConf.create(text)), ""))


def _flat(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key != "defaults":
                yield from _flat(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), node


def kind(hint: Any) -> str:
    """A type in the words of a configuration file: ``list[int] | None`` is "list of int or null"; with its bound."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([kind(inner[0]), *(wanted(mark) for mark in marks(hint) if not isinstance(mark, OneOf))])
    if origin in (Union, UnionType):
        words = [kind(member) for member in inner]
        return f"{', '.join(words[:-1])}{',' if ', ' in words[0] else ''} or {words[-1]}"
    if origin is dict:
        return "mapping" if inner[1] is Any else f"mapping to {kind(inner[1])}"
    if origin is tuple and inner[-1] is not ...:
        return f"[{', '.join(map(kind, inner))}]"
    if origin in (list, tuple):
        member = kind(inner[0])
        return "list" if inner[0] is Any else f"list of ({member})" if " " in member else f"list of {member}"
    if hint is Any:
        return "any"
    if isinstance(hint, type):
        return {NoneType: "null", dict: "mapping", tuple: "list"}.get(hint, hint.__name__)
    raise ValueError(f"type {hint!r} has no words for it: add them to configs.fields.kind")


def members(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and default of every member of ``cls`` that is a config class itself, at any depth."""
    for item in fields(cls):
        value = default(item)
        if is_dataclass(value) and not isinstance(value, type):
            yield f"{prefix}{item.name}", value
            yield from members(type(value), f"{prefix}{item.name}.")

"""Policies without a model, for checks and measurements: each is an ``Actor`` of ``envs.episode.play_episode``.

    idle         answers at once, knowing nothing
    random_tools calls random tools with random arguments that fit their schemas, then answers something

Neither may be rewarded: a family that pays them pays for nothing.
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from typing import Any

from envs.environment import Environment
from envs.episode import Actor
from envs.types import Message, ToolCall

WORDS = ("a", "all", "book", "city", "data", "main", "name", "one", "order", "test", "the", "x", "1", "2025", "*")
IDLE_ANSWER = "I do not know."


def idle(history: Sequence[Message]) -> Message:
    """Gives up at once."""
    return Message("assistant", IDLE_ANSWER)


def random_tools(environment: Environment, rng: random.Random, calls: int = 4) -> Actor:
    """``calls`` random calls, one a message, then a random word as the answer. Values that a tool result or the
    prompt showed are used again now and then: a blind policy that copies what it reads."""

    def act(history: Sequence[Message]) -> Message:
        made = sum(len(m.tool_calls) for m in history)
        seen = [w for m in history[-3:] for w in m.content.split()] or list(WORDS)
        if made >= calls or not environment.tools:
            return Message("assistant", rng.choice((*WORDS, rng.choice(seen))))
        chosen = environment.tools[rng.choice(sorted(environment.tools))]
        parameters = chosen.schema["parameters"]
        arguments = {
            name: random_value(schema, rng, seen)
            for name, schema in parameters["properties"].items()
            if name in parameters["required"] or rng.random() < 0.3
        }
        return Message("assistant", tool_calls=(ToolCall(chosen.name, arguments),))

    return act


def random_value(schema: Mapping[str, Any], rng: random.Random, seen: Sequence[str] = WORDS) -> Any:
    """A value that fits a schema of the kind that ``envs.tools`` makes; strings come from ``seen`` or are made up."""
    if "anyOf" in schema:
        return random_value(rng.choice(schema["anyOf"]), rng, seen)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema["type"]
    if kind == "string":
        made_up = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 8)))
        return rng.choice((rng.choice(list(seen)), rng.choice(WORDS), made_up))
    if kind == "integer":
        return rng.choice((rng.randint(-2, 10), rng.randint(0, 1000)))
    if kind == "number":
        return round(rng.uniform(-10, 1000), 2)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "array":
        return [random_value(schema.get("items", {"type": "string"}), rng, seen) for _ in range(rng.randint(0, 3))]
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: random_value(field, rng, seen) for name, field in fields.items()}
    if kind == "null":
        return None
    raise ValueError(f"schema {dict(schema)!r} has a type that no tool here has: {kind!r}")

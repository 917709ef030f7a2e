"""Policies without a model that show what an environment gives away: one does nothing, one calls tools at random.

    play_episode(task, environment, give_up())
    play_episode(task, environment, random_calls(environment, random.Random(0)))

Both end with the same useless answer, so what they score was not earned by an answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from envs.environment import Environment
from envs.episode import Actor
from envs.types import Message, ToolCall

USELESS = Message("assistant", "I do not know.")
CALLS = 6  # of the random policy, before it gives up


def give_up() -> Actor:
    """Answers at once."""
    return lambda history: USELESS


def random_calls(environment: Environment, rng: random.Random, calls: int = CALLS) -> Actor:
    """``calls`` calls of random tools with random arguments that fit the schema, then the useless answer.

    Half of the texts and numbers are words of the episode so far: the policy names things that exist.
    """

    def act(history: Sequence[Message]) -> Message:
        made = sum(message.role == "assistant" for message in history)
        if made >= calls or not environment.tools:
            return USELESS
        known = environment.tools[rng.choice(list(environment.tools))]
        words = [word.strip("\"'.,:;?!()[]{}") for message in history[-4:] for word in message.content.split()]
        parameters = known.schema["parameters"]
        arguments = {
            name: random_value(schema, rng, words)
            for name, schema in parameters["properties"].items()
            if name in parameters["required"] or rng.random() < 0.5
        }
        return Message("assistant", tool_calls=(ToolCall(known.name, arguments),))

    return act


def random_value(schema: Mapping[str, Any], rng: random.Random, words: Sequence[str]) -> Any:
    """A value that fits a parameter's schema."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return random_value(rng.choice(schema["anyOf"]), rng, words)
    kind = schema.get("type", "string")
    if kind in ("integer", "number"):
        numbers = [int(word) for word in words if word.isdecimal() and len(word) < 10]
        return rng.choice(numbers) if numbers and rng.random() < 0.5 else rng.randint(0, 20)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "null":
        return None
    if kind == "array":
        return [random_value(schema.get("items", {}), rng, words) for _ in range(rng.randint(0, 3))]
    if kind == "object":
        return {}
    return rng.choice(words) if words and rng.random() < 0.5 else f"x{rng.randint(0, 99)}"
